"""What happened and what was: movements the newest first, by every filter, and replays of the log."""

import itertools
from datetime import timedelta
from decimal import Decimal

import pytest
import pytest_asyncio

from domain.commands import CommitReservation, ReleaseReservation, ShipReservation
from domain.events import Origin, Restocked
from domain.reservation import commit, release, ship
from domain.stock_item import StockItem
from domain.values import AdjustmentReason, Condition, Reference
from tests.support_domain import NOW, Fact, Shop
from tests.support_read_api import read_rig

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(module_database_url, servers):
    async with read_rig(module_database_url, servers.redis_url, page_limit=4) as world:
        _happen(world)
        await world.show()
        yield world


def _happen(world):
    shop: Shop = world.shop
    shop.stocked("OLD", "W1", 7)
    shop.elapse(40 * 86_400)
    shop.stocked("A", "W1", 10)
    shop.create("r-1", [("A", 3)], order_id="o-1")
    shop.elapse(60)
    shop.on(commit, CommitReservation, "r-1")
    shop.on(ship, ShipReservation, "r-1", tracking="T1")
    shop.elapse(60)
    shop.create("r-2", [("A", 2)], order_id="o-1")
    shop.on(release, ReleaseReservation, "r-2", reason="PAYMENT_FAILED")
    shop.elapse(60)
    shop.on_item("A", "W1", StockItem.adjust, -1, AdjustmentReason.THEFT)
    shop.on_item("A", "W1", StockItem.count, 9)
    shop.on_item("A", "W1", StockItem.take_back, 2, Condition.DAMAGED)
    shop.stocked("B", "W2", 5)
    item = shop.item("B", "W2")
    origin = Origin(
        command_id="command-x",
        actor="bob",
        correlation_id="correlation-x",
        idempotency_key="key-x",
        note="a note",
        reference=Reference(type="po:eu", id="4711:b"),
        metadata={"a": [1, {"b": None}]},
    )
    facts = {"quantity": 4, "unit_cost": Decimal("1.50"), "supplier": "ACME", "lot": "L1"}
    shop.log.append(Fact(Restocked, facts).at(item.id, item.version + 1, shop.now, origin))


async def versions(world, target: str) -> list[int]:
    return [movement["version"] for movement in await world.items(target)]


async def test_a_history_is_told_the_newest_first_with_what_was_before_and_after(world):
    movements = await world.items("/v1/stock/A/W1/history")
    assert [(m["version"], m["type"], m["quantity"], m["reason"]) for m in movements] == [
        (10, "RETURN", 2, "DAMAGED"),
        (9, "COUNT", 3, None),
        (8, "ADJUSTMENT", -1, "THEFT"),
        (7, "RELEASE", 2, "PAYMENT_FAILED"),
        (6, "RESERVATION", 2, None),
        (5, "SHIPMENT", 3, None),
        (4, "SALE", 3, None),
        (3, "RESERVATION", 3, None),
        (2, "RECEIPT", 10, None),
    ]
    for later, earlier in itertools.pairwise(movements):
        assert later["before"] == earlier["after"]
    sale = movements[6]
    assert sale["movement_id"] == "stock:A@W1#4"
    assert (sale["before"]["reserved"], sale["after"]["reserved"], sale["after"]["committed"]) == (3, 0, 3)
    assert (sale["reservation_id"], sale["order_id"], sale["actor"]) == ("r-1", "o-1", "tester")
    assert not {"note", "reference", "metadata", "unit_cost", "lot", "supplier"} & set(sale)


async def test_everything_that_was_said_of_a_receipt_is_told(world):
    newest = (await world.read("/v1/stock/B/W2/history"))["items"][0]
    assert (newest["unit_cost"], newest["supplier"], newest["lot"], newest["note"]) == ("1.50", "ACME", "L1", "a note")
    assert (newest["reference"], newest["metadata"]) == ({"type": "po:eu", "id": "4711:b"}, {"a": [1, {"b": None}]})
    assert (newest["actor"], newest["correlation_id"], newest["idempotency_key"]) == ("bob", "correlation-x", "key-x")


@pytest.mark.parametrize("limit", [1, 2, 4, 1000])
async def test_every_movement_is_on_one_page(world, limit):
    assert await versions(world, f"/v1/stock/A/W1/history?limit={limit}") == list(range(10, 1, -1))
    everything = [m["movement_id"] for m in await world.items(f"/v1/movements?limit={limit}")]
    assert len(everything) == len(set(everything)) == 9 + 2


async def test_a_history_between_two_instants(world):
    start = NOW + timedelta(days=40)
    at = [(start + timedelta(seconds=60 * n)).isoformat().replace("+00:00", "Z") for n in range(4)]
    assert await versions(world, f"/v1/stock/A/W1/history?from={at[1]}&to={at[2]}") == [5, 4]
    assert await versions(world, f"/v1/stock/A/W1/history?to={at[1]}") == [3, 2]
    assert await versions(world, f"/v1/stock/A/W1/history?from={at[2]}&limit=1") == [10, 9, 8, 7, 6]
    assert await versions(world, f"/v1/stock/A/W1/history?from={at[3].replace('Z', '.5Z')}") == []


async def test_a_search_looks_back_thirty_days_unless_told(world):
    assert await world.items("/v1/movements?sku=OLD") == []
    assert await versions(world, "/v1/movements?sku=OLD&from=2026-01-01T00:00:00Z") == [2]
    assert await versions(world, "/v1/movements?sku=OLD&to=2026-03-02T00:00:00Z") == [2]
    assert await versions(world, "/v1/stock/OLD/W1/history") == [2]
    assert await world.items("/v1/movements?to=0001-01-01T00:00:00Z") == []


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("sku=A", [10, 9, 8, 7, 6, 5, 4, 3, 2]),
        ("warehouse=W2", [3, 2]),
        ("sku=A&warehouse=W2", []),
        ("order_id=o-1", [7, 6, 5, 4, 3]),
        ("reservation_id=r-2", [7, 6]),
        ("reservation_id=nobody", []),
        ("actor=bob", [3]),
        ("type=RECEIPT", [3, 2, 2]),
        ("type=RECEIPT&sku=A", [2]),
        ("reference=4711%3Ab", [3]),
        ("reference=po%3Aeu%3A4711%3Ab", [3]),
        ("reference=po%3Aeu", []),
        ("reference=4711", []),
        ("order_id=o-1&type=SALE", [4]),
    ],
)
async def test_movements_by_every_filter(world, query, found):
    assert sorted(await versions(world, f"/v1/movements?{query}&limit=2"), reverse=True) == sorted(found, reverse=True)


async def test_a_search_is_told_the_newest_first(world):
    at = [(m["at"], m["sku"], m["warehouse"], m["version"]) for m in await world.items("/v1/movements?limit=3")]
    assert at == sorted(at, reverse=True)


async def test_the_history_of_nothing_is_404_and_that_of_a_quiet_item_is_empty(world):
    assert await world.problem("/v1/stock/NEW/W1/history") == (404, "unknown-stock-item")
    world.shop.stocked("QUIET", "W1", 0)
    await world.show()
    assert await world.read("/v1/stock/QUIET/W1/history") == {"items": [], "next_cursor": None}


async def test_as_of_each_version_is_what_that_version_made(world):
    shop = world.shop
    for version, on_hand, reserved, committed, sold in (
        (1, 0, 0, 0, 0),
        (2, 10, 0, 0, 0),
        (3, 10, 3, 0, 0),
        (4, 10, 0, 3, 0),
        (5, 7, 0, 0, 3),
    ):
        level = await world.read(f"/v1/stock/A/W1/as-of?version={version}")
        assert [level[name] for name in ("version", "on_hand", "reserved", "committed", "sold")] == [
            version, on_hand, reserved, committed, sold,
        ]  # fmt: skip
        assert level["status"] in {"OUT_OF_STOCK", "LOW_STOCK"}
    latest = await world.read(f"/v1/stock/A/W1/as-of?version={shop.item('A', 'W1').version}")
    assert latest.pop("holds") == []
    assert latest == await world.read("/v1/stock/A/W1")


async def test_as_of_an_instant_has_what_had_happened_by_then(world):
    start = NOW + timedelta(days=40)

    async def at(seconds: float) -> list[int]:
        instant = (start + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
        level = await world.read(f"/v1/stock/A/W1/as-of?at={instant}")
        return [level["version"], level["on_hand"], level["reserved"]]

    assert await at(0) == [3, 10, 3]
    assert await at(59.9) == [3, 10, 3]
    assert await at(60) == [5, 7, 0]
    assert await at(1e9) == [10, 9, 0]
    before = (start - timedelta(seconds=1)).isoformat().replace("+00:00", "Z")
    assert await world.problem(f"/v1/stock/A/W1/as-of?at={before}") == (404, "unknown-stock-item")


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("version=0", (404, "unknown-stock-item")),
        ("version=99", (404, "unknown-stock-item")),
        ("", (422, "invalid-request")),
        ("version=1&at=2026-03-01T12:00:00Z", (422, "invalid-request")),
        ("version=-1", (422, "invalid-request")),
        ("at=2026-03-01", (422, "invalid-request")),
        ("at=2026-03-01T12:00:00", (422, "invalid-request")),
    ],
)
async def test_as_of_what_never_was(world, query, problem):
    assert await world.problem(f"/v1/stock/A/W1/as-of?{query}") == problem


async def test_as_of_reads_the_log_and_needs_no_view(world):
    world.shop.stocked("UNSEEN", "W1", 4)
    world.write()  # no view has it
    level = await world.read("/v1/stock/UNSEEN/W1/as-of?version=2")
    assert level["on_hand"] == 4
    await world.show()


async def test_as_of_stops_at_an_event_that_cannot_be_read(world):
    world.shop.stocked("POISON", "W1", 4)
    world.write()
    world.log.append_rows([("stock:POISON@W1", 3, "stock-item.no-such-thing", b"{}")])
    assert (await world.read("/v1/stock/POISON/W1/as-of?version=2"))["on_hand"] == 4
    assert await world.problem("/v1/stock/POISON/W1/as-of?version=3") == (503, "not-fresh-enough")
    await world.rig.catch_up()


async def test_a_long_history_is_replayed_in_chunks_and_others_are_served_meanwhile(world):
    item = world.shop.stocked("LONG", "W1", 1)
    for _ in range(1_300):
        world.shop.on_item("LONG", "W1", StockItem.restock, 1)
    world.write()
    level = await world.read(f"/v1/stock/LONG/W1/as-of?version={item.version}")
    assert (level["version"], level["on_hand"]) == (1_302, 1_301)
    assert (await world.read("/v1/stock/LONG/W1/as-of?version=501"))["on_hand"] == 500
    await world.show()
