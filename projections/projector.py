"""The process that keeps every live generation of the views up to date, whatever happens to the servers."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import psycopg
from redis.asyncio import Redis

from infra.event_store.append_lock import CHANNEL as LOG_CHANNEL
from infra.event_store.log_reader import LogReader
from infra.notices import Bell
from infra.postgres import ConnectionLost, StatementFailed
from projections import generations
from projections.cache_pusher import CachePusher
from projections.follower import Follower, FollowerOptions
from projections.generations import Generation, RebuildRunning
from projections.postgres_views import LostLeadership, PostgresViews
from projections.redis_views import RedisViews
from projections.row_reader import RowReader
from projections.statements import CHANNEL as VIEWS_CHANNEL

logger = logging.getLogger(__name__)

RETRY_S_MIN: Final = 0.05
RETRY_S_MAX: Final = 1.0
LOOK_S: Final = 1.0
LEAD_S: Final = 0.1
"""How often one that stands by asks for the lead: the last leader may just have died."""
DRAIN_S: Final = 5.0
AWAY: Final = (ConnectionLost, StatementFailed, psycopg.Error, OSError, LostLeadership)
"""What ends a term: a server is away, the tables are gone, or somebody else leads. All of it may pass."""

Ready = Callable[[], None]


@dataclass(frozen=True)
class Servers:
    """Where the log and the views are: URLs, and a client that is shared."""

    event_store_url: str
    read_model_url: str
    redis: Redis
    connect_timeout_s: float = 5.0


class LogRestored(Exception):
    """The log has been restored since the generation was built: its versions may mean something else now."""


async def run_projector(
    servers: Servers,
    stop: asyncio.Event,
    on_ready: Ready = lambda: None,
    options: FollowerOptions = FollowerOptions(),  # noqa: B008  (frozen)
) -> None:
    """Follow the log for every live generation until ``stop``; makes the first one if there is none.

    A generation that is made meanwhile gets its follower within a second, one that is dropped loses it; those of
    other versions of the folds are left to other releases. ``on_ready``: called once, when every follower of the
    start leads or stands by, or there is nothing for this release to follow yet.
    """
    running: dict[Generation, _Running] = {}
    announced = looked = False
    async with Bell(servers.read_model_url, [VIEWS_CHANNEL]) as bell:
        ringer = asyncio.create_task(_ring_at_stop(bell, stop))
        try:
            while not stop.is_set():
                with suppress(*AWAY, RebuildRunning):
                    await _match(running, await _live(servers), servers, options)
                    looked = True
                if not announced and looked and all(one.ready.is_set() for one in running.values()):
                    announced = True
                    on_ready()
                await bell.wait(LOOK_S if announced else RETRY_S_MIN)
        finally:
            ringer.cancel()
            await asyncio.gather(*(one.end() for one in running.values()))


class _Running:
    """The follower of one generation, as a task."""

    def __init__(self, generation: Generation, servers: Servers, options: FollowerOptions) -> None:
        self.stop = asyncio.Event()
        self.ready = asyncio.Event()
        self._task = asyncio.create_task(run_follower(generation, servers, self.stop, self.ready.set, options))

    @property
    def failed(self) -> bool:
        return self._task.done()

    async def end(self) -> None:
        """Let it finish what it is at; raises what it died of."""
        self.stop.set()
        await self._task


async def _live(servers: Servers) -> list[Generation]:
    """The live generations of this code; there is one at least, unless those there are are of other code."""
    async with await generations.connect(servers.read_model_url, timeout_s=servers.connect_timeout_s) as connection:
        found = [each for each in await generations.generations(connection) if each.is_followed_here]
        if found or await generations.current(connection) is not None:
            return found
        log = await LogReader.connect(servers.event_store_url, timeout_s=servers.connect_timeout_s)
        try:
            await generations.ensure_first(connection, await log.epoch())
        finally:
            await log.close()
        return [each for each in await generations.generations(connection) if each.is_followed_here]


async def _match(
    running: dict[Generation, _Running], wanted: list[Generation], servers: Servers, options: FollowerOptions
) -> None:
    """Start what is missing and end what is not wanted any more. Raises what a follower died of.

    A generation is all of its facts: numbers begin anew once the views have been dropped by hand.
    """
    for generation in [each for each, one in running.items() if each not in wanted or one.failed]:
        await running.pop(generation).end()
    for generation in wanted:
        if generation not in running:
            logger.info("following the log", extra={"generation": generation.schema})
            running[generation] = _Running(generation, servers, options)


async def run_follower(
    generation: Generation,
    servers: Servers,
    stop: asyncio.Event,
    on_ready: Ready = lambda: None,
    options: FollowerOptions = FollowerOptions(),  # noqa: B008  (frozen)
) -> None:
    """Keep ``generation`` up to date until ``stop``; then finish the batch at hand and what Redis has not got yet.

    ``on_ready`` is called at each start of a term, and when somebody else is found to lead.
    """
    pusher = CachePusher(
        RedisViews(servers.redis, generation.redis_prefix),
        lambda: RowReader.connect(servers.read_model_url, generation.schema, timeout_s=servers.connect_timeout_s),
        page=options.refill_rows,
        generation=generation.schema,
    )
    async with Bell(servers.event_store_url, [LOG_CHANNEL]) as bell:
        ringer = asyncio.create_task(_ring_at_stop(bell, stop))
        pause_s = RETRY_S_MIN
        try:
            while not stop.is_set():
                term = _Term(generation, servers, pusher, bell, stop, options, on_ready)
                try:
                    await term.run()
                except (*AWAY, LogRestored) as error:
                    logger.warning(
                        "following is interrupted", extra={"generation": generation.schema, "error": str(error)}
                    )
                    if isinstance(error, LogRestored):
                        on_ready()  # nothing more will come of waiting, and the rest of the stack must run
                    pause_s = RETRY_S_MIN if term.worked else min(RETRY_S_MAX, pause_s * 2)
                    await _pause(stop, pause_s)
        finally:
            ringer.cancel()


@asynccontextmanager
async def following(servers: Servers, generation: Generation) -> AsyncIterator[None]:
    """Follow the log for ``generation`` while the block lasts, unless a projector does: whoever leads is fine.

    One of other versions of the folds is left to a release that has them.
    """
    if not generation.is_of_this_code:
        yield
        return
    stop = asyncio.Event()
    follower = asyncio.create_task(run_follower(generation, servers, stop))
    try:
        yield
    finally:
        stop.set()
        await follower


class _Term:
    """From connecting to losing a connection: wait for the lead, then follow."""

    def __init__(
        self,
        generation: Generation,
        servers: Servers,
        pusher: CachePusher,
        bell: Bell,
        stop: asyncio.Event,
        options: FollowerOptions,
        on_ready: Ready,
    ) -> None:
        self._generation = generation
        self._servers = servers
        self._pusher = pusher
        self._bell = bell
        self._stop = stop
        self._options = options
        self._on_ready = on_ready
        self.worked = False

    async def run(self) -> None:
        """Until it is told to stop, or something raises one of AWAY or LogRestored."""
        timeout_s = self._servers.connect_timeout_s
        log = await LogReader.connect(self._servers.event_store_url, timeout_s=timeout_s)
        try:
            if await log.epoch() != self._generation.log_epoch:
                raise LogRestored("the log has been restored since these views were built: rebuild them")
            views = await PostgresViews.connect(
                self._servers.read_model_url, self._generation.schema, timeout_s=timeout_s
            )
            try:
                if await self._lead(views):
                    await self._follow(log, views)
            finally:
                await views.close()
        finally:
            await log.close()

    async def _lead(self, views: PostgresViews) -> bool:
        """Wait until this connection leads; false if it is time to stop before."""
        while not await views.try_lead():
            self._on_ready()  # standing by is a state to be in
            await _pause(self._stop, LEAD_S)
            if self._stop.is_set():
                return False
        return True

    async def _follow(self, log: LogReader, views: PostgresViews) -> None:
        cursor = await views.cursor()
        self._pusher.acknowledged = (cursor.redis_position, cursor.redis_revision)
        follower = Follower(
            log,
            views,
            self._pusher,
            cursor,
            options=self._options,
            generation=self._generation.schema,
        )
        pushing = asyncio.create_task(self._pusher.run())
        try:
            self._on_ready()
            while not self._stop.is_set():
                started_s = time.monotonic()
                taken = await follower.step()
                await follower.tend()
                self.worked = True
                if taken < self._options.batch:
                    await self._bell.wait(self._options.poll_s)
                    await _pause(self._stop, started_s + self._options.gather_s - time.monotonic())
                if pushing.done():
                    await pushing
            await self._drain(pushing)
            await follower.remember()
        finally:
            # Told as well as cancelled: the Redis client may lose a cancellation.
            self._pusher.end()
            pushing.cancel()
            with suppress(asyncio.CancelledError):
                await pushing

    async def _drain(self, pushing: asyncio.Task[None]) -> None:
        """Give what is queued for Redis a little time; what it does not get now it is given at the next start."""
        self._pusher.end()
        await asyncio.wait([pushing], timeout=DRAIN_S)


async def _ring_at_stop(bell: Bell, stop: asyncio.Event) -> None:
    await stop.wait()
    bell.ring()


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    if seconds <= 0:
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
