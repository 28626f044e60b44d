"""The cache's writer, where no server is needed to see what it does."""

import asyncio

from infra.redis import connect_redis
from projections.cache_pusher import CachePusher
from projections.redis_views import RedisViews
from projections.row_reader import RowReader


async def test_one_that_is_told_to_end_before_it_has_begun_does_not_begin():
    async def connect_rows() -> RowReader:
        raise AssertionError("it has begun")

    async with connect_redis("redis://127.0.0.1:1/0") as nowhere:
        pusher = CachePusher(RedisViews(nowhere, "g1"), connect_rows)
        running = asyncio.create_task(pusher.run())
        pusher.end()
        await asyncio.wait_for(running, 5)
