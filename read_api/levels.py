"""Levels of many SKUs at once: from Redis in one round trip, else from Postgres; never a due hold as active."""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from infra.documents import encode
from infra.http_app import HttpProblem
from infra.redis_pipeline import RedisPipeline, packed
from projections.redis_layout import LEVEL_HEADER, decode_level, due_units, encode_level, split_level
from projections.tables import LEVEL_SELECT, level_from
from projections.views.stock_levels import Level
from read_api.clock import ReadClock
from read_api.current import Current
from read_api.database import Row

Item = tuple[str, str]
"""SKU and warehouse."""


class SkuLevels(NamedTuple):
    """Every level of one SKU as it is shown now: warehouse, value, warehouse, value …

    ``value`` is as :mod:`projections.redis_layout` has it, due holds not counted. ``source``: which of the
    views said so, ``redis`` or ``postgres``.
    """

    values: Sequence[bytes]
    source: bytes

    def value_of(self, warehouse: str) -> bytes | None:
        """The value of the level at ``warehouse``."""
        values, code = self.values, warehouse.encode()
        return next((values[at + 1] for at in range(0, len(values), 2) if values[at] == code), None)


REDIS: Final = b"redis"
POSTGRES: Final = b"postgres"
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


def shown(level: Level, due: int) -> Level:
    """``level`` without the ``due`` units of holds that have ended; it stands as long as nothing happens."""
    return replace(level, reserved=level.reserved - due, next_due_at=None)


def document(level: Level, due: int) -> bytes:
    """The level's JSON."""
    return encode(level.document(due))


def open_document(value: bytes) -> bytes:
    """The JSON of a level's value, without the last brace."""
    return value[LEVEL_HEADER.size :]


def due_warehouses(values: Sequence[bytes], now_us: int) -> list[str]:
    """Where a hold may have ended by now."""
    headers = ((values[at], split_level(values[at + 1])[0]) for at in range(0, len(values), 2))
    return [code.decode() for code, header in headers if header.next_due_us <= now_us]


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
        missing = {sku for sku in skus if sku not in found} | {
            item[0] for item in items if value_in(found, item) is None
        }
        return found | await self._from_postgres(list(missing)) if missing else found

    async def _from_redis(self, skus: list[str]) -> dict[str, SkuLevels] | None:
        """None if Redis is away, or does not have everything."""
        views = self._current.views
        keys = views.keys
        due: dict[str, list[str]] = {}
        for _ in range(_TURNS_MAX):
            # A level and what is due of it are read at one moment: a sweep between the two would count twice.
            commands = [views.levels_command(sku) for sku in skus]
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
            values = found.setdefault(level.sku, SkuLevels([], POSTGRES)).values
            assert isinstance(values, list)
            values += (level.warehouse.encode(), encode_level(shown(level, due)))
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
    for sku, values in zip(skus, replies, strict=False):
        if not values:
            continue
        corrected = list(values)
        for code in due_warehouses(values, now_us):
            if (sku, code) in units:
                at = values.index(code.encode()) + 1
                corrected[at] = encode_level(shown(decode_level(values[at]), units[sku, code]))
            else:
                more.setdefault(sku, []).append(code)
        found[sku] = SkuLevels(corrected, REDIS)
    return found, more


def value_in(found: Mapping[str, SkuLevels], item: Item) -> bytes | None:
    """The value of ``item`` among those found."""
    sku, warehouse = item
    return found[sku].value_of(warehouse) if sku in found else None


def fresh_enough(found: Mapping[str, SkuLevels], versions: Mapping[Item, int]) -> bool:
    """Whether every item is there at its version. Raises HttpProblem ``not-fresh-enough`` if one stands still."""
    fresh = True
    for item, version in versions.items():
        value = value_in(found, item)
        header = None if value is None else split_level(value)[0]
        if header is not None and header.stale:
            raise stands_still(item)
        # What was never registered is at version 0.
        fresh = fresh and (header.version if header is not None else 0) >= version
    return fresh


def not_fresh_enough(versions: Mapping[Item, int]) -> HttpProblem:
    named = [f"{sku}@{warehouse}:{version}" for (sku, warehouse), version in versions.items()]
    return HttpProblem("not-fresh-enough", "the view has not come so far yet", min_version=named)


def stands_still(item: Item) -> HttpProblem:
    """Of an item behind an event that could not be read: no version after it will come by waiting."""
    sku, warehouse = item
    return HttpProblem(
        "not-fresh-enough", f"the view of {sku} at {warehouse} stands still until it is repaired", stale=True
    )
