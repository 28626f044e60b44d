"""What each event is told as."""

from decimal import Decimal

import pytest

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
    WrittenOff,
)
from domain.policy import Policy
from domain.values import AdjustmentReason, Bucket, Condition, HoldKind, ReleaseReason
from projections.item_fold import ItemFold
from read_api.story import _SENTENCES, sentence
from tests.support_domain import (
    NOW,
    Fact,
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

STOCKED = (registered(), restocked(2_000))
HELD = (*STOCKED, reserved("r-1", 3, ttl_s=60))
PAID = (*HELD, committed("r-1", 3))


@pytest.mark.parametrize(
    ("before", "fact", "told"),
    [
        ((), registered(), "registered"),
        ((registered(),), restocked(1), "1 unit received"),
        (
            (registered(),),
            restocked(2_000, unit_cost=Decimal("1.50"), supplier="ACME", lot="L1"),
            "2,000 units received at 1.50 each from ACME as lot L1",
        ),
        (STOCKED, reserved("r-1", 3, ttl_s=60), "3 units held for r-1 (order order-r-1) until 2026-03-01 12:01:00 UTC"),
        (
            STOCKED,
            reserved("r-1", 1, ttl_s=None, kind=HoldKind.MANUAL),
            "1 unit held for r-1 (order order-r-1) without an end",
        ),
        (HELD, extended("r-1", ttl_s=90), "r-1 extended until 2026-03-01 12:01:30 UTC"),
        (HELD, committed("r-1", 2), "2 units of r-1 paid"),
        (HELD, released("r-1", 1, ReleaseReason.PAYMENT_FAILED), "1 unit of the hold r-1 given back: payment failed"),
        (HELD, released("r-1", 3, ReleaseReason.EXPIRED), "the hold of r-1 ran out: 3 units free again"),
        (
            PAID,
            released("r-1", 3, ReleaseReason.ORDER_CANCELLED, Bucket.COMMITTED),
            "3 units of the paid order r-1 given back: order cancelled",
        ),
        (PAID, shipped("r-1", 2), "2 units shipped for r-1"),
        (PAID, shipped("r-1", 2, tracking="T-1"), "2 units shipped for r-1 (T-1)"),
        (
            (*PAID, shipped("r-1", 3)),
            returned(1, Condition.DAMAGED, reservation_id="r-1"),
            "1 unit came back of r-1, damaged",
        ),
        (STOCKED, returned(1, order_id="o-1"), "1 unit came back of o-1, sellable"),
        (STOCKED, returned(2), "2 units came back, sellable"),
        (STOCKED, happened(Adjusted, delta=-2, reason=AdjustmentReason.SHELF_LIFE), "2 units taken off: shelf life"),
        (STOCKED, happened(Adjusted, delta=1, reason=AdjustmentReason.FOUND), "1 unit added: found"),
        (STOCKED, happened(Counted, counted=2_000, expected=2_000, variance=0), "counted 2,000, as expected"),
        (
            STOCKED,
            happened(Counted, counted=1_990, expected=2_000, variance=-10),
            "counted 1,990 where 2,000 were expected (-10)",
        ),
        (STOCKED, happened(Damaged, quantity=1), "1 unit damaged"),
        ((*STOCKED, happened(Damaged, quantity=2)), happened(Repaired, quantity=1), "1 unit repaired"),
        ((*STOCKED, happened(Damaged, quantity=2)), happened(WrittenOff, quantity=2), "2 units written off"),
        (
            STOCKED,
            happened(PolicyChanged, policy=Policy(safety_stock=5, low_stock_threshold=2_000)),
            "policy changed: safety stock 0 → 5, low stock threshold 10 → 2,000",
        ),
        (STOCKED, happened(PolicyChanged, policy=Policy(critical=True)), "policy changed: critical no → yes"),
        (
            STOCKED,
            happened(
                PolicyChanged, policy=Policy(hold_ttl_s=600, on_shortage="release_newest_unpaid", max_stock_level=9)
            ),
            "policy changed: max stock level none → 9, hold ttl s 900 → 600, on shortage keep → release newest unpaid",
        ),
        (STOCKED, happened(PolicyChanged, policy=Policy()), "policy changed"),
        (STOCKED, happened(Discontinued), "discontinued"),
        (STOCKED, happened(Reinstated), "reinstated"),
    ],
)
def test_what_each_event_is_told_as(before: tuple[Fact, ...], fact: Fact, told: str) -> None:
    fold = ItemFold()
    for version, earlier in enumerate(before, start=1):
        fold.apply(earlier.at("stock:A@W1", version, NOW))
    event = fact.at("stock:A@W1", len(before) + 1, NOW)
    assert sentence(event, fold.policy) == told


def test_every_event_of_a_stock_item_has_a_sentence() -> None:
    assert set(_SENTENCES) == {each for each in EVENT_CLASSES if issubclass(each, StockEvent)}
