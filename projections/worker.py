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
from projections import generations
from projections.faust_runtime import Delivery, Inlet, InletFailed
from projections.fed_follower import FedFollower
from projections.follower import FollowerOptions
from projections.generations import Generation
from projections.lane import AWAY, Backoff, Lane, LogRestored, Ready, Servers, pause, ring_at_stop
from projections.metrics import UNREADABLE_MESSAGES
from projections.projector import interrupted, run_projector
from projections.runners import kept_partitions
from projections.share import Share

logger = logging.getLogger(__name__)

MESSAGES_AT_ONCE: Final = 64
"""Messages taken together; on a quiet log one has one event, on a busy one hundreds."""
NO_PARTITION_S: Final = 0.5


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


class _Silence:
    """Notices that the feed brings nothing, although the log, which is read in its place, moves on."""

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._from_log = 0
        self._since_s: float | None = None

    def heard(self, events: int, from_log: int) -> None:
        """``events`` came, and ``from_log`` were read from the log in all. Raises InletFailed: another inlet may do better."""
        if events:
            self._since_s = None
        elif from_log > self._from_log:
            now_s = time.monotonic()
            self._since_s = self._since_s or now_s
            if now_s - self._since_s > self._most_s:
                raise InletFailed("the log moves on and nothing of it has come")
        self._from_log = from_log


class _Shares:
    """One share after another, as they are assigned."""

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
        self._generation = generation
        self._servers = servers
        self._feed = feed
        self._inlet = inlet
        self._stop = stop
        self._options = options
        self._on_ready = on_ready
        self._health = health
        self._seen = 0
        self._in_hand: list[Delivery] = []
        self._backoff = Backoff()
        self._without_since_s = time.monotonic()

    async def run(self) -> None:
        """Until it is time to stop. Raises InletFailed."""
        ringer = asyncio.create_task(ring_at_stop(self._stop, self._inlet.ring))
        try:
            while not self._stop.is_set():
                if self._seen != self._inlet.assignments:
                    self._seen = self._inlet.assignments
                    self._in_hand.clear()  # it comes again, here or elsewhere
                if not self._inlet.assigned:
                    await self._rest()
                    continue
                try:
                    self._without_since_s = time.monotonic()
                    await self._term()
                except (*AWAY, LogRestored) as error:
                    interrupted(self._generation, error, self._on_ready, self._health)
                    await self._backoff.pause(self._stop)
        finally:
            ringer.cancel()

    async def _rest(self) -> None:
        if self._inlet.assignments:
            self._on_ready()  # more workers than partitions: standing by is a state to be in
        self._health.rest(self._generation.schema)
        await self._inlet.take(1, NO_PARTITION_S)
        if time.monotonic() - self._without_since_s > self._feed.stall_s:
            await self._refuse_to_be_forgotten()
            self._without_since_s = time.monotonic()

    async def _refuse_to_be_forgotten(self) -> None:
        """Faust may keep a member without partitions for good once its topic was deleted and made again."""
        with suppress(*AWAY):
            async with await generations.connect(
                self._servers.read_model_url, timeout_s=self._servers.connect_timeout_s
            ) as connection:
                kept = await kept_partitions(connection, self._generation)
            if len(kept) < self._generation.partitions:
                raise InletFailed("partitions are kept by nobody, and none of them was assigned to this worker")

    def _is_ours(self) -> bool:
        return not self._stop.is_set() and self._inlet.assignments == self._seen

    def _stand_by(self) -> bool:
        self._health.rest(self._generation.schema)
        self._on_ready()
        return self._is_ours()

    async def _term(self) -> None:
        share = Share(tuple(sorted(self._inlet.assigned)), self._generation.partitions)
        lane = Lane(self._generation, self._servers, share, self._options, self._health)
        async with lane.led(FedFollower, self._stand_by) as follower:
            if follower is None:
                return
            self._on_ready()
            silence = _Silence(self._feed.stall_s)
            events_each = 1
            while self._is_ours():
                started_s = time.monotonic()
                if not self._in_hand:
                    self._in_hand = await self._inlet.take(MESSAGES_AT_ONCE, self._options.poll_s)
                taken = len(self._in_hand)
                events = await self._apply(follower)
                if taken:
                    events_each = max(1, events // taken)
                # In events: of a backlog, each message has hundreds, and a few of them are seconds of work.
                follower.feed_is_behind = await self._inlet.behind() * events_each > self._options.batch
                await follower.tend()
                silence.heard(events, follower.from_log)
                self._backoff.worked()
                self._health.say(self._generation.schema, None)
                if events:  # while the feed has much to bring, that is all that moves
                    self._health.beat(self._generation.schema)
                self._health.at(self._generation.schema, follower.cursor.pg_position, follower.head)
                if events < self._options.batch:
                    await pause(self._stop, started_s + self._options.gather_s - time.monotonic())
                lane.refuse_dead_pusher()

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
            UNREADABLE_MESSAGES.labels(self._generation.schema).inc()
            logger.error("a message cannot be read", extra=where | {"error": str(error)})  # noqa: TRY400  (told in full)
            return None
        if batch.epoch != self._generation.log_epoch:
            logger.warning("a message is of another epoch of the log", extra=where | {"epoch": batch.epoch})
            return None
        return batch
