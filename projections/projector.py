"""The process that keeps every live generation of the views up to date, whatever happens to the servers."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from infra.event_store.append_lock import CHANNEL as LOG_CHANNEL
from infra.event_store.log_reader import LogReader
from infra.health import Health
from infra.notices import Bell
from infra.waiting import Backoff, pause, ring_at_stop
from projections import generations, metrics
from projections.follower import Follower, FollowerOptions
from projections.generations import Generation, RebuildRunning
from projections.lane import AWAY, Lane, LogRestored, Ready, Servers, rounds_of
from projections.share import Share
from projections.statements import CHANNEL as VIEWS_CHANNEL

logger = logging.getLogger(__name__)

RETRY_S_MIN: Final = 0.05
LOOK_S: Final = 1.0

Run = Callable[[Generation, Servers, asyncio.Event, Ready, FollowerOptions, Health], Awaitable[None]]
"""Keeps one generation up to date until the event; calls back at the start of each term, and when it stands by."""


async def run_projector(
    servers: Servers,
    stop: asyncio.Event,
    on_ready: Ready = lambda: None,
    options: FollowerOptions = FollowerOptions(),  # noqa: B008  (frozen)
    health: Health | None = None,
    run: Run | None = None,
) -> None:
    """Follow the log for every live generation until ``stop``; makes the first one if there is none.

    A generation that is made meanwhile gets its follower within a second, one that is dropped loses it; those of
    other versions of the folds are left to other releases. ``on_ready``: called once, when every follower of the
    start leads or stands by, or there is nothing for this release to follow yet. ``health``: told of each follower. ``run``: the
    direct follower, unless a worker's is given.
    """
    health, run = health or Health(), run or run_follower
    running: dict[Generation, _Running] = {}
    announced = looked = False
    async with Bell(servers.read_model_url, [VIEWS_CHANNEL]) as bell:
        ringer = asyncio.create_task(ring_at_stop(stop, bell.ring))
        try:
            while not stop.is_set():
                with suppress(*AWAY, RebuildRunning):
                    await _match(running, await _live(servers), servers, options, health, run)
                    looked = True
                health.beat("generations")
                if not announced and looked and all(one.ready.is_set() for one in running.values()):
                    announced = True
                    on_ready()
                await bell.wait(LOOK_S if announced else RETRY_S_MIN)
        finally:
            ringer.cancel()
            await asyncio.gather(*(one.end() for one in running.values()))


class _Running:
    """The follower of one generation, as a task."""

    def __init__(
        self, generation: Generation, servers: Servers, options: FollowerOptions, health: Health, run: Run
    ) -> None:
        self.stop = asyncio.Event()
        self.ready = asyncio.Event()
        self._task = asyncio.ensure_future(run(generation, servers, self.stop, self.ready.set, options, health))

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
            await generations.ensure_first(connection, await log.epoch(), servers.partitions)
        finally:
            await log.close()
        return [each for each in await generations.generations(connection) if each.is_followed_here]


async def _match(
    running: dict[Generation, _Running],
    wanted: list[Generation],
    servers: Servers,
    options: FollowerOptions,
    health: Health,
    run: Run,
) -> None:
    """Start what is missing and end what is not wanted any more. Raises what a follower died of.

    A generation is all of its facts: numbers begin anew once the views have been dropped by hand.
    """
    for generation in [each for each, one in running.items() if each not in wanted or one.failed]:
        await running.pop(generation).end()
        health.forget(generation.schema)
        health.forget(rounds_of(generation.schema))
        metrics.forget(generation.schema)
    for generation in wanted:
        if generation not in running:
            logger.info("following the log", extra={"generation": generation.schema})
            running[generation] = _Running(generation, servers, options, health, run)


async def run_follower(
    generation: Generation,
    servers: Servers,
    stop: asyncio.Event,
    on_ready: Ready = lambda: None,
    options: FollowerOptions = FollowerOptions(),  # noqa: B008  (frozen)
    health: Health | None = None,
) -> None:
    """Keep ``generation`` up to date until ``stop``; then finish the batch at hand and what Redis has not got yet.

    ``on_ready`` is called at each start of a term, and when somebody else is found to lead.
    """
    health = health or Health()
    async with Bell(servers.event_store_url, [LOG_CHANNEL]) as bell:
        ringer = asyncio.create_task(ring_at_stop(stop, bell.ring))
        backoff = Backoff()
        try:
            while not stop.is_set():
                try:
                    await _term(generation, servers, bell, stop, options, on_ready, health, backoff)
                except (*AWAY, LogRestored) as error:
                    interrupted(generation.schema, error, on_ready, health)
                    await backoff.pause(stop)
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


def interrupted(name: str, error: Exception, on_ready: Ready, health: Health) -> None:
    """Say that a term of the writer called ``name`` was ended by ``error``."""
    logger.warning("following is interrupted", extra={"generation": name, "error": str(error)})
    health.say(name, str(error))
    if isinstance(error, LogRestored):
        on_ready()  # nothing more will come of waiting, and the rest of the stack must run


async def _term(
    generation: Generation,
    servers: Servers,
    bell: Bell,
    stop: asyncio.Event,
    options: FollowerOptions,
    on_ready: Ready,
    health: Health,
    backoff: Backoff,
) -> None:
    """Until it is told to stop, or something raises one of AWAY or LogRestored."""

    def stand_by() -> bool:
        on_ready()  # it is a state to be in
        health.rest(generation.schema)
        return not stop.is_set()

    lane = Lane(generation, servers, Share.everything(generation.partitions), options, health)
    async with lane.led(Follower, stand_by) as follower:
        if follower is None:
            return
        on_ready()
        while not stop.is_set():
            started_s = time.monotonic()
            taken = await follower.step()
            await follower.tend()
            backoff.worked()
            health.say(generation.schema, None)
            health.at(generation.schema, follower.cursor.pg_position, follower.head)
            if taken < options.batch:
                await bell.wait(options.poll_s)
                await pause(stop, started_s + options.gather_s - time.monotonic())
            lane.refuse_dead_pusher()
