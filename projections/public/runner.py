"""The process that keeps the public topics up to date, whatever happens to brokers and servers.

A Faust app of its own, one consumer group for all publishers of an installation: the partitions of the internal topic are
shared out among them, and a message of it is acknowledged once all that it says has been told and noted.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import psycopg
from aiokafka.errors import KafkaError

from infra.event_store.append_lock import REFUSALS_CHANNEL
from infra.event_store.log_reader import LogReader
from infra.health import Health
from infra.kafka.admin import TopicMismatch, TopicRefused, ensure_topics
from infra.kafka.clients import BrokerAway, producer, quiet_kafka_loggers
from infra.kafka.topics import PUBLIC_TOPICS, Topics, TopicSpec
from infra.notices import Bell
from infra.postgres import ConnectionLost, StatementFailed
from infra.waiting import Backoff, ring_at_stop
from projections.faust_runtime import Delivery, Inlet, InletFailed, Silence
from projections.public.cloud_events import Envelopes
from projections.public.publisher import OtherLog, Publisher, PublisherOptions
from projections.public.refusals import RefusalReader
from projections.public.sink import KafkaSink
from projections.public.store import PublicStore

logger = logging.getLogger(__name__)

GROUP: Final = "stockhold.public.v1"
"""The consumer group, after the installation's prefix."""
MESSAGES_AT_ONCE: Final = 64
"""Messages taken together; on a quiet log one has one event, on a busy one hundreds."""
BYTES_AT_ONCE: Final = 1_048_576
"""Messages are published together up to so many bytes: some two thousand events, each of which makes several messages."""
POLL_S: Final = 0.2
PAUSE_S_MAX: Final = 5.0
_BELL_S: Final = 60.0
AWAY: Final = (ConnectionLost, StatementFailed, psycopg.Error, OSError, KafkaError, BrokerAway, InletFailed)
"""What ends a term and may pass."""
_LOG, _PROGRESS, _ROUNDS = "log", "publishing", "rounds"


@dataclass(frozen=True, kw_only=True)
class PublisherSettings:
    """Where everything is. ``source``: what the messages' sources begin with. ``stall_s``: see :class:`_Doubts`."""

    event_store_url: str
    read_model_url: str
    kafka_servers: str
    topics: Topics
    replication: int
    client_id: str
    source: str
    connect_timeout_s: float = 5.0
    stall_s: float = 30.0
    options: PublisherOptions = field(default_factory=PublisherOptions)


async def run_publisher(
    settings: PublisherSettings,
    stop: asyncio.Event,
    on_ready: Callable[[], None] = lambda: None,
    health: Health | None = None,
) -> None:
    """Publish until ``stop``; then finish the batch at hand and leave the group.

    ``on_ready`` is called once the brokers, the log and the states are there and partitions have been shared out, and
    again at each new beginning; also when nothing more will come of waiting, with the reason in the log and in ``health``.
    """
    health = health or Health()
    backoff = Backoff(most_s=PAUSE_S_MAX)
    async with Bell(settings.event_store_url, [REFUSALS_CHANNEL]) as bell:
        while not stop.is_set():
            term = _Term(settings, stop, on_ready, health, bell, backoff)
            try:
                await term.run()
            except (*AWAY, TopicMismatch, TopicRefused, OtherLog) as error:
                logger.warning("publishing is interrupted", extra={"error": str(error)})
                health.say(_PROGRESS, str(error))
                if isinstance(error, TopicMismatch | TopicRefused | OtherLog):
                    on_ready()  # it needs somebody's hand, and the rest of the stack must run meanwhile
                await backoff.pause(stop)


def _topics(topics: Topics) -> list[TopicSpec]:
    """Those that a publisher reads or writes."""
    return [topics.spec_of(name) for name in (topics.stock_events, *map(topics.named, PUBLIC_TOPICS))]


def _in_parts(deliveries: Sequence[Delivery]) -> Iterator[list[Delivery]]:
    """The deliveries in their order, in parts of at most BYTES_AT_ONCE, or of one."""
    part: list[Delivery] = []
    size = 0
    for delivery in deliveries:
        length = len(delivery.value or b"")
        if part and size + length > BYTES_AT_ONCE:
            yield part
            part, size = [], 0
        part.append(delivery)
        size += length
    if part:
        yield part


class _Doubts:
    """Notices that this membership of the group is good for nothing, as after the topic was made anew: then another is tried.

    Either Kafka brings nothing although the log, which is read in its place, moves on; or this process owns no
    partition although nobody is at some of them.
    """

    def __init__(self, publisher: Publisher, most_s: float) -> None:
        self._publisher = publisher
        self._most_s = most_s
        self._silence = Silence(most_s)
        self._idle_since_s: float | None = None

    async def look(self, messages: int, owned: frozenset[int]) -> None:
        """``messages`` came for ``owned``. Raises InletFailed."""
        self._silence.heard(messages, self._publisher.from_log)
        now_s = time.monotonic()
        if owned:
            self._idle_since_s = None
            return
        self._idle_since_s = self._idle_since_s or now_s
        if now_s - self._idle_since_s > self._most_s and await self._publisher.is_needed(self._most_s):
            raise InletFailed("no partition is assigned here, and nobody publishes some of them")


class _Term:
    """From connecting to losing a connection."""

    def __init__(
        self,
        settings: PublisherSettings,
        stop: asyncio.Event,
        on_ready: Callable[[], None],
        health: Health,
        bell: Bell,
        backoff: Backoff,
    ) -> None:
        self._settings = settings
        self._stop = stop
        self._on_ready = on_ready
        self._health = health
        self._bell = bell
        self._backoff = backoff

    async def run(self) -> None:
        """Until it is time to stop. Raises one of AWAY, TopicMismatch, TopicRefused, OtherLog."""
        settings = self._settings
        topics = settings.topics
        async with AsyncExitStack() as held:
            publisher = await self._publisher(held)
            inlet = Inlet(settings.kafka_servers, topics.stock_events, topics.named(GROUP), settings.client_id)
            await held.enter_async_context(inlet)
            quiet_kafka_loggers()  # those that Faust has only now made
            held.callback(self._health.rest, _ROUNDS)
            for beside in (
                ring_at_stop(self._stop, inlet.ring),
                self._ring_at_refusals(inlet),
                self._notice(publisher),
            ):
                held.callback(asyncio.create_task(beside).cancel)
            try:
                await self._publish(publisher, inlet)
            except AWAY as error:
                self._health.say(_PROGRESS, str(error))  # now: to let go of a broker that hangs takes a while
                raise

    async def _publisher(self, held: AsyncExitStack) -> Publisher:
        settings, timeout_s = self._settings, self._settings.connect_timeout_s
        log = await LogReader.connect(settings.event_store_url, timeout_s=timeout_s)
        held.push_async_callback(log.close)
        refusals = await RefusalReader.connect(settings.event_store_url, timeout_s=timeout_s)
        held.push_async_callback(refusals.close)
        store = await PublicStore.connect(settings.read_model_url, timeout_s=timeout_s)
        held.push_async_callback(store.close)
        epoch = await log.epoch()
        if (await store.progress(epoch)).log_epoch != epoch:
            raise OtherLog(
                "the log has been restored since it was last published: say from where on (docs/operations.md)"
            )
        await ensure_topics(settings.kafka_servers, _topics(settings.topics), settings.replication)
        sink = KafkaSink(partial(producer, settings.kafka_servers, settings.client_id), settings.topics)
        await held.enter_async_context(sink)
        return Publisher(
            log,
            refusals,
            store,
            sink,
            Envelopes(settings.source, epoch),
            epoch=epoch,
            partitions=settings.topics.partitions,
            options=settings.options,
        )

    async def _publish(self, publisher: Publisher, inlet: Inlet) -> None:
        doubts = _Doubts(publisher, self._settings.stall_s)
        assignments = 0
        while not self._stop.is_set():
            self._health.beat(_ROUNDS)
            if assignments != inlet.assignments:
                assignments = inlet.assignments
                await publisher.own(inlet.assigned)
                self._on_ready()
            taken = await inlet.take(MESSAGES_AT_ONCE, POLL_S)
            if assignments != inlet.assignments:
                continue  # it comes again, here or elsewhere
            for together in _in_parts(taken):
                if assignments != inlet.assignments:
                    break  # as above
                await publisher.deliver([delivery.value for delivery in together])
                for delivery in together:
                    delivery.ack()
            while await publisher.publish_refusals():
                pass
            publisher.feed_is_behind = await inlet.behind() > MESSAGES_AT_ONCE
            await publisher.tend()
            await doubts.look(len(taken), inlet.assigned)
            if taken:  # while the feed has much to bring, that is all that moves
                self._health.beat(_LOG)
            self._tell_health(publisher, inlet)

    async def _notice(self, publisher: Publisher) -> None:
        """A round may take longer than a publisher may be silent: what is published within one counts as well."""
        noticed = publisher.batches
        while True:
            await asyncio.sleep(POLL_S)
            if publisher.batches != noticed:
                noticed = publisher.batches
                self._health.beat(_ROUNDS)
                self._health.beat(_LOG)

    def _tell_health(self, publisher: Publisher, inlet: Inlet) -> None:
        self._backoff.worked()
        self._health.say(_PROGRESS, None)
        if inlet.assigned:
            self._health.at(_LOG, publisher.position, publisher.head)
        else:
            self._health.rest(_LOG)  # more publishers than partitions: standing by is a state to be in

    async def _ring_at_refusals(self, inlet: Inlet) -> None:
        while True:
            if await self._bell.wait(_BELL_S):
                inlet.ring()
