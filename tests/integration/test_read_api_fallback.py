"""Redis away, emptied, hanging or only half filled: Postgres answers, and Redis again as soon as it has everything."""

import asyncio
import os
import signal
import time
from contextlib import asynccontextmanager, suppress

import psutil
import pytest

from infra.embedded.servers import embedded_servers
from infra.migrations.runner import EVENT_STORE, READ_MODEL, migrate
from infra.redis import AWAY
from infra.redis_pipeline import RedisPipeline, packed
from tests.support import eventually_async
from tests.support_read_api import ReadWorld, read_rig


@pytest.fixture
async def world(database_url, redis_url):
    async with read_rig(database_url, redis_url) as world:
        yield world


@asynccontextmanager
async def own_servers(data_dir, **settings):
    """A world on servers of the test's own, and a function that finds one of them by its program's name."""
    with embedded_servers(data_dir, durable=False) as urls:
        migrate(urls.event_store_url, EVENT_STORE)
        migrate(urls.event_store_url, READ_MODEL)

        def server(program: str) -> psutil.Process:
            (found,) = [
                child
                for child in psutil.Process().children(recursive=True)
                if program in child.name()
                and child.cwd().startswith(str(data_dir))
                and not any(program in parent.name() for parent in child.parents())
            ]
            return found

        async with read_rig(urls.event_store_url, urls.redis_url, **settings) as world:
            yield world, server


async def source(world: ReadWorld) -> str:
    found = await world.read("/v1/availability/A")
    assert found["available"] == 10
    return str(found["source"])


async def test_an_emptied_redis_counts_as_away_until_it_is_filled_again(world):
    world.shop.stocked("A", "W1", 4)
    world.shop.stocked("A", "W2", 6)
    await world.show()
    assert await source(world) == "redis"
    await world.rig.redis.flushdb()
    assert await source(world) == "postgres"
    assert (await world.read("/v1/stock/A/W1"))["on_hand"] == 4
    page = await world.read("/v1/availability?sku=A&sku=B")
    assert [item["source"] for item in page["items"]] == ["postgres", "postgres"]
    await world.rig.restart()
    assert await source(world) == "redis"


async def test_a_part_of_a_sku_in_a_redis_that_is_not_filled_is_never_shown(world):
    world.shop.stocked("A", "W1", 4)
    world.shop.stocked("A", "W2", 6)
    await world.show()
    await world.rig.redis.delete(world.rig.keys.filled)
    await world.rig.redis.hdel(world.rig.keys.stock("A"), "W2")
    found = await world.read("/v1/availability/A")
    assert (found["available"], found["source"]) == (10, "postgres")


async def test_a_sku_that_redis_does_not_know_is_asked_of_postgres_before_it_is_404(world):
    world.shop.stocked("A", "W1", 10)
    await world.show()
    await world.rig.redis.delete(world.rig.keys.stock("A"))
    assert await source(world) == "postgres"
    assert (await world.get("/v1/stock/A/W1")).status == 200
    assert await world.problem("/v1/availability/B") == (404, "unknown-stock-item")


async def test_a_warehouse_that_redis_does_not_know_of_a_sku_is_asked_of_postgres_for_its_level(world):
    world.shop.stocked("A", "W1", 4)
    world.shop.stocked("A", "W2", 6)
    await world.show()
    await world.rig.redis.hdel(world.rig.keys.stock("A"), "W2")
    assert (await world.read("/v1/stock/A/W2"))["on_hand"] == 6


async def test_something_else_under_the_key_is_not_shown(world):
    world.shop.stocked("A", "W1", 10)
    await world.show()
    await world.rig.redis.delete(world.rig.keys.stock("A"))
    await world.rig.redis.set(world.rig.keys.stock("A"), "nonsense")
    assert await source(world) == "postgres"


async def test_redis_killed_and_back(data_dir):
    async with own_servers(data_dir) as (world, server):
        world.shop.stocked("A", "W1", 10)
        await world.show()
        assert await source(world) == "redis"
        valkey = server("valkey-server")
        command, folder = valkey.cmdline(), valkey.cwd()
        valkey.kill()
        await eventually_async(lambda: not valkey.is_running() or valkey.status() == psutil.STATUS_ZOMBIE)
        assert await source(world) == "postgres"
        assert (await world.get("/readyz")).status == 200
        again = await asyncio.create_subprocess_exec(
            command[0].split()[0], str(data_dir / "valkey" / "valkey.conf"), cwd=folder
        )
        try:

            async def filled() -> bool:
                with suppress(*AWAY):
                    await world.rig.restart()
                    return True
                return False

            await eventually_async(filled)

            async def redis_answers() -> bool:
                return await source(world) == "redis"

            await eventually_async(redis_answers)
        finally:
            again.kill()
            await again.wait()


async def test_a_redis_that_hangs_costs_one_timeout_and_not_every_read(data_dir):
    async with own_servers(data_dir, redis_timeout_ms=100) as (world, server):
        world.shop.stocked("A", "W1", 10)
        await world.show()
        valkey = server("valkey-server")
        os.kill(valkey.pid, signal.SIGSTOP)
        try:
            begun_s = time.monotonic()
            assert await source(world) == "postgres"
            assert time.monotonic() - begun_s < 2
            # The connection counts as lost now: nobody waits for it any more.
            assert await source(world) == "postgres"
        finally:
            os.kill(valkey.pid, signal.SIGCONT)

        async def redis_answers() -> bool:
            return await source(world) == "redis"

        await eventually_async(redis_answers)


async def test_without_postgres_redis_goes_on_and_the_rest_says_when_to_try_again(data_dir):
    async with own_servers(data_dir) as (world, server):
        world.shop.stocked("A", "W1", 10)
        world.shop.create("r-1", [("A", 1)])
        await world.show()
        postgres = server("postgres")
        postgres.kill()
        await eventually_async(lambda: not postgres.is_running() or postgres.status() == psutil.STATUS_ZOMBIE)
        assert (await world.read("/v1/availability/A"))["source"] == "redis"
        assert (await world.read("/v1/stock/A/W1"))["on_hand"] == 10
        for target in (
            "/v1/availability/B",
            "/v1/reservations/r-1",
            "/v1/stock/A/W1/as-of?version=1",
            "/v1/low-stock?min_version=A@W1:1",
            "/readyz",
        ):
            reply = await world.get(target)
            assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "unavailable", "1"), target
        assert (await world.get("/healthz")).status == 200


async def test_before_there_are_views_every_read_says_so(database_url, redis_url):
    from read_api.app import open_read_api
    from tests.command_api import Connection
    from tests.support_read_api import read_settings, serving

    async with open_read_api(read_settings(database_url, redis_url)) as api, serving(api, api.fast_routes) as port:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", port))
        for target in ("/v1/availability/A", "/v1/stock/A/W1", "/v1/reservations", "/readyz"):
            reply = await connection.ask("GET", target)
            assert (reply.status, reply.code) == (503, "unavailable"), target
            assert "not been built" in reply.json["detail"]
        await connection.close()


async def test_requests_of_one_turn_share_a_round_trip(redis_url):
    pipeline = RedisPipeline(redis_url)
    await pipeline.start()
    try:
        before = await pipeline.fetch([packed("INFO", "stats")])
        await asyncio.gather(
            *(pipeline.fetch([packed("SET", f"k{n}", "v"), packed("GET", f"k{n}")]) for n in range(100))
        )
        after = await pipeline.fetch([packed("INFO", "stats")])
        assert before is not None
        assert after is not None
        reads = [int(info[0].split(b"total_reads_processed:")[1].split()[0]) for info in (before, after)]
        assert reads[1] - reads[0] <= 3
    finally:
        await pipeline.stop()


async def test_a_refused_command_is_nobody_elses_trouble(redis_url):
    pipeline = RedisPipeline(redis_url)
    await pipeline.start()
    try:
        refused, fine = await asyncio.gather(
            pipeline.fetch([packed("NO-SUCH-COMMAND")]), pipeline.fetch([packed("ECHO", "hello")])
        )
        assert refused is None
        assert fine == [b"hello"]
    finally:
        await pipeline.stop()


async def test_a_wrong_password_is_redis_away(redis_url):
    pipeline = RedisPipeline(redis_url.replace("redis://:", "redis://:not-"))
    await pipeline.start()
    try:
        assert not pipeline.connected
        assert await pipeline.fetch([packed("PING")]) is None
    finally:
        await pipeline.stop()
