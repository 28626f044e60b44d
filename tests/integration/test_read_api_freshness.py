"""`min_version`: the answer has the version or is 503; never an older state, never a 404 for what is on its way."""

import asyncio
import time

import pytest

from tests.support import eventually_async
from tests.support_read_api import ReadWorld, read_rig

WAIT_S = 0.3


@pytest.fixture
async def world(database_url, redis_url):
    async with read_rig(database_url, redis_url, min_version_wait_ms=int(WAIT_S * 1000)) as world:
        yield world


@pytest.fixture
async def patient_world(database_url, redis_url):
    async with read_rig(database_url, redis_url, min_version_wait_ms=20_000) as world:
        yield world


def reads_of(item: str, version: int) -> list[str]:
    """Every read that takes `min_version`, of an item written sku@warehouse."""
    sku, _, code = item.partition("@")
    short, full = f"min_version={code}:{version}", f"min_version={sku}@{code}:{version}"
    return [
        f"/v1/availability/{sku}?{short}",
        f"/v1/availability?sku={sku}&{full}",
        f"/v1/availability?sku=OTHER&{full}",
        f"/v1/stock/{sku}/{code}?{short}",
        f"/v1/stock/{sku}/{code}/policy?{short}",
        f"/v1/stock/{sku}/{code}/history?{short}",
        f"/v1/warehouses/{code}/stock?{full}",
        f"/v1/low-stock?{full}",
        f"/v1/shortages?{full}",
        f"/v1/reservations?{full}",
        f"/v1/reservations/r-1?{full}",
        f"/v1/movements?{full}",
    ]


async def test_every_read_waits_for_the_version_and_then_answers(patient_world: ReadWorld):
    world = patient_world
    world.shop.warehouse("W1")
    await world.show()
    world.shop.stocked("A", "W1", 10)
    world.shop.create("r-1", [("A", 3)])
    asked = [asyncio.create_task(world.get(target)) for target in reads_of("A@W1", 3)]
    # All of them are waiting: none may have answered with what was there before.
    await eventually_async(lambda: len(world.fast) == 3)
    done, _ = await asyncio.wait(asked, timeout=0.1)
    assert done == set()
    await world.show()
    for task in asked:
        reply = await task
        assert reply.status == 200, reply.raw
    assert (await asked[0]).json["warehouses"][0]["version"] == 3
    assert (await asked[10]).json["lines"][0]["allocations"][0]["quantity"] == 3


async def test_a_version_that_does_not_come_is_503_after_the_wait_and_never_404(world):
    world.shop.stocked("A", "W1", 10)
    world.shop.create("r-1", [("A", 3)])
    await world.show()
    targets = [
        *reads_of("A@W1", 4),
        *reads_of("NEW@W1", 1),
        *reads_of("A@W2", 1)[:4],
        "/v1/reservations/r-9?min_version=A@W1:4",
    ]

    async def refused(target: str) -> None:
        begun_s = time.monotonic()
        reply = await world.get(target)
        assert (reply.status, reply.code) == (503, "not-fresh-enough"), target
        assert reply.headers["retry-after"] == "1"
        assert WAIT_S - 0.05 <= time.monotonic() - begun_s < WAIT_S + 2

    await asyncio.gather(*map(refused, targets))


async def test_what_is_fresh_enough_answers_at_once_and_an_unknown_thing_is_still_404(patient_world):
    world = patient_world
    world.shop.stocked("A", "W1", 10)
    await world.show()
    for version in (0, 1, 2):
        for target in reads_of("A@W1", version):
            expected = 404 if "r-1" in target else 200
            assert (await world.get(target)).status == expected, target


async def test_version_zero_is_there_before_anything_is(patient_world):
    await patient_world.show()
    assert await patient_world.problem("/v1/stock/A/W1?min_version=W1:0") == (404, "unknown-stock-item")
    assert await patient_world.items("/v1/reservations?min_version=A@W1:0") == []


async def test_several_versions_are_all_waited_for(world):
    world.shop.stocked("A", "W1", 10)
    world.shop.stocked("A", "W2", 10)
    await world.show()
    assert (await world.get("/v1/availability/A?min_version=W1:2&min_version=W2:2")).status == 200
    assert await world.problem("/v1/availability/A?min_version=W1:2&min_version=W2:3") == (503, "not-fresh-enough")
    assert await world.problem("/v1/reservations?min_version=A@W1:2&min_version=A@W2:3") == (503, "not-fresh-enough")


async def test_an_item_that_stands_still_answers_503_at_once(patient_world):
    world = patient_world
    world.shop.stocked("A", "W1", 10)
    await world.show()
    world.log.append_rows([("stock:A@W1", 3, "stock-item.no-such-thing", b"{}")])
    await world.rig.catch_up()
    for target in reads_of("A@W1", 1):
        reply = await world.get(target)
        assert (reply.status, reply.code, reply.json["stale"]) == (503, "not-fresh-enough", True), target
    assert (await world.get("/v1/availability/A")).status == 200


async def test_without_redis_postgres_is_waited_for(patient_world):
    world = patient_world
    world.shop.stocked("A", "W1", 10)
    await world.show()
    await world.rig.redis.delete(world.rig.keys.filled)
    asked = asyncio.create_task(world.get("/v1/availability/A?min_version=W1:3"))
    await eventually_async(lambda: world.fast)
    world.shop.stocked("A", "W1", 1)
    world.write()
    await world.rig.follower.step()  # Postgres alone
    found = (await asked).json
    assert (found["available"], found["source"]) == (11, "postgres")


async def test_redis_left_behind_does_not_hold_up_what_postgres_has(patient_world):
    world = patient_world
    world.shop.stocked("A", "W1", 10)
    world.shop.stocked("B", "W1", 5)
    await world.show()
    world.shop.stocked("A", "W1", 1)
    world.write()
    await world.rig.follower.step()  # and nothing is pushed
    page = await world.read("/v1/availability?sku=A&sku=B&min_version=A@W1:3")
    assert [item["available"] for item in page["items"]] == [11, 5]


async def test_hundreds_that_wait_together_share_their_looks(patient_world):
    world = patient_world
    world.shop.stocked("A", "W1", 10)
    await world.show()
    asked = [
        asyncio.create_task(world.get(target))
        for target in ("/v1/low-stock?min_version=A@W1:3", "/v1/availability?sku=A&min_version=A@W1:3")
        for _ in range(150)
    ]
    await eventually_async(lambda: len(world.fast) == 150)
    world.shop.stocked("A", "W1", 1)
    await world.show()
    assert {(await task).status for task in asked} == {200}
