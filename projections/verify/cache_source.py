"""The cache of one generation as it lies in Redis: read item by item, each item's keys at one instant."""

import struct
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, Self

import msgspec
import redis

from projections.redis_layout import NEVER_US, RedisKeys, decode_filled, from_microseconds, split_level
from projections.verify.view_source import Item

ITEMS_PER_TRIP: Final = 100
KEYS_PER_SCAN: Final = 1_000


class CachedLevel(NamedTuple):
    """What Redis has of an item. ``unreadable``: why nothing else is here."""

    head: dict[str, Any]
    document: dict[str, Any]
    due: dict[str, datetime]
    unreadable: str | None = None


class CacheSource:
    """A client of Redis, on the keys of one generation. Raises redis.exceptions.ConnectionError."""

    def __init__(self, url: str, prefix: str) -> None:
        self._redis: Any = redis.Redis.from_url(url, socket_timeout=30, socket_connect_timeout=10)
        self._keys = RedisKeys(prefix)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._redis.close()

    def position(self, partitions: Sequence[int]) -> int | None:
        """Up to here the log is in the cache, by every partition; None: it is not filled."""
        filled = self._redis.hmget(self._keys.filled, partitions) if partitions else [None]
        known = [decode_filled(value)[0] for value in filled if value is not None]
        return min(known) if len(known) == len(filled) else None

    def levels(self, items: Sequence[Item]) -> dict[Item, CachedLevel]:
        """What there is of these items."""
        found = {}
        for first in range(0, len(items), ITEMS_PER_TRIP):
            page = items[first : first + ITEMS_PER_TRIP]
            # One transaction: a level and its due holds change together, and must be read together.
            with self._redis.pipeline(transaction=True) as pipe:
                for sku, warehouse in page:
                    pipe.hget(self._keys.stock(sku), warehouse)
                    pipe.zrange(self._keys.due(sku, warehouse), 0, -1, withscores=True)
                answers = pipe.execute()
            for item, value, members in zip(page, answers[::2], answers[1::2], strict=True):
                if value is not None or members:
                    found[item] = _level(value, members)
        return found

    def warehouses(self) -> dict[str, dict[str, Any]]:
        """The documents of all warehouses, by code; an empty one could not be read."""
        return {code.decode(): _warehouse(value) for code, value in self._redis.hgetall(self._keys.warehouses).items()}

    def items(self) -> Iterator[Item]:
        """Every item that has a level or due holds; one may come more than once."""
        stock, due = self._keys.stock("").rstrip("}"), self._keys.due("", "").rstrip("}@")
        for key in self._redis.scan_iter(f"{_escaped(stock)}*", KEYS_PER_SCAN):
            sku = key.decode().removeprefix(stock).removesuffix("}")
            for warehouse in self._redis.hkeys(key):
                yield sku, warehouse.decode()
        for key in self._redis.scan_iter(f"{_escaped(due)}*", KEYS_PER_SCAN):
            sku, _, warehouse = key.decode().removeprefix(due).partition("}@")
            yield sku, warehouse


def check_reachable(url: str) -> None:
    """Raises redis.exceptions.ConnectionError if there is no Redis at ``url``."""
    with redis.Redis.from_url(url, socket_timeout=10, socket_connect_timeout=10) as client:
        client.ping()


def _escaped(prefix: str) -> str:
    """``prefix`` as a pattern that means itself."""
    return prefix.translate({ord(sign): f"\\{sign}" for sign in "*?[]\\"})


def _level(value: bytes | None, members: list[tuple[bytes, float]]) -> CachedLevel:
    due = {member.decode(): from_microseconds(int(score)) for member, score in members}
    if value is None:
        return CachedLevel({}, {}, due, "due holds without a level")
    try:
        header, document = split_level(value)
        read = msgspec.json.decode(document + b"}")
    except (struct.error, msgspec.MsgspecError) as error:
        return CachedLevel({}, {}, due, f"cannot be read: {error}")
    head = {
        "version": header.version,
        "free": header.free,
        "low_stock_threshold": header.low_stock_threshold,
        "backorder_limit": header.backorder_limit,
        "next_due": None if header.next_due_us == NEVER_US else from_microseconds(header.next_due_us),
        "as_of": from_microseconds(header.as_of_us),
        "discontinued": header.discontinued,
        "stale": header.stale,
    }
    return CachedLevel(head, read, due)


def _warehouse(value: bytes) -> dict[str, Any]:
    """The document, if its version is also the value's."""
    try:
        document: dict[str, Any] = msgspec.json.decode(value[8:])
        version: int = struct.unpack_from("<q", value)[0]
    except (struct.error, msgspec.MsgspecError):
        return {}
    return document if document.get("version") == version else {}
