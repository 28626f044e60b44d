"""Brings Redis up to what PostgreSQL has, beside the follower: PostgreSQL never waits for Redis.

What the follower commits is offered here and pushed in order. Whatever goes wrong (Redis away, emptied,
too slow) the answer is the same: compare what Redis says it holds with what PostgreSQL has, and push the
difference, or everything.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from secrets import token_hex
from typing import Final

from infra.postgres import ConnectionLost, StatementFailed
from infra.redis import AWAY
from projections.metrics import CACHE_CATCH_UPS, CACHE_REFILLS, CACHE_UP
from projections.redis_views import LevelPush, NotFilled, Push, RedisViews
from projections.row_reader import EVERYTHING, RowReader
from projections.views.warehouses import WarehouseRow

logger = logging.getLogger(__name__)

QUEUED_LEVELS_MAX: Final = 50_000
"""Rows that may wait; past that it is cheaper to read the newest from the tables."""
LEVELS_AT_ONCE: Final = 2_000
RETRY_S_MIN: Final = 0.05
RETRY_S_MAX: Final = 1.0


class _Missed(Exception):
    """More was committed than the queue could keep: what Redis lacks is read from the tables."""


class CachePusher:
    """The one writer of a generation's cache. ``page``: rows per round trip of a refill."""

    def __init__(
        self,
        cache: RedisViews,
        connect_rows: Callable[[], Awaitable[RowReader]],
        *,
        page: int = 1_000,
        look_s: float = 1.0,
        generation: str = "",
        share: Hashable = None,
    ) -> None:
        self._cache = cache
        self._connect_rows = connect_rows
        self._page = page
        self._look_s = look_s
        self._queue: deque[Push] = deque()
        self._queued_levels = 0
        self._accepting = False
        self._missed = False
        self._wake = asyncio.Event()
        self._ending = False
        self._whose = generation, share
        self._refills = CACHE_REFILLS.labels(generation)
        self._catch_ups = CACHE_CATCH_UPS.labels(generation)
        self.acknowledged = (0, 0)
        """(position, revision) that Redis is known to hold everything up to."""

    def offer(self, push: Push) -> None:
        """Take what was just committed; never waits. What is not taken is read from the tables later."""
        if not self._accepting:
            return
        if self._queued_levels + len(push.levels) > QUEUED_LEVELS_MAX:
            self._forget()
            self._missed = True
        else:
            self._queue.append(push)
            self._queued_levels += len(push.levels)
        self._wake.set()

    async def run(self) -> None:
        """Push until :meth:`end`, whatever happens to Redis meanwhile."""
        pause_s = RETRY_S_MIN
        while not self._ending:
            try:
                rows = await self._connect_rows()
                try:
                    await self.synchronise(rows)
                    pause_s = RETRY_S_MIN
                    CACHE_UP.set(*self._whose, 1)
                    await self._serve(rows)
                finally:
                    await rows.close()
            except (NotFilled, _Missed) as error:
                logger.info("the cache is brought up to date from the tables", extra={"why": type(error).__name__})
            except (*AWAY, ConnectionLost, StatementFailed) as error:
                self._forget()
                CACHE_UP.set(*self._whose, 0)
                logger.warning("the cache cannot be written", extra={"error": str(error)})
                await self._pause(pause_s)
                pause_s = min(RETRY_S_MAX, pause_s * 2)

    def end(self) -> None:
        """End :meth:`run` once what is queued has been pushed, or Redis is away."""
        self._ending = True
        self._wake.set()

    async def synchronise(self, rows: RowReader) -> None:
        """Bring Redis to what the tables say now, and begin to take what is offered. Raises NotFilled, AWAY."""
        # From here on what is committed is queued. It may be in the rows that are read below as well; the guard
        # of versions makes that harmless. The other way round something could be in neither.
        self._forget()
        self._accepting = True
        cursor = await rows.cursor()
        position, revision = cursor.pg_position, cursor.pg_revision
        filled = await self._cache.filled()
        if filled is None:
            await self._refill(rows, position, revision)
        elif filled[1] < revision:
            self._catch_ups.inc()
            async for levels in rows.newer(filled[1], self._page):
                await self._cache.put(levels, ())
            await self._cache.put((), await rows.warehouses(filled[1]))
            await self._cache.mark(position, revision)
        self.acknowledged = (position, revision)

    async def _refill(self, rows: RowReader, position: int, revision: int) -> None:
        # Emptied again while it is being filled, the token is gone as well, and the next step says NotFilled:
        # so nobody ever takes a part of the rows for all of them.
        started_s = time.monotonic()
        token = token_hex(8)
        await self._cache.begin_refill(token)
        count = 0
        async for levels in rows.newer(EVERYTHING, self._page):
            await self._cache.put(levels, (), token)
            count += len(levels)
        await self._cache.put((), await rows.warehouses(EVERYTHING), token)
        await self._cache.mark(position, revision, token)
        self._refills.inc()
        logger.info("the cache was filled", extra={"rows": count, "seconds": round(time.monotonic() - started_s, 3)})

    async def push_queued(self, rows: RowReader) -> None:
        """Push what is queued now. Raises NotFilled, AWAY; what was taken from the queue is then in the tables."""
        while self._queue:
            await self._push(self._take(), rows)

    async def _serve(self, rows: RowReader) -> None:
        while True:
            if self._missed:
                raise _Missed
            await self.push_queued(rows)
            if self._ending:
                return
            if not await self._woken() and await self._cache.filled() is None:
                raise NotFilled  # nobody writes, so nobody but us would notice that it was emptied

    async def _push(self, push: Push, rows: RowReader) -> None:
        behind = await self._cache.put_and_mark(push)
        if behind:
            await self._cache.put(await rows.whole([(p.level.sku, p.level.warehouse) for p in behind]), ())
            await self._cache.mark(push.position, push.revision)
        self.acknowledged = (push.position, push.revision)

    def _take(self) -> Push:
        """The oldest of the queue, and as many after it as fit into one round trip, in their order."""
        levels: list[LevelPush] = []
        warehouses: list[WarehouseRow] = []
        while True:
            push = self._queue.popleft()
            self._queued_levels -= len(push.levels)
            levels += push.levels
            warehouses += push.warehouses
            if not self._queue or len(levels) + len(self._queue[0].levels) > LEVELS_AT_ONCE:
                return Push(levels, warehouses, push.position, push.revision)

    def _forget(self) -> None:
        self._queue.clear()
        self._queued_levels = 0
        self._accepting = False
        self._missed = False

    async def _woken(self) -> bool:
        """Whether something was offered (or the end has come) before it is time to look at Redis."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._look_s):
                await self._wake.wait()
        woken = self._wake.is_set()
        self._wake.clear()
        return woken

    async def _pause(self, pause_s: float) -> None:
        deadline_s = time.monotonic() + pause_s
        while not self._ending and (left_s := deadline_s - time.monotonic()) > 0:
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._wake.wait()
