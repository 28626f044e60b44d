"""Releases what has expired: nobody's decision depends on it, but lists and the index do.

Decisions and reads already treat a due hold as gone (see :mod:`domain.stock_item`). One process sweeps,
the one that holds an advisory lock; another takes over when it dies. It looks into the write-side index
for what may be due (a hint: the aggregate decides) and gives the executor one command per item, at most
``sweep_batch`` holds in one transaction, so that ten thousand holds that fall due together never land in
one customer's command.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

import psycopg
from psycopg.rows import TupleRow

from domain.commands import ExpireHolds
from domain.values import stock_stream
from infra.event_store.append_lock import SCHEMA, append_lock_key
from infra.health import Health
from infra.settings import ServerSettings, WriteSettings
from write_side.executor import CommandExecutor
from write_side.metrics import EXPIRED
from write_side.submission import Overloaded

log = logging.getLogger(__name__)

_RETRY_PAUSE_S = 0.5
_PURGE_INTERVAL_S = 60.0
_REST = 0.3
"""How long the sweeper rests after a full sweep, as a share of the time that it took."""
_STUCK_S = 30.0
"""How long an item that could not be swept is left alone."""

_LEAD = "SELECT pg_advisory_lock(%s)"
# now() and not clock_timestamp(): a volatile function would keep the planner from the index.
_DUE = """
    SELECT sku, warehouse, count(*) FROM (
        SELECT sku, warehouse FROM holds
        WHERE active > 0 AND expires_at <= now() AND sku || '@' || warehouse <> ALL (%s)
        ORDER BY expires_at LIMIT %s
    ) AS due GROUP BY sku, warehouse ORDER BY sku, warehouse
"""
_NEXT = "SELECT extract(epoch FROM min(expires_at) - clock_timestamp())::float8 FROM holds WHERE active > 0"
_PURGE_OUTCOMES = """
    DELETE FROM idempotency WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM idempotency WHERE recorded_at < now() - %s ORDER BY recorded_at LIMIT %s
    ))
"""
_PURGE_REFUSALS = """
    DELETE FROM refusals WHERE ctid = ANY (ARRAY(SELECT ctid FROM refusals WHERE at < now() - %s ORDER BY at LIMIT %s))
"""


class Sweeper:
    """Sweeps as long as it leads. ``executor`` is started and drained by whoever made it."""

    def __init__(self, executor: CommandExecutor, servers: ServerSettings, settings: WriteSettings) -> None:
        self._executor = executor
        self._url = servers.event_store_url
        self._connect_timeout_s = max(1, int(servers.connect_timeout_s))
        self._batch = settings.sweep_batch
        self._interval_s = settings.sweep_interval_ms / 1000
        self._kept = {
            _PURGE_OUTCOMES: timedelta(days=settings.idempotency_days),
            _PURGE_REFUSALS: timedelta(days=settings.refusal_days),
        }
        self._purge_batch = settings.purge_batch
        self._stuck: dict[str, float] = {}
        self._health = Health()

    async def run(self, on_ready: Callable[[], None], health: Health | None = None) -> None:
        """Lead, sweep and purge until cancelled; connections that break are made again.

        ``health``: told of every round, and of a log that is away.
        """
        self._health = health or self._health
        while True:
            try:
                await self._with_connection(self._lead_and_sweep, on_ready)
            except (psycopg.Error, Overloaded) as error:
                log.warning("the sweeper starts over: %s", error)
                self._health.say("event_store", str(error))
            await asyncio.sleep(_RETRY_PAUSE_S)

    async def sweep_all(self) -> int:
        """Release everything that is due now, whoever leads; how many holds that were, by the index."""
        swept = 0

        async def sweep(connection: psycopg.AsyncConnection[TupleRow], _: Callable[[], None]) -> None:
            nonlocal swept
            named = 1
            while named:
                named, released = await self._sweep(connection)
                swept += released

        await self._with_connection(sweep, lambda: None)
        return swept

    async def _with_connection(
        self,
        work: Callable[[psycopg.AsyncConnection[TupleRow], Callable[[], None]], Awaitable[None]],
        on_ready: Callable[[], None],
    ) -> None:
        connection = await psycopg.AsyncConnection.connect(
            self._url,
            autocommit=True,
            options=f"-c search_path={SCHEMA} -c application_name=stockhold-sweeper",
            connect_timeout=self._connect_timeout_s,
        )
        async with connection:
            await work(connection, on_ready)

    async def _lead_and_sweep(
        self, connection: psycopg.AsyncConnection[TupleRow], on_ready: Callable[[], None]
    ) -> None:
        # Ready as a stand-in too: a stack with two sweepers has one that waits.
        on_ready()
        self._health.say("event_store", None)
        self._health.rest("sweep")
        await connection.execute(_LEAD, (append_lock_key(f"{SCHEMA}.sweeper"),))
        log.info("this process sweeps")
        loop = asyncio.get_running_loop()
        purge_at = loop.time()
        while True:
            self._health.beat("sweep")
            began = loop.time()
            named, _ = await self._sweep(connection)
            swept_s = loop.time() - began
            more = False
            if loop.time() >= purge_at:
                more = await self._purge(connection)
                if not more:
                    purge_at = loop.time() + _PURGE_INTERVAL_S
            if named < self._batch and not more:
                due_in = await _seconds_to_next(connection)
                wait_s = self._interval_s if due_in is None else min(self._interval_s, due_in)
                # A due hold of an item that is stuck must not keep us running in circles.
                await asyncio.sleep(self._interval_s if self._stuck else max(0.0, wait_s))
            else:
                # Nobody is waiting for a backlog: customers get the log and the processor in between.
                await asyncio.sleep(swept_s * _REST)

    async def _purge(self, connection: psycopg.AsyncConnection[TupleRow]) -> bool:
        """One small transaction for each kind of record that is kept for a time; whether there is more to go."""
        gone = [
            (await connection.execute(statement, (kept, self._purge_batch))).rowcount
            for statement, kept in self._kept.items()
        ]
        return max(gone) >= self._purge_batch  # a busy service records thousands a second

    async def _sweep(self, connection: psycopg.AsyncConnection[TupleRow]) -> tuple[int, int]:
        """One transaction's worth of due holds: how many the index named, and how many of them are no longer due."""
        now = asyncio.get_running_loop().time()
        self._stuck = {item: until for item, until in self._stuck.items() if until > now}
        cursor = await connection.execute(_DUE, (list(self._stuck), self._batch))
        due: list[tuple[str, str, int]] = await cursor.fetchall()
        answers = await asyncio.gather(
            *(self._executor.execute(ExpireHolds(stream=stock_stream(s, w), limit=n)) for s, w, n in due)
        )
        swept = 0
        for (sku, warehouse, count), answer in zip(due, answers, strict=True):
            if answer.status < _FAILURE:
                swept += count
            else:  # its neighbours must not wait for an item that cannot be decided about
                log.warning("%s at %s could not be swept", sku, warehouse)
                self._stuck[f"{sku}@{warehouse}"] = now + _STUCK_S
        EXPIRED.inc(swept)
        return sum(count for _, _, count in due), swept


_FAILURE = 500


async def _seconds_to_next(connection: psycopg.AsyncConnection[TupleRow]) -> float | None:
    """Until the next hold is due; None if none will be."""
    row = await (await connection.execute(_NEXT)).fetchone()
    assert row is not None
    seconds: float | None = row[0]
    return seconds
