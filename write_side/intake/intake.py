"""The intake: takes messages in batches, several of them on their way at once, and commits their offsets in order.

At least once, and once in effect: an offset is committed when everything up to it is durable, and a message
that comes again is known by its source and id. What a rebalance hands over early is at worst decided again.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from infra.health import Health
from infra.kafka.admin import ensure_topics
from infra.kafka.clients import consumer, is_away, producer, quiet_kafka_loggers, running, until_reachable
from infra.kafka.topics import INTAKE_TOPICS, Topics
from write_side.intake.clerk import Clerk
from write_side.intake.lanes import Executor, Lanes
from write_side.intake.messages import KINDS, Rank, Received
from write_side.intake.metrics import (
    BATCH_MESSAGES,
    BATCH_SECONDS,
    DEAD,
    LAG,
    OLDEST_WAITING_S,
    REBALANCES,
    WAITING,
)
from write_side.intake.outlet import DeadLetterTopic
from write_side.intake.store import IntakeStore, StoreAway

log = logging.getLogger(__name__)

GROUP: Final = "stockhold.intake"
BATCHES_ON_THE_WAY: Final = 4
"""While one commits, the next ones are parsed and decided; more would only wait in the executor's queue."""
FETCH_WAIT_MS: Final = 200
FETCH_BYTES: Final = 65_536
METADATA_AGE_MS: Final = 5_000
LOOK_EVERY_S: Final = 0.5
HEAR_ALL_S: Final = 2.0
"""How long after partitions were given to us their first answers are waited for."""
HAND_OVER_S: Final = 5.0
"""How long partitions that are taken away may wait for what is under way: then somebody else decides it again."""
PAUSE_S: Final = 0.2
BROKER_LOOK_S: Final = 2.0
BROKER_ANSWER_S: Final = 5.0
HEALTH: Final = "intake"

Offsets = dict[TopicPartition, int]
Records = dict[TopicPartition, list[ConsumerRecord[bytes, bytes]]]
_RANKS: Final = {kind.topic: kind.rank for kind in KINDS}


@dataclass(frozen=True, kw_only=True)
class IntakeOptions:
    """``batch``: messages taken together; ``drain_s``: how long what is under way may take when the process is to end."""

    kafka_servers: str
    topics: Topics
    replication: int = 1
    client_id: str = "stockhold-intake"
    batch: int = 500
    drain_s: float = 10.0


@dataclass(slots=True, eq=False)
class _Batch:
    work: asyncio.Task[None]
    offsets: Offsets


class Intake:
    """One member of the intake's group. ``executor`` and ``store`` are opened and closed by whoever made them."""

    def __init__(
        self, executor: Executor, store: IntakeStore, options: IntakeOptions, health: Health | None = None
    ) -> None:
        self._options = options
        self._store = store
        self._health = health or Health()
        self._lanes = Lanes(executor)
        self._names = {options.topics.named(name): name for name in INTAKE_TOPICS}
        self._on_the_way: deque[_Batch] = deque()
        self._durable: Offsets = {}
        self._reached: Offsets = {}
        self._taken: Offsets = {}
        self._hear_all_until_s = 0.0
        self._settled = asyncio.Event()
        self._handing_over = False
        self._taking_in = False
        self._committing = asyncio.Lock()

    async def run(self, stop: asyncio.Event, on_ready: Callable[[], None] = lambda: None) -> None:
        """Take messages in until ``stop``; then finish what is under way, commit it and leave the group.

        ``on_ready`` is called once the broker is there with all topics. Raises what is no matter of time, such as
        TopicMismatch; without a broker it waits for one.
        """
        quiet_kafka_loggers()
        self._health.say("kafka", f"no broker has answered at {self._options.kafka_servers} yet")
        working = asyncio.create_task(self._work(stop, on_ready))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
            if stopping.done() and self._taking_in:
                await asyncio.wait([working], timeout=self._options.drain_s + HAND_OVER_S)
        finally:
            self._lanes.close()
            for task in (working, stopping):
                task.cancel()
            await asyncio.wait([working, stopping])
        if not working.cancelled():
            working.result()

    async def _work(self, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
        options = self._options
        specs = [spec for spec in options.topics.specs() if spec.name in {*self._names, options.topics.dead_letters}]
        await until_reachable(
            lambda: ensure_topics(options.kafka_servers, specs, options.replication), options.kafka_servers
        )
        async with (
            running(lambda: producer(options.kafka_servers, options.client_id), options.kafka_servers) as sender,
            running(self._make_consumer, options.kafka_servers) as taker,
        ):
            self._health.say("kafka", None)
            clerk = Clerk(
                self._lanes,
                self._store,
                DeadLetterTopic(sender, options.topics.dead_letters),
                lambda problem: self._health.say("event_store", problem),
            )
            helpers = [
                asyncio.create_task(self._commit_what_is_durable(taker)),
                asyncio.create_task(self._look_after(clerk, taker)),
                asyncio.create_task(self._watch_brokers(taker)),
            ]
            try:
                self._taking_in = True
                on_ready()
                await self._take_in(taker, clerk, stop, helpers)
            finally:
                await self._wind_down(taker, helpers)

    def _make_consumer(self) -> AIOKafkaConsumer:
        options = self._options
        made = consumer(
            options.kafka_servers,
            options.topics.prefix + GROUP,
            options.client_id,
            # The same partitions of every topic: an order's messages come to one process, which knows it.
            partition_assignment_strategy=(RangePartitionAssignor,),
            # A topic that was deleted and made anew is noticed by looking.
            metadata_max_age_ms=METADATA_AGE_MS,
            # A little of each at a time, or one topic would be far ahead of the others.
            max_partition_fetch_bytes=FETCH_BYTES,
            # What a producer has taken back was never said.
            isolation_level="read_committed",
        )
        made.subscribe(list(self._names), listener=_Rebalance(self, made))
        return made

    # Taking in -----------------------------------------------------------------------------------

    async def _take_in(
        self, taker: AIOKafkaConsumer, clerk: Clerk, stop: asyncio.Event, helpers: list[asyncio.Task[None]]
    ) -> None:
        while not stop.is_set():
            self._collect()
            for helper in helpers:
                if helper.done():
                    helper.result()
            if len(self._on_the_way) >= BATCHES_ON_THE_WAY or self._handing_over:
                self._progress()
                await self._until_settled(FETCH_WAIT_MS / 1000)
                continue
            found = await self._fetch(taker)
            self._progress()
            if found:
                self._begin(clerk, found)

    async def _fetch(self, taker: AIOKafkaConsumer) -> Records:
        """Up to a batch of messages: of each rank, in their order, half of what there is still room for, then whatever comes.

        Of a backlog in all topics, payments must not be read before their orders: each of them would have to wait.
        """
        room = self._options.batch
        found: Records = {}
        try:
            for rank in (Rank.MADE, Rank.PAID):
                places = [each for each in taker.assignment() if _RANKS[self._names[each.topic]] is rank]
                unheard = [each for each in places if _end(taker, each) is None]
                if unheard and time.monotonic() < self._hear_all_until_s:
                    # Nobody knows yet whether there is a backlog: what may have to wait for it is not begun with.
                    self._add(found, await taker.getmany(*unheard, timeout_ms=FETCH_WAIT_MS, max_records=room))
                    return found
                if places and room > 1:
                    came = self._add(found, await taker.getmany(*places, timeout_ms=0, max_records=room // 2))
                    # What is still on its way to us keeps its place: the others must not run ahead of it meanwhile.
                    behind = any(self._is_behind(taker, each) for each in places)
                    room -= room // 2 if behind else came
            self._add(found, await taker.getmany(timeout_ms=0 if found else FETCH_WAIT_MS, max_records=room))
        except IllegalStateError:  # a partition has been taken away meanwhile
            log.debug("partitions changed while messages were taken from them")
        return found

    def _is_behind(self, taker: AIOKafkaConsumer, place: TopicPartition) -> bool:
        """Whether there is more of this partition on its way to us."""
        taken, end = self._taken.get(place), _end(taker, place)
        return taken is not None and end is not None and taken < end

    def _add(self, found: Records, more: Records) -> int:
        """Append ``more`` to what was found before in the same partitions; how many messages that were."""
        for place, records in more.items():
            found[place] = found.get(place, []) + records
            self._taken[place] = records[-1].offset + 1
        return sum(map(len, more.values()))

    def _begin(self, clerk: Clerk, found: Records) -> None:
        batch = [
            Received(self._names[place.topic], place.partition, record.offset, record.key, record.value)
            for place, records in found.items()
            for record in records
        ]
        offsets = {place: records[-1].offset + 1 for place, records in found.items()}
        for place, records in found.items():
            self._reached.setdefault(place, records[0].offset)
        BATCH_MESSAGES.observe(len(batch))
        self._on_the_way.append(_Batch(asyncio.create_task(self._settle(clerk, batch)), offsets))

    async def _settle(self, clerk: Clerk, batch: list[Received]) -> None:
        began_s = time.perf_counter()
        try:
            await clerk.settle(batch)
            BATCH_SECONDS.observe(time.perf_counter() - began_s)
        finally:
            self._settled.set()

    async def _until_settled(self, timeout_s: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._settled.wait(), timeout_s)
        self._settled.clear()

    def _collect(self) -> None:
        """Offsets may be committed up to the first batch that is still on its way. Raises what a batch has raised."""
        while self._on_the_way and self._on_the_way[0].work.done():
            batch = self._on_the_way.popleft()
            batch.work.result()
            self._durable |= batch.offsets
            self._reached |= batch.offsets

    def _progress(self) -> None:
        """A batch that is not done in time, with nobody away, is a standstill."""
        oldest = self._on_the_way[0] if self._on_the_way else None
        self._health.beat(f"{HEALTH} rounds")
        self._health.at(HEALTH, sum(self._reached.values()), -1 if oldest is not None else sum(self._reached.values()))

    # Committing ----------------------------------------------------------------------------------

    async def _commit_what_is_durable(self, taker: AIOKafkaConsumer) -> None:
        while True:
            self._collect_quietly()
            if self._durable:
                await self._commit(taker)
            await asyncio.sleep(0.02 if self._on_the_way else 0.1)

    def _collect_quietly(self) -> None:
        """What a batch has raised is raised where batches are begun."""
        while self._on_the_way and self._on_the_way[0].work.done() and not _failed(self._on_the_way[0].work):
            self._collect()

    async def _commit(self, taker: AIOKafkaConsumer) -> None:
        """Commit what is durable and still ours; what cannot be committed now is committed with the next."""
        async with self._committing:
            ours = taker.assignment()
            offsets, self._durable = {place: n for place, n in self._durable.items() if place in ours}, {}
            if not offsets:
                return
            try:
                await taker.commit(offsets)
            except (CommitFailedError, IllegalStateError) as error:
                log.info("offsets are not committed, their partitions are somebody else's by now: %s", error)
            except KafkaError as error:
                if not is_away(error):
                    raise
                self._durable = offsets | self._durable
                await asyncio.sleep(PAUSE_S)

    async def hand_over(self, taker: AIOKafkaConsumer) -> None:
        """Partitions are being taken away: finish what is under way, if that is soon done, and commit it."""
        REBALANCES.inc()
        self._handing_over = True
        try:
            if self._on_the_way:
                await asyncio.wait([batch.work for batch in self._on_the_way], timeout=HAND_OVER_S)
            self._collect_quietly()
            if self._durable:
                await self._commit(taker)
        finally:
            self._handing_over = False

    def taken_over(self) -> None:
        """Partitions have been given to this process: where they stand is the group's knowledge, not ours."""
        self._reached.clear()
        self._taken.clear()
        self._hear_all_until_s = time.monotonic() + HEAR_ALL_S

    async def _wind_down(self, taker: AIOKafkaConsumer, helpers: Iterable[asyncio.Task[None]]) -> None:
        """Whatever ends the work: what is done by then is committed, the rest comes again."""
        if self._on_the_way:
            await asyncio.wait([batch.work for batch in self._on_the_way], timeout=self._options.drain_s)
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)
        self._collect_quietly()
        if self._durable:
            with contextlib.suppress(TimeoutError, KafkaError):
                await asyncio.wait_for(self._commit(taker), self._options.drain_s)
        for batch in self._on_the_way:
            batch.work.cancel()
        await asyncio.gather(*(batch.work for batch in self._on_the_way), return_exceptions=True)

    # Looking after -------------------------------------------------------------------------------

    async def _look_after(self, clerk: Clerk, taker: AIOKafkaConsumer) -> None:
        """Now and then: what has waited long, what an operator wants tried again, and the figures."""
        while True:
            more = False
            try:
                more = await clerk.look_after()
                figures = await self._store.figures()
                WAITING.set(figures.waiting)
                OLDEST_WAITING_S.set(figures.oldest_s)
                DEAD.set(figures.dead)
                self._health.say("event_store", None)
            except StoreAway as error:
                log.warning("what waits cannot be looked after: %s", error)
                self._health.say("event_store", str(error))
            await self._measure_lag(taker)
            if not more:
                await asyncio.sleep(LOOK_EVERY_S)

    async def _watch_brokers(self, taker: AIOKafkaConsumer) -> None:
        """A consumer waits for brokers that are away, and says nothing of it."""
        while True:
            try:
                async with asyncio.timeout(BROKER_ANSWER_S):
                    await taker.topics()
                self._health.say("kafka", None)
            except (KafkaError, OSError, TimeoutError):
                self._health.say("kafka", f"no broker answers at {self._options.kafka_servers}")
            await asyncio.sleep(BROKER_LOOK_S)

    async def _measure_lag(self, taker: AIOKafkaConsumer) -> None:
        behind: dict[str, int] = dict.fromkeys(self._names.values(), 0)
        for place in taker.assignment():
            end = _end(taker, place)
            reached = self._reached.get(place)
            if end is not None and reached is not None:  # else nothing has been fetched from it yet
                if not self._on_the_way:  # a transaction leaves marks, which are no messages
                    with suppress(IllegalStateError):  # it has been taken away meanwhile
                        reached = max(reached, await taker.position(place))
                behind[self._names[place.topic]] += max(0, end - reached)
        for topic, messages in behind.items():
            LAG.labels(topic).set(messages)


class _Rebalance(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    def __init__(self, intake: Intake, taker: AIOKafkaConsumer) -> None:
        self._intake = intake
        self._taker = taker

    async def on_partitions_revoked(self, revoked: Any) -> None:
        if revoked:
            await self._intake.hand_over(self._taker)

    async def on_partitions_assigned(self, assigned: Any) -> None:
        log.info("this process takes in %d partitions", len(assigned))
        self._intake.taken_over()


def _end(taker: AIOKafkaConsumer, place: TopicPartition) -> int | None:
    """The offset of the next message that will be produced; None as long as nothing has been fetched, or it is not ours."""
    return taker.highwater(place) if place in taker.assignment() else None  # aiokafka asserts that it is


def _failed(work: asyncio.Task[None]) -> bool:
    return work.cancelled() or work.exception() is not None
