"""A log to write to, a follower to drive step by step, and the views as plain values to compare.

log = LogWriter(database_url)
log.happened("A", "W1", registered(), restocked(10), reserved("r-1", 3))
async with follower_rig(database_url, redis_url) as rig:
    await rig.catch_up()
    assert await rig.views() == ...
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql
from redis.asyncio import Redis

from domain.events import Event, WarehouseChanged, WarehouseCreated, WarehouseDetails
from domain.values import stock_stream, warehouse_stream
from infra.event_store.append_lock import CHANNEL, SCHEMA, append_lock_key
from infra.event_store.log_reader import LogReader, LogRow
from infra.event_store.mapper import EventMapper
from infra.redis import connect_redis
from projections import generations
from projections.cache_pusher import CachePusher
from projections.follower import Follower, FollowerOptions
from projections.generations import Generation
from projections.postgres_views import PostgresViews
from projections.redis_layout import RedisKeys, decode_level, decode_warehouse
from projections.redis_views import RedisViews
from projections.row_reader import RowReader
from projections.views.stock_levels import Level
from tests.support import eventually_async
from tests.support_domain import NOW, ORIGIN, Fact

TABLES = {
    "stock_levels": ("sku", "warehouse"),
    "policies": ("sku", "warehouse"),
    "reservations": ("reservation_id",),
    "holds": ("reservation_id", "sku", "warehouse"),
    "movements": ("sku", "warehouse", "version"),
    "warehouses": ("code",),
    "dead_letters": ("stream",),
}
# What tells when and how a row came to be there, not what it says.
INCIDENTAL = {"revision", "parked_at", "attempts"}

Views = dict[str, list[dict[str, Any]]]


class LogWriter:
    """Appends to the log as every writer does: under the lock, with a notice."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._mapper = EventMapper()
        self._versions: dict[str, int] = {}

    def happened(self, sku: str, warehouse: str, *facts: Fact, at: datetime = NOW) -> list[Event]:
        """Append what happened to one item, in one transaction."""
        events = [self.event(stock_stream(sku, warehouse), fact, at) for fact in facts]
        self.append(events)
        return events

    def warehouse(self, code: str, at: datetime = NOW, **details: Any) -> None:
        """Append the creation of a warehouse, or its change."""
        stream = warehouse_stream(code)
        kind = WarehouseChanged if self._versions.get(stream) else WarehouseCreated
        self.append([self.event(stream, Fact(kind, {"details": WarehouseDetails(**details)}), at)])

    def event(self, stream: str, fact: Fact, at: datetime = NOW) -> Event:
        """The next event of ``stream``, not yet appended."""
        version = self._versions.get(stream, 0) + 1
        self._versions[stream] = version
        return fact.at(stream, version, at, ORIGIN)

    def append(self, events: Iterable[Event]) -> None:
        self.append_rows([(e.originator_id, e.originator_version, e.TOPIC, self._mapper.encode(e)) for e in events])

    def append_poison(self, stream: str, topic: str = "stock-item.no-such-thing", state: bytes = b"{}") -> int:
        """Append something that no event class can read; its version."""
        version = self._versions.get(stream, 0) + 1
        self._versions[stream] = version
        self.append_rows([(stream, version, topic, state)])
        return version

    def append_rows(self, rows: list[tuple[str, int, str, bytes]]) -> None:
        with psycopg.connect(self._url, options=f"-c search_path={SCHEMA}") as connection:
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [append_lock_key()])
            with connection.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO stored_events (originator_id, originator_version, topic, state)"
                    " VALUES (%s, %s, %s, %s)",
                    rows,
                )
            connection.execute("SELECT pg_notify(%s, '')", [CHANNEL])

    def rewrite(self, stream: str, version: int, event: Event) -> None:
        """Put ``event`` in the place of another, as a repair of the log by hand would."""
        with psycopg.connect(self._url, options=f"-c search_path={SCHEMA}") as connection:
            connection.execute(
                "UPDATE stored_events SET topic = %s, state = %s WHERE originator_id = %s AND originator_version = %s",
                [event.TOPIC, self._mapper.encode(event), stream, version],
            )

    def rows(self) -> list[LogRow]:
        """The whole log."""
        with psycopg.connect(self._url, options=f"-c search_path={SCHEMA}") as connection:
            return [
                LogRow(*row)
                for row in connection.execute(
                    "SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events"
                    " ORDER BY notification_id"
                )
            ]


def read_views(url: str, schema: str) -> Views:
    """Every table of a generation, in key order, without what is incidental."""
    views = {}
    with psycopg.connect(url, row_factory=psycopg.rows.dict_row) as connection:
        for table, key in TABLES.items():
            order = sql.SQL(", ").join(map(sql.Identifier, key))
            query = sql.SQL("SELECT * FROM {} ORDER BY {}").format(sql.Identifier(schema, table), order)
            views[table] = [
                {name: value for name, value in row.items() if name not in INCIDENTAL}
                for row in connection.execute(query)
            ]
    return views


@dataclass
class Cached:
    """What Redis has of a generation."""

    filled: bool
    levels: dict[tuple[str, str], Level]
    due: dict[tuple[str, str], dict[str, float]]
    warehouses: dict[str, Any]


async def read_cache(redis: Any, prefix: str) -> Cached:
    """``redis``: a client that answers in bytes, which its stubs do not say."""
    keys = RedisKeys(prefix)
    cached = Cached(bool(await redis.exists(keys.filled)), {}, {}, {})
    async for key in redis.scan_iter(f"{prefix}:stock:*"):
        for value in (await redis.hgetall(key)).values():
            level = decode_level(value)
            cached.levels[level.sku, level.warehouse] = level
            members = await redis.zrange(keys.due(level.sku, level.warehouse), 0, -1, withscores=True)
            if members:
                cached.due[level.sku, level.warehouse] = {member.decode(): score for member, score in members}
    for code, value in (await redis.hgetall(keys.warehouses)).items():
        cached.warehouses[code.decode()] = decode_warehouse(value)
    return cached


class Rig:
    """One generation with a follower and a pusher that do nothing unless they are told to."""

    def __init__(self, url: str, redis: Redis, generation: Generation, options: FollowerOptions) -> None:
        self.url = url
        self.redis = redis
        self.generation = generation
        self.keys = RedisKeys(generation.redis_prefix)
        self._options = options
        self._open = AsyncExitStack()
        self.log: LogReader
        self.writer: PostgresViews
        self.rows: RowReader
        self.pusher: CachePusher
        self.follower: Follower

    async def start(self, *, cache: bool = True) -> None:
        """Begin a term of leadership; ``cache``: bring Redis up to date and let it be offered what is committed."""
        self.log = await LogReader.connect(self.url)
        self._open.push_async_callback(self.log.close)
        self.writer = await PostgresViews.connect(self.url, self.generation.schema)
        self._open.push_async_callback(self.writer.close)
        self.rows = await RowReader.connect(self.url, self.generation.schema)
        self._open.push_async_callback(self.rows.close)
        # The server takes a moment to notice that the connection of the last term is gone.
        await eventually_async(self.writer.try_lead, what="leading")
        self.pusher = CachePusher(
            RedisViews(self.redis, self.generation.redis_prefix),
            lambda: RowReader.connect(self.url, self.generation.schema),
            page=self._options.refill_rows,
        )
        if cache:
            await self.pusher.synchronise(self.rows)
        self.follower = Follower(self.log, self.writer, self.pusher, await self.writer.cursor(), options=self._options)

    async def stop(self) -> None:
        """Let go of everything as a crash would: nothing is finished, nothing pushed."""
        await self._open.aclose()
        self._open = AsyncExitStack()

    async def restart(self, *, cache: bool = True) -> None:
        await self.stop()
        await self.start(cache=cache)

    async def catch_up(self) -> None:
        """Follow to the head of the log and push everything."""
        while await self.follower.step():
            pass
        await self.pusher.push_queued(self.rows)

    def views(self) -> Views:
        return read_views(self.url, self.generation.schema)

    async def cached(self) -> Cached:
        return await read_cache(self.redis, self.generation.redis_prefix)

    def level(self, sku: str, warehouse: str) -> dict[str, Any] | None:
        return next(
            (row for row in self.views()["stock_levels"] if (row["sku"], row["warehouse"]) == (sku, warehouse)), None
        )

    def execute(self, statement: str, *params: Any) -> list[Any]:
        """Run a statement in the generation's schema, by somebody else's connection."""
        with psycopg.connect(self.url, options=f"-c search_path={self.generation.schema}") as connection:
            cursor = connection.execute(statement, params)
            return cursor.fetchall() if cursor.description else []


@asynccontextmanager
async def new_generation(url: str) -> AsyncIterator[Generation]:
    """The first generation of a fresh database."""
    async with await generations.connect(url) as connection:
        await generations.ensure_first(connection, log_epoch=1)
        generation = await generations.current(connection)
        assert generation is not None
        yield generation


@asynccontextmanager
async def follower_rig(url: str, redis_url: str, *, cache: bool = True, **options: Any) -> AsyncIterator[Rig]:
    """A rig on the first generation, started."""
    async with connect_redis(redis_url) as redis, new_generation(url) as generation:
        rig = Rig(url, redis, generation, FollowerOptions(**options))
        try:
            await rig.start(cache=cache)
            yield rig
        finally:
            await rig.stop()


async def assert_cache_is_views(rig: Rig) -> None:
    """Redis holds exactly what the tables say: levels, due holds, warehouses."""
    views, cached = rig.views(), await rig.cached()
    assert cached.filled
    stored = {(row["sku"], row["warehouse"]): Level(**row) for row in views["stock_levels"]}
    assert cached.levels == stored
    due: dict[tuple[str, str], dict[str, float]] = {}
    for hold in views["holds"]:
        if hold["due_at"] is not None:
            members = due.setdefault((hold["sku"], hold["warehouse"]), {})
            members[f"{hold['active']}:{hold['reservation_id']}"] = hold["due_at"].timestamp() * 1e6
    assert {item: dict.fromkeys(members) for item, members in cached.due.items()} == {
        item: dict.fromkeys(members) for item, members in due.items()
    }
    for item, members in due.items():
        for member, score in members.items():
            assert abs(cached.due[item][member] - score) < 1
    assert {code: warehouse.version for code, warehouse in cached.warehouses.items()} == {
        row["code"]: row["version"] for row in views["warehouses"]
    }
