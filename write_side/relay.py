"""Publishes the log: every event, in the log's order per partition, at least once.

One process relays, the one that holds the topic's advisory lock; others stand by and ask for it ten times a second. A *term*
lasts from getting the lock to the first thing that fails, whatever it is: a server away, a checkpoint that somebody else
has moved, a topic that is gone. The next term begins with connections and a producer of its own, from the checkpoint.

What keeps the order: a flush is everything that one read found; it is begun when the flush before it has been acknowledged
and the checkpoint has followed. So a relay that is cut off from PostgreSQL, and does not know it yet, can at most repeat
the one flush that its successor begins with: nothing ever arrives before what came before it in the log.
"""

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import psycopg
from aiokafka.errors import KafkaError

from infra.event_store.append_lock import CHANNEL
from infra.event_store.log_reader import LogReader, LogRow
from infra.event_store.relay_checkpoints import Checkpoint, CheckpointMoved, RelayCheckpoints
from infra.health import Health
from infra.kafka.admin import TopicMismatch, TopicRefused
from infra.kafka.clients import BrokerAway
from infra.kafka.topics import TopicSpec
from infra.notices import Bell
from infra.postgres import ConnectionLost, StatementFailed
from infra.waiting import Backoff, pause, ring_at_stop
from write_side import relay_metrics as metrics
from write_side.relay_batches import Batcher
from write_side.relay_publisher import Publisher, prepare_topic

logger = logging.getLogger(__name__)

READ_EVENTS_MAX: Final = 4_000
READ_BYTES_MAX: Final = 4 * 2**20
"""What one read of the log brings at most, and so one flush; two are in memory while the relay catches up."""
GATHER_S: Final = 0.01
"""The least time between two flushes that are not full: the views pay per message, however little is in it."""
HEALTH: Final = "relay"
LEAD_S: Final = 0.1
RETRY_S_MIN: Final = 0.1
RETRY_S_MAX: Final = 2.0
COMPLAIN_S: Final = 30.0
"""While the same kind of thing fails again and again, it is said so often."""
DRAIN_S: Final = 5.0
AWAY: Final = (
    ConnectionLost,
    StatementFailed,
    psycopg.Error,
    OSError,
    KafkaError,
    BrokerAway,
    TopicMismatch,
    TopicRefused,
    CheckpointMoved,
)
"""What ends a term. All of it may pass."""

Ready = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class RelayOptions:
    """Which log goes to which topic. ``batch_events`` and ``batch_bytes`` bound a message; ``poll_s``: how often to look
    when no notice comes.
    """

    event_store_url: str
    kafka_servers: str
    topic: TopicSpec
    replication: int = 1
    client_id: str = "stockhold-relay"
    batch_events: int = 500
    batch_bytes: int = 524_288
    poll_s: float = 0.2
    connect_timeout_s: float = 5.0


class Relay:
    """One that relays or stands by. ``leads``, and while it does ``checkpoint``, say where it is; ``flushing``: whether
    something is on its way to the brokers.
    """

    def __init__(self, options: RelayOptions, health: Health | None = None) -> None:
        self._options = options
        self._health = health or Health()
        self._announced = False
        self.offsets: dict[int, int] = {}
        self.leads = False
        self.flushing = False
        self.checkpoint: Checkpoint | None = None

    async def run(self, stop: asyncio.Event, on_ready: Ready = lambda: None) -> None:
        """Relay until ``stop``; then finish the flush at hand, if that is soon done.

        ``on_ready`` is called once, when it begins to lead or finds that it stands by, with the broker reachable.
        """
        async with Bell(self._options.event_store_url, [CHANNEL]) as bell:
            ending = asyncio.create_task(ring_at_stop(stop, bell.ring))
            working = asyncio.create_task(self._terms(bell, stop, on_ready))
            try:
                await asyncio.wait([ending, working], return_when=asyncio.FIRST_COMPLETED)
                await asyncio.wait([working], timeout=DRAIN_S)  # a broker that is away must not keep us
            finally:
                for task in (ending, working):
                    task.cancel()
                await asyncio.wait([ending, working])
            if not working.cancelled():
                working.result()

    async def _terms(self, bell: Bell, stop: asyncio.Event, on_ready: Ready) -> None:
        complaints = Complaints()
        backoff = Backoff(RETRY_S_MIN, RETRY_S_MAX)
        while not stop.is_set():
            self._health.beat(HEALTH)
            term = _Term(self, self._options, bell, stop, functools.partial(self._works, on_ready))
            try:
                await self._serve(term)
            except AWAY as error:
                if term.worked:
                    complaints.over()
                    backoff.worked()
                if isinstance(error, CheckpointMoved):
                    logger.info("relaying begins anew: %s", error)
                else:
                    metrics.INTERRUPTIONS.inc()
                    complaints.about(error)
                    self._health.say(HEALTH, f"the log is not published: {str(error) or repr(error)}")
                await backoff.pause(stop)

    async def _serve(self, term: "_Term") -> None:
        """Run a term; whatever ends it, this process leads no more, and says so before it pauses."""
        try:
            await term.run()
        finally:
            self.leads = self.flushing = False
            self.checkpoint = None
            metrics.LEADS.set(0)

    def _works(self, on_ready: Ready) -> None:
        """It leads or stands by, and has just come round."""
        self._health.say(HEALTH, None)
        self._health.beat(HEALTH)
        if not self._announced:
            self._announced = True
            on_ready()

    def rests(self) -> None:
        """There is nothing to do until there is more of the log."""
        self._health.rest(HEALTH)


class _Term:
    """From connecting to the first failure: wait for the lead, then publish. Used once."""

    def __init__(self, relay: Relay, options: RelayOptions, bell: Bell, stop: asyncio.Event, works: Ready) -> None:
        self._relay = relay
        self._options = options
        self._bell = bell
        self._stop = stop
        self._works = works
        self._batcher = Batcher(options.topic.partitions, options.batch_events, options.batch_bytes)
        self._limit = min(READ_EVENTS_MAX, options.batch_events * options.topic.partitions)
        self.worked = False

    async def run(self) -> None:
        """Until it is told to stop, or something raises one of AWAY."""
        options = self._options
        await prepare_topic(options.kafka_servers, options.topic, options.replication)
        checkpoints = await RelayCheckpoints.connect(
            options.event_store_url, options.topic.name, leader=True, timeout_s=options.connect_timeout_s
        )
        try:
            if await self._lead(checkpoints):
                await self._publish_with(checkpoints)
        finally:
            await checkpoints.close()

    async def _lead(self, checkpoints: RelayCheckpoints) -> bool:
        """Wait until this connection leads; false if it is time to stop before."""
        while not await checkpoints.try_lead():
            self._works()  # standing by is a state to be in
            self.worked = True
            await pause(self._stop, LEAD_S)
            if self._stop.is_set():
                return False
        return True

    async def _publish_with(self, checkpoints: RelayCheckpoints) -> None:
        options = self._options
        log = await LogReader.connect(options.event_store_url, timeout_s=options.connect_timeout_s)
        try:
            # A producer of its own: what one that failed has numbered, the broker would not take from it any more.
            publisher = await Publisher.start(
                options.kafka_servers, options.topic.name, options.client_id, self._relay.offsets
            )
            try:
                checkpoint = await adopt(checkpoints, log)
                logger.info(
                    "this process publishes the log", extra={"topic": options.topic.name, **checkpoint._asdict()}
                )
                await self._follow(log, _Flushes(self._relay, checkpoints, publisher, self._batcher, checkpoint))
            finally:
                await publisher.close()
        finally:
            await log.close()

    async def _follow(self, log: LogReader, flushes: "_Flushes") -> None:
        self._relay.leads = True
        metrics.LEADS.set(1)
        reading: asyncio.Task[list[LogRow]] | None = None
        try:
            while not self._stop.is_set():
                self._works()
                began_s = time.monotonic()
                rows = await (reading or self._read(log, flushes.checkpoint.position))
                reading = None
                full = self._is_full(rows)
                if full:  # there is more: have it ready when this is acknowledged
                    reading = asyncio.create_task(self._read(log, rows[-1].position))
                if rows:
                    await flushes.flush(rows)
                else:
                    await flushes.confirm()
                self.worked = True
                if not rows:
                    self._relay.rests()
                    await self._bell.wait(self._options.poll_s)
                if not full:
                    await pause(self._stop, began_s + GATHER_S - time.monotonic())
        finally:
            if reading is not None:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, log: LogReader, position: int) -> list[LogRow]:
        return await log.read_bounded(position, self._limit, READ_BYTES_MAX)

    def _is_full(self, rows: list[LogRow]) -> bool:
        """Whether there is probably more to be read at once."""
        return len(rows) == self._limit or sum(len(row.state) for row in rows) > READ_BYTES_MAX // 2


class _Flushes:
    """What a leader does with what it has read, one flush at a time."""

    def __init__(
        self,
        relay: Relay,
        checkpoints: RelayCheckpoints,
        publisher: Publisher,
        batcher: Batcher,
        checkpoint: Checkpoint,
    ) -> None:
        self._relay = relay
        self._checkpoints = checkpoints
        self._publisher = publisher
        self._batcher = batcher
        self.checkpoint = relay.checkpoint = checkpoint

    async def flush(self, rows: list[LogRow]) -> None:
        """Publish ``rows``, which follow the checkpoint, and move it when the brokers have them all."""
        began_s = time.monotonic()
        messages = self._batcher.messages(self.checkpoint.epoch, rows)
        self._relay.flushing = True
        await self._publisher.publish(messages)
        self._relay.flushing = False
        after = self.checkpoint._replace(position=rows[-1].position)
        await self._checkpoints.move(self.checkpoint, after)
        self.checkpoint = self._relay.checkpoint = after
        metrics.FLUSH_SECONDS.observe(time.monotonic() - began_s)
        metrics.EVENTS.inc(len(rows))
        metrics.MESSAGES.inc(sum(map(len, messages.values())))
        metrics.BYTES.inc(sum(len(value) for values in messages.values() for value in values))

    async def confirm(self) -> None:
        """Find out whether it is still ours to go on from here. Raises CheckpointMoved."""
        await self._checkpoints.confirm(self.checkpoint)


async def adopt(checkpoints: RelayCheckpoints, log: LogReader) -> Checkpoint:
    """Where publishing goes on; what the log has been restored to since is written down and told.

    Raises CheckpointMoved if somebody else does so at this moment.
    """
    found = await checkpoints.load()
    epoch, head = await log.epoch(), await log.head()
    start = going_on_from(found, epoch, head)
    if start != found:
        await checkpoints.move(found, start)
        logger.warning(
            "the log has been restored: publishing goes on from %d under epoch %d (it was at %d under %d, the head is %d)",
            *start,
            *found,
            head,
        )
    return start


def going_on_from(found: Checkpoint, epoch: int, head: int) -> Checkpoint:
    """Where to go on in a log of ``epoch`` that ends at ``head``, when ``found`` is what is written down.

    The checkpoint is restored together with the log, so it is right about that log, whatever its epoch is called: events up
    to it were published with the content that they have. What was published beyond it, and is no more, has the former
    epoch, which those who read the topic pass over. A checkpoint beyond the head is none of this log, and tells nothing.
    """
    return Checkpoint(found.position if found.position <= head else 0, epoch)


class Complaints:
    """Says what is wrong once, and again when it is something else or has lasted: an outage may last all night."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kind: type[Exception] | None = None
        self._said_s = 0.0
        self._count = 0

    def about(self, error: Exception) -> None:
        """It has failed once more, of ``error``."""
        self._count += 1
        if type(error) is not self._kind or self._clock() - self._said_s >= COMPLAIN_S:
            self._kind, self._said_s = type(error), self._clock()
            logger.warning("the log is not published: %s", str(error) or repr(error), extra={"attempts": self._count})

    def over(self) -> None:
        """It has worked since."""
        self._kind, self._count = None, 0
