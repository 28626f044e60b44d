"""The publisher on a real broker: the whole life of an order reaches the public topics, whatever dies in between."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import ConsumerRecord

from domain.commands import (
    CancelReservation,
    Command,
    CommitReservation,
    CreateReservation,
    ExpireHolds,
    Line,
    PutWarehouse,
    ReleaseReservation,
    Restock,
    ReturnLine,
    ReturnReservation,
    ShipReservation,
)
from domain.values import Condition, stock_stream
from infra.event_store.log_reader import LogRow
from infra.event_store.mapper import EventMapper
from infra.event_store.postgres import PostgresEventStore
from infra.kafka.admin import ensure_topics
from infra.kafka.clients import consumer, producer
from infra.kafka.event_batches import encode_batch
from infra.kafka.partitions import partition_of
from infra.kafka.topics import PUBLIC_TOPICS, Topics
from infra.settings import WriteSettings
from projections.public.cloud_events import PublicMessage
from projections.public.publisher import PublisherOptions
from projections.public.runner import GROUP, PublisherSettings, run_publisher
from tests.support import eventually_async
from tests.support_asyncapi import faults
from tests.support_domain import registered, reserved, restocked
from tests.support_public import body, first_of_each, tell
from tests.support_views import LogWriter
from write_side.executor import CommandExecutor
from write_side.submission import Answer, Submission

pytestmark = pytest.mark.kafka

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
    async def publisher(self, options: PublisherOptions = PROMPT, client_id: str = "publisher") -> AsyncIterator[None]:
        stop, ready = asyncio.Event(), asyncio.Event()
        settings = replace(self.settings, options=options, client_id=client_id)
        task = asyncio.create_task(run_publisher(settings, stop, ready.set))
        waiting = asyncio.create_task(ready.wait())
        try:
            await asyncio.wait({task, waiting}, timeout=40, return_when=asyncio.FIRST_COMPLETED)
            assert ready.is_set(), task
            yield
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


@pytest.fixture
async def bench(database_url: str, kafka: str, kafka_prefix: str) -> AsyncIterator[Bench]:
    topics = Topics(kafka_prefix, PARTITIONS)
    names = (topics.stock_events, *map(topics.named, PUBLIC_TOPICS))
    await ensure_topics(kafka, [topics.spec_of(name) for name in names], 1)
    settings = PublisherSettings(
        event_store_url=database_url,
        read_model_url=database_url,
        kafka_servers=kafka,
        topics=topics,
        replication=1,
        client_id="publisher",
        source="/stockhold",
    )
    store = PostgresEventStore(
        database_url, lock_timeout_ms=5_000, idle_in_transaction_timeout_ms=5_000, connect_timeout_s=5
    )
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


async def orders(bench: Bench) -> None:
    """Orders of every kind of life, and one that is refused."""
    await bench.do(PutWarehouse(code="W1"))
    for sku in ("A", "B"):
        await bench.do(Restock(sku=sku, warehouse="W1", quantity=40))
    both = (Line(sku="A", quantity=2, warehouse="W1"), Line(sku="B", quantity=1, warehouse="W1"))
    for name in ("paid", "failed", "refunded", "late"):
        made = CreateReservation(reservation_id=f"r-{name}", order_id=f"o-{name}", lines=both, ttl_seconds=1)
        if name != "late":
            made = CreateReservation(reservation_id=f"r-{name}", order_id=f"o-{name}", lines=both)
        assert await bench.do(made) == 201
    for name in ("paid", "refunded"):
        await bench.do(CommitReservation(reservation_id=f"r-{name}"))
    await bench.do(ShipReservation(reservation_id="r-paid", tracking="T1"))
    back = ReturnLine(sku="A", warehouse="W1", quantity=1, condition=Condition.SELLABLE)
    await bench.do(ReturnReservation(reservation_id="r-paid", lines=(back,)))
    await bench.do(ReleaseReservation(reservation_id="r-failed"))
    await bench.do(CancelReservation(reservation_id="r-refunded"))
    await bench.do(CreateReservation(order_id="o-last", lines=(Line(sku="A", quantity=30, warehouse="W1"),)))

    async def swept() -> bool:
        for sku in ("A", "B"):
            await bench.executor.execute(ExpireHolds(stream=stock_stream(sku, "W1"), limit=10))
        return sum(row.topic == "stock-item.released" and b"EXPIRED" in row.state for row in bench.log.rows()) == 2

    await eventually_async(swept, what="the hold to expire")
    too_many = CreateReservation(order_id="o-refused", lines=(Line(sku="A", quantity=500, warehouse="W1"),))
    assert await bench.do(too_many, correlation_id="checkout", causation_id="placed-1") == 409


async def test_the_whole_life_of_orders_is_told(bench: Bench) -> None:
    async with bench.publisher(FROM_KAFKA):
        await orders(bench)
        await bench.send(bench.log.rows(), size=3)
        await bench.hears_all()
        await bench.hears(lambda: any("rejected" in m.topic for m in bench.received), "the refusal")
    assert {message.topic for message in bench.received} == set(PUBLIC_TOPICS)
    for message, record in zip(bench.received, bench.records, strict=True):
        assert faults(message.topic, body(message)) == []
        assert record.headers == (("content-type", b"application/cloudevents+json; charset=UTF-8"),)
    (rejected,) = [body(m) for m in bench.received if "rejected" in m.topic]
    assert (rejected["data"]["order_id"], rejected["data"]["code"]) == ("o-refused", "insufficient-stock")
    assert (rejected["correlationid"], rejected["causationid"]) == ("checkout", "placed-1")
    assert {m.key for m in bench.received if m.topic == "inventory.movements"} == {"A", "B"}


async def test_started_over_from_the_first_message_nothing_is_told_again(bench: Bench) -> None:
    await orders(bench)
    await bench.send(bench.log.rows())
    async with bench.publisher():
        await bench.hears_all()
        await bench.hears(lambda: any("rejected" in m.topic for m in bench.received), "the refusal")
    told = list(bench.received)
    # Another group has no offsets: it begins with the first message of all.
    again = replace(bench.settings, topics=_OtherGroup(bench.topics.prefix, PARTITIONS))
    bench.settings = again
    async with bench.publisher():
        await orders_more(bench)
        await bench.hears_all()
    assert bench.received[: len(told)] == told
    assert len({(m.source, m.id) for m in bench.received}) == len(bench.received)


class _OtherGroup(Topics):
    def named(self, topic: str) -> str:
        return super().named(topic + ".again" if topic == GROUP else topic)


async def orders_more(bench: Bench) -> None:
    before = len(bench.log.rows())
    await bench.do(Restock(sku="A", warehouse="W1", quantity=1))
    await bench.send(bench.log.rows()[before:])


async def test_states_that_are_lost_are_told_again_under_the_same_ids(bench: Bench) -> None:
    bench.log.happened("A", "W1", registered(), restocked(20), reserved("r-1", 3))
    await bench.send(bench.log.rows())
    async with bench.publisher():
        await bench.hears_all()
    once = list(bench.received)
    with psycopg.connect(bench.settings.read_model_url) as connection:
        connection.execute("TRUNCATE stockhold_public.streams, stockhold_public.holds, stockhold_public.partitions")
    async with bench.publisher():
        await bench.hears(lambda: len(bench.received) >= 2 * len(once), "everything again")
    assert Counter(bench.received) == Counter(once * 2)


async def test_what_kafka_loses_comes_from_the_log(bench: Bench) -> None:
    async with bench.publisher():
        for sku in "ABCDEF":
            bench.log.happened(sku, "W1", registered(), restocked(20), reserved("r-1", 3))
        rows = bench.log.rows()
        await bench.send([row for number, row in enumerate(rows) if number % 4])
        await bench.hears_all()


async def test_a_poison_event_stops_its_item_and_nothing_else(bench: Bench) -> None:
    bench.log.happened("A", "W1", registered(), restocked(20))
    bench.log.append_poison(stock_stream("A", "W1"))
    bench.log.happened("B", "W1", registered(), restocked(20))
    async with bench.publisher():
        await bench.send(bench.log.rows())
        await bench.put(0, b"no batch at all")
        bench.log.happened("B", "W1", reserved("r-1", 1))
        await bench.send(bench.log.rows()[-1:])
        await bench.hears(lambda: any(m.id == "stock:B@W1#3" for m in bench.received), "the other item")
    assert {m.id for m in bench.received if m.id.startswith("stock:A")} == {"stock:A@W1#1", "stock:A@W1#2"}


async def test_two_publishers_share_the_work_and_one_takes_over(bench: Bench) -> None:
    skus = [f"SKU-{n}" for n in range(16)]
    async with bench.publisher(client_id="one"):
        async with bench.publisher(client_id="two"):
            for sku in skus:
                bench.log.happened(sku, "W1", registered(), restocked(20))
            await bench.send(bench.log.rows(), size=2)
            await bench.hears_all()
        before = len(bench.log.rows())
        for sku in skus:
            bench.log.happened(sku, "W1", restocked(1))
        await bench.send(bench.log.rows()[before:], size=1)
        await bench.hears_all()


async def test_killed_between_telling_and_noting_it_tells_again_and_then_the_rest(bench: Bench) -> None:
    bench.log.happened("first", "W1", registered())
    first = bench.log.rows()
    for sku in [f"SKU-{n}" for n in range(12)]:
        bench.log.happened(sku, "W1", registered(), *([restocked(1)] * 40))
    with psycopg.connect(bench.settings.read_model_url) as connection:
        async with _process(bench) as process:
            await bench.send(first)
            noted = "SELECT count(*) FROM stockhold_public.streams"
            await eventually_async(lambda: connection.execute(noted).fetchone() == (1,), 40, what="that it works")
            # It may read its tables and tell everybody, but it cannot note that it has.
            connection.execute("LOCK TABLE stockhold_public.streams IN EXCLUSIVE MODE")
            await bench.send(bench.log.rows()[1:], size=20)
            await bench.hears(lambda: len(bench.received) > 50, "the first messages")
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
        assert connection.execute(noted).fetchone() == (1,)
    async with _process(bench):
        await bench.hears_all()
    assert len(bench.received) > len(first_of_each(bench.received))


@asynccontextmanager
async def _process(bench: Bench) -> AsyncIterator[asyncio.subprocess.Process]:
    """A publisher as the supervisor starts it."""
    environment = {
        **os.environ,
        "STOCKHOLD_EVENT_STORE_URL": bench.settings.event_store_url,
        "STOCKHOLD_READ_MODEL_URL": bench.settings.read_model_url,
        "STOCKHOLD_KAFKA_SERVERS": bench.settings.kafka_servers,
        "STOCKHOLD_KAFKA_PREFIX": bench.topics.prefix,
        "STOCKHOLD_KAFKA_PARTITIONS": str(PARTITIONS),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "infra.cli.main", "process", "publisher"), env=environment
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 30) == 0
