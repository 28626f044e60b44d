"""Every event of a stock item: what it does to the level, and that it does nothing else."""

from datetime import datetime
from typing import Any

import pytest
from msgspec import UNSET
from msgspec.structs import asdict, replace

from domain.events import (
    EVENT_CLASSES,
    Adjusted,
    Counted,
    Damaged,
    Discontinued,
    PolicyChanged,
    Reinstated,
    Repaired,
    StockEvent,
    WarehouseCreated,
    WarehouseDetails,
    WrittenOff,
)
from domain.policy import DEFAULT_POLICY, Policy
from domain.values import AdjustmentReason, Bucket, Condition, ReleaseReason, stock_stream
from infra.documents import level_document
from projections.views.errors import ImpossibleEvent
from projections.views.stock_levels import Level, fold_level
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
    returned,
    shipped,
)

STREAM = stock_stream(SKU, CODE)
LATER = after(60)
MOVED = {"last_movement_at": LATER}


def level_after(*history: Fact, policy: Policy = DEFAULT_POLICY) -> Level:
    level = None
    for version, fact in enumerate((registered(policy), *history), start=1):
        level = fold_level(level, event(fact, version, NOW))
    assert level is not None
    return level


def event(fact: Fact, version: int, at: datetime) -> StockEvent:
    made = fact.at(STREAM, version, at)
    assert isinstance(made, StockEvent)
    return made


FULL = (
    restocked(100),
    reserved("r-1", 10),
    committed("r-1", 10),
    reserved("r-2", 5),
    happened(Damaged, quantity=4),
)
EFFECTS: list[tuple[Fact, dict[str, Any]]] = [
    (restocked(7), {"on_hand": 103, "last_restocked_at": LATER, **MOVED}),
    (reserved("r-3", 6), {"reserved": 11, **MOVED}),
    (committed("r-2", 3), {"reserved": 2, "committed": 13, **MOVED}),
    (released("r-2", 4, ReleaseReason.CANCELLED), {"reserved": 1, **MOVED}),
    (released("r-2", 5, ReleaseReason.EXPIRED), {"reserved": 0, **MOVED}),
    (released("r-1", 4, ReleaseReason.ORDER_CANCELLED, Bucket.COMMITTED), {"committed": 6, **MOVED}),
    (extended("r-2", ttl_s=5_000), {}),
    (shipped("r-1", 9), {"on_hand": 87, "committed": 1, "sold": 9, "last_sold_at": LATER, **MOVED}),
    (returned(2, Condition.SELLABLE), {"on_hand": 98, "returned": 2, **MOVED}),
    (returned(2, Condition.DAMAGED), {"damaged": 6, "returned": 2, **MOVED}),
    (returned(2, Condition.QUARANTINE), {"quarantined": 2, "returned": 2, **MOVED}),
    (happened(Adjusted, delta=3, reason=AdjustmentReason.FOUND), {"on_hand": 99, **MOVED}),
    (happened(Adjusted, delta=-3, reason=AdjustmentReason.LOST), {"on_hand": 93, "lost": 3, **MOVED}),
    (happened(Adjusted, delta=-3, reason=AdjustmentReason.THEFT), {"on_hand": 93, "lost": 3, **MOVED}),
    (happened(Adjusted, delta=3, reason=AdjustmentReason.LOST), {"on_hand": 99, **MOVED}),
    (happened(Adjusted, delta=-3, reason=AdjustmentReason.SAMPLE), {"on_hand": 93, **MOVED}),
    (
        happened(Counted, counted=12, expected=96, variance=-84),
        {"on_hand": 12, "last_counted_at": LATER, **MOVED},
    ),
    (happened(Damaged, quantity=5), {"on_hand": 91, "damaged": 9, **MOVED}),
    (happened(Repaired, quantity=4), {"on_hand": 100, "damaged": 0, **MOVED}),
    (happened(WrittenOff, quantity=3), {"damaged": 1, **MOVED}),
    (
        happened(PolicyChanged, policy=Policy(safety_stock=9, low_stock_threshold=8, backorder_limit=7)),
        {"safety_stock": 9, "low_stock_threshold": 8, "backorder_limit": 7},
    ),
    (happened(Discontinued), {"discontinued": True}),
]


@pytest.mark.parametrize(("fact", "changes"), EFFECTS, ids=lambda value: getattr(value, "event_class", type).__name__)
def test_an_event_changes_what_it_is_about_and_nothing_else(fact: Fact, changes: dict[str, Any]) -> None:
    before = level_after(*FULL)
    after_it = fold_level(before, event(fact, 7, LATER))
    assert asdict(after_it) == asdict(before) | {"version": 7, "as_of": LATER} | changes


def test_registering_takes_the_thresholds_of_the_policy() -> None:
    level = level_after(policy=Policy(safety_stock=1, low_stock_threshold=2, backorder_limit=3))
    assert level == Level(
        sku=SKU,
        warehouse=CODE,
        version=1,
        as_of=NOW,
        created_at=NOW,
        safety_stock=1,
        low_stock_threshold=2,
        backorder_limit=3,
    )


def test_reinstating_ends_what_discontinuing_began() -> None:
    assert not level_after(happened(Discontinued), happened(Reinstated)).discontinued


def test_every_event_of_a_stock_item_is_folded() -> None:
    tried = {fact.event_class for fact, _ in EFFECTS} | {registered().event_class, Reinstated}
    assert tried == {each for each in EVENT_CLASSES if issubclass(each, StockEvent)}


@pytest.mark.parametrize(
    ("history", "fact"),
    [
        ((), registered()),
        ((), committed("r-1", 1)),
        ((restocked(5),), shipped("r-1", 1)),
        ((restocked(5),), happened(Adjusted, delta=-6, reason=AdjustmentReason.CORRECTION)),
        ((restocked(5),), happened(WrittenOff, quantity=1)),
    ],
    ids=["registered twice", "commits nothing", "ships nothing", "below nothing on hand", "writes off nothing"],
)
def test_an_event_that_cannot_be_is_refused(history: tuple[Fact, ...], fact: Fact) -> None:
    level = level_after(*history)
    with pytest.raises(ImpossibleEvent):
        fold_level(level, event(fact, level.version + 1, LATER))


def test_nothing_comes_before_registering() -> None:
    with pytest.raises(ImpossibleEvent):
        fold_level(None, event(restocked(1), 1, NOW))


def test_an_event_of_a_warehouse_is_none_of_a_level() -> None:
    stray: Any = happened(WarehouseCreated, details=WarehouseDetails()).at(STREAM, 2, NOW)
    with pytest.raises(ImpossibleEvent):
        fold_level(level_after(), stray)


@pytest.mark.parametrize("due", [0, 3])
def test_the_document_is_the_one_of_the_write_side(due: int) -> None:
    level = level_after(*FULL, policy=Policy(safety_stock=2, low_stock_threshold=5, backorder_limit=1))
    for each in (level, replace(level, discontinued=True), replace(level, on_hand=3), replace(level, stale=True)):
        facts = each.facts()
        assert each.document(due) == level_document(SKU, CODE, facts, due, True if each.stale else UNSET)


def test_free_units_have_no_floor_and_the_document_has_one() -> None:
    level = level_after(restocked(4), reserved("r-1", 4), policy=Policy(safety_stock=2, backorder_limit=1))
    assert level.free == -2
    document = level.document()
    assert (document.available, document.status, document.total, document.short) == (0, "OUT_OF_STOCK", 4, 0)


def test_due_units_are_free_again_in_the_document() -> None:
    level = level_after(restocked(14), reserved("r-1", 12))
    assert (level.document().available, level.document().reserved) == (2, 12)
    assert (level.document(due=12).available, level.document(due=12).reserved) == (14, 0)
    assert level.document(due=12).status == "IN_STOCK"


def test_staleness_is_shown_only_when_it_is_so() -> None:
    level = level_after(restocked(1))
    assert level.document().stale is UNSET
    assert replace(level, stale=True).document().stale is True
