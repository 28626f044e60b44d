"""Whatever happens to transport, processes and cache, the views end as the fold of the log, in both stores."""

import asyncio
import random
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import psycopg
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.events import Event, StockEvent
from infra.event_store.append_lock import SCHEMA
from projections.item_fold import ItemFold
from projections.redis_views import NotFilled
from projections.tables import HOLDS, MOVEMENTS, STOCK_LEVELS, hold_row, level_row, movement_row
from tests.support_histories import histories, played
from tests.support_views import LogWriter, Rig, Views, assert_cache_is_views, follower_rig

BATCH = 7


class World:
    """A log that grows out of a history that is known, its follower, and chance."""

    def __init__(self, log: LogWriter, rig: Rig, events: list[Event], chance: random.Random) -> None:
        self.log = log
        self.rig = rig
        self.events = events
        self.chance = chance

    async def append(self) -> None:
        count = self.chance.randint(1, 12)
        self.log.append(self.events[:count])
        del self.events[:count]

    async def step(self) -> None:
        await self.rig.follower.step()

    async def deliver_badly(self) -> None:
        """Some rows of the log, in any order, some of them twice."""
        rows = self.log.rows()
        if rows:
            await self.rig.follower.apply(self.chance.choices(rows, k=self.chance.randint(1, 9)))

    async def lose(self) -> None:
        """The cursor passes what was never applied."""
        rows = self.log.rows()
        if rows and rows[-1].position > self.rig.follower.cursor.pg_position:
            await self.rig.follower.apply([], position=rows[-1].position)

    async def push(self) -> None:
        try:
            await self.rig.pusher.push_queued(self.rig.rows)
        except NotFilled:
            await self.rig.pusher.synchronise(self.rig.rows)

    async def crash(self) -> None:
        """Nothing that waits is pushed; the next term may begin without a cache."""
        await self.rig.restart(cache=self.chance.random() < 0.7)

    async def empty_cache(self) -> None:
        await self.rig.redis.flushdb()

    async def die_in_a_transaction(self) -> None:
        await self.rig.writer.begin({}, self.rig.follower._stored)
        await self.crash()

    async def reconcile(self) -> None:
        rows = self.log.rows()
        while rows and await self.rig.follower.reconcile(rows[-1].position):
            pass

    async def settle(self) -> None:
        """Everything is in the log, and nothing goes wrong any more."""
        self.log.append(self.events)
        while await self.rig.follower.step():
            pass
        await self.reconcile()
        await self.rig.restart()


HAPPENINGS: list[Callable[[World], Awaitable[None]]] = [
    World.append,
    World.append,
    World.step,
    World.step,
    World.deliver_badly,
    World.lose,
    World.push,
    World.crash,
    World.empty_cache,
    World.die_in_a_transaction,
    World.reconcile,
]


def folded(events: list[Event]) -> dict[str, list[dict[str, Any]]]:
    """The rows that the events must leave: each stream folded by itself, in memory."""
    folds: dict[str, ItemFold] = {}
    rows: dict[str, list[dict[str, Any]]] = {"stock_levels": [], "holds": [], "movements": []}
    for event in events:
        if isinstance(event, StockEvent):
            movement = folds.setdefault(event.originator_id, ItemFold()).apply(event)
            if movement is not None:
                rows["movements"].append(dict(zip(MOVEMENTS.names, movement_row(movement), strict=True)))
    for fold in folds.values():
        fold.settle()
        assert fold.level is not None
        rows["stock_levels"].append(dict(zip(STOCK_LEVELS.names, level_row(fold.level, 0), strict=True)))
        rows["holds"] += [dict(zip(HOLDS.names, hold_row(hold), strict=True)) for hold in fold.holds.values()]
    return rows


def comparable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As both sides can say it: without JSON, buckets as they are stored, in key order."""
    left_out = {"revision", "shipments", "metadata"}
    plain = [
        {
            name: struct.pack("!7q", *value) if isinstance(value, tuple) else value
            for name, value in row.items()
            if name not in left_out
        }
        for row in rows
    ]
    return sorted(
        plain, key=lambda row: [str(row.get(name)) for name in ("sku", "warehouse", "version", "reservation_id")]
    )


def assert_views_are(views: Views, events: list[Event]) -> None:
    expected = folded(events)
    for table, rows in expected.items():
        assert comparable(views[table]) == comparable(rows), table
    warehouses = {
        event.originator_id: event.originator_version for event in events if not isinstance(event, StockEvent)
    }
    assert {f"warehouse:{row['code']}": row["version"] for row in views["warehouses"]} == warehouses
    assert views["dead_letters"] == []


async def run(url: str, redis_url: str, events: list[Event], happenings: list[int], seed: int) -> None:
    empty(url)
    async with follower_rig(url, redis_url, batch=BATCH) as rig:
        world = World(LogWriter(url), rig, list(events), random.Random(seed))
        for number in happenings:
            with suppress(NotFilled):
                await HAPPENINGS[number](world)
        await world.settle()
        assert_views_are(rig.views(), events)
        await assert_cache_is_views(rig)


def empty(url: str) -> None:
    """No log, and no views: the next follower makes the first generation again."""
    with psycopg.connect(url) as connection:
        connection.execute(f"TRUNCATE {SCHEMA}.stored_events")
        connection.execute("TRUNCATE stockhold_views.pointer, stockhold_views.generations")
        connection.execute("DROP SCHEMA IF EXISTS stockhold_views_g1 CASCADE")


@settings(max_examples=15, deadline=None)
@given(
    history=histories(40),
    happenings=st.lists(st.integers(0, len(HAPPENINGS) - 1), min_size=10, max_size=40),
    seed=st.integers(0, 2**32),
)
def test_the_views_converge(
    module_database_url: str, servers: Any, history: Any, happenings: list[int], seed: int
) -> None:
    asyncio.run(run(module_database_url, servers.redis_url, played(history).log, happenings, seed))
