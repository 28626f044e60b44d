"""Blue/green: a new generation of every view beside the one that is read, then one move of the pointer."""

import asyncio
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, LiteralString

import msgspec
import psycopg
from psycopg import AsyncConnection, sql

from infra.event_store.log_reader import LogReader
from projections import bulk_cache, generations
from projections.bulk import TABLES, Filled, Part, part_bounds
from projections.generations import Generation
from projections.lane import Servers
from projections.projector import following
from projections.redis_views import RedisViews
from projections.row_reader import RowReader
from projections.share import Share

logger = logging.getLogger(__name__)

EVENTS_PER_PART: Final = 25_000
"""Small enough for the bar to move, and for the processes to finish at about the same time."""
PARTS_PER_VACUUM: Final = 6
"""Few enough for what they wrote to be in PostgreSQL's memory still."""
SORT_MEMORY: Final = "16MB"
"""Of an index's build. What the processor's cache holds is sorted and then merged faster than all of it at once."""
POLL_S: Final = 0.05
PATIENCE_S: Final = 120.0
"""How long a new generation may stand still before it is given up; a cache of millions of rows is filled in silence."""
SWITCH_PATIENCE_S: Final = 10.0
"""The same for one that readers are to be pointed to again: its runner has had all the time there was."""

VIEWS: Final = ("stock-levels", "reservations", "movements", "warehouses")
"""What a rebuild may be asked for. They share a watermark per item, so they are always rebuilt together."""

Verify = Callable[[Generation], Awaitable[None]]
Progress = Callable[[str, int, int], None]
"""(step, done, of): events while filling, indexes while indexing, positions while following."""


def _no_progress(_step: str, _done: int, _of: int) -> None:
    """Nobody is looking."""


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuild came to. ``seconds`` from the head of the log to the move of the pointer, ``verify_s`` of them."""

    generation: Generation
    events: int
    dead_letters: int
    fill_s: float
    index_s: float
    verify_s: float
    seconds: float


async def rebuild(
    servers: Servers,
    *,
    jobs: int | None = None,
    verify: Verify | None = None,
    progress: Progress = _no_progress,
) -> Rebuilt:
    """Build a generation from the log, let it catch up, check it, and point the readers to it.
    Reads go on all the while. Raises RebuildRunning if another one is under way, and whatever ``verify``
    raises; then the pointer stays where it is and the new generation is dropped.
    """
    jobs = jobs or os.cpu_count() or 1
    started_s = time.monotonic()
    async with (
        await generations.connect(servers.read_model_url) as connection,
        generations.changing_generations(connection),
        AsyncExitStack() as started,
    ):
        # First of all, because they take longer to start than everything before they are needed.
        workers = [await started.enter_async_context(_worker()) for _ in range(jobs)]
        await generations.drop_orphans(connection, servers.redis)
        head, epoch = await _head(servers)
        generation = await generations.create(connection, epoch, servers.partitions)
        try:
            for table in TABLES:
                # Nothing of it is out of date before it is whole: a vacuum in the middle would only read it once more.
                await _set_autovacuum(connection, generation, table.name, "SET (autovacuum_enabled = false)")
            cache = await _begin_cache(servers, generation)
            filled = await _fill(servers, generation, head, workers, cache, progress)
            await started.aclose()
            filled_s = time.monotonic()
            await _index(servers, generation, jobs, progress)
            indexed_s = time.monotonic()
            revision = await _set_cursor(connection, generation, head)
            if cache is not None and all(part.cached for part in filled):
                await bulk_cache.finish(servers.redis, cache, head, revision)
            generation = await generations.make_live(connection, generation)
            async with following(servers, generation):
                await _caught_up(servers, generation, progress)
                caught_up_s = time.monotonic()
                if verify is not None:
                    await verify(generation)
                verified_s = time.monotonic()
        except BaseException:
            with suppress(psycopg.Error):  # whatever is left of it is dropped by the next run
                await generations.drop(connection, servers.redis, generation)
            raise
        await generations.point_to(connection, generation)
    return Rebuilt(
        generation=generation,
        events=sum(part.events for part in filled),
        dead_letters=sum(part.dead_letters for part in filled),
        fill_s=filled_s - started_s,
        index_s=indexed_s - filled_s,
        verify_s=verified_s - caught_up_s,
        seconds=time.monotonic() - started_s,
    )


async def retire(servers: Servers) -> list[Generation]:
    """Drop every generation but the one that is read; those dropped. Raises RebuildRunning."""
    async with (
        await generations.connect(servers.read_model_url) as connection,
        generations.changing_generations(connection),
    ):
        kept = await generations.current(connection)
        dropped = [each for each in await generations.generations(connection) if kept is not None and each != kept]
        for generation in dropped:
            await generations.drop(connection, servers.redis, generation)
        await generations.drop_orphans(connection, servers.redis)
    return dropped


async def switch(servers: Servers, number: int | None = None, *, check: bool = True) -> Generation:
    """Point the readers to the live generation ``number``; None: to the one that was read before.

    With ``check`` only if it has all that the log has, or gets it. Raises RebuildRunning; LookupError if there is no such
    generation; Stalled if nobody keeps it up to date.
    """
    async with (
        await generations.connect(servers.read_model_url) as connection,
        generations.changing_generations(connection),
    ):
        generation = await _chosen(connection, number)
        if check:
            async with following(servers, generation):
                await _caught_up(servers, generation, _no_progress, SWITCH_PATIENCE_S)
        await generations.point_to(connection, generation)
    return generation


async def _chosen(connection: AsyncConnection, number: int | None) -> Generation:
    if number is None:
        previous = await generations.previous(connection)
        if previous is None:
            raise LookupError("there is no generation to switch back to")
        return previous
    for generation in await generations.generations(connection):
        if generation.number == number and generation.state == "live":
            return generation
    raise LookupError(f"there is no live generation {number}")


async def _head(servers: Servers) -> tuple[int, int]:
    log = await LogReader.connect(servers.event_store_url, timeout_s=servers.connect_timeout_s)
    try:
        return await log.head(), await log.epoch()
    finally:
        await log.close()


async def _begin_cache(servers: Servers, generation: Generation) -> bulk_cache.Target | None:
    if servers.redis_url is None:
        return None
    return await bulk_cache.begin(servers.redis, servers.redis_url, generation.redis_prefix, generation.partitions)


async def _fill(
    servers: Servers,
    generation: Generation,
    head: int,
    workers: Sequence["_Worker"],
    cache: bulk_cache.Target | None,
    progress: Progress,
) -> list[Filled]:
    """Fold the log up to ``head`` into the generation's tables, and into its cache."""
    with psycopg.connect(servers.event_store_url) as connection:
        bounds = part_bounds(connection, head, max(1, head // EVENTS_PER_PART))
    revision = time.time_ns() // 1_000
    parts = [
        Part(servers.event_store_url, servers.read_model_url, generation.schema, low, high, head, revision, cache)
        for low, high in bounds
    ]
    filled: list[Filled] = []
    waiting = iter(parts)
    vacuum_is_due = asyncio.Event()

    async def work(worker: _Worker) -> None:
        for part in waiting:
            filled.append(await worker.fill(part))
            progress("filling", sum(each.events for each in filled), head)
            if len(filled) % PARTS_PER_VACUUM == 0 or len(filled) == len(parts):
                vacuum_is_due.set()

    async def vacuum() -> None:
        async with await _connect(servers, generation) as connection:
            whole = False
            while not whole:
                await vacuum_is_due.wait()
                vacuum_is_due.clear()
                whole = len(filled) == len(parts)
                await _freeze(connection)

    progress("filling", 0, head)
    working = [asyncio.ensure_future(task) for task in (vacuum(), *map(work, workers))]
    try:
        await asyncio.gather(*working)
    finally:
        for task in working:  # the first that fails ends them all
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
    return filled


async def _freeze(connection: AsyncConnection) -> None:
    """Note on the pages written so far that their rows are committed, and for good.

    Otherwise whoever reads a row first does so, which are the builds of the indexes: by then most pages have left
    PostgreSQL's memory, and each would be written again, some of them with an image in the write-ahead log.
    """
    # What was committed without waiting for the disk counts as committed once the disk has it: wait for it now.
    await connection.execute(
        "SELECT set_config('synchronous_commit', 'on', true), pg_logical_emit_message(true, 'stockhold', '')"
    )
    for table in TABLES:
        await connection.execute(sql.SQL("VACUUM (FREEZE, TRUNCATE FALSE) {}").format(sql.Identifier(table.name)))


class Stalled(Exception):
    """What was built does not catch up with the log."""


class WorkerFailed(Exception):
    """A process that was folding the log has ended; what it said last is in the message."""


class _Worker:
    """A process that fills one part after another."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def fill(self, part: Part) -> Filled:
        """Raises WorkerFailed."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(part) + b"\n")
        line = await process.stdout.readline()
        if not line:
            raise WorkerFailed(await self._last_words())
        return msgspec.json.decode(line, type=Filled)

    async def _last_words(self) -> str:
        assert self._process.stderr is not None
        said = (await self._process.stderr.read()).decode("utf-8", "replace").splitlines()
        return (
            f"a process of the rebuild ended ({await self._process.wait()}): {said[-1] if said else 'no word of why'}"
        )


@asynccontextmanager
async def _worker() -> AsyncIterator[_Worker]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "projections.bulk"), stdin=pipe, stdout=pipe, stderr=pipe
    )
    try:
        yield _Worker(process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _index(servers: Servers, generation: Generation, jobs: int, progress: Progress) -> None:
    """Build the indexes, ``jobs`` at a time, then what is quick once they are there: keys and statistics."""
    builds, keys = generations.index_statements()
    built = 0

    def done() -> None:
        nonlocal built
        built += 1
        progress("indexing", built, len(builds))

    async with AsyncExitStack() as connected:
        connections = [
            await connected.enter_async_context(await _connect(servers, generation))
            for _ in range(min(jobs, len(builds)))
        ]
        await _side_by_side(connections, [sql.SQL(build) for build in builds], done)
        for key in keys:
            await connections[0].execute(sql.SQL(key))
        for table in TABLES:
            await _set_autovacuum(connections[0], generation, table.name, "RESET (autovacuum_enabled)")
        await _side_by_side(
            connections, [sql.SQL("ANALYZE {}").format(sql.Identifier(table.name)) for table in TABLES], lambda: None
        )


async def _side_by_side(
    connections: Sequence[AsyncConnection], statements: Iterable[sql.SQL | sql.Composed], done: Callable[[], None]
) -> None:
    """Run ``statements``, each on whichever connection is free; ``done`` is called after each."""
    waiting = iter(statements)

    async def run(connection: AsyncConnection) -> None:
        for statement in waiting:
            await connection.execute(statement)
            done()

    await asyncio.gather(*map(run, connections))


async def _set_autovacuum(
    connection: AsyncConnection, generation: Generation, table: str, change: LiteralString
) -> None:
    await connection.execute(
        sql.SQL("ALTER TABLE {} {}").format(sql.Identifier(generation.schema, table), sql.SQL(change))
    )


async def _connect(servers: Servers, generation: Generation) -> AsyncConnection:
    """To the tables of ``generation``; an index's build gets no processes beside its own."""
    options = (
        f"-c search_path={generation.schema} -c maintenance_work_mem={SORT_MEMORY}"
        " -c max_parallel_maintenance_workers=0 -c synchronous_commit=off"
    )
    return await AsyncConnection.connect(servers.read_model_url, autocommit=True, options=options)


async def _set_cursor(connection: AsyncConnection, generation: Generation, head: int) -> int:
    """Everything up to ``head`` is there; the revision at which it is."""
    revision = time.time_ns() // 1_000
    await connection.execute(
        sql.SQL("UPDATE {} SET pg_position = %s, pg_revision = %s, reconciled_position = %s").format(
            sql.Identifier(generation.schema, "cursors")
        ),
        [head, revision, head],
    )
    return revision


async def _caught_up(
    servers: Servers, generation: Generation, progress: Progress, patience_s: float | None = None
) -> None:
    """Wait until both stores have everything up to the head as it is now. Raises Stalled."""
    patience_s = PATIENCE_S if patience_s is None else patience_s
    begun, epoch = await _head(servers)
    if epoch != generation.log_epoch:
        raise Stalled(f"{generation.schema} is of the log as it was before it was restored")
    seen, seen_s = None, time.monotonic()
    everything = Share.everything(generation.partitions)
    cache = RedisViews(servers.redis, generation.redis_prefix, everything)
    rows = await RowReader.connect(servers.read_model_url, generation.schema, everything)
    try:
        while True:
            cursor = await rows.cursor()
            progress("following", min(cursor.pg_position, begun), begun)
            filled = await cache.filled()
            if cursor.pg_position >= begun and filled is not None and filled[0] >= begun:
                return
            if seen != (cursor.pg_position, filled):
                seen, seen_s = (cursor.pg_position, filled), time.monotonic()
            elif time.monotonic() - seen_s > patience_s:
                raise Stalled(
                    f"{generation.schema} stands at position {cursor.pg_position} of {begun}, Redis at {filled}"
                )
            await asyncio.sleep(POLL_S)
    finally:
        await rows.close()
