"""A new generation beside the one that is read: the same rows, and nobody notices but by the pointer."""

import asyncio
import json
import logging
import os
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial

import psycopg
import pytest
from redis import from_url as connect_at_once
from redis.asyncio import Redis

from domain.values import stock_stream
from infra.event_store.mapper import EventMapper
from infra.migrations.runner import READ_MODEL, migrate
from infra.redis import connect_redis
from projections import bulk, bulk_cache, generations
from projections import rebuild as rebuild_module
from projections.bulk import Part
from projections.dead_letters import RetryTimeout, parked_streams, retry_parked
from projections.follower import FollowerOptions
from projections.generations import Generation, RebuildRunning
from projections.lane import Servers
from projections.projector import run_follower, run_projector
from projections.rebuild import Rebuilt, Stalled, WorkerFailed, rebuild, retire, switch
from tests.support import STOCKHOLD, eventually_async
from tests.support_domain import NOW, registered, restocked, returned
from tests.support_histories import played_seed
from tests.support_views import Cached, LogWriter, Views, read_cache, read_views

A = stock_stream("A", "W1")
REFILLED = "the cache was filled"
OPTIONS = FollowerOptions(poll_s=0.05, reconcile_s=0.05, reconcile_lag_s=0.1)


@pytest.fixture
def log(database_url: str) -> LogWriter:
    return LogWriter(database_url)


@pytest.fixture
async def at(database_url: str, redis_url: str) -> AsyncIterator[Servers]:
    async with connect_redis(redis_url) as redis:
        yield Servers(database_url, database_url, redis, redis_url=redis_url)


async def followed(at: Servers) -> tuple[Generation, Views]:
    """The current generation (the first one, if there was none), after a projector has caught up with the log."""
    head = await log_head(at)
    stop = asyncio.Event()
    task = asyncio.create_task(run_projector(at, stop, options=OPTIONS))

    async def caught_up() -> Generation | None:
        generation = await current(at)
        if generation is None:
            return None
        async with await psycopg.AsyncConnection.connect(at.read_model_url) as connection:
            rows = await connection.execute(f"SELECT pg_position FROM {generation.schema}.cursors")
            return generation if await rows.fetchone() == (head,) else None

    try:
        generation = await eventually_async(caught_up, what="the projector catching up")
    finally:
        stop.set()
        await task
    assert generation is not None
    return generation, read_views(at.read_model_url, generation.schema)


async def log_head(at: Servers) -> int:
    return (await rebuild_module._head(at))[0]


async def current(at: Servers) -> Generation | None:
    async with await generations.connect(at.read_model_url) as connection:
        return await generations.current(connection)


async def all_generations(at: Servers) -> list[tuple[int, str]]:
    async with await generations.connect(at.read_model_url) as connection:
        return [(each.number, each.state) for each in await generations.generations(connection)]


def without_errors(views: Views) -> Views:
    """The words in which a dead letter says why may differ: one reader refuses what another's table does."""
    return views | {"dead_letters": [{k: v for k, v in row.items() if k != "error"} for row in views["dead_letters"]]}


async def views_of(at: Servers, built: Rebuilt) -> Views:
    return read_views(at.read_model_url, built.generation.schema)


async def cache_of(at: Servers, generation: Generation) -> Cached:
    return await read_cache(at.redis, generation.redis_prefix)


async def test_rebuilt_views_are_the_followed_ones(
    log: LogWriter, at: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log.append(played_seed(3).log)
    first, views = await followed(at)
    caplog.clear()
    built = await rebuild(at, jobs=2)
    assert built.generation.number == first.number + 1
    assert built.events == len(log.rows())
    assert built.dead_letters == 0
    assert await views_of(at, built) == views
    assert await current(at) is not None
    assert (await current(at) or first).number == built.generation.number
    cached = await cache_of(at, built.generation)
    assert cached.filled
    assert len(cached.levels) == len(views["stock_levels"])
    assert cached == await cache_of(at, first)
    assert REFILLED not in caplog.messages  # it came with the tables


def options_of(at: Servers, schema: str) -> dict[str, list[str]]:
    """The storage options of each table of a generation."""
    with psycopg.connect(at.read_model_url) as connection:
        return dict(
            connection.execute(
                "SELECT relname, coalesce(reloptions, '{}') FROM pg_class"
                " WHERE relkind = 'r' AND relnamespace = %s::regnamespace",
                [schema],
            ).fetchall()
        )


async def test_tables_are_left_alone_by_autovacuum_until_they_are_whole(log: LogWriter, at: Servers) -> None:
    log.append(played_seed(3).log)
    first, _ = await followed(at)
    after = f"{first.schema.removesuffix(str(first.number))}{first.number + 1}"
    meanwhile: list[dict[str, list[str]]] = []

    def progress(step: str, _done: int, _of: int) -> None:
        if step == "filling":
            meanwhile.append(options_of(at, after))

    built = await rebuild(at, progress=progress)
    assert built.generation.schema == after
    assert meanwhile
    for options in meanwhile:
        for table in bulk.TABLES:
            assert "autovacuum_enabled=false" in options[table.name]
    assert options_of(at, after) == options_of(at, first.schema)


async def test_rows_are_frozen_before_the_indexes_are_built(log: LogWriter, at: Servers) -> None:
    log.append(played_seed(3).log)
    await followed(at)
    frozen: list[set[str]] = []

    def progress(step: str, _done: int, _of: int) -> None:
        if step == "indexing":
            frozen.append(wholly_visible(at))

    await rebuild(at, progress=progress)
    assert frozen[0] >= {"movements", "holds", "reservations", "stock_levels"}


def wholly_visible(at: Servers) -> set[str]:
    """The tables of the newest generation of which every page is known to be visible to everybody."""
    with psycopg.connect(at.read_model_url) as connection:
        return {
            name
            for (name,) in connection.execute(
                "SELECT relname FROM pg_class WHERE relpages > 0 AND relallvisible = relpages AND relkind = 'r' AND"
                " relnamespace = (SELECT max(schema_name)::regnamespace FROM stockhold_views.generations)"
            ).fetchall()
        }


async def test_a_cache_that_is_lost_meanwhile_is_filled_from_the_tables(
    log: LogWriter, at: Servers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log.append(played_seed(3).log)
    first, _ = await followed(at)
    cached = await cache_of(at, first)
    caplog.clear()
    assert at.redis_url is not None
    connect = partial(connect_at_once, at.redis_url)

    def flushed(step: str, done: int, of: int) -> None:
        if step == "filling" and done == of:
            with connect() as redis:
                redis.flushdb()

    built = await rebuild(at, jobs=2, progress=flushed)
    assert await cache_of(at, built.generation) == cached
    assert REFILLED in caplog.messages


@pytest.mark.parametrize("who", ["the rebuild", "its processes"])
async def test_without_a_cache_to_fill_beside_the_tables_it_is_filled_from_them(
    log: LogWriter, at: Servers, who: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log.append(played_seed(3).log)
    first, _ = await followed(at)
    caplog.clear()
    nowhere = "redis://127.0.0.1:1/0"
    if who == "its processes":
        built = await rebuild(replace(at, redis_url=nowhere), jobs=2)
    else:
        async with connect_redis(nowhere) as away:
            assert await bulk_cache.begin(away, nowhere, "p", 1) is None
        built = await rebuild(replace(at, redis_url=None), jobs=2)
    assert await cache_of(at, built.generation) == await cache_of(at, first)
    assert REFILLED in caplog.messages


async def test_many_parts_make_the_same_views(log: LogWriter, at: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append(played_seed(3).log)
    for number in range(40):
        log.append([log.event(stock_stream(f"S{number:02}", "W1"), registered())])
    _, views = await followed(at)
    monkeypatch.setattr(rebuild_module, "EVENTS_PER_PART", 10)
    with psycopg.connect(at.event_store_url) as connection:
        bounds = bulk.part_bounds(connection, await log_head(at), 10)
    assert len(bounds) > 3
    assert [low for low, _ in bounds[1:]] == [high for _, high in bounds[:-1]]
    assert (bounds[0][0], bounds[-1][1]) == ("", None)
    assert await views_of(at, await rebuild(at, jobs=2)) == views


async def test_an_empty_log_makes_empty_views(at: Servers) -> None:
    built = await rebuild(at, jobs=2)
    assert (built.events, built.generation.number) == (0, 1)
    assert not any((await views_of(at, built)).values())


async def test_poison_is_parked_by_a_rebuild_as_by_the_follower(log: LogWriter, at: Servers) -> None:
    encode = EventMapper().encode
    for sku, poison in {
        "TOPIC": ("stock-item.no-such-thing", b"{}"),
        "JSON": ("stock-item.restocked", b"{"),
        "NUL": ("stock-item.returned", encode(returned(1, order_id="a\x00b").at(stock_stream("NUL", "W1"), 3, NOW))),
        "HUGE": ("stock-item.restocked", encode(restocked(2**63).at(stock_stream("HUGE", "W1"), 3, NOW))),
        "TWICE": ("stock-item.registered", encode(registered().at(stock_stream("TWICE", "W1"), 3, NOW))),
    }.items():
        log.happened(sku, "W1", registered(), restocked(10))
        log.append_poison(stock_stream(sku, "W1"), *poison)
        log.happened(sku, "W1", restocked(5))
    log.happened("GAP", "W1", registered())
    log.event(stock_stream("GAP", "W1"), restocked(1))
    log.happened("GAP", "W1", restocked(1))
    log.append_poison(stock_stream("FIRST", "W1"))
    log.append_poison("parcel:1")
    log.warehouse("W1", name="One")
    log.append_poison("warehouse:W1")
    log.warehouse("W2")
    log.append_poison("warehouse:W2", "warehouse.changed", encode(restocked(1).at("warehouse:W2", 2, NOW)))
    log.happened("FINE", "W1", registered(), restocked(1))
    first, views = await followed(at)
    assert len(views["dead_letters"]) == 10
    built = await rebuild(at, jobs=1)
    assert built.dead_letters == 10
    assert without_errors(await views_of(at, built)) == without_errors(views)
    assert await cache_of(at, built.generation) == await cache_of(at, first)


async def test_what_happens_meanwhile_is_there(log: LogWriter, at: Servers) -> None:
    log.happened("A", "W1", registered(), restocked(1))

    def one_more(step: str, done: int, of: int) -> None:
        if step == "filling" and done == of:
            log.happened("A", "W1", restocked(1))

    built = await rebuild(at, jobs=1, progress=one_more)
    (level,) = (await views_of(at, built))["stock_levels"]
    assert (level["on_hand"], level["version"]) == (2, 3)


async def test_a_live_projector_takes_the_new_generation_up(log: LogWriter, at: Servers) -> None:
    log.happened("A", "W1", registered(), restocked(1))
    stop = asyncio.Event()
    task = asyncio.create_task(run_projector(at, stop, options=OPTIONS))
    try:
        await eventually_async(lambda: current(at))
        built = await rebuild(at, jobs=1)
        log.happened("A", "W1", restocked(1))

        async def both_have_it() -> bool:
            async with await generations.connect(at.read_model_url) as connection:
                found = await generations.generations(connection)
            rows = [read_views(at.read_model_url, each.schema)["stock_levels"] for each in found]
            return [row["on_hand"] for (row,) in rows] == [2, 2]

        await eventually_async(both_have_it, what="both generations following")
        old = next(number for number, _ in await all_generations(at) if number != built.generation.number)
        await switch(at, old)
        assert (await current(at) or built.generation).number == old
        await switch(at, built.generation.number)
        assert [generation.number for generation in await retire(at)] == [old]
        log.happened("A", "W1", restocked(1))
        await eventually_async(lambda: on_hand(at, 3), what="the one that is left following")
    finally:
        stop.set()
        await task
    assert await all_generations(at) == [(built.generation.number, "live")]
    assert await keys_of_others(at.redis, built.generation) == []


async def on_hand(at: Servers, units: int) -> bool:
    generation = await current(at)
    assert generation is not None
    (row,) = read_views(at.read_model_url, generation.schema)["stock_levels"]
    return bool(row["on_hand"] == units)


async def keys_of_others(redis: Redis, kept: Generation) -> list[bytes]:
    return [key async for key in redis.scan_iter() if not key.decode().startswith(f"{kept.redis_prefix}:")]


async def test_switching_to_what_is_not_there(at: Servers) -> None:
    with pytest.raises(LookupError):
        await switch(at, 7)


async def test_a_check_that_fails_leaves_everything_as_it_was(log: LogWriter, at: Servers) -> None:
    log.happened("A", "W1", registered(), restocked(1))
    first, _ = await followed(at)

    async def never(_generation: Generation) -> None:
        raise ValueError("not good enough")

    with pytest.raises(ValueError, match="not good enough"):
        await rebuild(at, jobs=1, verify=never)
    assert await current(at) == first
    assert await all_generations(at) == [(first.number, "live")]
    assert await keys_of_others(at.redis, first) == []


async def test_what_a_dead_builder_left_is_dropped_by_the_next(log: LogWriter, at: Servers) -> None:
    log.happened("A", "W1", registered())
    async with await generations.connect(at.read_model_url) as connection:
        dead = await generations.create(connection, 1)
        await at.redis.set(f"{dead.redis_prefix}:filling:0", "x")
        await connection.execute("CREATE SCHEMA stockhold_views_g7")
    built = await rebuild(at, jobs=1)
    assert await all_generations(at) == [(built.generation.number, "live")]
    with psycopg.connect(at.read_model_url) as connection_after:
        schemas = connection_after.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'stockhold_views_g%'"
        ).fetchall()
    assert schemas == [(built.generation.schema,)]
    assert await keys_of_others(at.redis, built.generation) == []


async def test_a_worker_that_dies_ends_the_rebuild(
    log: LogWriter, at: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.happened("A", "W1", registered())
    first, _ = await followed(at)
    monkeypatch.setattr(rebuild_module, "Part", lambda *args: Part("postgresql://127.0.0.1:1/none", *args[1:]))
    with pytest.raises(WorkerFailed, match="OperationalError"):
        await rebuild(at, jobs=2)
    assert await all_generations(at) == [(first.number, "live")]


async def test_only_one_rebuild_at_a_time(at: Servers) -> None:
    async with (
        await generations.connect(at.read_model_url) as connection,
        generations.changing_generations(connection),
    ):
        with pytest.raises(RebuildRunning):
            await rebuild(at)
        with pytest.raises(RebuildRunning):
            await retire(at)


async def test_what_does_not_catch_up_is_given_up(log: LogWriter, at: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    log.happened("A", "W1", registered())
    first, _ = await followed(at)
    monkeypatch.setattr(rebuild_module, "PATIENCE_S", 0.3)

    def restored(step: str, _done: int, _of: int) -> None:
        if step == "indexing":
            with psycopg.connect(at.event_store_url) as connection:
                connection.execute("UPDATE stockhold.log_epoch SET epoch = 9")

    with pytest.raises(Stalled):
        await rebuild(at, jobs=1, progress=restored)
    assert await all_generations(at) == [(first.number, "live")]


async def test_views_can_be_dropped_and_rebuilt(log: LogWriter, at: Servers) -> None:
    log.append(played_seed(3).log)
    generation, views = await followed(at)
    with psycopg.connect(at.read_model_url) as connection:
        connection.execute("DROP SCHEMA stockhold_views CASCADE")
        connection.execute(f"DROP SCHEMA {generation.schema} CASCADE")
    migrate(at.read_model_url, READ_MODEL)
    built = await rebuild(at, jobs=1)
    assert await views_of(at, built) == views


async def test_dropped_under_a_live_projector(log: LogWriter, at: Servers) -> None:
    log.happened("A", "W1", registered(), restocked(1))
    stop = asyncio.Event()
    task = asyncio.create_task(run_projector(at, stop, options=OPTIONS))
    try:
        generation = await eventually_async(lambda: current(at))
        assert generation is not None
        with psycopg.connect(at.read_model_url) as connection:
            connection.execute("DROP SCHEMA stockhold_views CASCADE")
            connection.execute(f"DROP SCHEMA {generation.schema} CASCADE")
        migrate(at.read_model_url, READ_MODEL)

        async def rebuilt() -> bool:
            try:
                await rebuild(at, jobs=1)
            except RebuildRunning:  # the projector is making a first generation of its own
                return False
            return True

        await eventually_async(rebuilt, timeout_s=30)
        log.happened("A", "W1", restocked(1))
        await eventually_async(lambda: on_hand(at, 2), what="the projector following what was rebuilt")
    finally:
        stop.set()
        await task


async def parked_item(log: LogWriter, at: Servers) -> Generation:
    log.happened("A", "W1", registered(), restocked(1))
    log.append_poison(A)
    generation, _ = await followed(at)
    (parked,) = await parked_streams(at)
    assert (parked.generation, parked.stream, parked.version, parked.attempts) == (generation.number, A, 3, 1)
    return generation


async def test_a_retry_needs_no_projector(log: LogWriter, at: Servers) -> None:
    generation = await parked_item(log, at)
    healed, (still,) = await retry_parked(at)
    assert (healed, still.stream, still.attempts) == (0, A, 2)
    log.rewrite(A, 3, restocked(5).at(A, 3, NOW))
    assert await retry_parked(at) == (1, [])
    assert await parked_streams(at) == []
    (level,) = read_views(at.read_model_url, generation.schema)["stock_levels"]
    assert (level["on_hand"], level["stale"]) == (6, False)
    cached = await read_cache(at.redis, generation.redis_prefix)
    assert (cached.levels["A", "W1"].on_hand, cached.levels["A", "W1"].stale) == (6, False)


async def test_a_retry_leaves_it_to_the_projector_that_leads(log: LogWriter, at: Servers) -> None:
    generation = await parked_item(log, at)
    stop, leads = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(run_follower(generation, at, stop, leads.set, OPTIONS))
    try:
        await leads.wait()
        log.rewrite(A, 3, restocked(5).at(A, 3, NOW))
        assert await retry_parked(at) == (1, [])
        assert await retry_parked(at) == (0, [])
    finally:
        stop.set()
        await task


async def test_a_retry_that_nobody_answers(log: LogWriter, at: Servers) -> None:
    generation = await parked_item(log, at)
    with psycopg.connect(at.event_store_url) as connection:
        connection.execute("UPDATE stockhold.log_epoch SET epoch = 9")
    with pytest.raises(RetryTimeout, match=generation.schema):
        await retry_parked(at, timeout_s=0.2)


def stockhold(at: Servers, redis_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {
        **os.environ,
        "STOCKHOLD_EVENT_STORE_URL": at.event_store_url,
        "STOCKHOLD_READ_MODEL_URL": at.read_model_url,
        "STOCKHOLD_REDIS_URL": redis_url,
    }
    return subprocess.run([*STOCKHOLD, *arguments], env=env, capture_output=True, text=True, timeout=60, check=False)


async def test_the_commands(log: LogWriter, at: Servers, redis_url: str) -> None:
    await parked_item(log, at)

    listed = stockhold(at, redis_url, "dead-letters", "--json")
    assert listed.returncode == 0, listed.stderr
    (letter,) = json.loads(listed.stdout.splitlines()[-1])["dead_letters"]
    assert (letter["stream"], letter["version"]) == (A, 3)
    assert "stands still at version 3" in stockhold(at, redis_url, "dead-letters").stdout

    refused = stockhold(at, redis_url, "rebuild", "--json")
    assert refused.returncode == 1, refused.stderr
    assert f"dead_letters {A}" in refused.stderr
    assert "does not pass verification" in refused.stderr
    assert await all_generations(at) == [(1, "live")]

    built = stockhold(at, redis_url, "rebuild", "stock-levels", "--no-verify", "--json", "--jobs", "1")
    assert built.returncode == 0, built.stderr
    facts = json.loads(built.stdout.splitlines()[-1])
    assert (facts["generation"], facts["events"], facts["dead_letters"]) == (2, 3, 1)

    retried = stockhold(at, redis_url, "dead-letters", "--retry", "--json")
    assert (retried.returncode, json.loads(retried.stdout.splitlines()[-1])["healed"]) == (1, 0)

    switched = stockhold(at, redis_url, "rebuild", "--to", "1", "--retire", "--json")
    assert json.loads(switched.stdout.splitlines()[-1]) == {"generation": 1, "retired": [2]}
    log.rewrite(A, 3, restocked(5).at(A, 3, NOW))
    assert stockhold(at, redis_url, "dead-letters", "--retry").stdout == "No dead letters.\n1 healed.\n"

    assert stockhold(at, redis_url, "rebuild", "prices").returncode == 2
    assert stockhold(at, redis_url, "rebuild", "--to", "9").returncode == 2
    assert stockhold(at, redis_url, "rebuild", "--retire", "--no-verify").returncode == 2
