"""The read API: its application, its fast routes, and what both need while they serve."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple

from fastapi import FastAPI
from prometheus_client import REGISTRY, CollectorRegistry

from infra.event_store.mapper import EventMapper
from infra.http_app import HttpProblem, Remark, add_probes, create_app
from infra.http_fast_lane import FastRoute
from infra.openapi import Schemas
from infra.postgres import ConnectionLost, StatementFailed
from infra.redis_pipeline import RedisPipeline
from infra.settings import Settings
from projections import versions
from read_api.as_of import Log, Replay
from read_api.availability import AvailabilityDesk
from read_api.clock import ReadClock
from read_api.current import Current
from read_api.database import Pool, ViewDatabase, create_pool
from read_api.fast_routes import fast_availability_routes
from read_api.levels import FilledGate, LevelReader
from read_api.metrics import ReadMetrics
from read_api.movements import MovementReader
from read_api.pages import PageSizes
from read_api.readers import Readers
from read_api.reservations import ReservationReader
from read_api.routes import add_calls
from read_api.shortages import ShortageReader
from read_api.stock import StockReader
from read_api.warehouses import WarehouseReader
from read_api.watermarks import Watermarks

DESCRIPTION: Final = """
What is there, what was, and who holds it: thin queries over the views of Stockhold's log, and replays of the
log itself. Nothing here changes anything.

Every read of levels and reservations takes `min_version` and then answers with that version at least, or 503
`not-fresh-enough`. A hold that has ended is shown as ended, swept or not. Every error is a problem document
(RFC 9457) with a stable `code`.
"""
VERSION: Final = "1"


class ReadApi(NamedTuple):
    """What to hand to :func:`infra.http_server.serve`; ``current`` is what the reads share."""

    app: FastAPI
    fast_routes: Sequence[FastRoute]
    current: Current


def create_read_api(readers: Readers, probes: "Probes") -> ReadApi:
    """The application and the fast routes over ``readers``, which somebody else opens and closes."""
    schemas = Schemas()
    app = create_app("Stockhold read API", DESCRIPTION, VERSION, schemas)
    add_calls(app, schemas, readers)
    registry = CollectorRegistry()
    registry.register(readers.metrics)
    add_probes(app, schemas, probes.check, (REGISTRY, registry))
    return ReadApi(app, fast_availability_routes(readers.desk, readers.metrics), probes.current)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the read API is made of; nothing of it is connected to anything yet."""

    pool: Pool
    current: Current
    redis: RedisPipeline
    log: Log
    api: ReadApi


def compose(settings: Settings, clock: ReadClock | None = None) -> Parts:
    """The read API of the servers that ``settings`` names, unconnected."""
    clock = clock or ReadClock()
    pool = create_pool(settings.read_model_url, settings.postgres_pool_max, settings.statement_timeout_ms)
    database = ViewDatabase(pool, settings.statement_timeout_ms)
    current = Current(database, settings.read_model_url, clock, interval_s=settings.warehouse_refresh_ms / 1e3)
    redis = RedisPipeline(settings.redis_url, FilledGate(current), timeout_s=settings.redis_timeout_ms / 1e3)
    log = Log(settings.event_store_url, EventMapper(), timeout_s=settings.connect_timeout_s)
    api = create_read_api(_readers(settings, current, clock, redis, log), Probes(current, log))
    return Parts(pool, current, redis, log, api)


@asynccontextmanager
async def open_read_api(settings: Settings, clock: ReadClock | None = None) -> AsyncIterator[ReadApi]:
    """The read API, ready to be served while the block lasts.

    Servers that are away do not keep it from starting: its answers say so until they are back.
    """
    parts = compose(settings, clock)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(parts.pool)
        await stack.enter_async_context(parts.current)
        stack.push_async_callback(parts.redis.stop)
        await parts.redis.start()
        stack.push_async_callback(parts.log.close)
        yield parts.api


def _readers(settings: Settings, current: Current, clock: ReadClock, redis: RedisPipeline, log: Log) -> Readers:
    metrics = ReadMetrics(settings.process_name)
    sizes = PageSizes(settings.page_limit, settings.page_limit_max)
    wait_s, poll_s = settings.min_version_wait_ms / 1e3, settings.min_version_poll_ms / 1e3
    levels = LevelReader(redis, current, clock, wait_s=wait_s, poll_s=poll_s)
    return Readers(
        desk=AvailabilityDesk(redis, levels, current, clock, metrics),
        log=log,
        metrics=metrics,
        movements=MovementReader(current, clock, sizes),
        replay=Replay(log),
        reservations=ReservationReader(current, clock, sizes),
        shortages=ShortageReader(current, clock, sizes),
        stock=StockReader(levels, current, metrics),
        warehouses=WarehouseReader(current, clock, sizes),
        watermarks=Watermarks(current, wait_s=wait_s, poll_s=poll_s),
    )


_POSITION: Final = "SELECT min(c.pg_position), max(c.pg_revision) FROM {views}.cursors c"
STUCK_S: Final = 5.0
"""How long the views may stand still while the log is ahead of them."""


class _Standing(NamedTuple):
    """How far the views are; ``revision`` changes with every transaction on them."""

    position: int
    revision: int


class Probes:
    """Whether what the reads need is there, and whether the views keep up with the log."""

    def __init__(self, current: Current, log: Log) -> None:
        self.current = current
        self._log = log
        self._behind_since: tuple[_Standing, float] | None = None

    async def check(self) -> Mapping[str, str | None]:
        """By name: None, or what is wrong. Redis away is nothing wrong: Postgres answers in its place."""
        standing = await self._standing()
        head = await self._head()  # afterwards, so that views are never ahead of it, unless the log was restored
        progress = None
        if isinstance(standing, _Standing) and isinstance(head, int):
            progress = self._progress(standing, head, asyncio.get_running_loop().time())
        remark = self._fold()
        return {
            "read_model": standing if isinstance(standing, str) else None,
            "event_store": head if isinstance(head, str) else None,
            "projection": progress,
            **({} if remark is None else {"fold": remark}),
        }

    async def _standing(self) -> _Standing | str:
        try:
            rows = await self.current.rows(_POSITION)
        except HttpProblem as problem:
            return problem.detail
        return _Standing(*(int(value or 0) for value in rows[0]))

    async def _head(self) -> int | str:
        try:
            return await self._log.head()
        except (ConnectionLost, StatementFailed):
            return "the event store is away"

    def _progress(self, standing: _Standing, head: int, now_s: float) -> str | None:
        position = standing.position
        if position > head:
            return f"the views stand at {position} and the log, which must have been restored, at {head}: rebuild them"
        if position == head:
            self._behind_since = None
        elif self._behind_since is None or self._behind_since[0] != standing:
            self._behind_since = (standing, now_s)
        elif now_s - self._behind_since[1] > STUCK_S:
            return f"the views stand at {position} while the log is at {head}{self._why()}"
        return None

    def _fold(self) -> Remark | None:
        """Views of another release's fold are as right as ever, as long as a runner of that release keeps them."""
        views = self.current.views_or_none
        if views is None or views.fold_version == versions.FOLD_VERSION:
            return None
        return Remark(
            f"the views were built by fold {views.fold_version} and this release has {versions.FOLD_VERSION}: no runner"
            " of this release keeps them; run `stockhold rebuild`"
        )

    def _why(self) -> str:
        remark = self._fold()
        return "" if remark is None else f" ({remark})"
