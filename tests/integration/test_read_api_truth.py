"""After whatever has happened, every read says what the domain's own aggregates say, at any later instant too."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from domain.hold import Hold
from infra.documents import encode, level_document, reservation_document
from tests.support_domain import Shop
from tests.support_histories import played_seed
from tests.support_read_api import ReadWorld, read_rig
from write_side.handlers import level_facts


def _plain(document: Any) -> Any:
    return msgspec.json.decode(encode(document))


def levels(shop: Shop) -> dict[tuple[str, str], Any]:
    """Every level as the aggregates have it."""
    return {
        place: _plain(level_document(item.sku, item.warehouse, level_facts(item), item.due_units(shop.now)))
        for place, item in shop.stock.items.items()
    }


def reservations(shop: Shop) -> dict[str, Any]:
    def holds(rid: str) -> list[Hold]:
        return sorted(shop.holds[rid].values(), key=lambda hold: hold.part)

    return {
        rid: _plain(reservation_document(header, holds(rid), shop.now))
        for rid, header in shop.headers.items()
        if rid in shop.holds
    }


async def compare(world: ReadWorld) -> None:
    """Every read against the shop, both at the shop's time."""
    shop = world.shop
    world.clock.instant = shop.now
    expected = levels(shop)
    for (sku, code), level in expected.items():
        assert await world.read(f"/v1/stock/{sku}/{code}") == level
    listed = await world.items("/v1/warehouses/W1/stock") + await world.items("/v1/warehouses/W2/stock")
    assert {(level["sku"], level["warehouse"]): level for level in listed} == expected
    active = {code for code, warehouse in shop.stock.warehouses.items() if warehouse.details.status == "ACTIVE"}
    for sku in {sku for sku, _ in expected}:
        found = await world.read(f"/v1/availability/{sku}?quantity=4")
        shown = {(sku, level["warehouse"]): level for level in found["warehouses"]}
        assert {place: {**level, **expected[place]} for place, level in shown.items()} == shown
        assert found["available"] == sum(level["available"] for place, level in shown.items() if place[1] in active)
        items = [item for (of, code), item in shop.stock.items.items() if of == sku and code in active]
        promisable = sum(max(0, item.promisable(shop.now)) for item in items)
        assert found["can_fulfil"] is (promisable >= 4)
    low = [place for place, level in expected.items() if level["available"] <= 10]
    assert [(level["sku"], level["warehouse"]) for level in await world.items("/v1/low-stock")] == sorted(low)
    short = [place for place, level in expected.items() if level["short"]]
    assert [(level["sku"], level["warehouse"]) for level in await world.items("/v1/shortages")] == sorted(short)
    made = reservations(shop)
    for rid, reservation in made.items():
        assert await world.read(f"/v1/reservations/{rid}") == reservation
    for status in {found["status"] for found in made.values()}:
        wanted = sorted(rid for rid, found in made.items() if found["status"] == status)
        assert [found["reservation_id"] for found in await world.items(f"/v1/reservations?status={status}")] == wanted


@pytest.mark.parametrize("seed", range(4))
async def test_every_read_says_what_the_aggregates_say(database_url, redis_url, seed):
    async with read_rig(database_url, redis_url) as world:
        world.shop = played_seed(seed)
        await world.show()
        await compare(world)
        for seconds in (20, 40, 90):  # holds end meanwhile, and nobody sweeps them
            world.shop.now += timedelta(seconds=seconds)
            await compare(world)
        await world.rig.redis.delete(world.rig.keys.filled)
        await compare(world)
        for (sku, code), level in levels(world.shop).items():
            instant = world.shop.now.isoformat().replace("+00:00", "Z")
            was = await world.read(f"/v1/stock/{sku}/{code}/as-of?at={instant}")
            del was["holds"]
            assert was == level
