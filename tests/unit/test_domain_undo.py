"""An append may fail: undo leaves an item that is equal in every observable, and decides as if nothing had been.

A snapshot is held to the same: the item made from it decides as the one that it was taken of.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.errors import DomainError, SweepNeeded
from domain.policy import Policy, PolicyPatch
from domain.reservation import expire_due, relieve_shortage
from domain.stock_item import StockItem, StockItemState
from domain.values import AdjustmentReason, Bucket, Condition, HoldKind, ReleaseReason
from tests.support_domain import NOW, ORIGIN, Shop, after, invariants, item_after, reserved, restocked

IDS = [f"r{n}" for n in range(5)]
ids, units = st.sampled_from(IDS), st.integers(1, 8)
Decision = tuple[Callable[..., Any], tuple[Any, ...]]


def _reserve(item: StockItem, reservation_id: str, quantity: int, ttl_s: int, now: datetime) -> None:
    if reservation_id in item.holds:
        return
    for hold in item.due_for(min(quantity, max(1, item.promisable(now))), now, 200):
        item.release(hold.reservation_id, hold.active, Bucket.RESERVED, ReleaseReason.EXPIRED, ORIGIN, now)
    end = now + timedelta(seconds=ttl_s) if ttl_s else None
    item.reserve(reservation_id, "o", quantity, end, HoldKind.ORDER, ORIGIN, now)


def _relieve(item: StockItem, limit: int, now: datetime) -> None:
    relieve_shortage(item, limit, ORIGIN, now)


def _sweep(item: StockItem, limit: int, now: datetime) -> None:
    expire_due(item, limit, ORIGIN, now)


def _take_back(item: StockItem, reservation_id: str, quantity: int, now: datetime) -> None:
    hold = item.holds.get(reservation_id)
    if hold is not None and hold.shipped - hold.returned >= quantity:
        item.take_back(quantity, Condition.SELLABLE, ORIGIN, now, hold=hold)


def _named(method: Callable[..., Any]) -> Callable[..., None]:
    def decide(item: StockItem, *facts: Any, now: datetime) -> None:
        method(item, *facts, origin=ORIGIN, now=now)

    return decide


DECISIONS: list[st.SearchStrategy[Decision]] = [
    st.tuples(st.just(_named(StockItem.restock)), st.tuples(units)),
    st.tuples(st.just(_reserve), st.tuples(ids, units, st.sampled_from([0, 5, 30]))),
    st.tuples(st.just(_named(StockItem.commit)), st.tuples(ids, units)),
    st.tuples(
        st.just(_named(StockItem.release)),
        st.tuples(ids, units, st.sampled_from(Bucket), st.just(ReleaseReason.CANCELLED)),
    ),
    st.tuples(st.just(_named(StockItem.extend)), st.tuples(ids, st.integers(1, 400).map(after))),
    st.tuples(st.just(_named(StockItem.ship)), st.tuples(ids, units, st.none())),
    st.tuples(st.just(_take_back), st.tuples(ids, units)),
    st.tuples(st.just(_named(StockItem.adjust)), st.tuples(st.integers(-8, 8), st.sampled_from(AdjustmentReason))),
    st.tuples(st.just(_named(StockItem.count)), st.tuples(st.integers(0, 30))),
    st.tuples(st.just(_named(StockItem.damage)), st.tuples(units)),
    st.tuples(st.just(_named(StockItem.repair)), st.tuples(units)),
    st.tuples(st.just(_named(StockItem.write_off)), st.tuples(units)),
    st.tuples(st.just(_named(StockItem.change_policy)), st.tuples(st.builds(PolicyPatch, backorder_limit=units))),
    st.tuples(st.just(_named(StockItem.discontinue)), st.tuples()),
    st.tuples(st.just(_named(StockItem.reinstate)), st.tuples()),
    st.tuples(st.just(_sweep), st.tuples(st.integers(1, 3))),
    st.tuples(st.just(_relieve), st.tuples(st.integers(1, 3))),
]
plans = st.lists(st.tuples(st.one_of(DECISIONS), st.integers(0, 12)), max_size=25)


def decide(item: StockItem, plan: list[tuple[Decision, int]], now: datetime) -> datetime:
    """Take the decisions, some seconds apart; what is refused leaves nothing. Ends at the time that it returns."""
    for (decision, facts), elapsed_s in plan:
        now += timedelta(seconds=elapsed_s)
        before = len(item.new_events)
        try:
            decision(item, *facts, now=now)
        except (DomainError, SweepNeeded):
            if decision is not _reserve:  # which releases what is due before it may be refused
                assert len(item.new_events) == before
        assert list(invariants(item, now)) == []
    return now


def observables(item: StockItem, now: datetime) -> tuple[Any, ...]:
    """All that anybody can learn of an item."""
    return (
        item.version,
        item.figures,
        item.to_state(),
        dict(item.holds),
        dict(item.changed_holds),
        list(item.new_events),
        [item.promisable(now + timedelta(seconds=seconds)) for seconds in (0, 6, 31, 500)],
        item.due_holds(9, now),
        item.due_holds(9, now + timedelta(seconds=500)),
        item.newest_unpaid(20, 9, now),
        item.short,
        item.created_on,
        item.modified_on,
        item.at(now),
    )


POLICY = Policy(backorder_limit=2, on_shortage="release_newest_unpaid")


@settings(max_examples=80, deadline=None)
@given(plans, plans, plans)
def test_after_an_undo_nothing_tells_that_anything_was_decided(
    history: list[tuple[Decision, int]], undone: list[tuple[Decision, int]], later: list[tuple[Decision, int]]
):
    item, twin = item_after(restocked(12), policy=POLICY), item_after(restocked(12), policy=POLICY)
    now = decide(item, history, NOW)
    decide(twin, history, NOW)
    item.accept()
    twin.accept()
    decide(item, undone, now)
    item.undo()
    assert observables(item, now) == observables(twin, now)
    end = decide(item, later, now)
    decide(twin, later, now)
    assert observables(item, end) == observables(twin, end)


@settings(max_examples=80, deadline=None)
@given(plans, plans)
def test_an_item_from_a_snapshot_decides_as_the_one_it_was_taken_of(
    history: list[tuple[Decision, int]], later: list[tuple[Decision, int]]
):
    item = item_after(restocked(12), policy=POLICY)
    now = decide(item, history, NOW)
    item.accept()
    stored = msgspec.json.encode(item.to_state())
    twin = StockItem.from_state(item.id, item.version, msgspec.json.decode(stored, type=StockItemState))
    assert observables(twin, now) == observables(item, now)
    end = decide(item, later, now)
    decide(twin, later, now)
    assert observables(twin, end) == observables(item, end)


@settings(max_examples=60, deadline=None)
@given(plans)
def test_a_replay_of_the_log_gives_the_item_that_made_it(history: list[tuple[Decision, int]]):
    item = StockItem.unregistered("stock:A@W1")
    item.register(POLICY, ORIGIN, NOW)
    now = decide(item, history, NOW)
    replayed = StockItem.fold("A", "W1", item.new_events)
    item.accept()
    assert observables(replayed, now) == observables(item, now)


def without_rows(item: StockItem, now: datetime) -> tuple[Any, ...]:
    """What can be learned of an item but for the index rows of its pending events, which a batch takes when it is decided."""
    item.changed_holds.clear()
    return observables(item, now)


@settings(max_examples=60, deadline=None)
@given(plans, plans, plans)
def test_a_batch_that_was_decided_ahead_is_undone_alone(
    committing: list[tuple[Decision, int]], ahead: list[tuple[Decision, int]], later: list[tuple[Decision, int]]
):
    """While one batch commits the next is decided on top of it: it may fail alone, or both do."""
    item, twin, origin = (item_after(restocked(12), policy=POLICY) for _ in range(3))
    now = decide(item, committing, NOW)
    decide(twin, committing, NOW)
    first = len(item.new_events)
    decide(item, ahead, now)
    item.undo(len(item.new_events) - first)
    assert without_rows(item, now) == without_rows(twin, now)
    decide(item, ahead, now)
    second = len(item.new_events) - first
    item.accept(first)
    twin.accept()
    assert len(item.new_events) == second
    item.undo(second)
    assert without_rows(item, now) == without_rows(twin, now)
    end = decide(item, later, now)
    decide(twin, later, now)
    assert observables(item, end) == observables(twin, end)
    item.accept()

    decide(origin, committing, NOW)
    first = len(origin.new_events)
    decide(origin, ahead, now)
    origin.undo(len(origin.new_events) - first)
    origin.undo(first)
    assert without_rows(origin, NOW) == without_rows(item_after(restocked(12), policy=POLICY), NOW)


def test_the_newest_hold_is_the_newest_again_after_an_undo():
    item = item_after(restocked(3), *(reserved(f"r{n}", 1) for n in range(3)))
    item.release("r0", 1, Bucket.RESERVED, ReleaseReason.CANCELLED, ORIGIN, NOW)
    item.undo()
    assert [hold.reservation_id for hold in item.newest_unpaid(2, 9, NOW)] == ["r2", "r1"]
    assert [hold.reservation_id for hold in item.to_state().holds] == ["r0", "r1", "r2"]


def test_a_new_warehouse_that_did_not_reach_the_log_does_not_exist():
    shop = Shop()
    shop.warehouse("W1", priority=5)
    warehouse = shop.stock.warehouses["W1"]
    before = (warehouse.version, warehouse.details, warehouse.modified_on)
    warehouse.put({"priority": 6}, ORIGIN, after(1))
    warehouse.put({"priority": 7}, ORIGIN, after(2))
    assert (warehouse.version, warehouse.details.priority, len(warehouse.new_events)) == (3, 7, 2)
    warehouse.undo(1)
    assert (warehouse.version, warehouse.details.priority, warehouse.modified_on) == (2, 6, after(1))
    assert len(warehouse.new_events) == 1
    warehouse.undo()
    assert (warehouse.version, warehouse.details, warehouse.modified_on) == before
    assert warehouse.new_events == []
    warehouse.put({"priority": 8}, ORIGIN, after(3))
    warehouse.put({"priority": 9}, ORIGIN, after(4))
    warehouse.accept(1)
    warehouse.undo(1)
    assert (warehouse.version, warehouse.details.priority, warehouse.new_events) == (2, 8, [])
