"""The pointer moves and reads follow it; generations that are dropped leave nobody behind."""

from collections.abc import AsyncIterator

import psycopg
import pytest

from projections import generations, versions
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


async def of_another_release(connection: psycopg.AsyncConnection, **other: int) -> Generation:
    """A generation that a release with these versions made."""
    with pytest.MonkeyPatch.context() as patched:
        for name, version in other.items():
            patched.setattr(versions, name, version)
        return await empty_generation(connection)


async def test_views_of_another_fold_are_read_and_told_of(world: ReadWorld) -> None:
    async with await generations.connect(world.rig.url) as connection:
        other = await of_another_release(connection, FOLD_VERSION=versions.FOLD_VERSION + 1)
        await connection.execute(  # as its runner would have left it
            f"UPDATE {other.schema}.cursors SET pg_position = (SELECT max(notification_id) FROM stockhold.stored_events)"
        )
        await generations.point_to(connection, other)

    async def told() -> bool:
        reply = await world.get("/readyz")
        return bool(reply.status == 200 and "run `stockhold rebuild`" in reply.json["checks"]["fold"])

    await eventually_async(told)
    assert (await world.get("/v1/availability/A")).status == 404  # it is the empty one that is read


async def test_views_of_another_fold_that_nobody_keeps_are_no_views_to_read(
    world: ReadWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("read_api.app.STUCK_S", 0.05)
    async with await generations.connect(world.rig.url) as connection:
        await generations.point_to(
            connection, await of_another_release(connection, FOLD_VERSION=versions.FOLD_VERSION + 1)
        )

    async def told() -> bool:
        reply = await world.get("/readyz")
        return reply.status == 503 and "run `stockhold rebuild`" in reply.json["checks"]["projection"]

    await eventually_async(told)


async def test_a_reader_stays_with_views_of_its_own_shape(world: ReadWorld) -> None:
    async with await generations.connect(world.rig.url) as connection:
        await generations.point_to(connection, world.rig.generation)
        other = await of_another_release(connection, SHAPE_VERSION=versions.SHAPE_VERSION + 1)
        unverified = await empty_generation(connection)
        await generations.point_to(connection, other)
        await world.api.current.refresh()
        assert (await world.read("/v1/availability/A"))["source"] == "redis"
        assert world.api.current.views.schema == world.rig.generation.schema
        await connection.execute("DELETE FROM generations WHERE generation = %s", [world.rig.generation.number])
        for target in ("/v1/availability/A", "/v1/reservations", "/readyz"):
            reply = await world.get(target)
            while reply.status == 200:  # until it has heard that they are gone
                reply = await world.get(target)
            assert "another shape than this release reads: run `stockhold rebuild`" in reply.json["detail"]
        await generations.point_to(connection, unverified)
        await world.api.current.refresh()
        assert (await world.get("/v1/availability/A")).status == 404
