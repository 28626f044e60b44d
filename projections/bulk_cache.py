"""Fills a new generation's cache beside its tables, from the same folds: nothing is read back for it.

Whatever goes wrong with Redis meanwhile, the tables are not concerned: the cache is then not marked as filled, and whoever
takes the generation over fills it from them (:mod:`projections.cache_pusher`).
"""

import logging
from collections.abc import Iterable, Sequence
from secrets import token_hex
from typing import Final, NamedTuple

from redis.asyncio import Redis

from domain.hold import Hold
from infra.redis import AWAY, connect_redis
from projections.redis_layout import due_member
from projections.redis_views import WHOLE, LevelPush, NotFilled, RedisViews
from projections.share import Share
from projections.views.stock_levels import Level
from projections.views.warehouses import WarehouseRow

logger = logging.getLogger(__name__)

LEVELS_AT_ONCE: Final = 2_000


class Target(NamedTuple):
    """The cache of a generation, and the token under which it is being filled."""

    redis_url: str
    prefix: str
    partitions: int
    token: str


def whole_level(level: Level, holds: Iterable[Hold]) -> LevelPush:
    """``level`` with the members of all its holds."""
    added: list[int | str] = []
    for hold in holds:
        due = due_member(hold)
        if due is not None:
            added += (due[1], due[0])
    return LevelPush(level, WHOLE, (), added)


async def begin(redis: Redis, redis_url: str, prefix: str, partitions: int) -> Target | None:
    """Begin to fill the cache of a generation; ``None`` if Redis is away."""
    target = Target(redis_url, prefix, partitions, token_hex(8))
    try:
        await _views(redis, target).begin_refill(target.token)
    except AWAY as error:
        _say(error)
        return None
    return target


async def put(target: Target, levels: Sequence[LevelPush], warehouses: Sequence[WarehouseRow]) -> bool:
    """Put what a part of the log came to; false if that was not to be."""
    async with connect_redis(target.redis_url) as redis:
        views = _views(redis, target)
        try:
            for first in range(0, len(levels), LEVELS_AT_ONCE):
                await views.put(levels[first : first + LEVELS_AT_ONCE], (), target.token)
            await views.put((), warehouses, target.token)
        except (*AWAY, NotFilled) as error:
            _say(error)
            return False
    return True


async def finish(redis: Redis, target: Target, position: int, revision: int) -> None:
    """Every part has been put: readers may use it, and its writer goes on from here."""
    try:
        await _views(redis, target).mark(position, revision, target.token)
    except (*AWAY, NotFilled) as error:
        _say(error)


def _views(redis: Redis, target: Target) -> RedisViews:
    return RedisViews(redis, target.prefix, Share.everything(target.partitions))


def _say(error: Exception) -> None:
    logger.warning("the cache is not filled beside the tables", extra={"error": repr(error)})
