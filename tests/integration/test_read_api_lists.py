"""Lists: every page once and in order, filters alone and together, and what each item says."""

import pytest
import pytest_asyncio

from domain.commands import (
    CancelReservation,
    CommitReservation,
    ReleaseReservation,
    ReturnReservation,
    ShipReservation,
)
from domain.policy import Policy
from domain.reservation import cancel, commit, release, ship, take_back
from domain.stock_item import StockItem
from domain.values import AdjustmentReason, ReservationStatus, StockStatus
from tests.support_read_api import read_rig

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(module_database_url, servers):
    # Every generation has keys of its own, so that nobody's tests are in the way here.
    async with read_rig(module_database_url, servers.redis_url, page_limit=3, page_limit_max=5) as world:
        _fill(world.shop)
        await world.show()
        yield world


def _fill(shop):
    """Warehouses W1 … W7, SKUs S00 … S08 at W1 and one at each other, a reservation in each status."""
    for n in range(1, 8):
        address = {"country": "DE" if n % 2 else "FR"}
        shop.warehouse(f"W{n}", name=f"House {n}", status="ACTIVE" if n < 6 else "MAINTENANCE", address=address)
    for n in range(9):
        shop.stocked(f"S{n:02d}", "W1", n * 3, Policy(low_stock_threshold=9, backorder_limit=1 if n == 0 else 0))
    for n in range(2, 8):
        shop.stocked("T", f"W{n}", 100)
    shop.on_item("S08", "W1", StockItem.discontinue)
    _reserve(shop)
    shop.on_item("S05", "W1", StockItem.adjust, -15, AdjustmentReason.THEFT)


def _reserve(shop):
    shop.create("active", [("T", 1, "W2")])
    shop.create("partly-paid", [("T", 2, "W2")])
    shop.on(commit, CommitReservation, "partly-paid", lines=[{"sku": "T", "quantity": 1}])
    shop.create("paid", [("T", 1, "W3"), ("S05", 4)])
    shop.on(commit, CommitReservation, "paid")
    shop.create("partly-shipped", [("T", 2, "W3")])
    shop.on(commit, CommitReservation, "partly-shipped")
    shop.on(ship, ShipReservation, "partly-shipped", lines=[{"sku": "T", "quantity": 1}])
    for rid in ("shipped", "returned"):
        shop.create(rid, [("T", 1, "W4")], order_id="order-twice")
        shop.on(commit, CommitReservation, rid)
        shop.on(ship, ShipReservation, rid, tracking="T-1")
    line = {"sku": "T", "warehouse": "W4", "quantity": 1, "condition": "SELLABLE"}
    shop.on(take_back, ReturnReservation, "returned", lines=[line])
    shop.create("released", [("T", 1, "W5")])
    shop.on(release, ReleaseReservation, "released", reason="PAYMENT_FAILED")
    shop.create("cancelled", [("T", 1, "W5")])
    shop.on(commit, CommitReservation, "cancelled")
    shop.on(cancel, CancelReservation, "cancelled")
    shop.create("expired", [("T", 1, "W5")], ttl_seconds=1)
    shop.elapse(2)
    shop.create(
        "forever",
        [("S07", 2), {"sku": "S05", "quantity": 2, "metadata": {"gift": True}}],
        kind="manual",
        ttl_seconds=None,
    )


async def ids(world, query: str) -> list[str]:
    return [found["reservation_id"] for found in await world.items(f"/v1/reservations?{query}")]


async def test_warehouses_page_by_page_and_by_what_they_are(world):
    everything = await world.items("/v1/warehouses")
    assert [found["code"] for found in everything] == [f"W{n}" for n in range(1, 8)]
    assert everything[0]["name"] == "House 1"
    assert [found["code"] for found in await world.items("/v1/warehouses?limit=1&country=FR")] == ["W2", "W4", "W6"]
    assert [found["code"] for found in await world.items("/v1/warehouses?status=MAINTENANCE")] == ["W6", "W7"]
    assert await world.items("/v1/warehouses?status=MAINTENANCE&country=IT") == []
    assert everything[1] == await world.read("/v1/warehouses/W2")
    assert await world.problem("/v1/warehouses/W8") == (404, "unknown-warehouse")


async def test_pages_are_as_long_as_asked_for_usual_or_as_may_be(world):
    assert len((await world.read("/v1/warehouses?limit=2"))["items"]) == 2
    assert len((await world.read("/v1/warehouses"))["items"]) == 3
    assert len((await world.read("/v1/warehouses?limit=1000000"))["items"]) == 5
    last = await world.read("/v1/warehouses?status=ACTIVE&limit=5")
    assert (len(last["items"]), last["next_cursor"]) == (5, None)


async def test_the_stock_of_a_warehouse(world):
    levels = await world.items("/v1/warehouses/W1/stock")
    assert [level["sku"] for level in levels] == [f"S{n:02d}" for n in range(9)]
    assert levels[3] == await world.read("/v1/stock/S03/W1")
    assert [level["sku"] for level in await world.items("/v1/warehouses/W4/stock")] == ["T"]
    assert await world.problem("/v1/warehouses/W8/stock") == (404, "unknown-warehouse")


@pytest.mark.parametrize("status", list(StockStatus))
async def test_the_stock_of_a_warehouse_by_status(world, status):
    everything = await world.items("/v1/warehouses/W1/stock")
    wanted = [level["sku"] for level in everything if level["status"] == status]
    assert wanted, "the fixture has every status"
    assert [level["sku"] for level in await world.items(f"/v1/warehouses/W1/stock?status={status}")] == wanted


async def test_what_runs_low(world):
    low = await world.items("/v1/low-stock?limit=1")
    assert [(level["sku"], level["warehouse"]) for level in low] == [(f"S{n:02d}", "W1") for n in (0, 1, 2, 3, 5)]
    assert all(level["available"] <= 9 for level in low)
    assert await world.items("/v1/low-stock?warehouse=W1") == low
    assert await world.items("/v1/low-stock?warehouse=W2") == []


async def test_reservations_page_by_page(world):
    everything = await world.items("/v1/reservations?limit=2")
    found = [reservation["reservation_id"] for reservation in everything]
    assert found == sorted(world.shop.headers)
    for reservation in everything:
        assert reservation == await world.read(f"/v1/reservations/{reservation['reservation_id']}")
    assert await world.problem("/v1/reservations/nobody") == (404, "unknown-reservation")


@pytest.mark.parametrize("status", list(ReservationStatus))
async def test_reservations_by_status(world, status):
    everything = await world.items("/v1/reservations")
    wanted = [found["reservation_id"] for found in everything if found["status"] == status]
    assert wanted, "the fixture has every status"
    assert await ids(world, f"status={status}&limit=1") == wanted


async def test_reservations_by_what_they_hold_and_whose_they_are(world):
    assert await ids(world, "order_id=order-twice") == ["returned", "shipped"]
    assert await ids(world, "sku=S05") == ["forever", "paid"]
    assert await ids(world, "warehouse=W3") == ["paid", "partly-shipped"]
    assert await ids(world, "sku=S05&warehouse=W3") == []
    assert await ids(world, "sku=T&warehouse=W3&status=COMMITTED") == ["paid"]
    assert await ids(world, "order_id=order-twice&status=RETURNED&sku=T") == ["returned"]
    assert await ids(world, "order_id=nobody") == []


async def test_a_reservation_says_what_was_asked_for_and_what_became_of_it(world):
    found = await world.read("/v1/reservations/forever")
    assert (found["kind"], found["status"], found["expires_at"], found["order_id"]) == (
        "manual",
        "ACTIVE",
        None,
        "order-forever",
    )
    assert [(line["sku"], line["quantity"], line.get("metadata")) for line in found["lines"]] == [
        ("S07", 2, None),
        ("S05", 2, {"gift": True}),
    ]
    (allocation,) = found["lines"][0]["allocations"]
    assert (allocation["warehouse"], allocation["active"], allocation["status"]) == ("W1", 2, "ACTIVE")
    shipped = (await world.read("/v1/reservations/shipped"))["lines"][0]["allocations"][0]
    assert shipped["shipments"] == [{"quantity": 1, "shipped_at": "2026-03-01T12:00:00Z", "tracking": "T-1"}]


async def test_shortages_name_the_promises_at_risk_the_newest_first(world):
    (short,) = await world.items("/v1/shortages")
    assert (short["sku"], short["warehouse"], short["on_hand"], short["short"]) == ("S05", "W1", 0, 6)
    at_risk = [(held["reservation_id"], held["active"], held["committed"]) for held in short["reservations"]]
    assert at_risk == [("forever", 2, 0), ("paid", 0, 4)]
    assert {name: value for name, value in short.items() if name != "reservations"} == await world.read(
        "/v1/stock/S05/W1"
    )
    assert await world.items("/v1/shortages?warehouse=W2") == []


@pytest.mark.parametrize(
    "target",
    [
        "/v1/warehouses",
        "/v1/warehouses/W1/stock",
        "/v1/low-stock",
        "/v1/reservations",
        "/v1/movements",
        "/v1/stock/T/W2/history",
        "/v1/shortages",
    ],
)
async def test_a_cursor_of_nothing_is_refused(world, target):
    for cursor in ("x", "", "W10", "bnVsbA"):
        assert await world.problem(f"{target}?cursor={cursor}") == (422, "invalid-request")


async def test_the_policy_in_force_is_whole(world):
    policy = await world.read("/v1/stock/S00/W1/policy")
    assert (policy["low_stock_threshold"], policy["backorder_limit"], policy["hold_ttl_s"]) == (9, 1, 900)
    assert set(policy) == set(Policy.__struct_fields__)
    assert await world.problem("/v1/stock/S00/W2/policy") == (404, "unknown-stock-item")
    assert await world.problem("/v1/stock/S00/W2") == (404, "unknown-stock-item")
