"""The cached rows of one generation in Redis, put there by a script that guards every row by its version."""

from collections.abc import Mapping, Sequence
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final, NamedTuple

import msgspec
from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from projections.batches import ChangedItem
from projections.redis_layout import (
    RedisKeys,
    decode_filled,
    due_member,
    encode_filled,
    encode_level,
    encode_warehouse,
    sku_of_key,
)
from projections.share import Share
from projections.views.stock_levels import Level
from projections.views.warehouses import WarehouseRow

ROWS_PER_SCRIPT: Final = 200
"""A script stops the whole server: rows that one may put, a few milliseconds' worth."""
KEYS_PER_SCAN: Final = 1_000
WHOLE: Final = -1
"""The base of a level that comes with all of its members."""

_SCRIPT = files("projections").joinpath("push.lua").read_text(encoding="utf-8")
_SCRIPT_SHA = sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()


class NotFilled(Exception):
    """The cache was emptied, or never filled: nothing was put, and it must be filled whole."""


class LevelPush(NamedTuple):
    """A level, and how to bring its members of due holds to it: from version ``base``, or WHOLE.

    ``removed``: members; ``added``: score, member, score, member, ….
    """

    level: Level
    base: int
    removed: Sequence[str] = ()
    added: Sequence[int | str] = ()


class Push(NamedTuple):
    """The rows that one transaction named, and the cursor that it left."""

    levels: Sequence[LevelPush]
    warehouses: Sequence[WarehouseRow]
    position: int
    revision: int


def level_push(item: ChangedItem, level: Level) -> LevelPush:
    """What a batch did to ``item``; ``level`` is its row as it was written."""
    removed: list[str] = []
    added: list[int | str] = []
    for reservation_id, hold in item.holds.items():
        was, now = due_member(item.held.get(reservation_id)), due_member(hold)
        if was is not None and (now is None or now[0] != was[0]):
            removed.append(was[0])
        if now is not None and now != was:
            added += (now[1], now[0])
    return LevelPush(level, item.before, removed, added)


class RedisViews:
    """The cache of one generation, for the partitions of a share. Calls raise ``infra.redis.AWAY`` when it is away."""

    def __init__(self, redis: Redis, prefix: str, share: Share = Share()) -> None:  # noqa: B008  (immutable)
        self._redis = redis
        self._keys = RedisKeys(prefix)
        self._share = share
        self._fields = [str(partition) for partition in share.partitions]
        self._filling = self._keys.filling(share.partitions[0])

    async def filled(self) -> tuple[int, int] | None:
        """(position, revision) up to which the cache has everything; ``None``: it must be filled first."""
        values: Any = await self._redis.hmget(self._keys.filled, self._fields)
        if None in values:
            return None
        positions, revisions = zip(*map(decode_filled, values), strict=True)
        return min(positions), min(revisions)

    async def put(
        self, levels: Sequence[LevelPush], warehouses: Sequence[WarehouseRow], token: str = ""
    ) -> list[LevelPush]:
        """Put what is newer than what is there. The levels that must come WHOLE, because a version between is missing.

        ``token``: of the refill that this is part of. Raises NotFilled.
        """
        behind: list[LevelPush] = []
        scripts = [levels[i : i + ROWS_PER_SCRIPT] for i in range(0, len(levels), ROWS_PER_SCRIPT)] or [[]]
        replies = await self._run(
            [self._arguments(some, warehouses if n == 0 else (), token) for n, some in enumerate(scripts)]
        )
        for some, reply in zip(scripts, replies, strict=True):
            behind += [some[index - 1] for index in reply]
        return behind

    async def mark(self, position: int, revision: int, token: str = "") -> None:
        """Say that everything up to here is there; with ``token`` the refill is done. Raises NotFilled."""
        await self._run([self._arguments((), (), token, encode_filled(position, revision))])

    async def put_and_mark(self, push: Push) -> list[LevelPush]:
        """:meth:`put` and :meth:`mark` in one script if it is small enough for one; not marked if any is behind."""
        if len(push.levels) > ROWS_PER_SCRIPT:
            behind = await self.put(push.levels, push.warehouses)
            if not behind:
                await self.mark(push.position, push.revision)
            return behind
        filled = encode_filled(push.position, push.revision)
        (reply,) = await self._run([self._arguments(push.levels, push.warehouses, "", filled)])
        return [push.levels[index - 1] for index in reply]

    async def begin_refill(self, token: str) -> None:
        """Remove everything of the share, ``filled`` first: until it is back readers take Redis as down."""
        await self._redis.hdel(self._keys.filled, *self._fields)
        if self._share.is_whole:
            await remove_generation(self._redis, self._keys.prefix)
        else:
            await self._remove_share()
        await self._redis.set(self._filling, token)

    async def _remove_share(self) -> None:
        async for keys in _scan(self._redis, self._keys.prefix):
            own = [key for key in keys if (sku := sku_of_key(key)) is not None and self._share.has_sku(sku)]
            if own:
                await self._redis.unlink(*own)
        codes: Any = await self._redis.hkeys(self._keys.warehouses)
        own_codes = [code for code in codes if self._share.has_warehouse(code.decode())]
        if own_codes:
            await self._redis.hdel(self._keys.warehouses, *own_codes)

    async def _run(self, calls: Sequence[Sequence[bytes | str]]) -> list[list[int]]:
        try:
            replies = await self._send(calls)
        except NoScriptError:
            # A restarted server has forgotten it. The scripts before the refusal, if any, may run twice.
            await self._redis.script_load(_SCRIPT)
            replies = await self._send(calls)
        if any(reply is None for reply in replies):
            raise NotFilled
        return replies

    async def _send(self, calls: Sequence[Sequence[bytes | str]]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for arguments in calls:
                pipeline.evalsha(_SCRIPT_SHA, 2, *arguments)
            replies: list[Any] = await pipeline.execute()
        return replies

    def _arguments(
        self, levels: Sequence[LevelPush], warehouses: Sequence[WarehouseRow], token: str, filled: str = ""
    ) -> list[bytes | str]:
        rows = [
            [push.level.sku, push.level.warehouse, push.level.version, push.base, push.removed, push.added]
            for push in levels
        ]
        return [
            *(self._keys.filled, self._filling, self._keys.prefix, token, filled),
            msgspec.msgpack.encode([rows, [warehouse.code for warehouse in warehouses], self._fields]),
            *(encode_level(push.level) for push in levels),
            *(encode_warehouse(warehouse) for warehouse in warehouses),
        ]


async def remove_generation(redis: Redis, prefix: str) -> None:
    """Remove every key of a generation."""
    async for keys in _scan(redis, prefix):
        await redis.unlink(*keys)


async def _scan(redis: Redis, prefix: str) -> Any:
    cursor = 0
    while True:
        cursor, keys = await redis.scan(cursor, match=f"{prefix}:*", count=KEYS_PER_SCAN)
        if keys:
            yield keys
        if cursor == 0:
            return


def pushes_of(items: Sequence[ChangedItem], exact: Mapping[tuple[str, str], Any]) -> list[LevelPush]:
    """The pushes of a batch's items; ``exact``: their ``next_due_at`` where the store has made it exact."""
    pushes = []
    for item in items:
        level = item.level
        if not item.due_is_exact:
            level = msgspec.structs.replace(level, next_due_at=exact[level.sku, level.warehouse])
        pushes.append(level_push(item, level))
    return pushes
