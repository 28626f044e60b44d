"""The pointer moves and reads follow it; generations that are dropped leave nobody behind."""

from collections.abc import AsyncIterator

import psycopg
import pytest

from projections import generations
from projections.generations import Generation
from tests.support import eventually_async
from tests.support_read_api import ReadWorld, read_rig


@pytest.fixture
async def world(database_url: str, redis_url: str) -> AsyncIterator[ReadWorld]:
    async with read_rig(database_url, redis_url) as world:
        world.shop.stocked("A", "W1", 10)
        await world.show()
        yield world


async def empty_generation(connection: psycopg.AsyncConnection) -> Generation:
    async with generations.changing_generations(connection):
        made = await generations.create(connection, log_epoch=1)
        await generations.build_indexes(connection, made)
        return await generations.make_live(connection, made)


async def test_reads_follow_the_pointer_there_and_back(world: ReadWorld) -> None:
    async with await generations.connect(world.rig.url) as connection:
        new = await empty_generation(connection)
        await generations.point_to(connection, new)

        async def moved() -> bool:
            return (await world.get("/v1/availability/A")).status == 404

        await eventually_async(moved)
        assert await world.items("/v1/warehouses") == []
        await generations.point_to(connection, world.rig.generation)

        async def back() -> bool:
            return (await world.get("/v1/availability/A")).status == 200

        await eventually_async(back)
        assert (await world.read("/v1/availability/A"))["source"] == "redis"


async def test_a_generation_that_is_dropped_between_two_looks_is_left_at_once(world: ReadWorld) -> None:
    async with await generations.connect(world.rig.url) as connection:
        new = await empty_generation(connection)
        # Without a notice, as if it had been lost.
        await connection.execute("UPDATE pointer SET generation = %s", [new.number])
        await connection.execute(f"DROP SCHEMA {world.rig.generation.schema} CASCADE")
    assert (await world.get("/v1/reservations")).status == 200
    assert await world.items("/v1/warehouses") == []


async def test_views_that_were_dropped_by_hand_are_unavailable_not_a_fault_of_ours(world: ReadWorld) -> None:
    with psycopg.connect(world.rig.url) as connection:
        connection.execute(f"DROP SCHEMA {world.rig.generation.schema} CASCADE")
    assert await world.problem("/v1/reservations") == (503, "unavailable")
    assert (await world.read("/v1/availability/A"))["source"] == "redis"
    with psycopg.connect(world.rig.url) as connection:
        connection.execute("DROP SCHEMA stockhold_views CASCADE")
    assert await world.problem("/v1/reservations") == (503, "unavailable")
