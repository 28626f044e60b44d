"""A worker: keeps the partitions that Kafka assigns to it up to date, in every live generation of this release.

A generation is a consumer group, so that each has its own runner. What is promised does not hang on Kafka: the messages
say that something is new, the versions in the views say what is true, and the log has what did not come.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from aiokafka.errors import KafkaError

from infra.health import Health
from infra.kafka.admin import TopicMismatch, TopicRefused, ensure_topics
from infra.kafka.clients import BrokerAway
from infra.kafka.event_batches import EventBatch, UnreadableMessage, decode_batch
from infra.kafka.topics import Topics
from infra.waiting import Backoff, pause, ring_at_stop
from projections import generations
from projections.faust_runtime import Delivery, Inlet, InletFailed, Silence
from projections.fed_follower import FedFollower
from projections.follower import FollowerOptions
from projections.generations import Generation
from projections.lane import AWAY, Lane, LogRestored, Ready, Servers, rounds_of
from projections.metrics import UNREADABLE_MESSAGES
from projections.projector import interrupted, run_projector
from projections.runners import kept_partitions
from projections.share import Share

logger = logging.getLogger(__name__)

MESSAGES_AT_ONCE: Final = 64
"""Messages taken together; on a quiet log one has one event, on a busy one hundreds."""
NO_PARTITION_S: Final = 0.5
LANES: Final = 3
"""Lanes of one worker: while PostgreSQL commits what one of them has folded, another folds."""
SMALL_BATCHES: Final = 2
"""Batches that are not full in one time of gathering, of all lanes together: each costs nearly as much as a full one."""


@dataclass(frozen=True)
class Feed:
    """Where the messages come from. ``stall_s``: how long Kafka may bring nothing while the log moves on."""

    servers: str
    topics: Topics
    replication: int
    client_id: str
    stall_s: float = 30.0
    group: str = "stockhold.views"
    start: str = "latest"
    """Where a group begins that has read nothing yet. What lies before is in the log, and read from there faster."""


async def run_worker(
    servers: Servers,
    stop: asyncio.Event,
    on_ready: Ready,
    options: FollowerOptions,
    health: Health,
    *,
    feed: Feed,
) -> None:
    """Work until ``stop``, then finish the batch at hand and leave the groups. ``on_ready``: see run_projector."""
    await run_projector(servers, stop, on_ready, options, health, partial(run_fed, feed=feed))


async def run_fed(
    generation: Generation,
    servers: Servers,
    stop: asyncio.Event,
    on_ready: Ready,
    options: FollowerOptions,
    health: Health,
    *,
    feed: Feed,
) -> None:
    """Keep this process's share of ``generation`` up to date until ``stop``."""
    backoff = Backoff(most_s=5.0)
    while not stop.is_set():
        try:
            _refuse_other_partitions(generation, feed)
            await ensure_topics(feed.servers, feed.topics.specs(), feed.replication)
            async with _inlet(generation, feed) as inlet:
                backoff.worked()
                await _Shares(generation, servers, feed, inlet, stop, options, on_ready, health).run()
        except (InletFailed, BrokerAway, KafkaError, OSError, TopicMismatch, TopicRefused) as error:
            logger.warning("Kafka cannot be used", extra={"generation": generation.schema, "error": str(error)})
            health.say(generation.schema, str(error))
            if isinstance(error, TopicMismatch | TopicRefused):
                on_ready()  # nothing more will come of waiting
            await backoff.pause(stop)


def _refuse_other_partitions(generation: Generation, feed: Feed) -> None:
    if generation.partitions != feed.topics.partitions:
        raise TopicMismatch(
            f"{generation.schema} has {generation.partitions} partitions, the topic {feed.topics.partitions}:"
            " rebuild the views"
        )


def _inlet(generation: Generation, feed: Feed) -> Inlet:
    # The prefix is another one if the views were dropped and their numbers begin anew.
    group = feed.topics.named(f"{feed.group}.{generation.redis_prefix}")
    return Inlet(feed.servers, feed.topics.stock_events, group, feed.client_id, start=feed.start)


class _Shares:
    """One assignment after another, each of them written by lanes side by side."""

    def __init__(
        self,
        generation: Generation,
        servers: Servers,
        feed: Feed,
        inlet: Inlet,
        stop: asyncio.Event,
        options: FollowerOptions,
        on_ready: Ready,
        health: Health,
    ) -> None:
        self.generation = generation
        self.servers = servers
        self.feed = feed
        self.inlet = inlet
        self.stop = stop
        self.options = options
        self.on_ready = on_ready
        self.health = health
        self._without_since_s = time.monotonic()

    async def run(self) -> None:
        """Until it is time to stop. Raises InletFailed."""
        ringer = asyncio.create_task(ring_at_stop(self.stop, self.inlet.ring))
        try:
            while not self.stop.is_set():
                if self.inlet.assigned:
                    await self._write(self.inlet.assignments, sorted(self.inlet.assigned))
                    self._without_since_s = time.monotonic()
                else:
                    await self._rest()
        finally:
            ringer.cancel()

    async def _write(self, assignment: int, partitions: list[int]) -> None:
        shares = [tuple(partitions[n::LANES]) for n in range(min(LANES, len(partitions)))]
        lanes = [_FedLane(self, assignment, Share(own, self.generation.partitions), len(shares)) for own in shares]
        self.health.say(self.generation.schema, None)
        writing = [asyncio.create_task(lane.run()) for lane in lanes]
        try:
            await asyncio.gather(*writing)
        finally:
            for each in writing:  # the first that fails ends them all
                each.cancel()
            await asyncio.gather(*writing, return_exceptions=True)

    async def _rest(self) -> None:
        if self.inlet.assignments:
            self.on_ready()  # more workers than partitions: standing by is a state to be in
            self.health.say(self.generation.schema, None)
        await self.inlet.take(1, NO_PARTITION_S)
        if time.monotonic() - self._without_since_s > self.feed.stall_s:
            await self._refuse_to_be_forgotten()
            self._without_since_s = time.monotonic()

    async def _refuse_to_be_forgotten(self) -> None:
        """Faust may keep a member without partitions for good once its topic was deleted and made again."""
        with suppress(*AWAY):
            async with await generations.connect(
                self.servers.read_model_url, timeout_s=self.servers.connect_timeout_s
            ) as connection:
                kept = await kept_partitions(connection, self.generation)
            if len(kept) < self.generation.partitions:
                raise InletFailed("partitions are kept by nobody, and none of them was assigned to this worker")


class _FedLane:
    """Writes a part of an assignment, one of ``beside``, term after term, until there is another assignment."""

    def __init__(self, shares: _Shares, assignment: int, share: Share, beside: int) -> None:
        self._shares = shares
        self._assignment = assignment
        self._share = share
        self._partitions = frozenset(share.partitions)
        self._gather_s = shares.options.gather_s * max(1, beside / SMALL_BATCHES)
        self._name = f"{shares.generation.schema} {','.join(map(str, share.partitions))}"
        self._health = shares.health
        self._options = shares.options
        self._in_hand: list[Delivery] = []
        self._backoff = Backoff()

    async def run(self) -> None:
        """Until there is another assignment, or it is time to stop. Raises InletFailed."""
        try:
            while self._is_ours():
                try:
                    await self._term()
                except (*AWAY, LogRestored) as error:
                    interrupted(self._name, error, self._shares.on_ready, self._health)
                    await self._backoff.pause(self._shares.stop)
        finally:
            self._health.forget(self._name)
            self._health.forget(rounds_of(self._name))

    def _is_ours(self) -> bool:
        return not self._shares.stop.is_set() and self._shares.inlet.assignments == self._assignment

    def _stand_by(self) -> bool:
        self._health.rest(self._name)
        self._shares.on_ready()
        return self._is_ours()

    async def _term(self) -> None:
        shares, options = self._shares, self._options
        lane = Lane(shares.generation, shares.servers, self._share, options, self._health, self._name)
        async with lane.led(FedFollower, self._stand_by) as follower:
            if follower is None:
                return
            shares.on_ready()
            silence = Silence(shares.feed.stall_s)
            events_each = 1
            while self._is_ours():
                started_s = time.monotonic()
                if not self._in_hand:
                    self._in_hand = await shares.inlet.take(MESSAGES_AT_ONCE, options.poll_s, self._partitions)
                taken = len(self._in_hand)
                events = await self._apply(follower)
                if taken:
                    events_each = max(1, events // taken)
                # In events: of a backlog, each message has hundreds, and a few of them are seconds of work.
                follower.feed_is_behind = await shares.inlet.behind() * events_each > options.batch
                await follower.tend()
                silence.heard(events, follower.from_log)
                self._note_progress(follower, events)
                if events < options.batch:
                    await pause(shares.stop, started_s + self._gather_s - time.monotonic())
                lane.refuse_dead_pusher()

    def _note_progress(self, follower: FedFollower, events: int) -> None:
        self._backoff.worked()
        self._health.say(self._name, None)
        if events:  # while the feed has much to bring, that is all that moves
            self._health.beat(self._name)
        self._health.at(self._name, follower.cursor.pg_position, follower.head)

    async def _apply(self, follower: FedFollower) -> int:
        """Apply what is in hand, and acknowledge it once it is in the tables; how many events that was.

        Redis has a cursor of its own beside the rows, so it is brought up to date whatever happens now.
        """
        applied = 0
        while self._in_hand and self._is_ours():
            deliveries, batches, events = self._next(self._in_hand)
            await follower.take(batches)
            del self._in_hand[: len(deliveries)]
            for delivery in deliveries:
                delivery.ack()
            applied += events
        return applied

    def _next(self, in_hand: Sequence[Delivery]) -> tuple[Sequence[Delivery], list[EventBatch], int]:
        """The first messages in hand, enough for one transaction, and what can be read of them."""
        batches: list[EventBatch] = []
        events = count = 0
        for delivery in in_hand:
            batch = self._read(delivery)
            count += 1
            if batch is not None:
                batches.append(batch)
                events += len(batch.rows)
            if events >= self._options.batch:
                break
        return in_hand[:count], batches, events

    def _read(self, delivery: Delivery) -> EventBatch | None:
        """What ``delivery`` brought. What cannot be read, or is of another life of the log, is as good as lost."""
        where = {"partition": delivery.partition, "offset": delivery.offset}
        try:
            batch = decode_batch(delivery.value)
        except UnreadableMessage as error:
            UNREADABLE_MESSAGES.labels(self._shares.generation.schema).inc()
            logger.error("a message cannot be read", extra=where | {"error": str(error)})  # noqa: TRY400  (told in full)
            return None
        if batch.epoch != self._shares.generation.log_epoch:
            logger.warning("a message is of another epoch of the log", extra=where | {"epoch": batch.epoch})
            return None
        return batch
