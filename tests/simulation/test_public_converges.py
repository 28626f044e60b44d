"""Whatever happens to transport and publishers, others are told what the log says: all of it, and each item's in its order."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import psycopg
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.events import Event
from infra.event_store.append_lock import SCHEMA
from infra.event_store.log_reader import LogRow
from infra.kafka.event_batches import MessageRow, encode_batch
from tests.support_histories import histories, played
from tests.support_public import PublicRig, Recorder, first_of_each, of_each_item, public_rig, tell
from tests.support_views import LogWriter


class World:
    """A log that grows out of a history that is known, two publishers that both believe to own everything, and chance."""

    def __init__(self, log: LogWriter, rigs: list[PublicRig], events: list[Event], chance: random.Random) -> None:
        self.log = log
        self.rigs = rigs
        self.events = events
        self.chance = chance
        self.sink = Recorder()
        for rig in rigs:
            rig.sink = self.sink

    def one(self) -> PublicRig:
        return self.chance.choice(self.rigs)

    def some(self, most: int = 9) -> list[LogRow]:
        """Rows of the log, in any order, some of them twice."""
        rows = self.log.rows()
        return self.chance.choices(rows, k=self.chance.randint(1, most)) if rows else []

    async def append(self) -> None:
        count = self.chance.randint(1, 12)
        self.log.append(self.events[:count])
        del self.events[:count]

    async def deliver(self) -> None:
        """What came last, in order, as a message would bring it; one event of it may be too large for that."""
        rows = self.log.rows()[-self.chance.randint(1, 12) :]
        if rows:
            sent = [MessageRow(*row)._replace(state=None if self.chance.random() < 0.1 else row.state) for row in rows]
            await self.one().publisher.deliver([encode_batch(1, sent)])

    async def deliver_badly(self) -> None:
        await self.one().publisher.apply(self.some())

    async def deliver_to_both(self) -> None:
        """At the same time."""
        await asyncio.gather(*(rig.publisher.apply(self.some(20)) for rig in self.rigs))

    async def die(self) -> None:
        """The brokers have it, and the one that sent it is gone before it could note that."""
        rig = self.one()
        self.sink.dies = True
        with suppress(ConnectionError):
            await rig.publisher.apply(self.some())
        self.sink.dies = False
        await rig.restart()
        rig.sink = self.sink
        rig.publisher._sink = self.sink

    async def reconcile(self) -> None:
        rows = self.log.rows()
        rig = self.one()
        while rows and await rig.publisher.reconcile(rows[-1].position):
            pass

    async def forget_a_fold(self) -> None:
        """As if another release had made the states."""
        self.one().execute("UPDATE streams SET fold = -1, level = '{}'")

    async def settle(self) -> None:
        """Everything is in the log, and nothing goes wrong any more."""
        self.log.append(self.events)
        await self.rigs[0].restart()
        self.rigs[0].publisher._sink = self.sink
        rows = self.log.rows()
        while rows and await self.rigs[0].publisher.reconcile(rows[-1].position):
            pass


HAPPENINGS: list[Callable[[World], Awaitable[None]]] = [
    World.append,
    World.append,
    World.deliver,
    World.deliver,
    World.deliver_badly,
    World.deliver_to_both,
    World.die,
    World.reconcile,
    World.forget_a_fold,
]


async def run(url: str, events: list[Event], happenings: list[int], seed: int) -> None:
    empty(url)
    async with public_rig(url) as one, public_rig(url) as other:
        world = World(LogWriter(url), [one, other], list(events), random.Random(seed))
        for rig in (one, other):
            rig.publisher._sink = world.sink
        for number in happenings:
            await HAPPENINGS[number](world)
        await world.settle()
        expected = tell(events)
        assert {(m.source, m.id, m.value) for m in world.sink.sent} == {(m.source, m.id, m.value) for m in expected}
        assert of_each_item(first_of_each(world.sink.sent)) == of_each_item(expected)
        assert one.execute("SELECT * FROM dead_letters") == []


def empty(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(f"TRUNCATE {SCHEMA}.stored_events")
        connection.execute(
            "TRUNCATE stockhold_public.streams, stockhold_public.holds, stockhold_public.partitions,"
            " stockhold_public.dead_letters"
        )


@settings(max_examples=12, deadline=None)
@given(
    history=histories(40),
    happenings=st.lists(st.integers(0, len(HAPPENINGS) - 1), min_size=10, max_size=40),
    seed=st.integers(0, 2**32),
)
def test_the_public_topics_converge(module_database_url: str, history: Any, happenings: list[int], seed: int) -> None:
    asyncio.run(run(module_database_url, played(history).log, happenings, seed))
