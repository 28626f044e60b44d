"""One stock item's events together: level, holds, movements, headers, and the instant at which something is due."""

from datetime import datetime

import pytest
from hypothesis import given, settings

from domain.events import PolicyChanged, ReservationRequest, WarehouseCreated, WarehouseDetails
from domain.policy import DEFAULT_POLICY, Policy
from domain.values import ReleaseReason, stock_stream
from projections.item_fold import ItemFold, earliest_end
from projections.views.errors import ImpossibleEvent
from tests.support_domain import (
    CODE,
    NOW,
    SKU,
    Fact,
    after,
    committed,
    extended,
    happened,
    registered,
    released,
    reserved,
    restocked,
    shipped,
)
from tests.support_histories import Move, histories, played

STREAM = stock_stream(SKU, CODE)


def fold_of(*history: Fact) -> ItemFold:
    fold = ItemFold()
    for version, fact in enumerate((registered(), restocked(100), *history), start=1):
        fold.apply(fact.at(STREAM, version, NOW))
    return fold


def next_due(fold: ItemFold) -> datetime | None:
    assert fold.level is not None
    return fold.level.next_due_at


def test_the_first_hold_to_end_is_next() -> None:
    assert next_due(fold_of()) is None
    assert next_due(fold_of(reserved("r-1", 1, ttl_s=None))) is None
    assert next_due(fold_of(reserved("r-1", 1, ttl_s=60), reserved("r-2", 1, ttl_s=30))) == after(30)
    assert next_due(fold_of(reserved("r-1", 1, ttl_s=30), reserved("r-2", 1, ttl_s=60))) == after(30)


@pytest.mark.parametrize(
    "fact",
    [
        committed("r-1", 1),
        released("r-1", 1, ReleaseReason.CANCELLED),
        extended("r-1", ttl_s=90),
    ],
    ids=lambda fact: fact.event_class.__name__,
)
def test_when_the_first_to_end_goes_the_bound_stays_until_it_is_settled(fact: Fact) -> None:
    fold = fold_of(reserved("r-1", 1, ttl_s=30), reserved("r-2", 1, ttl_s=60), fact)
    assert (next_due(fold), fold.due_is_exact) == (after(30), False)
    fold.settle()
    assert (next_due(fold), fold.due_is_exact) == (after(60), True)


def test_what_changes_elsewhere_leaves_the_bound_exact() -> None:
    fold = fold_of(reserved("r-1", 1, ttl_s=30), reserved("r-2", 2, ttl_s=60), committed("r-2", 2))
    assert (next_due(fold), fold.due_is_exact) == (after(30), True)


def test_a_hold_that_is_committed_in_part_still_ends() -> None:
    fold = fold_of(reserved("r-1", 3, ttl_s=30), committed("r-1", 1))
    assert (next_due(fold), fold.due_is_exact) == (after(30), True)


def test_shortening_the_first_moves_the_bound() -> None:
    fold = fold_of(reserved("r-1", 3, ttl_s=30), extended("r-1", ttl_s=10))
    assert next_due(fold) == after(10)


def test_due_units_are_those_of_holds_that_have_ended() -> None:
    fold = fold_of(reserved("r-1", 3, ttl_s=30), reserved("r-2", 4, ttl_s=60), reserved("r-3", 5, ttl_s=None))
    assert [fold.due_units(after(s)) for s in (29, 30, 60)] == [0, 3, 7]


def test_what_was_touched_is_told() -> None:
    header = ReservationRequest(lines=(), digest="d")
    fold = fold_of(reserved("r-1", 3), reserved("r-2", 1, request=header), committed("r-1", 1))
    assert fold.touched == {"r-1", "r-2"}
    assert [row.reservation_id for row in fold.reservations] == ["r-2"]
    assert fold.policy == DEFAULT_POLICY
    policy = Policy(safety_stock=5)
    changed = fold_of(happened(PolicyChanged, policy=policy), restocked(1))
    assert (changed.policy, changed.policy_version) == (policy, 3)
    assert ItemFold(fold.level, fold.holds.values()).policy is None


def test_a_fold_can_begin_at_any_row() -> None:
    whole = fold_of(reserved("r-1", 3, ttl_s=30), committed("r-1", 1), shipped("r-1", 1))
    half = fold_of(reserved("r-1", 3, ttl_s=30))
    begun = ItemFold(half.level, half.holds.values())
    begun.apply(committed("r-1", 1).at(STREAM, 4, NOW))
    begun.apply(shipped("r-1", 1).at(STREAM, 5, NOW))
    assert (begun.level, begun.holds) == (whole.level, whole.holds)


@pytest.mark.parametrize(
    ("fact", "version"),
    [
        (restocked(1), 2),
        (restocked(1), 4),
        (committed("r-9", 1), 3),
        (happened(WarehouseCreated, details=WarehouseDetails()), 3),
    ],
    ids=["again", "too soon", "of no hold", "of no item"],
)
def test_what_cannot_be_changes_nothing(fact: Fact, version: int) -> None:
    fold = fold_of()
    before = fold.level
    with pytest.raises(ImpossibleEvent):
        fold.apply(fact.at(STREAM, version, NOW))
    assert (fold.level, fold.holds, fold.touched) == (before, {}, set())


@given(histories())
@settings(max_examples=40, deadline=None)
def test_the_fold_agrees_with_the_aggregates(history: list[Move]) -> None:
    """The views' folds share nothing with the aggregates but the events, and say the same of them."""
    shop = played(history)
    for (sku, warehouse), item in shop.stock.items.items():
        fold = ItemFold()
        for event in shop.stream(sku, warehouse):
            fold.apply(event)
        fold.settle()
        assert fold.level is not None
        figures = item.figures
        assert fold.level.buckets == (
            *(figures.on_hand, figures.reserved, figures.committed, figures.damaged),
            *(figures.quarantined, figures.in_transit, figures.incoming),
        )
        assert (fold.level.sold, fold.level.returned, fold.level.lost) == (figures.sold, figures.returned, figures.lost)
        assert (fold.level.version, fold.level.as_of) == (item.version, item.modified_on)
        assert fold.level.last_movement_at == figures.last_movement_at
        assert {hold.reservation_id: hold for hold in item.holds.values()} == {
            name: hold for name, hold in fold.holds.items() if hold.is_open
        }
        assert fold.holds == {
            name: holds[sku, warehouse] for name, holds in shop.holds.items() if (sku, warehouse) in holds
        }
        assert fold.level.next_due_at == earliest_end(item.holds.values())
        assert fold.due_units(shop.now) == item.due_units(shop.now)
