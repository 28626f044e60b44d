"""Exact expiry: a hold that has ended is free at its instant, swept or not, in every read and from either view."""

import pytest

from domain.commands import CommitReservation, ExtendReservation, ReleaseReservation
from domain.reservation import commit, extend, release
from tests.support_domain import after
from tests.support_read_api import ReadWorld, read_rig


@pytest.fixture
async def world(database_url, redis_url):
    async with read_rig(database_url, redis_url) as world:
        yield world


async def reserved_everywhere(world: ReadWorld) -> dict[str, int]:
    """Reserved units of A at W1 by every read that shows them."""
    batch = await world.ask("POST", "/v1/availability:batch", '{"items":[{"sku":"A"}]}')
    return {
        "availability": (await world.read("/v1/availability/A"))["warehouses"][0]["reserved"],
        "many": (await world.read("/v1/availability?sku=B&sku=A"))["items"][1]["warehouses"][0]["reserved"],
        "batch": batch.json["items"][0]["warehouses"][0]["reserved"],
        "level": (await world.read("/v1/stock/A/W1"))["reserved"],
        "warehouse": (await world.read("/v1/warehouses/W1/stock"))["items"][0]["reserved"],
        "low stock": (await world.read("/v1/low-stock"))["items"][0]["reserved"],
    }


async def without_redis(world: ReadWorld) -> None:
    """From here on Postgres answers."""
    await world.rig.redis.delete(world.rig.keys.filled)


@pytest.mark.parametrize("source", ["redis", "postgres"])
async def test_a_hold_is_free_at_its_instant_and_not_a_microsecond_earlier(world, source):
    world.shop.stocked("A", "W1", 10)
    world.shop.stocked("B", "W2", 100)
    world.shop.create("r-1", [("A", 3)], ttl_seconds=60)
    world.shop.create("r-2", [("A", 2)], ttl_seconds=120)
    world.shop.create("r-3", [("A", 1)], ttl_seconds=None, kind="manual")
    await world.show()
    if source == "postgres":
        await without_redis(world)
    for seconds, reserved in ((59.999999, 6), (60, 3), (119.999999, 3), (120, 1), (1e8, 1)):
        world.at(seconds)
        assert set((await reserved_everywhere(world)).values()) == {reserved}
        found = await world.read("/v1/availability/A?quantity=7")
        assert (found["source"], found["available"]) == (source, 10 - reserved)
        assert found["can_fulfil"] is (reserved <= 3)


async def test_a_reservation_is_expired_at_its_instant_and_the_sweep_changes_nothing_of_it(world):
    world.shop.stocked("A", "W1", 10)
    world.shop.create("r-1", [("A", 3)], ttl_seconds=60)
    await world.show()
    world.at(59.999999)
    active = await world.read("/v1/reservations/r-1")
    assert (active["status"], active["expires_at"]) == ("ACTIVE", "2026-03-01T12:01:00Z")
    world.at(60)
    expired = await world.read("/v1/reservations/r-1")
    assert (expired["status"], expired["expires_at"], expired["released_at"], expired["released_by"]) == (
        "EXPIRED",
        None,
        "2026-03-01T12:01:00Z",
        "stockhold",
    )
    assert (expired["release_reason"], expired["lines"][0]["allocations"][0]["released"]) == ("EXPIRED", 3)
    world.shop.elapse(75)
    assert world.shop.sweep("A", "W1") == 1
    await world.show()
    swept = await world.read("/v1/reservations/r-1")
    swept["lines"][0]["allocations"][0].pop("version")
    expired["lines"][0]["allocations"][0].pop("version")
    assert swept == expired


async def test_lists_of_reservations_go_by_the_instant_too(world):
    world.shop.stocked("A", "W1", 10)
    world.shop.create("r-1", [("A", 3)], ttl_seconds=60)
    world.shop.create("r-2", [("A", 2)], ttl_seconds=120)
    await world.show()
    until = "2026-03-01T12:01:30Z"

    async def ids(query: str) -> list[str]:
        return [found["reservation_id"] for found in await world.items(f"/v1/reservations?{query}")]

    assert await ids("status=ACTIVE") == ["r-1", "r-2"]
    assert await ids(f"expires_before={until}") == ["r-1"]
    assert await ids("status=EXPIRED") == []
    world.at(60)
    assert await ids("status=ACTIVE") == ["r-2"]
    assert await ids(f"expires_before={until}") == []
    assert await ids("status=EXPIRED") == ["r-1"]


async def test_a_hold_that_went_another_way_is_not_given_back_a_second_time(world):
    world.shop.stocked("A", "W1", 20)
    for rid, quantity in (("r-1", 1), ("r-2", 2), ("r-3", 4), ("r-4", 8)):
        world.shop.create(rid, [("A", quantity)], ttl_seconds=60)
    world.shop.on(commit, CommitReservation, "r-1")
    world.shop.on(release, ReleaseReservation, "r-2")
    world.shop.on(extend, ExtendReservation, "r-3", ttl_seconds=600)
    await world.show()
    for source in ("redis", "postgres"):
        if source == "postgres":
            await without_redis(world)
        world.at(61)
        level = await world.read("/v1/stock/A/W1")
        assert (level["reserved"], level["committed"], level["available"]) == (4, 1, 15)


async def test_a_sweep_between_the_two_looks_is_not_counted_twice(world):
    """The level is read again together with what is due of it: never the old one with the new, nor the reverse."""
    world.shop.stocked("A", "W1", 10)
    world.shop.create("r-1", [("A", 3)], ttl_seconds=60)
    world.shop.create("r-2", [("A", 2)], ttl_seconds=60)
    await world.show()
    world.shop.elapse(61)
    assert world.shop.sweep("A", "W1", 1) == 1
    await world.show()
    assert (await world.read("/v1/stock/A/W1"))["reserved"] == 0
    assert world.shop.sweep("A", "W1", 1) == 1
    await world.show()
    assert (await world.read("/v1/stock/A/W1"))["reserved"] == 0


async def test_shortages_do_not_count_what_has_ended(world):
    world.shop.stocked("A", "W1", 10)
    world.shop.create("r-1", [("A", 6)], ttl_seconds=60)
    world.shop.create("r-2", [("A", 4)], ttl_seconds=600)
    world.shop.on_item("A", "W1", type(world.shop.item("A", "W1")).count, 5)
    await world.show()
    (short,) = await world.items("/v1/shortages")
    assert (short["short"], [held["reservation_id"] for held in short["reservations"]]) == (5, ["r-2", "r-1"])
    world.at(60)
    assert await world.items("/v1/shortages") == []
    assert (await world.read("/v1/stock/A/W1"))["short"] == 0


async def test_as_of_goes_by_the_instant_that_was_asked_for(world):
    world.shop.stocked("A", "W1", 10)
    world.shop.create("r-1", [("A", 3)], ttl_seconds=60)
    world.shop.elapse(90)
    world.shop.stocked("A", "W1", 5)
    await world.show()

    async def as_of(seconds: float) -> tuple[int, int, list[str]]:
        instant = after(seconds).isoformat().replace("+00:00", "Z")
        level = await world.read(f"/v1/stock/A/W1/as-of?at={instant}")
        return level["on_hand"], level["reserved"], [held["reservation_id"] for held in level["holds"]]

    assert await as_of(0) == (10, 3, ["r-1"])
    assert await as_of(59.999999) == (10, 3, ["r-1"])
    assert await as_of(60) == (10, 0, [])
    assert await as_of(90) == (15, 0, [])
    pure = await world.read("/v1/stock/A/W1/as-of?version=4")
    assert (pure["on_hand"], pure["reserved"], len(pure["holds"])) == (15, 3, 1)
