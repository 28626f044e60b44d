"""A hold ends at its instant, swept or not; the queue that knows which ones have is checked against a naive one."""

from datetime import timedelta

import pytest
from hypothesis import given as hypothesis_given
from hypothesis import settings
from hypothesis import strategies as st
from msgspec.structs import replace

from domain.errors import SweepNeeded
from domain.expiry import ExpiryQueue
from domain.hold import EXPIRY_ACTOR, Hold
from domain.reservation import MAX_RELEASES
from domain.values import Bucket, ReleaseReason
from tests.support_domain import NOW, ORIGIN, Shop, after, item_after, reserved, restocked

EXPIRED = ReleaseReason.EXPIRED
TICK = 0.000_001


# Exact at the instant


def test_a_hold_counts_until_its_instant_and_not_at_it():
    item = item_after(restocked(10), reserved("r", 4, ttl_s=60), reserved("s", 3, ttl_s=None))
    assert item.promisable(after(60 - TICK)) == 3
    assert item.promisable(after(60)) == 7
    assert item.due_units(after(60)) == 4
    assert item.figures.reserved == 7


def test_the_item_s_own_clock_is_never_behind_its_last_event():
    item = item_after(restocked(10), reserved("r", 4, ttl_s=60), at=after(60))
    assert item.due_units(NOW) == 4


def test_a_promise_needs_the_due_released_and_says_which():
    item = item_after(
        restocked(10), reserved("late", 4, ttl_s=90), reserved("early", 3, ttl_s=60), reserved("never", 2, ttl_s=None)
    )
    at = after(90)
    assert item.due_for(1, at, 200) == []
    assert [hold.reservation_id for hold in item.due_for(2, at, 200)] == ["early"]
    assert [hold.reservation_id for hold in item.due_for(5, at, 200)] == ["early", "late"]
    assert [hold.reservation_id for hold in item.due_for(8, at, 200)] == ["early", "late"]
    assert [hold.reservation_id for hold in item.due_holds(1, at)] == ["early"]
    assert [hold.reservation_id for hold in item.due_holds(9, after(89))] == ["early"]


def test_one_decision_never_pays_for_more_releases_than_it_may():
    item = item_after(restocked(3), *(reserved(f"r{n}", 1, ttl_s=60) for n in range(3)))
    assert len(item.due_for(2, after(60), 2)) == 2
    with pytest.raises(SweepNeeded) as needed:
        item.due_for(3, after(60), 2)
    assert needed.value.stream == item.id


def test_when_the_clock_is_set_back_what_is_not_due_any_more_is_not():
    item = item_after(restocked(10), reserved("r", 4, ttl_s=60), reserved("s", 3, ttl_s=70))
    assert item.due_units(after(70)) == 7
    assert item.due_units(after(69)) == 4
    assert item.due_units(after(59)) == 0
    assert item.due_units(after(60)) == 4
    assert [hold.reservation_id for hold in item.due_holds(9, after(71))] == ["r", "s"]


def test_after_an_undone_release_the_longest_overdue_is_again_the_first():
    item = item_after(restocked(10), reserved("r", 4, ttl_s=60), reserved("s", 3, ttl_s=70))
    item.at(after(80))
    item.release("r", 4, Bucket.RESERVED, EXPIRED, ORIGIN, after(80))
    assert item.due_units(after(80)) == 3
    item.undo()
    assert [hold.reservation_id for hold in item.due_holds(9, after(80))] == ["r", "s"]
    assert item.due_units(after(80)) == 7


def test_a_cancel_after_the_end_is_the_last_release_whether_the_end_was_swept_before_or_after_or_not_yet():
    paid_in_part = Hold("r", "o", "A", "W1", 2, active=3, committed=2, expires_at=after(60))
    cancelled = (2, Bucket.COMMITTED, ReleaseReason.ORDER_CANCELLED, "sam", 3, after(80))
    swept = (3, Bucket.RESERVED, EXPIRED, EXPIRY_ACTOR, 3, after(90))
    at_once = paid_in_part.release(*swept).release(*cancelled)
    late = paid_in_part.release(*cancelled).release(*swept)
    assert at_once == late == paid_in_part.release(*cancelled).as_seen(after(90))
    assert (late.released_at, late.released_by, late.released) == (after(80), "sam", 5)
    before_the_end = (2, Bucket.COMMITTED, ReleaseReason.ORDER_CANCELLED, "sam", 3, after(50))
    assert paid_in_part.release(*before_the_end).release(*swept).release_reason == EXPIRED


# Decisions and the sweeper


def test_a_create_releases_what_it_needs_of_the_due_as_a_command_of_its_own():
    shop = Shop()
    shop.stocked("A", "W1", 5)
    shop.create("old", [("A", 3)], ttl_seconds=60)
    shop.create("older", [("A", 2)], ttl_seconds=30)
    shop.elapse(60)
    before = len(shop.log)
    shop.create("new", [("A", 1)])
    released, made = shop.events_since(before)
    assert (released.reservation_id, released.quantity, released.reason) == ("older", 2, EXPIRED)
    assert released.origin.actor == EXPIRY_ACTOR
    assert released.origin.causation_id == made.origin.command_id != released.origin.command_id
    assert released.origin.correlation_id == made.origin.correlation_id
    assert released.origin.idempotency_key is None
    assert (released.part, released.parts) == (made.part, made.parts) == (1, 1)
    assert shop.status("old") == shop.status("older") == "EXPIRED"
    assert shop.item("A", "W1").figures.reserved == 4


def test_more_due_holds_than_one_command_may_release_are_swept_before_it():
    shop = Shop()
    shop.stocked("A", "W1", 2 * MAX_RELEASES + 50)
    for n in range(2 * MAX_RELEASES + 50):
        shop.create(f"r{n}", [("A", 1)], ttl_seconds=60)
    shop.elapse(60)
    before = len(shop.log)
    shop.create("all", [("A", 2 * MAX_RELEASES + 50)])
    events = shop.events_since(before)
    by_command: dict[str, int] = {}
    for event in events[:-1]:
        assert (type(event).__name__, event.reason) == ("Released", EXPIRED)
        by_command[event.origin.command_id] = by_command.get(event.origin.command_id, 0) + 1
    assert list(by_command.values()) == [MAX_RELEASES, MAX_RELEASES, 50]
    assert shop.item("A", "W1").figures.reserved == 2 * MAX_RELEASES + 50


def test_a_sweep_releases_what_is_due_longest_overdue_first_and_again_finds_nothing():
    shop = Shop()
    shop.stocked("A", "W1", 10)
    for rid, ttl in (("c", 90), ("a", 60), ("b", 70), ("d", 500)):
        shop.create(rid, [("A", 2)], ttl_seconds=ttl)
    shop.elapse(90)
    before = len(shop.log)
    assert shop.sweep("A", "W1", 2) == 2
    assert shop.sweep("A", "W1", 2) == 1
    assert shop.sweep("A", "W1", 2) == 0
    assert [event.reservation_id for event in shop.events_since(before)] == ["a", "b", "c"]
    assert [(event.part, event.parts) for event in shop.events_since(before)] == [(1, 2), (2, 2), (1, 1)]
    assert shop.item("A", "W1").figures.reserved == 2


# Against a naive model

IDS = [f"r{n}" for n in range(6)]
steps = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "shrink", "extend", "close", "advance", "back", "undo"]),
        st.sampled_from(IDS),
        st.integers(1, 50),
    ),
    max_size=60,
)


class Naive:
    """All holds, looked at one by one."""

    def __init__(self) -> None:
        self.holds: dict[str, Hold] = {}
        self.now = NOW

    def due(self) -> list[Hold]:
        due = [hold for hold in self.holds.values() if hold.is_due(self.now)]
        return sorted(due, key=lambda hold: (hold.expires_at, hold.reservation_id))


@settings(max_examples=120, deadline=None)
@hypothesis_given(steps)
def test_the_queue_knows_what_a_look_at_every_hold_would_find(plan: list[tuple[str, str, int]]):
    naive, queue = Naive(), ExpiryQueue()
    closed: list[Hold] = []
    for step, reservation_id, number in plan:
        before = naive.holds.get(reservation_id)
        _change(naive, queue, step, reservation_id, number, before, closed)
        queue.advance(naive.now, naive.holds)
        due = naive.due()
        assert queue.due_units == sum(hold.active for hold in due)
        assert queue.due_count == len(due)
        assert list(queue.due(3)) == [hold.reservation_id for hold in due][:3]


def _change(
    naive: Naive,
    queue: ExpiryQueue,
    step: str,
    reservation_id: str,
    number: int,
    before: Hold | None,
    closed: list[Hold],
) -> None:
    if step == "advance":
        naive.now += timedelta(seconds=number)
    elif step == "back":
        naive.now -= timedelta(seconds=number)
    elif step == "reserve" and before is None:
        _put(naive, queue, None, _hold(reservation_id, number, number % 7 and number))
    elif step == "undo" and closed and closed[-1].reservation_id not in naive.holds:
        _put(naive, queue, None, closed.pop())
    elif before is not None and step == "shrink":
        _put(naive, queue, before, replace(before, active=before.active - min(number, before.active)))
    elif before is not None and step == "extend":
        _put(naive, queue, before, replace(before, expires_at=naive.now + timedelta(seconds=number)))
    elif before is not None and step == "close":
        closed.append(before)
        _put(naive, queue, before, replace(before, active=0))


def _hold(reservation_id: str, active: int, ttl_s: int) -> Hold:
    return Hold(
        reservation_id=reservation_id,
        order_id="o",
        sku="A",
        warehouse="W",
        version=1,
        active=active,
        expires_at=after(ttl_s) if ttl_s else None,
    )


def _put(naive: Naive, queue: ExpiryQueue, before: Hold | None, hold: Hold) -> None:
    if hold.is_open:
        naive.holds[hold.reservation_id] = hold
    else:
        naive.holds.pop(hold.reservation_id, None)
    queue.changed(before, hold, naive.holds)


def test_outdated_entries_never_outnumber_the_holds_for_long():
    """A hold that is extended ten thousand times must not leave ten thousand entries behind."""
    queue, holds = ExpiryQueue(), {"r": _hold("r", 1, 60)}
    queue.enqueue(holds["r"], holds)
    for n in range(10_000):
        before = holds["r"]
        holds["r"] = replace(before, expires_at=after(61 + n))
        queue.changed(before, holds["r"], holds)
    assert len(queue._heap) <= 2 * len(holds) + 65
    queue.advance(after(60 + 10_000), holds)
    assert (queue.due_units, list(queue.due(5))) == (1, ["r"])
