"""Faust as we use it: it shares the partitions of a topic out among processes, and brings their messages.

Everything else is ours. Delivery: a message is acknowledged when whoever took it says so, and not before (an exception in
an agent of Faust's acknowledges, and so does its ``take``). Death: whatever fails in Faust ends the inlet, and the caller
opens another. Nothing listens on a port, nothing is kept on disk, nothing is declared to the broker.
"""

import asyncio
import logging
import tempfile
import time
from collections import deque
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import Any, Final, Self

import faust
from faust.app.base import BootStrategy
from faust.types import TP, EventT
from mode.supervisors import CrashingSupervisor

logger = logging.getLogger(__name__)

BUFFERED_MAX: Final = 64
"""Messages that wait here, and as many once more within Faust; one holds up to hundreds of events."""
START_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 10.0
ANSWER_TIMEOUT_S: Final = 10.0
LOOK_S: Final = 0.25


class InletFailed(Exception):
    """Faust has stopped, or the broker is away: what was not acknowledged comes again through another inlet."""


class Delivery:
    """A message, until it is acknowledged."""

    __slots__ = ("_event", "offset", "partition", "value")

    def __init__(self, event: EventT[bytes]) -> None:
        self._event = event
        self.partition: int = event.message.partition
        self.offset: int = event.message.offset
        self.value: bytes | None = event.message.value

    def ack(self) -> None:
        """What it brought is safe. The offset is committed within a second, or at the latest when the inlet closes."""
        self._event.ack()


class _Boot(BootStrategy):
    """Of all that Faust could start: the consumer, and what feeds agents from it."""

    enable_web = False
    enable_sensors = False
    enable_kafka_producer = False


class _App(faust.App):
    BootStrategy = _Boot


class Inlet:
    """The share of one process in a topic, as a member of ``group``; an asynchronous context manager.

    ``assigned`` changes at every rebalance, and ``assignments`` counts them. What was taken before one may be delivered
    again after it, here or elsewhere. ``start``: "earliest" or "latest", for a group that has read nothing yet.
    """

    def __init__(self, servers: str, topic: str, group: str, client_id: str, *, start: str = "earliest") -> None:
        self.assigned: frozenset[int] = frozenset()
        self.assignments = 0
        self._waiting: deque[Delivery] = deque()
        self._bells: set[asyncio.Event] = set()
        self._rings = 0
        self._room = asyncio.Event()
        self._folder = tempfile.TemporaryDirectory(prefix="stockhold-faust-")  # it insists on one
        self._topic = topic
        self._unfetched = 0
        self._looked_s = float("-inf")
        self._app = self._make_app(servers, topic, group, client_id, start)

    def _make_app(self, servers: str, topic: str, group: str, client_id: str, start: str) -> faust.App:
        app = _App(
            group,
            broker=[f"kafka://{server.strip()}" for server in servers.split(",")],
            broker_client_id=client_id,
            broker_max_poll_records=500,
            broker_commit_interval=1.0,
            broker_session_timeout=10,
            broker_heartbeat_interval=1,  # also how soon one hears of a rebalance
            consumer_auto_offset_reset=start,
            stream_wait_empty=False,
            stream_buffer_maxsize=BUFFERED_MAX,
            topic_allow_declare=False,
            topic_disable_leader=True,
            web_enabled=False,
            autodiscover=False,
            datadir=self._folder.name,
            agent_supervisor=CrashingSupervisor,
        )
        channel = app.topic(topic, value_type=bytes, key_serializer="raw", value_serializer="raw")
        app.agent(channel, concurrency=1, name=f"{group}.inlet")(self._receive)
        app.on_partitions_assigned.connect(self._on_assigned, weak=False)  # type: ignore[arg-type]  # wants a keyword that is not sent
        app.on_partitions_revoked.connect(self._on_revoked, weak=False)  # type: ignore[arg-type]  # as above
        return app

    async def __aenter__(self) -> Self:
        """Raises InletFailed if the broker is away; Faust then writes a traceback, so look whether it is there first."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._app.start()
        except BaseException as error:
            await self._stop()
            if isinstance(error, Exception):
                raise InletFailed(f"the broker cannot be used: {error!r}") from error
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Commit what was acknowledged, and leave the group."""
        await self._stop()

    async def _stop(self) -> None:
        with suppress(Exception):  # it has crashed, perhaps, and says so once more
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._app.stop()
        self._folder.cleanup()

    def ring(self) -> None:
        """Let whoever waits in :meth:`take` return now."""
        self._rings += 1
        self._wake_all()

    async def take(self, most: int, wait_s: float, partitions: AbstractSet[int] | None = None) -> list[Delivery]:
        """What waits (of ``partitions``), ``most`` messages at most; none after ``wait_s``, a rebalance or :meth:`ring`.

        Raises InletFailed, after ``wait_s`` at the latest: nobody is woken by the death of Faust.
        """
        rings, taken = self._rings, self._pick(most, partitions)
        if not taken:
            bell = asyncio.Event()
            self._bells.add(bell)
            try:
                async with asyncio.timeout(wait_s):
                    while not taken and self._rings == rings:
                        await bell.wait()
                        bell.clear()
                        taken = self._pick(most, partitions)
            except TimeoutError:
                pass
            finally:
                self._bells.discard(bell)
        if self._app.crashed or self._app.should_stop:
            raise InletFailed(f"Faust has stopped: {self._app.crash_reason!r}")
        return taken

    def _pick(self, most: int, partitions: AbstractSet[int] | None) -> list[Delivery]:
        taken: list[Delivery] = []
        left: deque[Delivery] = deque()
        for delivery in self._waiting:
            wanted = len(taken) < most and (partitions is None or delivery.partition in partitions)
            (taken if wanted else left).append(delivery)
        if taken:
            self._waiting = left
            self._room.set()
        return taken

    def _wake_all(self) -> None:
        for bell in self._bells:
            bell.set()

    async def _receive(self, stream: Any) -> None:
        async for event in stream.noack().events():
            while len(self._waiting) >= BUFFERED_MAX:
                self._room.clear()
                await self._room.wait()
            self._waiting.append(Delivery(event))
            self._wake_all()

    async def behind(self) -> int:
        """How many messages of the partitions wait here or, a moment ago, with the broker, as far as that has said.

        Raises InletFailed if Faust does not say.
        """
        now_s = time.monotonic()
        if now_s - self._looked_s > LOOK_S:  # its consumer has a thread of its own: asking costs a millisecond
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    self._unfetched = sum([await self._unfetched_of(partition) for partition in self.assigned])
            except Exception as error:
                raise InletFailed(f"Faust does not say where it is: {error!r}") from error
            self._looked_s = now_s
        return len(self._waiting) + self._unfetched

    async def _unfetched_of(self, partition: int) -> int:
        tp = TP(self._topic, partition)
        end = self._app.consumer.highwater(tp)
        return max(0, end - (await self._app.consumer.position(tp) or end)) if end is not None else 0

    async def _on_assigned(self, _app: object, *assigned: AbstractSet[TP], **_: object) -> None:
        self._share_out(frozenset(tp.partition for tp in assigned[0]))

    async def _on_revoked(self, _app: object, *revoked: AbstractSet[TP], **_: object) -> None:
        self._share_out(self.assigned - {tp.partition for tp in revoked[0]})

    def _share_out(self, partitions: frozenset[int]) -> None:
        self._waiting.clear()  # it comes again, here or elsewhere
        self._room.set()
        self.assigned = partitions
        self.assignments += 1
        logger.info("partitions were shared out", extra={"partitions": sorted(partitions)})
        self.ring()


class Silence:
    """Notices that the feed brings nothing, although the log, which is read in its place, moves on."""

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._from_log = 0
        self._since_s: float | None = None

    def heard(self, events: int, from_log: int) -> None:
        """``events`` came, and ``from_log`` were read from the log in all.

        Raises InletFailed: another inlet may do better.
        """
        if events:
            self._since_s = None
        elif from_log > self._from_log:
            now_s = time.monotonic()
            self._since_s = self._since_s or now_s
            if now_s - self._since_s > self._most_s:
                raise InletFailed("the log moves on and nothing of it has come")
        self._from_log = from_log
