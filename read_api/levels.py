"""Levels of many SKUs at once: from Redis in one round trip, else from Postgres; never a due hold as active."""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from infra.documents import encode
from infra.http_app import HttpProblem
from infra.redis_pipeline import RedisPipeline, packed
from projections.redis_layout import (
    DISCONTINUED,
    LEVEL_HEADER,
    STALE,
    decode_level,
    due_units,
    microseconds,
)
from projections.tables import LEVEL_SELECT, level_from
from projections.views.stock_levels import Level
from read_api.clock import ReadClock
from read_api.current import Current
from read_api.database import Row

Item = tuple[str, str]
"""SKU and warehouse."""


class Shown(NamedTuple):
    """A level as it is shown now, due holds not counted; ``open_document`` is its JSON without the last brace."""

    warehouse: str
    version: int
    free: int
    threshold: int
    backorder_limit: int
    as_of_us: int
    flags: int
    open_document: bytes

    @property
    def stale(self) -> bool:
        return bool(self.flags & STALE)

    @property
    def document(self) -> bytes:
        return self.open_document + b"}"


class SkuLevels(NamedTuple):
    """Every level of one SKU, and which of the views said so (``redis`` or ``postgres``)."""

    levels: list[Shown]
    source: bytes


REDIS: Final = b"redis"
POSTGRES: Final = b"postgres"
_HEADER_SIZE: Final = LEVEL_HEADER.size
_TURNS_MAX: Final = 3
_FIRST_PAUSE_S: Final = 0.001
_POSTGRES_AFTER_S: Final = 0.2
"""A read that waits for a version asks Redis alone for so long: it is seldom behind, and Postgres is dearer."""

LEVEL_COLUMNS: Final = f"""
{LEVEL_SELECT}, CASE WHEN l.next_due_at <= %(now)s THEN (
    SELECT coalesce(sum(h.active), 0)::bigint FROM {{views}}.holds h
    WHERE h.sku = l.sku AND h.warehouse = l.warehouse AND (h.active > 0 OR h.committed > 0) AND h.due_at <= %(now)s
) ELSE 0 END AS due
"""  # noqa: S608  # constants alone
"""Of ``{views}.stock_levels l``, for :func:`level_of`; the last one is the units that are due at ``now``."""

_LEVELS_OF_SKUS: Final = f"SELECT {LEVEL_COLUMNS} FROM {{views}}.stock_levels l WHERE l.sku = ANY(%(skus)s)"  # noqa: S608  # constants alone


def level_of(row: Row) -> tuple[Level, int]:
    """The level, and how many of its reserved units are due."""
    return level_from(row[:-1]), row[-1]


def shown(level: Level, due: int) -> Shown:
    """``level`` without the ``due`` units of holds that have ended."""
    return Shown(
        level.warehouse,
        level.version,
        level.free + due,
        level.low_stock_threshold,
        level.backorder_limit,
        microseconds(level.as_of),
        (DISCONTINUED if level.discontinued else 0) | (STALE if level.stale else 0),
        encode(level.document(due))[:-1],
    )


def shown_from_redis(reply: Sequence[bytes], now_us: int) -> tuple[list[Shown], list[str]]:
    """The levels of a SKU's hash, and the warehouses of those that need a look at what is due."""
    levels: list[Shown] = []
    due: list[str] = []
    unpack = LEVEL_HEADER.unpack_from
    for index in range(0, len(reply), 2):
        value = reply[index + 1]
        version, free, threshold, backorder_limit, next_due_us, as_of_us, flags = unpack(value)
        warehouse = reply[index].decode()
        if next_due_us <= now_us:
            due.append(warehouse)
        levels.append(
            Shown(warehouse, version, free, threshold, backorder_limit, as_of_us, flags, value[_HEADER_SIZE:])
        )
    return levels, due


class LevelReader:
    """Reads levels for whoever can wait; the hottest route asks Redis itself and comes here with what is special."""

    def __init__(
        self, redis: RedisPipeline, current: Current, clock: ReadClock, *, wait_s: float, poll_s: float
    ) -> None:
        self._redis = redis
        self._current = current
        self._clock = clock
        self._wait_s = wait_s
        self._poll_s = poll_s

    async def read(
        self, skus: Iterable[str], versions: Mapping[Item, int], items: Collection[Item] = ()
    ) -> dict[str, SkuLevels]:
        """The levels of each SKU that is known, waiting until the items in ``versions`` have come so far.

        ``items``: those that must be found in Postgres before they count as unknown; a SKU always must.
        Raises HttpProblem ``not-fresh-enough``, ``unavailable``.
        """
        wanted = dict.fromkeys([*skus, *(sku for sku, _ in versions)])
        found = await self._look(list(wanted), items)
        if fresh_enough(found, versions):
            return found
        return await self._wait(list(wanted), versions)

    async def _wait(self, skus: list[str], versions: Mapping[Item, int]) -> dict[str, SkuLevels]:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        pause_s = _FIRST_PAUSE_S
        while (left_s := begun_s + self._wait_s - loop.time()) > 0:
            await asyncio.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 2, self._poll_s)
            found = await self._from_redis(skus)
            if found is None or loop.time() - begun_s > min(_POSTGRES_AFTER_S, self._wait_s / 2):
                found = await self._from_postgres(skus)
            if fresh_enough(found, versions):
                # Once more and whole: a SKU that was asked for beside the one waited for may be in Postgres alone.
                return await self._look_again(found, skus)
        raise not_fresh_enough(versions)

    async def _look_again(self, found: dict[str, SkuLevels], skus: list[str]) -> dict[str, SkuLevels]:
        missing = [sku for sku in skus if sku not in found]
        return found | await self._from_postgres(missing) if missing else found

    async def _look(self, skus: list[str], items: Collection[Item]) -> dict[str, SkuLevels]:
        found = await self._from_redis(skus)
        if found is None:
            return await self._from_postgres(skus)
        missing = {sku for sku in skus if sku not in found} | {item[0] for item in items if not has(found, item)}
        return found | await self._from_postgres(list(missing)) if missing else found

    async def _from_redis(self, skus: list[str]) -> dict[str, SkuLevels] | None:
        """None if Redis is away, or does not have everything."""
        views = self._current.views
        keys = views.keys
        due: dict[str, list[str]] = {}
        for _ in range(_TURNS_MAX):
            # A level and what is due of it are read at one moment: a sweep between the two would count twice.
            commands = [packed("HGETALL", keys.stock(sku)) for sku in skus]
            now_us = self._clock.now_us()
            ended = b"%d" % now_us
            for sku, warehouses in due.items():
                commands += [packed("ZRANGE", keys.due(sku, code), "-inf", ended, "BYSCORE") for code in warehouses]
            replies = await self._redis.fetch(commands if not due else [_MULTI, *commands, _EXEC])
            if replies is None:
                return None
            found, more = _understand(skus, due, replies[-1] if due else replies, now_us)
            if not more:
                return found
            due = {sku: sorted({*due.get(sku, ()), *more.get(sku, ())}) for sku in {*due, *more}}
        return None

    async def _from_postgres(self, skus: list[str]) -> dict[str, SkuLevels]:
        rows = await self._current.rows(_LEVELS_OF_SKUS, {"skus": skus, "now": self._clock.now()})
        found: dict[str, SkuLevels] = {}
        for row in rows:
            level, due = level_of(row)
            found.setdefault(level.sku, SkuLevels([], POSTGRES)).levels.append(shown(level, due))
        return found


_MULTI: Final = packed("MULTI")
_EXEC: Final = packed("EXEC")


class FilledGate:
    """Redis counts as away while a partition of the cache is not whole: what is there might be a part of it."""

    def __init__(self, current: Current) -> None:
        self._current = current

    def commands(self) -> Sequence[bytes]:
        views = self._current.views_or_none
        return () if views is None else (packed("HLEN", views.keys.filled),)

    def is_open(self, replies: Sequence[Any]) -> bool:
        views = self._current.views_or_none
        return views is not None and replies[0] == views.partitions


def _understand(
    skus: list[str], due: Mapping[str, list[str]], replies: Sequence[Any], now_us: int
) -> tuple[dict[str, SkuLevels], dict[str, list[str]]]:
    """The levels, and the warehouses by SKU whose due holds were not asked for although they should have been."""
    members = iter(replies[len(skus) :])
    units = {(sku, code): due_units(next(members)) for sku, codes in due.items() for code in codes}
    found: dict[str, SkuLevels] = {}
    more: dict[str, list[str]] = {}
    for sku, reply in zip(skus, replies, strict=False):
        if not reply:
            continue
        levels, due_at = shown_from_redis(reply, now_us)
        for code in due_at:
            if (sku, code) not in units:
                more.setdefault(sku, []).append(code)
        values = dict(zip(reply[::2], reply[1::2], strict=True))
        corrected = [
            shown(decode_level(values[level.warehouse.encode()]), units[sku, level.warehouse])
            if (sku, level.warehouse) in units
            else level
            for level in levels
        ]
        found[sku] = SkuLevels(corrected, REDIS)
    return found, more


def has(found: Mapping[str, SkuLevels], item: Item) -> bool:
    return level_in(found, item) is not None


def level_in(found: Mapping[str, SkuLevels], item: Item) -> Shown | None:
    """The level of ``item`` among those found."""
    sku, warehouse = item
    return next((level for level in found[sku].levels if level.warehouse == warehouse), None) if sku in found else None


def fresh_enough(found: Mapping[str, SkuLevels], versions: Mapping[Item, int]) -> bool:
    """Whether every item is there at its version. Raises HttpProblem ``not-fresh-enough`` if one stands still."""
    for item, version in versions.items():
        level = level_in(found, item)
        if level is not None and level.stale:
            raise stands_still(item)
        if level is None or level.version < version:
            return False
    return True


def not_fresh_enough(versions: Mapping[Item, int]) -> HttpProblem:
    named = [f"{sku}@{warehouse}:{version}" for (sku, warehouse), version in versions.items()]
    return HttpProblem("not-fresh-enough", "the view has not come so far yet", min_version=named)


def stands_still(item: Item) -> HttpProblem:
    """Of an item behind an event that could not be read: no version after it will come by waiting."""
    sku, warehouse = item
    return HttpProblem(
        "not-fresh-enough", f"the view of {sku} at {warehouse} stands still until it is repaired", stale=True
    )
