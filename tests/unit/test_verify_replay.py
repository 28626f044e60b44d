"""What a replay of the log complains about, and that it complains about nothing that a shop does."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from domain.events import (
    Allocated,
    Counted,
    Damaged,
    Event,
    Origin,
    RequestedLine,
    ReservationRequest,
    Restocked,
    WarehouseChanged,
    WarehouseCreated,
    WarehouseDetails,
)
from domain.policy import DEFAULT_POLICY, Policy
from domain.values import MAX_QUANTITY, Bucket, ReleaseReason
from infra.event_store.mapper import EventMapper
from projections.verify.commands import CommandParts
from projections.verify.replay import ItemReplay, WarehouseReplay
from projections.verify.report import DETAILS_MAX, Report
from tests.support_domain import (
    NOW,
    Fact,
    after,
    committed,
    extended,
    happened,
    registered,
    released,
    reserved,
    restocked,
    returned,
    shipped,
)
from tests.support_verify import busy_shop

STREAM = "stock:A@W1"
REQUEST = ReservationRequest((RequestedLine("A", 1),), "digest")


def whole(fact: Fact, **changed: Any) -> Fact:
    """`fact` as the only part of its command, which it says of itself."""
    quantity = fact.facts.get("quantity", changed.pop("active", None))
    facts = {**fact.facts, "allocations": (Allocated("A", "W1", quantity),), **changed}
    return replace(fact, facts=facts)


def held(reservation_id: str, quantity: int, ttl_s: float | None = 900, **changed: Any) -> Fact:
    return whole(reserved(reservation_id, quantity, ttl_s=ttl_s), **{"request": REQUEST} | changed)


def complaints(
    *facts: Fact, at: Callable[[int], datetime] = lambda _version: NOW, policy: Policy = DEFAULT_POLICY
) -> list[str]:
    """What a replay of a registered item with this history complains about."""
    events = [fact.at(STREAM, n, at(n)) for n, fact in enumerate((registered(policy), *facts), start=1)]
    return replayed(*events)[1]


def replayed(*events: Event) -> tuple[ItemReplay, list[str]]:
    found: list[str] = []
    replay = ItemReplay(STREAM, lambda where, what: found.append(f"{where.removeprefix(STREAM + ' at ')}: {what}"))
    for position, event in enumerate(events, start=1):
        if not replay.broken:
            replay.apply(event, position, event.originator_version)
    return replay, found


def test_a_busy_shop_gives_no_reason_to_complain():
    shop, report, mapper = busy_shop(), Report(), EventMapper()
    replays: dict[str, Any] = {}
    commands = CommandParts(report.violation)
    for position, event in enumerate(shop.log, start=1):
        stream = event.originator_id
        kind = ItemReplay if stream.startswith("stock:") else WarehouseReplay
        replay = replays.setdefault(stream, kind(stream, report.violation))
        replay.apply(event, position, event.originator_version)
        commands.take(event.TOPIC, mapper.encode(event))
    commands.finish()
    assert report.violation_details == []
    for (sku, code), item in shop.stock.items.items():
        replay = replays[f"stock:{sku}@{code}"]
        assert replay.item.to_state() == item.to_state()
        kept = {rid: holds[sku, code] for rid, holds in shop.holds.items() if (sku, code) in holds}
        assert replay.holds == kept  # closed ones too


# Promises


def test_what_is_promised_has_stock_behind_it():
    assert complaints(restocked(5), held("r", 5)) == []
    assert complaints(restocked(5), held("r", 6)) == [
        "version 3: oversold: 6 promised, 5 on hand, 0 backorders allowed"
    ]
    assert complaints(restocked(5), held("r", 7), policy=Policy(backorder_limit=2)) == []
    assert complaints(restocked(5), held("r", 8), policy=Policy(backorder_limit=2))[0].startswith("version 3: oversold")


def test_paid_units_are_promised_too():
    paid = (restocked(5), held("r", 4), whole(committed("r", 4)))
    assert complaints(*paid, held("s", 1)) == []
    assert complaints(*paid, held("s", 2)) == ["version 5: oversold: 6 promised, 5 on hand, 0 backorders allowed"]
    assert complaints(*paid, whole(shipped("r", 4)), held("s", 1)) == []


def test_safety_stock_is_not_promised():
    policy = Policy(safety_stock=2)
    assert complaints(restocked(5), held("r", 3), policy=policy) == []
    assert complaints(restocked(5), held("r", 4), policy=policy) == ["version 3: promised into the safety stock of 2"]


def test_due_holds_count_as_free_at_the_event_s_time():
    story = (restocked(5), held("r", 5, ttl_s=60), held("s", 5, ttl_s=900))
    assert complaints(*story, at=lambda n: after(60 if n == 4 else 0)) == []
    assert len(complaints(*story, at=lambda n: after(59 if n == 4 else 0))) == 1


def test_truth_below_promise_is_no_violation():
    counted = happened(Counted, counted=2, expected=5, variance=-3)
    assert complaints(restocked(5), held("r", 5), counted) == []
    assert complaints(restocked(5), held("r", 5), counted, whole(committed("r", 5)), whole(shipped("r", 2))) == []
    assert len(complaints(restocked(5), held("r", 5), counted, held("s", 1))) == 1


# Sums and signs


def test_a_bucket_is_never_negative():
    hold, buckets = complaints(restocked(1), held("r", 1), whole(committed("r", 1)), whole(shipped("r", 2)))
    assert hold.startswith("version 5: the hold of r does not add up: Hold(")
    assert buckets == "version 5: on_hand is -1, committed is -1"
    assert complaints(restocked(1), happened(Damaged, quantity=2)) == ["version 3: on_hand is -1"]
    assert complaints(restocked(MAX_QUANTITY), restocked(1)) == [f"version 3: on_hand is {MAX_QUANTITY + 1}"]


def test_no_more_comes_back_than_went():
    story = (restocked(2), held("r", 2), whole(committed("r", 2)), whole(shipped("r", 2)))
    back = whole(returned(2, order_id="order-r", reservation_id="r"))
    assert complaints(*story, back) == []
    assert "does not add up" in complaints(*story, back, whole(returned(1, order_id="order-r", reservation_id="r")))[0]
    assert complaints(restocked(2), whole(returned(1, order_id="o", reservation_id="r"))) == [
        "version 3: units of r came back, which never had any"
    ]


def test_a_count_says_what_it_expected():
    right = happened(Counted, counted=3, expected=5, variance=-2)
    wrong = happened(Counted, counted=3, expected=4, variance=-1)
    assert complaints(restocked(5), right) == []
    assert complaints(restocked(5), wrong) == ["version 3: a count expected 4 and varied by -1; 5 were there"]


# Time


def test_nothing_is_paid_or_extended_from_its_end_on():
    for late in (whole(committed("r", 2)), whole(extended("r", ttl_s=2_000), active=2)):
        assert complaints(restocked(5), held("r", 2), late, at=lambda n: after(899 if n == 4 else 0)) == []
        found = complaints(restocked(5), held("r", 2), late, at=lambda n: after(900 if n == 4 else 0))
        assert len(found) == 1
        assert "r had expired when it was" in found[0]


def test_nothing_expires_before_its_end():
    expired = whole(released("r", 2, ReleaseReason.EXPIRED))
    assert complaints(restocked(5), held("r", 2), expired, at=lambda n: after(900 if n == 4 else 0)) == []
    assert complaints(restocked(5), held("r", 2), expired) == ["version 4: r was released as expired before its end"]
    paid = whole(released("r", 2, ReleaseReason.EXPIRED, Bucket.COMMITTED))
    assert complaints(restocked(5), held("r", 2), whole(committed("r", 2)), paid) == [
        "version 5: paid units of r expired"
    ]


def test_a_hold_ends_after_it_began():
    assert complaints(restocked(5), held("r", 2, ttl_s=0)) == ["version 3: r ended before it began"]
    assert complaints(restocked(5), held("r", 2), whole(extended("r", ttl_s=-5), active=2)) == [
        "version 4: r ended before it began"
    ]


def test_time_does_not_go_back():
    found = complaints(restocked(5), restocked(5), at=lambda n: after(-n))
    assert [line.partition(",")[0] for line in found] == [
        "version 2: occurred at 2026-03-01T11:59:58+00:00",
        "version 3: occurred at 2026-03-01T11:59:57+00:00",
    ]


# Order


def test_versions_follow_each_other_from_one():
    first, second = (fact.at(STREAM, n, NOW) for n, fact in ((1, registered()), (2, restocked(1))))
    assert replayed(first, second)[1] == []
    assert replayed(second)[1] == ["version 0: is followed by version 2"]
    assert replayed(first, restocked(1).at(STREAM, 3, NOW))[1] == ["version 1: is followed by version 3"]
    assert replayed(first, restocked(1).at("stock:B@W1", 2, NOW))[1] == [
        "version 1: holds an event of stock:B@W1 at version 2"
    ]


def test_positions_grow_with_versions():
    found: list[str] = []
    replay = ItemReplay(STREAM, lambda _where, what: found.append(what))
    replay.apply(registered().at(STREAM, 1, NOW), 7, 1)
    replay.apply(restocked(1).at(STREAM, 2, NOW), 5, 2)
    assert found == ["is at position 5, the version before it at 7"]


def test_an_item_is_registered_first_and_once():
    assert replayed(restocked(1).at(STREAM, 1, NOW))[1] == ["version 1: is stock-item.restocked, out of place"]
    assert complaints(registered()) == ["version 2: is stock-item.registered, out of place"]
    created = WarehouseCreated(
        originator_id=STREAM, originator_version=1, timestamp=NOW, origin=ORIGIN, details=WarehouseDetails()
    )
    assert replayed(created)[1] == ["version 1: is warehouse.created, out of place"]


ORIGIN = Origin(command_id="c", actor="a", correlation_id="c")


def test_what_the_aggregate_cannot_take_breaks_the_stream():
    replay, found = replayed(
        registered().at(STREAM, 1, NOW), whole(committed("r", 1)).at(STREAM, 2, NOW), restocked(1).at(STREAM, 3, NOW)
    )
    assert replay.broken
    assert len(found) == 1
    assert found[0].startswith("version 2: stock-item.committed cannot follow: AssertionError")


def test_a_warehouse_is_created_first_and_once():
    found: list[str] = []
    replay = WarehouseReplay("warehouse:W1", lambda where, what: found.append(f"{where}: {what}"))
    for version, kind in enumerate((WarehouseCreated, WarehouseChanged, WarehouseCreated), start=1):
        event = kind(
            originator_id="warehouse:W1",
            originator_version=version,
            timestamp=NOW,
            origin=ORIGIN,
            details=WarehouseDetails(),
        )
        replay.apply(event, version, version)
    assert replay.broken
    assert found == ["warehouse:W1 at version 3: is warehouse.created, out of place"]


# Parts of a command


@pytest.mark.parametrize(
    ("fact", "complaint"),
    [
        (reserved("r", 1, request=REQUEST), "version 3: is part 1 of 1 with 0 allocations"),
        (held("r", 1, part=2, request=None), "version 3: is part 2 of 1 with 1 allocations"),
        (held("r", 1, request=None), "version 3: part 1 lacks the request"),
        (
            held("r", 1, allocations=(Allocated("A", "W1", 2),)),
            "version 3: moved Allocated(sku='A', warehouse='W1', qu",
        ),
        (
            held("r", 1, allocations=(Allocated("A", "W2", 1),)),
            "version 3: moved Allocated(sku='A', warehouse='W1', qu",
        ),
        (reserved("r", 1, part=2, parts=2, request=REQUEST), "version 3: part 2 has the request"),
    ],
)
def test_a_part_says_what_it_is(fact: Fact, complaint: str):
    found = complaints(restocked(5), fact)
    assert len(found) == 1
    assert found[0].startswith(complaint)


def command(*parts: tuple[str, Fact], command_id: str = "c") -> list[tuple[str, bytes]]:
    """(topic, state) of these events, each of another stream, all of one command."""
    mapper, origin = EventMapper(), Origin(command_id=command_id, actor="a", correlation_id="c")
    events = [fact.at(stream, 5, NOW, origin) for stream, fact in parts]
    return [(event.TOPIC, mapper.encode(event)) for event in events]


def parts_complaints(*entries: tuple[str, bytes]) -> list[str]:
    found: list[str] = []
    commands = CommandParts(lambda where, what: found.append(f"{where}: {what}"))
    for topic, state in entries:
        commands.take(topic, state)
    commands.finish()
    return found


BOTH = (Allocated("A", "W1", 1), Allocated("B", "W2", 2))
ONE: dict[str, Any] = {"part": 1, "parts": 2, "allocations": BOTH}
TWO: dict[str, Any] = {"part": 2, "parts": 2}


def first(**changed: Any) -> tuple[str, Fact]:
    return "stock:A@W1", reserved("r", 1, **ONE | {"order_id": "o"} | changed)


def second(quantity: int = 2, ttl_s: float = 900, **changed: Any) -> tuple[str, Fact]:
    return "stock:B@W2", reserved("r", quantity, ttl_s=ttl_s, **TWO | {"order_id": "o"} | changed)


def test_the_parts_of_a_command_may_come_in_any_order_but_all_must_come():
    assert parts_complaints(*command(first(), second())) == []
    assert parts_complaints(*command(second(), first())) == []
    assert parts_complaints(*command(first())) == ["command c: 1 of 2 parts are in the log"]
    assert parts_complaints(*command(first()), *command(second(), command_id="d")) == [
        "command c: 1 of 2 parts are in the log",
        "command d: 1 of 2 parts are in the log",
    ]


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        ((first(), second(part=1)), "its parts are numbered [(1, 2), (1, 2)]"),
        ((first(allocations=BOTH[:1]), second()), "2 parts, 1 allocations"),
        ((first(), second(quantity=3)), "part 2 is 3 at stock:B@W2, allocated was Allocated(sku='B', warehouse='W2'"),
        ((first(), ("stock:B@W3", second()[1])), "part 2 is 2 at stock:B@W3, allocated was"),
        ((first(), second(ttl_s=901)), "its parts differ in order, kind, reason or end"),
        ((first(), second(order_id="p")), "its parts differ in order, kind, reason or end"),
        ((first(), (second()[0], reserved("s", 2, **TWO, order_id="o"))), "its parts are of several reservations"),
    ],
)
def test_the_parts_of_a_command_are_of_one_mind(parts: tuple[tuple[str, Fact], ...], complaint: str):
    found = parts_complaints(*command(*parts))
    assert len(found) == 1
    assert found[0].startswith(f"command c: {complaint}")


def test_a_sweep_moves_holds_of_several_reservations():
    def swept(reservation_id: str, quantity: int, **part: Any) -> Fact:
        fact = released(reservation_id, quantity, ReleaseReason.EXPIRED)
        return replace(fact, facts={**fact.facts, **part})

    both = (Allocated("A", "W1", 1), Allocated("A", "W1", 2))
    one, two = swept("r", 1, part=1, parts=2, allocations=both), swept("s", 2, part=2, parts=2)
    assert parts_complaints(*command((STREAM, one), (STREAM, two))) == []


# The report


def test_a_report_counts_everything_and_keeps_the_first_in_words():
    report = Report()
    for n in range(DETAILS_MAX + 5):
        report.violation(f"stream {n}", "oversold: much" if n % 2 else "odd")
        report.difference(f"row {n}", "is missing")
    assert (report.violations, report.differences) == (DETAILS_MAX + 5, DETAILS_MAX + 5)
    assert report.oversold == (DETAILS_MAX + 5) // 2
    assert len(report.violation_details) == len(report.difference_details) == DETAILS_MAX
    assert not report.is_clean


def test_a_row_that_differs_is_one_difference_in_words():
    report = Report()
    report.compare("t 1", {"a": 1, "b": 2}, {"a": 1, "b": 2})
    assert (report.rows, report.differences, report.is_clean) == (1, 0, True)
    report.compare("t 2", {"a": 1, "b": None, "x": 0}, {"a": 2, "b": None, "c": None})
    assert (report.rows, report.differences) == (2, 1)
    assert report.difference_details == ["t 2: c is not there; x should not be there; a is 1, not 2"]


def test_restocks_are_replayed_as_they_were():
    replay, found = replayed(registered().at(STREAM, 1, NOW), happened(Restocked, quantity=4).at(STREAM, 2, after(5)))
    assert found == []
    assert (replay.version, replay.item.figures.on_hand, replay.occurred_at) == (2, 4, after(5))
