"""The projector as it runs: servers die and come back, generations come and go, and it follows."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from prometheus_client import REGISTRY

from infra.migrations.runner import EVENT_STORE, READ_MODEL, migrate
from infra.redis import connect_redis
from projections import generations
from projections.follower import FollowerOptions
from projections.generations import Generation
from projections.lane import Servers
from projections.projector import run_projector
from tests.support import eventually_async
from tests.support_domain import registered, reserved, restocked
from tests.support_servers import OwnServers, own_servers
from tests.support_views import LogWriter, read_cache, read_views

OPTIONS = FollowerOptions(poll_s=0.05, reconcile_s=0.05, reconcile_lag_s=0.1)


class Stack:
    """A log, a projector that can be started and stopped, and what it makes."""

    def __init__(self, postgres_url: str, redis_url: str) -> None:
        self.url = postgres_url
        self.redis_url = redis_url
        self.log = LogWriter(postgres_url)
        self.ready = asyncio.Event()

    @asynccontextmanager
    async def projector(self, options: FollowerOptions = OPTIONS) -> AsyncIterator[asyncio.Event]:
        """Run one for as long as the block lasts; the event tells when it is ready."""
        stop, ready = asyncio.Event(), asyncio.Event()
        async with connect_redis(self.redis_url, timeout_s=1) as redis:
            servers = Servers(self.url, self.url, redis, connect_timeout_s=2)
            task = asyncio.create_task(run_projector(servers, stop, ready.set, options))
            try:
                yield ready
            finally:
                stop.set()
                await asyncio.wait_for(task, 20)

    async def current(self) -> Generation:
        async with await generations.connect(self.url) as connection:
            generation = await generations.current(connection)
        assert generation is not None
        return generation

    async def on_hand(self, sku: str = "A", generation: Generation | None = None) -> tuple[int, int]:
        """Units on hand as (PostgreSQL, Redis) have them; -1 where there is nothing."""
        generation = generation or await self.current()
        levels = read_views(self.url, generation.schema)["stock_levels"]
        in_postgres = next((row["on_hand"] for row in levels if row["sku"] == sku), -1)
        async with connect_redis(self.redis_url) as redis:
            cached = await read_cache(redis, generation.redis_prefix)
        level = cached.levels.get((sku, "W1")) if cached.filled else None
        return in_postgres, -1 if level is None else level.on_hand

    async def shows(self, units: int, generation: Generation | None = None) -> None:
        """Wait until both stores have it."""

        async def both() -> Any:
            assert await self.on_hand(generation=generation) == (units, units)
            return True

        await eventually_async(both, what=f"{units} on hand in both stores")


@pytest.fixture
def stack(database_url: str, redis_url: str) -> Stack:
    return Stack(database_url, redis_url)


@pytest.fixture
def killable(data_dir: Path) -> Iterator[OwnServers]:
    with own_servers(data_dir) as killable:
        migrate(killable.postgres_url, EVENT_STORE)
        migrate(killable.postgres_url, READ_MODEL)
        yield killable


@pytest.fixture
def own_stack(killable: OwnServers) -> Stack:
    return Stack(killable.postgres_url, killable.redis_url)


async def test_a_fresh_system_gets_its_first_generation(stack: Stack) -> None:
    async with stack.projector() as ready:
        await asyncio.wait_for(ready.wait(), 10)
        assert (await stack.current()).number == 1
        stack.log.happened("A", "W1", registered(), restocked(10))
        await stack.shows(10)
        stack.log.happened("A", "W1", restocked(1))
        await stack.shows(11)


async def test_the_views_may_be_in_another_database(stack: Stack, module_database_url: str, redis_url: str) -> None:
    stop = asyncio.Event()
    async with connect_redis(redis_url) as redis:
        servers = Servers(stack.url, module_database_url, redis)
        task = asyncio.create_task(run_projector(servers, stop, options=OPTIONS))
        try:
            stack.log.happened("A", "W1", registered(), restocked(10))
            views = Stack(module_database_url, redis_url)
            await eventually_async(lambda: has_generation(views))
            await views.shows(10)
        finally:
            stop.set()
            await task


async def has_generation(stack: Stack) -> bool:
    async with await generations.connect(stack.url) as connection:
        return await generations.current(connection) is not None


async def test_a_restart_goes_on_where_the_last_one_stopped(stack: Stack) -> None:
    async with stack.projector() as ready:
        await ready.wait()
        stack.log.happened("A", "W1", registered(), restocked(10))
        await stack.shows(10)
    stack.log.happened("A", "W1", restocked(5))
    async with stack.projector():
        await stack.shows(15)
    assert (await stack.current()).number == 1


async def test_stopping_finishes_what_was_read(stack: Stack) -> None:
    async with stack.projector() as ready:
        await ready.wait()
        stack.log.happened("A", "W1", registered(), restocked(10))
        await eventually_async(lambda: in_postgres(stack, 10))
    assert await stack.on_hand() == (10, 10)


async def in_postgres(stack: Stack, units: int) -> bool:
    return (await stack.on_hand())[0] == units


async def test_an_emptied_cache_is_filled_although_nothing_happens(stack: Stack) -> None:
    stack.log.happened("A", "W1", registered(), restocked(10))
    async with stack.projector():
        await stack.shows(10)
        async with connect_redis(stack.redis_url) as redis:
            await redis.flushdb()
        await stack.shows(10)


async def test_postgres_is_killed_and_comes_back(own_stack: Stack, killable: OwnServers) -> None:
    async with own_stack.projector():
        own_stack.log.happened("A", "W1", registered(), restocked(10))
        await own_stack.shows(10)
        killable.postgres.kill()
        killable.postgres.start()
        own_stack.log.happened("A", "W1", restocked(5), reserved("r-1", 1))
        await own_stack.shows(15)


async def test_the_cache_is_killed_and_comes_back(own_stack: Stack, killable: OwnServers) -> None:
    async with own_stack.projector():
        own_stack.log.happened("A", "W1", registered(), restocked(10))
        await own_stack.shows(10)
        killable.valkey.kill()
        own_stack.log.happened("A", "W1", restocked(5))
        generation = await own_stack.current()

        def in_tables() -> bool:
            (row,) = read_views(own_stack.url, generation.schema)["stock_levels"]
            return bool(row["on_hand"] == 15)

        await eventually_async(in_tables, what="PostgreSQL going on alone")
        killable.valkey.start()
        await own_stack.shows(15)


async def test_the_cache_is_away_at_the_start(own_stack: Stack, killable: OwnServers) -> None:
    killable.valkey.stop()
    own_stack.log.happened("A", "W1", registered(), restocked(10))
    async with own_stack.projector() as ready:
        await asyncio.wait_for(ready.wait(), 10)
        killable.valkey.start()
        await own_stack.shows(10)


async def test_a_second_projector_stands_by_and_takes_over(stack: Stack) -> None:
    stack.log.happened("A", "W1", registered(), restocked(10))
    async with stack.projector() as first:
        await first.wait()
        await stack.shows(10)
        first_stop = stack.projector()
        second_ready = await first_stop.__aenter__()
        try:
            await asyncio.wait_for(second_ready.wait(), 10)
            leaders = await leader_count(stack)
            assert leaders == 1
            await end_leading_backend(stack)  # whoever leads loses its connection, as in a crash
            stack.log.happened("A", "W1", restocked(1))
            await stack.shows(11)
        finally:
            await first_stop.__aexit__(None, None, None)


async def leader_count(stack: Stack) -> int:
    with psycopg.connect(stack.url) as connection:
        rows = connection.execute(
            "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database"
            " WHERE locktype = 'advisory' AND granted AND datname = current_database()"
        ).fetchone()
    assert rows is not None
    count: int = rows[0]
    return count


async def end_leading_backend(stack: Stack) -> None:
    with psycopg.connect(stack.url) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
            " WHERE locktype = 'advisory' AND granted AND datname = current_database()"
        )


async def test_every_connection_is_cut_again_and_again(stack: Stack) -> None:
    stack.log.happened("A", "W1", registered(), restocked(1))
    async with stack.projector():
        for units in range(2, 8):
            with psycopg.connect(stack.url) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            stack.log.happened("A", "W1", restocked(1))
            await stack.shows(units)


async def test_generations_come_and_go(stack: Stack) -> None:
    stack.log.happened("A", "W1", registered(), restocked(10))
    async with stack.projector():
        await stack.shows(10)
        first = await stack.current()
        async with await generations.connect(stack.url) as connection, connect_redis(stack.redis_url) as redis:
            async with generations.changing_generations(connection):
                second = await generations.create(connection, 1)
                await generations.build_indexes(connection, second)
                second = await generations.make_live(connection, second)
            await stack.shows(10, second)
            stack.log.happened("A", "W1", restocked(1))
            await stack.shows(11, second)
            await stack.shows(11, first)  # switching back must be as safe as switching
            await generations.point_to(connection, second)
            await generations.drop(connection, redis, first)
        stack.log.happened("A", "W1", restocked(1))
        await stack.shows(12)
        assert (await stack.current()).number == 2
        await eventually_async(lambda: only_leads(stack, 1), what="the dropped generation's follower ending")
        await eventually_async(lambda: told_of(first) == set(), what="the end of its figures")
        assert told_of(second) >= {"stockhold_projection_lag_seconds", "stockhold_projection_stale_streams"}


def told_of(generation: Generation) -> set[str]:
    return {
        sample.name
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.labels.get("generation") == generation.schema
    }


async def only_leads(stack: Stack, count: int) -> bool:
    return await leader_count(stack) == count


async def test_a_restored_log_is_not_followed(stack: Stack, caplog: pytest.LogCaptureFixture) -> None:
    stack.log.happened("A", "W1", registered(), restocked(10))
    async with stack.projector():
        await stack.shows(10)
    with psycopg.connect(stack.url) as connection:
        connection.execute("UPDATE stockhold.log_epoch SET epoch = 2")
    stack.log.happened("A", "W1", restocked(1))
    async with stack.projector() as ready:
        await asyncio.wait_for(ready.wait(), 10)  # the rest of the stack must be able to run
        await eventually_async(lambda: "has been restored" in str([vars(record) for record in caplog.records]))
    assert await stack.on_hand() == (10, 10)
