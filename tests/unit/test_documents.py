"""The JSON shapes of the HTTP contract: what a level and a reservation look like, due holds counted as expired."""

from typing import Any

import msgspec
import pytest

from domain.commands import (
    CancelReservation,
    CommitReservation,
    ReleaseReservation,
    ReturnReservation,
    ShipReservation,
)
from domain.policy import Policy
from domain.reservation import cancel, commit, release, ship, take_back
from infra.documents import Buckets, LevelFacts, encode, level_document, reservation_document
from tests.support_domain import NOW, Shop, after


def level(*, due: int = 0, discontinued: bool = False, policy: Policy | None = None, **buckets: int) -> dict[str, Any]:
    facts = LevelFacts(
        buckets=Buckets(**buckets),
        policy=policy or Policy(),
        sold=5,
        returned=2,
        lost=1,
        discontinued=discontinued,
        version=7,
        as_of=after(1),
        created_at=NOW,
        last_restocked_at=after(1),
    )
    shown: dict[str, Any] = msgspec.json.decode(encode(level_document("A", "W1", facts, due)))
    return shown


def test_a_level_has_the_contract_s_fields():
    policy = Policy(safety_stock=3, backorder_limit=4, low_stock_threshold=2)
    buckets: dict[str, Any] = {
        "on_hand": 20,
        "reserved": 6,
        "committed": 5,
        "damaged": 1,
        "quarantined": 2,
        "in_transit": 3,
        "incoming": 9,
    }
    assert level(policy=policy, **buckets) == {
        "sku": "A",
        "warehouse": "W1",
        **buckets,
        "safety_stock": 3,
        "available": 6,
        "total": 26,
        "short": 0,
        "backorder_limit": 4,
        "sold": 5,
        "returned": 2,
        "lost": 1,
        "status": "IN_STOCK",
        "version": 7,
        "as_of": "2026-03-01T12:00:01Z",
        "created_at": "2026-03-01T12:00:00Z",
        "last_movement_at": None,
        "last_restocked_at": "2026-03-01T12:00:01Z",
        "last_sold_at": None,
        "last_counted_at": None,
    }


@pytest.mark.parametrize(
    ("due", "shown"),
    [
        (0, {"reserved": 9, "available": 0, "short": 3, "status": "OUT_OF_STOCK"}),
        (2, {"reserved": 7, "available": 0, "short": 1, "status": "OUT_OF_STOCK"}),
        (5, {"reserved": 4, "available": 2, "short": 0, "status": "LOW_STOCK"}),
    ],
)
def test_due_units_are_neither_reserved_nor_at_risk(due: int, shown: dict[str, Any]):
    document = level(due=due, on_hand=10, reserved=9, committed=4)
    assert {name: document[name] for name in shown} == shown


def test_available_is_floored_and_the_status_is_not():
    backorders = Policy(safety_stock=1, backorder_limit=5)
    document = level(policy=backorders, on_hand=2, reserved=3)
    assert (document["available"], document["short"], document["status"]) == (0, 0, "BACKORDER")
    document = level(policy=backorders, on_hand=2, reserved=6)
    assert (document["available"], document["short"], document["status"]) == (0, 0, "OUT_OF_STOCK")
    assert level(discontinued=True, on_hand=99)["status"] == "DISCONTINUED"


def test_only_what_is_stale_says_so():
    facts = LevelFacts(Buckets(), Policy(), 0, 0, 0, False, 1, NOW, NOW)
    assert "stale" not in msgspec.json.decode(encode(level_document("A", "W1", facts, 0)))
    assert msgspec.json.decode(encode(level_document("A", "W1", facts, 0, True)))["stale"] is True


# Reservations


def shop_with_two_warehouses() -> Shop:
    shop = Shop()
    for code, priority in (("W1", 1), ("W2", 2)):
        shop.warehouse(code, priority=priority)
        shop.stocked("A", code, 5)
    shop.stocked("B", "W1", 5)
    return shop


def shown(shop: Shop, reservation_id: str = "r") -> dict[str, Any]:
    reservation = shop.reservation(reservation_id)
    document = reservation_document(reservation.header, reservation.holds, shop.now)
    decoded: dict[str, Any] = msgspec.json.decode(encode(document))
    return decoded


def test_a_reservation_has_the_contract_s_fields():
    shop = shop_with_two_warehouses()
    shop.create("r", [{"sku": "A", "quantity": 7, "metadata": {"n": 1}}, ("B", 1)], customer_ref="c", kind="cart")
    untouched = {"committed": 0, "shipped": 0, "returned": 0, "released": 0, "status": "ACTIVE", "version": 3}
    assert shown(shop) == {
        "reservation_id": "r",
        "order_id": "order-r",
        "kind": "cart",
        "customer_ref": "c",
        "status": "ACTIVE",
        "created_at": "2026-03-01T12:00:00Z",
        "created_by": "tester",
        "expires_at": "2026-03-01T12:15:00Z",
        "committed_at": None,
        "shipped_at": None,
        "released_at": None,
        "released_by": None,
        "release_reason": None,
        "lines": [
            {
                "sku": "A",
                "quantity": 7,
                "allocations": [
                    {"warehouse": "W1", "quantity": 5, "active": 5, **untouched},
                    {"warehouse": "W2", "quantity": 2, "active": 2, **untouched},
                ],
                "metadata": {"n": 1},
            },
            {"sku": "B", "quantity": 1, "allocations": [{"warehouse": "W1", "quantity": 1, "active": 1, **untouched}]},
        ],
        "shortages": [],
    }


def test_a_hold_stands_under_the_line_that_names_its_warehouse():
    shop = shop_with_two_warehouses()
    shop.create("r", [("A", 4), ("A", 3, "W1"), ("B", 1)])
    lines = shown(shop)["lines"]
    assert [(line["sku"], line["quantity"]) for line in lines] == [("A", 4), ("A", 3), ("B", 1)]
    assert [[(a["warehouse"], a["quantity"]) for a in line["allocations"]] for line in lines] == [
        [("W2", 2)],
        [("W1", 5)],  # 3 by name and 2 that the allocator took from there: one hold
        [("W1", 1)],
    ]


def test_what_was_short_is_said():
    shop = shop_with_two_warehouses()
    shop.create("r", [("A", 12), ("B", 6, "W1")], allocation={"allow_partial": True})
    assert shown(shop)["shortages"] == [
        {"sku": "B", "requested": 6, "available": 5, "warehouse": "W1"},
        {"sku": "A", "requested": 12, "available": 10},
    ]


def test_the_times_are_those_of_the_latest_hold():
    shop = shop_with_two_warehouses()
    shop.create("r", [("A", 7), ("B", 1)])
    for seconds, line in ((10, ("A", "W1", 5)), (20, ("A", "W2", 2))):
        shop.now = after(seconds)
        sku, code, quantity = line
        shop.on(commit, CommitReservation, "r", lines=[{"sku": sku, "warehouse": code, "quantity": quantity}])
    shop.now = after(30)
    shop.on(release, ReleaseReservation, "r", reason="PAYMENT_FAILED")
    shop.now = after(40)
    shop.on(ship, ShipReservation, "r", tracking="T", lines=[{"sku": "A", "warehouse": "W1", "quantity": 5}])
    document = shown(shop)
    assert (document["status"], document["expires_at"]) == ("PARTIALLY_SHIPPED", None)
    assert document["committed_at"] == "2026-03-01T12:00:20Z"
    assert document["shipped_at"] == "2026-03-01T12:00:40Z"
    assert (document["released_at"], document["released_by"], document["release_reason"]) == (
        "2026-03-01T12:00:30Z",
        "tester",
        "PAYMENT_FAILED",
    )
    first, second = document["lines"][0]["allocations"]
    assert first["shipments"] == [{"quantity": 5, "shipped_at": "2026-03-01T12:00:40Z", "tracking": "T"}]
    assert "shipments" not in second
    shop.now = after(50)
    shop.on(cancel, CancelReservation, "r")
    back = {"sku": "A", "warehouse": "W1", "quantity": 5, "condition": "SELLABLE"}
    shop.on(take_back, ReturnReservation, "r", lines=[back])
    document = shown(shop)
    assert (document["status"], document["release_reason"]) == ("RETURNED", "ORDER_CANCELLED")


def test_due_and_swept_look_the_same():
    shop = shop_with_two_warehouses()
    shop.create("r", [("A", 7), ("B", 1)])
    shop.on(commit, CommitReservation, "r", lines=[{"sku": "B", "quantity": 1}])
    shop.elapse(900 - 0.000_001)
    assert shown(shop)["status"] == "PARTIALLY_COMMITTED"
    shop.elapse(0.000_001)
    due = shown(shop)
    assert (due["status"], due["expires_at"], due["released_at"], due["released_by"], due["release_reason"]) == (
        "COMMITTED",
        None,
        "2026-03-01T12:15:00Z",
        "stockhold",
        "EXPIRED",
    )
    shop.elapse(60)
    for place in (("A", "W1"), ("A", "W2")):
        assert shop.sweep(*place) == 1
    swept = shown(shop)
    for document in (due, swept):
        for line in document["lines"]:
            for allocation in line["allocations"]:
                del allocation["version"]
    assert swept == due


def test_a_hold_without_an_end_shows_none():
    shop = shop_with_two_warehouses()
    shop.create("r", [("A", 1)], kind="manual", ttl_seconds=None)
    assert (shown(shop)["status"], shown(shop)["expires_at"]) == ("ACTIVE", None)
