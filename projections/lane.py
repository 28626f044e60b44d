"""One term of writing a share of a generation: from connecting, by way of the lead, to losing a connection.

Both runners drive it: the direct follower for the whole of a generation, a worker for the partitions that it was assigned.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, TypeVar

import psycopg
from redis.asyncio import Redis

from infra.event_store.log_reader import LogReader
from infra.health import Health
from infra.postgres import ConnectionLost, StatementFailed
from projections import metrics
from projections.cache_pusher import CachePusher
from projections.follower import Follower, FollowerOptions
from projections.generations import Generation
from projections.postgres_views import LostLeadership, PostgresViews
from projections.redis_views import RedisViews
from projections.row_reader import RowReader
from projections.share import Share

LEAD_S: Final = 0.1
"""How often one that stands by asks for the lead: the last leader may just have died."""
DRAIN_S: Final = 5.0
NOTICE_S: Final = 0.5
"""How often it is noticed that a follower gets on."""
AWAY: Final = (ConnectionLost, StatementFailed, psycopg.Error, OSError, LostLeadership)
"""What ends a term: a server is away, the tables are gone, or somebody else leads. All of it may pass."""

Ready = Callable[[], None]
F = TypeVar("F", bound=Follower)


@dataclass(frozen=True)
class Servers:
    """Where the log and the views are: URLs, and a client that is shared. ``partitions`` of a generation that is made.

    ``redis_url``: the cache for processes that a rebuild starts; ``None``: it is filled after the tables, by whoever takes
    the generation over.
    """

    event_store_url: str
    read_model_url: str
    redis: Redis
    connect_timeout_s: float = 5.0
    partitions: int = 1
    redis_url: str | None = None


class LogRestored(Exception):
    """The log has been restored since the generation was built: its versions may mean something else now."""


def rounds_of(name: str) -> str:
    """The name under which health hears that the writer called ``name`` comes round."""
    return f"{name} rounds"


class Lane:
    """A share of a generation, for one term. ``health`` hears of every round, and of every commit within one."""

    def __init__(
        self,
        generation: Generation,
        servers: Servers,
        share: Share,
        options: FollowerOptions,
        health: Health | None = None,
        name: str = "",
    ) -> None:
        """``name``: under which health hears of it; the generation's, unless there are several lanes of it."""
        self._health = health or Health()
        self._rounds = rounds_of(name or generation.schema)
        self._generation = generation
        self._servers = servers
        self._share = share
        self._options = options
        self._pushing: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def led(self, kind: type[F], stand_by: Callable[[], bool]) -> AsyncIterator[F | None]:
        """Lead while the block lasts. ``stand_by`` is asked while somebody else does; None once it says no.

        At the end of a block in which nothing went wrong, what Redis has not got yet is pushed, and the cursor kept.
        Raises one of AWAY, or LogRestored.
        """
        generation, servers, timeout_s = self._generation, self._servers, self._servers.connect_timeout_s
        self._health.beat(self._rounds)
        async with AsyncExitStack() as held:
            held.callback(self._health.rest, self._rounds)
            log = await LogReader.connect(servers.event_store_url, timeout_s=timeout_s)
            held.push_async_callback(log.close)
            if await log.epoch() != generation.log_epoch:
                raise LogRestored("the log has been restored since these views were built: rebuild them")
            views = await PostgresViews.connect(
                servers.read_model_url, generation.schema, self._share, timeout_s=timeout_s
            )
            held.push_async_callback(views.close)
            while not await views.try_lead():
                self._health.beat(self._rounds)
                if not stand_by():
                    yield None
                    return
                await asyncio.sleep(LEAD_S)
            cursor = await views.cursor()
            held.callback(metrics.leave, generation.schema, self._share)
            pusher = self._pusher((cursor.redis_position, cursor.redis_revision))
            follower = kind(
                log, views, pusher, cursor, options=self._options, share=self._share, generation=generation.schema
            )
            noticing = asyncio.create_task(self._notice(follower))
            held.callback(noticing.cancel)
            async with self._pushed(pusher):
                yield follower
                await self._drained(pusher)
                await follower.remember()

    async def _notice(self, follower: Follower) -> None:
        """Healing may take longer than a round may: what is committed counts as well."""
        noticed = None
        while True:
            getting_on = (follower.rounds, follower.cursor.pg_revision)
            if getting_on != noticed:
                noticed = getting_on
                self._health.beat(self._rounds)
            await asyncio.sleep(NOTICE_S)

    def _pusher(self, acknowledged: tuple[int, int]) -> CachePusher:
        generation, servers = self._generation, self._servers
        pusher = CachePusher(
            RedisViews(servers.redis, generation.redis_prefix, self._share),
            lambda: RowReader.connect(
                servers.read_model_url, generation.schema, self._share, timeout_s=servers.connect_timeout_s
            ),
            page=self._options.refill_rows,
            generation=generation.schema,
            share=self._share,
        )
        pusher.acknowledged = acknowledged
        return pusher

    @asynccontextmanager
    async def _pushed(self, pusher: CachePusher) -> AsyncIterator[None]:
        self._pushing = pushing = asyncio.create_task(pusher.run())
        try:
            yield
        finally:
            # Told as well as cancelled: the Redis client may lose a cancellation.
            pusher.end()
            pushing.cancel()
            with suppress(asyncio.CancelledError):
                await pushing

    def refuse_dead_pusher(self) -> None:
        """Raises what the cache's writer died of, which it is not meant to."""
        if self._pushing is not None and self._pushing.done():
            self._pushing.result()

    async def _drained(self, pusher: CachePusher) -> None:
        """Give what is queued for Redis a little time; what it does not get now it is given at the next start."""
        assert self._pushing is not None
        pusher.end()
        await asyncio.wait([self._pushing], timeout=DRAIN_S)
