"""A publisher's surroundings on a real broker: a log, the internal topic, and somebody who reads the public ones."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.structs import ConsumerRecord

from domain.commands import Command
from infra.event_store.log_reader import LogRow
from infra.event_store.mapper import EventMapper
from infra.event_store.postgres import PostgresEventStore
from infra.health import Health
from infra.kafka.admin import ensure_topics
from infra.kafka.clients import consumer, producer
from infra.kafka.event_batches import encode_batch
from infra.kafka.partitions import partition_of
from infra.kafka.topics import PUBLIC_TOPICS, Topics
from infra.settings import WriteSettings
from projections.public.cloud_events import PublicMessage
from projections.public.publisher import PublisherOptions
from projections.public.runner import PublisherSettings, run_publisher
from tests.support import eventually_async
from tests.support_public import body, first_of_each, tell
from tests.support_views import LogWriter
from write_side.executor import CommandExecutor
from write_side.submission import Answer, Submission

PARTITIONS = 3
PROMPT = PublisherOptions(reconcile_s=0.1, reconcile_lag_s=0.3)
FROM_KAFKA = PublisherOptions(reconcile_s=0.1, reconcile_lag_s=3_600)
"""Nothing is read from the log but what a gap asks for: what is told has come by Kafka."""


def told_by(record: "ConsumerRecord[bytes, bytes]", prefix: str) -> PublicMessage:
    event = json.loads(record.value or b"")
    return PublicMessage(
        record.topic.removeprefix(prefix),
        (record.key or b"").decode(),
        event["id"],
        event["source"],
        record.value or b"",
    )


@dataclass(frozen=True)
class Running:
    """What a publisher says of itself."""

    ready: asyncio.Event
    health: Health


class Bench:
    """A log, the internal topic, somebody who reads the public ones, and publishers that come and go."""

    def __init__(
        self, settings: PublisherSettings, sender: AIOKafkaProducer, reader: AIOKafkaConsumer, executor: CommandExecutor
    ) -> None:
        self.settings = settings
        self.topics = settings.topics
        self.log = LogWriter(settings.event_store_url)
        self.executor = executor
        self.received: list[PublicMessage] = []
        self.records: list[Any] = []
        self._sender = sender
        self._reader = reader

    @asynccontextmanager
    async def publisher(
        self, options: PublisherOptions = PROMPT, client_id: str = "publisher", *, at_once: bool = False
    ) -> AsyncIterator[Running]:
        """One that runs while the block lasts; ``at_once``: whether it works yet or not."""
        stop, running = asyncio.Event(), Running(asyncio.Event(), Health(stall_s=30))
        settings = replace(self.settings, options=options, client_id=client_id)
        task = asyncio.create_task(run_publisher(settings, stop, running.ready.set, running.health))
        waiting = asyncio.create_task(running.ready.wait())
        try:
            if not at_once:
                await asyncio.wait({task, waiting}, timeout=40, return_when=asyncio.FIRST_COMPLETED)
                assert running.ready.is_set(), task
            yield running
        finally:
            waiting.cancel()
            stop.set()
            await asyncio.wait_for(task, 40)

    async def do(self, command: Command, correlation_id: str | None = None, causation_id: str | None = None) -> int:
        """The status of the answer."""
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        asked = Submission(
            command,
            b"digest",
            uuid4().hex,
            answered.set_result,
            correlation_id=correlation_id,
            causation_id=causation_id,
        )
        self.executor.submit(asked)
        return (await answered).status

    async def send(self, rows: list[LogRow], size: int = 5) -> None:
        """What the relay would: in the order of the log, in messages of at most ``size`` events."""
        by_partition: dict[int, list[LogRow]] = {}
        for row in rows:
            by_partition.setdefault(partition_of(row.stream, PARTITIONS), []).append(row)
        for partition, own in by_partition.items():
            for start in range(0, len(own), size):
                await self.put(partition, encode_batch(1, own[start : start + size]))

    async def put(self, partition: int, value: bytes) -> None:
        await self._sender.send_and_wait(self.topics.stock_events, value, partition=partition)

    async def limit(self, topic: str, message_bytes: int) -> None:
        """Let the brokers take no larger messages on ``topic`` from now on."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.settings.kafka_servers)
        await admin.start()
        try:
            config = {"max.message.bytes": str(message_bytes)}
            await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, self.topics.named(topic), config)])
        finally:
            await admin.close()

    async def read(self) -> None:
        """Whatever has come to the public topics since the last time."""
        found = await self._reader.getmany(timeout_ms=100)
        for records in found.values():
            self.records += records
            self.received += [told_by(record, self.topics.prefix) for record in records]

    async def hears(self, enough: Callable[[], bool], what: str, timeout_s: float = 40) -> None:
        async def heard() -> bool:
            await self.read()
            return enough()

        await eventually_async(heard, timeout_s, what=what)

    async def hears_all(self) -> None:
        """Wait until everything that the log says has been told; it has been, in order, once seen twice is left out."""
        expected = self.expected()
        wanted = {(message.source, message.id) for message in expected}

        def missing() -> set[tuple[str, str]]:
            return wanted - {(message.source, message.id) for message in self.received}

        await self.hears(lambda: not missing(), "everything to be told")
        heard = first_of_each(self.received)
        in_order: dict[tuple[str, str], list[PublicMessage]] = {}
        for message in expected:
            in_order.setdefault((message.topic, body(message)["subject"]), []).append(message)
        for (topic, subject), messages in in_order.items():
            if subject.startswith("stock:"):
                own = [m for m in heard if m.topic == topic and body(m)["subject"] == subject]
                assert own == messages, (topic, subject)
        assert {m for m in heard if m.topic != "inventory.reservation-rejected"} == set(expected)

    def expected(self) -> list[PublicMessage]:
        mapper = EventMapper()
        return tell(mapper.decode(row.topic, row.state) for row in self.log.rows())


@asynccontextmanager
async def publisher_bench(url: str, kafka: str, prefix: str) -> AsyncIterator[Bench]:
    topics = Topics(prefix, PARTITIONS)
    names = (topics.stock_events, *map(topics.named, PUBLIC_TOPICS))
    await ensure_topics(kafka, [topics.spec_of(name) for name in names], 1)
    settings = PublisherSettings(
        event_store_url=url,
        read_model_url=url,
        kafka_servers=kafka,
        topics=topics,
        replication=1,
        client_id="publisher",
        source="/stockhold",
        stall_s=5,
    )
    store = PostgresEventStore(url, lock_timeout_ms=5_000, idle_in_transaction_timeout_ms=5_000, connect_timeout_s=5)
    executor = CommandExecutor(store, WriteSettings())
    await executor.start()
    sender, reader = producer(kafka, "test"), consumer(kafka, None, "test")
    await sender.start()
    await reader.start()
    reader.subscribe([topics.named(topic) for topic in PUBLIC_TOPICS])
    try:
        yield Bench(settings, sender, reader, executor)
    finally:
        await executor.drain()
        await reader.stop()
        await sender.stop()
