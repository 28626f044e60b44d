"""What a movement says of each kind of event."""

from decimal import Decimal

import pytest

from domain.events import (
    Adjusted,
    Counted,
    Damaged,
    Discontinued,
    Event,
    Origin,
    PolicyChanged,
    Reinstated,
    Repaired,
    WrittenOff,
)
from domain.policy import Policy
from domain.values import AdjustmentReason, Bucket, Condition, Reference, ReleaseReason, stock_stream
from projections.item_fold import ItemFold
from projections.views.movements import Movement
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
ORIGIN = Origin(
    command_id="c-1",
    actor="sam",
    correlation_id="x-1",
    idempotency_key="k-1",
    note="look",
    reference=Reference("PO", "7"),
    metadata={"a": 1},
)
HISTORY = (
    registered(),
    restocked(100),
    reserved("r-1", 10, order_id="o-1"),
    committed("r-1", 8),
    shipped("r-1", 2),
    happened(Damaged, quantity=5),
)


def movement_of(fact: Fact, *history: Fact) -> Movement | None:
    fold = ItemFold()
    movement = None
    for version, each in enumerate((*(history or HISTORY), fact), start=1):
        event: Event = each.at(STREAM, version, NOW if each is not fact else after(60), ORIGIN)
        movement = fold.apply(event)
    return movement


MOVED = [
    (restocked(5), "RECEIPT", 5, None, None),
    (reserved("r-2", 3, order_id="o-2"), "RESERVATION", 3, None, "r-2"),
    (committed("r-1", 2), "SALE", 2, None, "r-1"),
    (released("r-1", 1, ReleaseReason.PAYMENT_FAILED), "RELEASE", 1, "PAYMENT_FAILED", "r-1"),
    (released("r-1", 1, ReleaseReason.ORDER_CANCELLED, Bucket.COMMITTED), "REFUND", 1, "ORDER_CANCELLED", "r-1"),
    (shipped("r-1", 3), "SHIPMENT", 3, None, "r-1"),
    (returned(1, Condition.QUARANTINE, reservation_id="r-1"), "RETURN", 1, "QUARANTINE", "r-1"),
    (returned(1, Condition.SELLABLE, order_id="o-9"), "RETURN", 1, "SELLABLE", None),
    (happened(Adjusted, delta=-4, reason=AdjustmentReason.THEFT), "ADJUSTMENT", -4, "THEFT", None),
    (happened(Counted, counted=90, expected=93, variance=-3), "COUNT", -3, None, None),
    (happened(Damaged, quantity=2), "DAMAGE", 2, None, None),
    (happened(Repaired, quantity=2), "REPAIR", 2, None, None),
    (happened(WrittenOff, quantity=2), "WRITE_OFF", 2, None, None),
]


@pytest.mark.parametrize(("fact", "kind", "quantity", "reason", "reservation"), MOVED, ids=[row[1] for row in MOVED])
def test_a_movement_says_what_moved_and_why(
    fact: Fact, kind: str, quantity: int, reason: str | None, reservation: str | None
) -> None:
    movement = movement_of(fact)
    assert movement is not None
    assert (movement.type, movement.quantity, movement.reason) == (kind, quantity, reason)
    assert (movement.version, movement.at, movement.reservation_id) == (7, after(60), reservation)
    assert movement.movement_id == f"stock:{SKU}@{CODE}#7"


def test_a_movement_says_where_it_came_from() -> None:
    movement = movement_of(restocked(5, unit_cost=Decimal("1.50"), supplier="s", lot="l"))
    assert movement is not None
    assert (movement.actor, movement.correlation_id, movement.idempotency_key) == ("sam", "x-1", "k-1")
    assert (movement.note, movement.reference, movement.metadata) == ("look", Reference("PO", "7"), {"a": 1})
    assert (movement.unit_cost, movement.supplier, movement.lot) == (Decimal("1.50"), "s", "l")


def test_a_movement_shows_the_buckets_before_and_after() -> None:
    movement = movement_of(shipped("r-1", 3))
    assert movement is not None
    assert movement.before == (93, 2, 6, 5, 0, 0, 0)
    assert movement.after == (90, 2, 3, 5, 0, 0, 0)


def test_the_order_comes_from_the_hold_or_else_from_the_event() -> None:
    orders = [
        movement_of(fact)
        for fact in (committed("r-1", 1), returned(1, reservation_id="r-1"), returned(1, order_id="o-9"), returned(1))
    ]
    assert [movement and movement.order_id for movement in orders] == ["o-1", "o-1", "o-9", None]


@pytest.mark.parametrize(
    "fact",
    [
        extended("r-1", ttl_s=5_000),
        happened(PolicyChanged, policy=Policy(safety_stock=1)),
        happened(Discontinued),
    ],
    ids=lambda fact: fact.event_class.__name__,
)
def test_what_moves_nothing_is_no_movement(fact: Fact) -> None:
    assert movement_of(fact) is None


def test_registering_and_reinstating_move_nothing() -> None:
    fold = ItemFold()
    assert fold.apply(registered().at(STREAM, 1, NOW)) is None
    assert fold.apply(happened(Discontinued).at(STREAM, 2, NOW)) is None
    assert fold.apply(happened(Reinstated).at(STREAM, 3, NOW)) is None
