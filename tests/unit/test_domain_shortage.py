"""Truth below promise: the world may take away what was promised. It is recorded as it is."""

import pytest

from domain.commands import CommitReservation, ShipReservation
from domain.errors import InsufficientStock
from domain.policy import Policy, PolicyPatch
from domain.reservation import commit, ship
from domain.stock_item import StockItem
from domain.values import AdjustmentReason, Bucket, HoldKind, ReleaseReason
from tests.support_domain import NOW, ORIGIN, Shop, after, committed, given, invariants, item_after, reserved, restocked

PROMISED = (restocked(10), reserved("r", 4), reserved("s", 3), committed("s", 3))


@pytest.mark.parametrize(
    ("decision", "facts"),
    [
        (StockItem.count, (5,)),
        (StockItem.adjust, (-5, AdjustmentReason.LOST)),
        (StockItem.adjust, (-5, AdjustmentReason.THEFT)),
        (StockItem.adjust, (-5, AdjustmentReason.CORRECTION)),
        (StockItem.damage, (5,)),
    ],
)
def test_what_the_world_takes_is_recorded_below_the_promises_too(decision, facts):
    outcome = given(*PROMISED).when(decision, *facts).leaving(on_hand=5, reserved=4, committed=3)
    assert outcome.item.short == 2
    assert len(outcome.item.new_events) == 1  # nothing is broken automatically


def test_a_short_item_makes_no_new_promise_until_stock_comes():
    short = given(*PROMISED).when(StockItem.count, 5).item
    assert short.promisable(short.modified_on) == -2
    with pytest.raises(InsufficientStock):
        short.reserve("t", "o", 1, None, HoldKind.ORDER, ORIGIN, short.modified_on)
    short.restock(2, ORIGIN, short.modified_on)
    assert (short.short, short.promisable(short.modified_on)) == (0, 0)


def test_backorders_are_not_a_shortage():
    policy = Policy(backorder_limit=2)
    assert given(*PROMISED, policy=policy).when(StockItem.count, 5).item.short == 0
    assert given(*PROMISED, policy=policy).when(StockItem.count, 4).item.short == 1


def test_due_holds_are_not_at_risk():
    item = given(*PROMISED).when(StockItem.count, 5).item
    assert item.short == 2
    item.at(after(900))
    assert item.short == 0


def test_a_short_item_ships_no_more_than_is_there_and_its_orders_still_move():
    shop = Shop()
    shop.stocked("A", "W1", 10)
    shop.create("r", [("A", 6)])
    shop.on_item("A", "W1", StockItem.count, 4)
    shop.on(commit, CommitReservation, "r")
    with pytest.raises(InsufficientStock) as refused:
        shop.on(ship, ShipReservation, "r")
    assert [(s.requested, s.available) for s in refused.value.shortages] == [(6, 4)]
    shop.on(ship, ShipReservation, "r", lines=[{"sku": "A", "quantity": 4}])
    figures = shop.item("A", "W1").figures
    assert (figures.on_hand, figures.committed, shop.item("A", "W1").short) == (0, 2, 2)
    assert list(invariants(shop.item("A", "W1"), shop.now)) == []


# The policy that gives way


def relieved(policy: str, counted: int, limit: int = 200, elapsed_s: float = 0) -> tuple[int, list[str], Shop]:
    """10 units: 2 paid for `paid`, 3 held by `old`, 2 by `new`, 3 by the short-lived `brief`; then a count."""
    shop = Shop()
    shop.stocked("A", "W1", 10, Policy(on_shortage=policy))
    shop.create("paid", [("A", 2)])
    shop.on(commit, CommitReservation, "paid")
    shop.create("old", [("A", 3)])
    shop.create("new", [("A", 2)])
    shop.create("brief", [("A", 3)], ttl_seconds=60)
    shop.on_item("A", "W1", StockItem.count, counted)
    shop.elapse(elapsed_s)
    before = len(shop.log)
    number = shop.relieve("A", "W1", limit)
    events = shop.events_since(before)
    assert {event.reason for event in events} <= {ReleaseReason.SHORTAGE}
    assert list(invariants(shop.item("A", "W1"), shop.now)) == []
    return number, [event.reservation_id for event in events], shop


def test_nothing_is_broken_unless_the_policy_says_so():
    assert relieved("keep", 5)[:2] == (0, [])


@pytest.mark.parametrize(
    ("counted", "expected"),
    [
        (10, []),
        (9, ["brief"]),
        (7, ["brief"]),
        (6, ["brief", "new"]),
        (4, ["brief", "new", "old"]),
        (0, ["brief", "new", "old"]),
    ],
)
def test_the_newest_unpaid_holds_give_way_and_no_more_than_needed(counted: int, expected: list[str]):
    number, names, shop = relieved("release_newest_unpaid", counted)
    assert (number, names) == (len(expected), expected)
    assert shop.status("paid") == "COMMITTED"
    assert shop.item("A", "W1").short == max(0, 2 - counted)


def test_a_due_hold_is_not_released_for_a_shortage_that_it_does_not_relieve():
    assert relieved("release_newest_unpaid", 6, elapsed_s=60)[:2] == (1, ["new"])
    assert relieved("release_newest_unpaid", 7, elapsed_s=60)[:2] == (0, [])


def test_a_relief_is_bounded():
    assert relieved("release_newest_unpaid", 0, limit=2)[:2] == (2, ["brief", "new"])


def test_a_relieved_hold_says_why():
    _, _, shop = relieved("release_newest_unpaid", 9)
    (hold,) = shop.reservation("brief").holds
    assert (hold.release_reason, hold.status, hold.released_by) == (ReleaseReason.SHORTAGE, "RELEASED", "stockhold")


def test_a_policy_that_takes_the_backorders_away_leaves_an_item_short():
    item = item_after(restocked(1), reserved("r", 3), policy=Policy(backorder_limit=2))
    assert item.short == 0
    item.change_policy(PolicyPatch(backorder_limit=0), ORIGIN, NOW)
    assert item.short == 2
    item.release("r", 3, Bucket.RESERVED, ReleaseReason.CANCELLED, ORIGIN, NOW)
    assert item.short == 0
