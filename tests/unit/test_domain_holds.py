"""What a stock item decides about holds: promises, and what becomes of them."""

from typing import Any

import pytest

from domain.errors import InsufficientStock, QuantityOutOfRange, ReservationExpired
from domain.events import Released
from domain.hold import EXPIRY_ACTOR, Hold, Shipment, fold_hold, overall_status
from domain.policy import Policy
from domain.stock_item import StockItem
from domain.values import Bucket, Condition, HoldKind, ReleaseReason, ReservationStatus
from tests.support_domain import (
    CODE,
    NOW,
    ORIGIN,
    SKU,
    after,
    committed,
    extended,
    given,
    happened,
    item_after,
    released,
    reserved,
    restocked,
    returned,
    shipped,
)

CANCELLED, EXPIRED = ReleaseReason.CANCELLED, ReleaseReason.EXPIRED
SOME = (restocked(10), reserved("r", 4))
PAID = (*SOME, committed("r", 3))
SENT = (*PAID, shipped("r", 2))


def hold_of(item: StockItem, reservation_id: str = "r") -> Hold:
    return item.holds[reservation_id]


# Reserving


def test_a_promise_reserves_units_that_stay_on_hand():
    outcome = given(restocked(10)).when(StockItem.reserve, "r", "o", 4, after(60), HoldKind.CART)
    outcome.then(reserved("r", 4, order_id="o", ttl_s=60, kind=HoldKind.CART))
    outcome.leaving(on_hand=10, reserved=4, committed=0, last_movement_at=NOW)
    assert hold_of(outcome.item) == Hold(
        reservation_id="r", order_id="o", sku=SKU, warehouse=CODE, version=3, active=4, expires_at=after(60)
    )
    assert outcome.item.changed_holds == {"r": hold_of(outcome.item)}


def test_the_last_unit_may_be_promised_and_not_one_more():
    given(*SOME).when(StockItem.reserve, "s", "o", 6, None, HoldKind.ORDER).leaving(reserved=10)
    given(*SOME).when(StockItem.reserve, "s", "o", 7, None, HoldKind.ORDER).refused(InsufficientStock)


def test_safety_stock_is_not_promised_and_backorders_are():
    policy = Policy(safety_stock=3, backorder_limit=2)
    given(*SOME, policy=policy).when(StockItem.reserve, "s", "o", 5, None, HoldKind.ORDER).leaving(reserved=9)
    given(*SOME, policy=policy).when(StockItem.reserve, "s", "o", 6, None, HoldKind.ORDER).refused(InsufficientStock)


def test_a_shortage_says_what_was_free_and_never_less_than_nothing():
    short = given(*SOME, happened_count(2)).when(StockItem.reserve, "s", "o", 1, None, HoldKind.ORDER)
    assert isinstance(short.error, InsufficientStock)
    assert [(s.sku, s.warehouse, s.requested, s.available) for s in short.error.shortages] == [(SKU, CODE, 1, 0)]


def happened_count(counted: int):
    from domain.events import Counted

    return happened(Counted, counted=counted, expected=10, variance=counted - 10)


# Committing, releasing, extending


@pytest.mark.parametrize(("quantity", "active"), [(4, 0), (1, 3)])
def test_a_payment_moves_units_from_reserved_to_committed(quantity: int, active: int):
    outcome = given(*SOME).when(StockItem.commit, "r", quantity).then(committed("r", quantity))
    outcome.leaving(on_hand=10, reserved=active, committed=quantity)
    hold = hold_of(outcome.item)
    assert (hold.active, hold.committed, hold.quantity, hold.committed_at) == (active, quantity, 4, NOW)


@pytest.mark.parametrize("quantity", [4, 1])
def test_a_release_gives_units_back(quantity: int):
    outcome = given(*SOME).when(StockItem.release, "r", quantity, Bucket.RESERVED, CANCELLED)
    outcome.then(released("r", quantity, CANCELLED)).leaving(reserved=4 - quantity, on_hand=10)
    hold = outcome.item.changed_holds["r"]
    assert (hold.active, hold.released, hold.quantity) == (4 - quantity, quantity, 4)
    assert (hold.released_at, hold.released_by, hold.release_reason) == (NOW, "tester", CANCELLED)
    assert ("r" in outcome.item.holds) is (quantity < 4)
    assert outcome.item.promisable(NOW) == 6 + quantity


def test_a_paid_order_is_cancelled_and_its_units_are_free_again():
    reason = ReleaseReason.ORDER_CANCELLED
    outcome = given(*PAID).when(StockItem.release, "r", 3, Bucket.COMMITTED, reason)
    outcome.then(released("r", 3, reason, Bucket.COMMITTED)).leaving(committed=0, reserved=1, on_hand=10)
    assert hold_of(outcome.item).cancelled


def test_an_extension_moves_the_end_and_nothing_else():
    outcome = given(*SOME).when(StockItem.extend, "r", after(5_000)).then(extended("r", ttl_s=5_000))
    outcome.leaving(reserved=4, last_movement_at=NOW)
    assert hold_of(outcome.item).expires_at == after(5_000)
    assert outcome.item.due_units(after(4_999)) == 0
    assert outcome.item.due_units(after(5_000)) == 4


def test_an_end_may_be_brought_forward():
    item = given(*SOME).when(StockItem.extend, "r", after(10)).item
    assert item.due_units(after(9)) == 0
    assert item.due_units(after(10)) == 4


# Shipping and returning


def test_a_shipment_takes_units_away_for_good():
    outcome = given(*PAID).when(StockItem.ship, "r", 2, "T1").then(shipped("r", 2, "T1"))
    outcome.leaving(on_hand=8, committed=1, reserved=1, sold=2, last_sold_at=NOW)
    hold = hold_of(outcome.item)
    assert (hold.committed, hold.shipped, hold.shipments) == (1, 2, (Shipment(2, NOW, "T1"),))
    assert outcome.item.promisable(NOW) == 6


def test_parcels_are_kept_apart():
    item = item_after(*SENT, shipped("r", 1, "T2"))
    assert hold_of(item).shipments == (Shipment(2, NOW), Shipment(1, NOW, "T2"))
    assert hold_of(item).shipped_at == NOW


def test_no_more_is_shipped_than_is_there():
    given(*PAID, happened_count(1)).when(StockItem.ship, "r", 2, None).refused(InsufficientStock)
    given(*PAID, happened_count(1)).when(StockItem.ship, "r", 1, None).leaving(on_hand=0, committed=2)


@pytest.mark.parametrize(
    ("condition", "figures"),
    [
        (Condition.SELLABLE, {"on_hand": 9}),
        (Condition.DAMAGED, {"damaged": 1}),
        (Condition.QUARANTINE, {"quarantined": 1}),
    ],
)
def test_shipped_units_come_back_to_an_open_hold(condition: Condition, figures: dict[str, int]):
    before = given(*SENT)
    hold = hold_of(before.item)
    outcome = before.when(StockItem.take_back, 1, condition, hold=hold)
    outcome.then(returned(1, condition, order_id="order-r", reservation_id="r"))
    outcome.leaving(**{"on_hand": 8, "damaged": 0, "quarantined": 0, "returned": 1} | figures)
    assert hold_of(outcome.item).returned == 1
    assert outcome.item.changed_holds["r"] == hold_of(outcome.item)


def test_shipped_units_come_back_to_a_closed_hold_that_only_the_index_knows():
    before = given(restocked(4), reserved("r", 4), committed("r", 4), shipped("r", 4))
    closed = fold_history(reserved("r", 4), committed("r", 4), shipped("r", 4))
    assert before.item.holds == {}
    outcome = before.when(StockItem.take_back, 3, Condition.SELLABLE, hold=closed)
    outcome.then(returned(3, order_id="order-r", reservation_id="r")).leaving(on_hand=3, returned=3)
    assert outcome.item.holds == {}
    assert outcome.item.changed_holds["r"].returned == 3
    assert outcome.item.changed_holds["r"].version == outcome.item.version


def fold_history(*facts) -> Hold:
    hold = None
    for version, fact in enumerate(facts, start=3):
        hold = fold_hold(hold, fact.at(f"stock:{SKU}@{CODE}", version, NOW), SKU, CODE)
    assert hold is not None
    return hold


# The aggregate keeps its own books whatever it is asked


@pytest.mark.parametrize(
    ("decision", "facts"),
    [
        (StockItem.commit, ("r", 2)),
        (StockItem.commit, ("nobody", 1)),
        (StockItem.release, ("r", 2, Bucket.RESERVED, CANCELLED)),
        (StockItem.release, ("r", 2, Bucket.COMMITTED, CANCELLED)),
        (StockItem.release, ("nobody", 1, Bucket.RESERVED, CANCELLED)),
        (StockItem.extend, ("nobody", after(10))),
        (StockItem.ship, ("r", 2, None)),
        (StockItem.ship, ("nobody", 1, None)),
    ],
)
def test_no_more_is_moved_than_is_held(decision, facts):
    given(*SENT).when(decision, *facts).refused(QuantityOutOfRange, sku=SKU, warehouse=CODE)


@pytest.mark.parametrize(("decision", "facts"), [(StockItem.commit, ("r", 1)), (StockItem.extend, ("r", after(5_000)))])
def test_an_expired_hold_is_neither_paid_nor_extended(decision, facts):
    given(*SOME).at(899.999).when(decision, *facts).leaving(on_hand=10)
    given(*SOME).at(900).when(decision, *facts).refused(ReservationExpired)


def test_a_hold_is_made_once():
    before = given(*SOME)
    with pytest.raises(AssertionError, match="already"):
        before.item.reserve("r", "o", 1, None, HoldKind.ORDER, ORIGIN, NOW)
    before.item.undo()
    assert (before.item.version, before.item.figures.reserved) == (3, 4)


# A hold on its own


def test_an_expired_hold_ended_at_its_instant_however_late_it_was_swept():
    item = item_after(*SOME)
    seen = hold_of(item).as_seen(after(900))
    item.release("r", 4, Bucket.RESERVED, EXPIRED, ORIGIN, after(4_000))
    swept = item.changed_holds["r"]
    assert swept.released_at == seen.released_at == after(900)
    assert (swept.status, seen.status) == (ReservationStatus.EXPIRED, ReservationStatus.EXPIRED)
    assert seen.released_by == EXPIRY_ACTOR


def test_a_hold_is_due_at_its_instant_and_only_while_it_is_active():
    hold = hold_of(item_after(*SOME))
    assert not hold.is_due(after(899.999_999))
    assert hold.is_due(after(900))
    assert hold.as_seen(after(899.999_999)) is hold
    assert not hold.commit(4, 4, NOW).is_due(after(901))
    assert not hold_of(item_after(restocked(1), reserved("r", 1, ttl_s=None))).is_due(after(10**8))


def test_what_was_paid_in_time_does_not_expire_with_the_rest():
    hold = hold_of(item_after(*PAID)).as_seen(after(900))
    assert (hold.active, hold.committed, hold.released, hold.expired) == (0, 3, 1, True)
    assert hold.status is ReservationStatus.COMMITTED


A_STATUS = [
    ({"active": 1}, "ACTIVE"),
    ({"active": 1, "shipped": 1}, "ACTIVE"),
    ({"active": 1, "committed": 1}, "PARTIALLY_COMMITTED"),
    ({"active": 1, "committed": 1, "shipped": 1}, "PARTIALLY_COMMITTED"),
    ({"committed": 1}, "COMMITTED"),
    ({"committed": 1, "released": 1, "expired": True}, "COMMITTED"),
    ({"committed": 1, "shipped": 1}, "PARTIALLY_SHIPPED"),
    ({"shipped": 2}, "SHIPPED"),
    ({"shipped": 2, "returned": 1}, "SHIPPED"),
    ({"shipped": 2, "returned": 2}, "RETURNED"),
    ({"shipped": 1, "released": 1, "expired": True}, "SHIPPED"),
    ({"released": 1, "expired": True, "cancelled": True}, "EXPIRED"),
    ({"released": 1, "cancelled": True}, "CANCELLED"),
    ({"released": 1}, "RELEASED"),
]


@pytest.mark.parametrize(("facts", "status"), A_STATUS)
def test_the_status_of_a_hold_is_the_first_that_fits(facts: dict[str, int], status: str):
    assert hold(**facts).status == status


def hold(**facts: Any) -> Hold:
    return Hold(reservation_id="r", order_id="o", sku="A", warehouse="W", version=1, **facts)


def test_the_status_of_a_whole_reservation_counts_all_its_holds():
    def whole(*holds: dict[str, int]) -> str:
        return overall_status(hold(**facts) for facts in holds)

    assert whole({"active": 1}, {"shipped": 1}) == "ACTIVE"
    assert whole({"active": 1}, {"committed": 1}) == "PARTIALLY_COMMITTED"
    assert whole({"committed": 1}, {"shipped": 1}) == "PARTIALLY_SHIPPED"
    assert whole({"released": 1}, {"committed": 1}) == "COMMITTED"
    assert whole({"shipped": 1, "returned": 1}, {"shipped": 1}) == "SHIPPED"
    assert whole({"shipped": 1, "returned": 1}, {"released": 1, "expired": True}) == "RETURNED"
    assert whole({"released": 1}, {"released": 1, "cancelled": True}) == "CANCELLED"


def test_a_fold_that_cannot_be_says_so():
    event = released("r", 1, CANCELLED).at("stock:A@W1", 3, NOW)
    assert isinstance(event, Released)
    with pytest.raises(AssertionError, match="holds no A at W1"):
        fold_hold(None, event, SKU, CODE)
