"""The intake on a real broker and a real database: topics of a prefix of its own, and what a test does to them."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from infra.event_store.postgres import PostgresEventStore
from infra.health import Health
from infra.ids import new_id
from infra.kafka.admin import ensure_topics
from infra.kafka.clients import running
from infra.kafka.topics import INTAKE_TOPICS, Topics
from infra.settings import WriteSettings
from tests.support import eventually_async
from tests.support_audit import audit, check_index
from tests.support_write_side import Cluster, PostgresDatabase
from write_side.executor import CommandExecutor
from write_side.intake.clerk import Clerk
from write_side.intake.intake import GROUP, Intake, IntakeOptions
from write_side.intake.lanes import Lanes
from write_side.intake.messages import Received
from write_side.intake.postgres_store import PostgresIntakeStore
from write_side.intake.store import DeadMessage, IntakeStore

SOURCE = "/shop"
PARTITIONS = 4
READY = b"ready\n"


def cloud_event(topic: str, data: dict[str, Any], **attributes: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": new_id(),
        "source": SOURCE,
        "type": topic,
        "datacontenttype": "application/json",
        "data": data,
    } | attributes


def encoded(event: Any) -> bytes:
    return event if isinstance(event, bytes) else msgspec.json.encode(event)


def received(topic: str, event: Any, *, offset: int = 0, partition: int = 0, key: bytes | None = None) -> Received:
    return Received(topic, partition, offset, key, encoded(event))


def placed(order_id: str, *lines: tuple[Any, ...], **more: Any) -> dict[str, Any]:
    """`placed("o1", ("A", 2, "W1"))`"""
    named = [dict(zip(("sku", "quantity", "warehouse"), line, strict=False)) for line in lines]
    return cloud_event("order.placed", {"order_id": order_id, "lines": named} | more)


def about(topic: str, order_id: str, **data: Any) -> dict[str, Any]:
    """`about("payment.authorized", "o1")`"""
    return cloud_event(topic, {"order_id": order_id} | data)


class Member:
    """An intake in this process, with an executor and a store of its own."""

    def __init__(self, rig: "IntakeRig", **options: Any) -> None:
        settings = WriteSettings(request_deadline_ms=5_000)
        self.store = PostgresIntakeStore(rig.database_url, retry_s=rig.retry_s, wait_s=rig.wait_s)
        self.executor = CommandExecutor(
            PostgresEventStore(
                rig.database_url, lock_timeout_ms=2_000, idle_in_transaction_timeout_ms=5_000, connect_timeout_s=5
            ),
            settings,
        )
        self.health = Health(30.0)
        self.intake = Intake(
            self.executor,
            self.store,
            IntakeOptions(kafka_servers=rig.servers, topics=rig.topics, drain_s=5.0, **options),
            self.health,
        )
        self.ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> "Member":
        await self.executor.start()
        self._running = asyncio.create_task(self.intake.run(self._stop, self.ready.set))
        return self

    async def until_ready(self) -> "Member":
        assert self._running is not None
        waiting = asyncio.create_task(self.ready.wait())
        await asyncio.wait([waiting, self._running], timeout=60, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._running.done():
            self._running.result()
        assert self.ready.is_set()
        return self

    async def stop(self) -> None:
        if self._running is None:
            return
        running, self._running = self._running, None
        async with AsyncExitStack() as closing:
            closing.push_async_callback(self.store.close)
            closing.push_async_callback(self.executor.drain)
            self._stop.set()
            await asyncio.wait_for(running, 60)


class IntakeRig:
    """One installation: a database and a prefix. Made by a fixture, which closes it."""

    def __init__(self, database_url: str, servers: str, prefix: str) -> None:
        self.database_url = database_url
        self.servers = servers
        self.topics = Topics(prefix, PARTITIONS)
        self.group = prefix + GROUP
        self.retry_s = 0.2
        self.wait_s = 3_600.0
        self.database = PostgresDatabase(database_url)
        self.cluster = Cluster(self.database, optimistic=True)
        self._members: list[Member] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._producer: AIOKafkaProducer | None = None

    async def open(self) -> None:
        await ensure_topics(self.servers, self.topics.specs(), 1)
        self._producer = AIOKafkaProducer(
            bootstrap_servers=self.servers, acks="all", compression_type="gzip", max_request_size=8 << 20
        )
        await self._producer.start()

    async def close(self) -> None:
        """Everything, whatever of it fails."""
        async with AsyncExitStack() as closing:
            closing.push_async_callback(self.cluster.close)
            if self._producer is not None:
                closing.push_async_callback(self._producer.stop)
            for process in self._processes:
                closing.callback(self.kill, process)
            for member in self._members:
                closing.push_async_callback(member.stop)

    # Members

    async def member(self, **options: Any) -> Member:
        """An intake that has found its broker."""
        member = Member(self, **options)
        self._members.append(member)
        return await (await member.start()).until_ready()

    def process(self, number: int = 1, **environment: str) -> subprocess.Popen[bytes]:
        """An intake in a process of its own, as the supervisor starts it; back when it is ready."""
        reading, writing = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "infra.cli.main", "process", f"intake-{number}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={
                **os.environ,
                "STOCKHOLD_EVENT_STORE_URL": self.database_url,
                "STOCKHOLD_KAFKA_SERVERS": self.servers,
                "STOCKHOLD_KAFKA_PREFIX": self.topics.prefix,
                "STOCKHOLD_KAFKA_PARTITIONS": str(PARTITIONS),
                "STOCKHOLD_INTAKE_RETRY_MS": str(int(self.retry_s * 1000)),
                "STOCKHOLD_READY_FD": str(writing),
                **environment,
            },
            pass_fds=[writing],
            process_group=0,
        )
        self._processes.append(process)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            assert pipe.readline() == READY
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """As `kill -9` does."""
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait(30)

    # Messages

    async def send(self, *events: Any, topic: str | None = None, key: str | None = None) -> None:
        """Each to the topic of its type, keyed by its order; all are with the broker when this returns."""
        assert self._producer is not None
        sent = []
        for event in events:
            name = topic or event["type"]
            its_key = key
            if its_key is None and isinstance(event, dict):
                its_key = event["data"].get("order_id") or event["data"].get("sku")
            sent.append(
                await self._producer.send(
                    self.topics.named(name), encoded(event), key=its_key.encode() if its_key else None
                )
            )
        await asyncio.gather(*sent)

    async def dead_letters(self) -> list[tuple[dict[str, str], bytes | None]]:
        """What is on the dead-letter topic: headers and value."""
        async with running(
            lambda: AIOKafkaConsumer(bootstrap_servers=self.servers, auto_offset_reset="earliest"), self.servers
        ) as reader:
            place = TopicPartition(self.topics.dead_letters, 0)
            reader.assign([place])
            end = (await reader.end_offsets([place]))[place]
            found: list[tuple[dict[str, str], bytes | None]] = []
            await reader.seek_to_beginning(place)
            while len(found) < end:
                for records in (await reader.getmany(timeout_ms=1_000)).values():
                    found += [({name: raw.decode() for name, raw in each.headers}, each.value) for each in records]
            return found

    async def delete_topic(self, topic: str) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.servers)
        try:
            await admin.start()
            await admin.delete_topics([self.topics.named(topic)])
        finally:
            await admin.close()

    # Waiting for it

    async def committed(self, topic: str) -> int:
        """Messages of a topic whose offsets the group has committed."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.servers)
        try:
            await admin.start()
            offsets = await admin.list_consumer_group_offsets(self.group)
            return sum(max(0, at.offset) for place, at in offsets.items() if place.topic == self.topics.named(topic))
        finally:
            await admin.close()

    async def caught_up(self, timeout_s: float = 30.0) -> None:
        """Until every message that is in the topics has been committed."""
        places = [
            TopicPartition(self.topics.named(name), partition)
            for name in INTAKE_TOPICS
            for partition in range(PARTITIONS)
        ]
        admin = AIOKafkaAdminClient(bootstrap_servers=self.servers)
        reader = AIOKafkaConsumer(bootstrap_servers=self.servers)
        try:
            await admin.start()
            await reader.start()
            ends = {place: end for place, end in (await reader.end_offsets(places)).items() if end}

            async def behind() -> bool:
                committed = await admin.list_consumer_group_offsets(self.group)
                missing = {p: (committed.get(p), end) for p, end in ends.items()}
                left = {p: (c.offset if c else None, end) for p, (c, end) in missing.items() if not c or c.offset < end}
                assert not left, left
                return True

            await eventually_async(behind, timeout_s, what="all messages are durable")
        finally:
            with suppress(Exception):
                await reader.stop()
            await admin.close()

    # Looking

    def waiting(self) -> list[tuple[Any, ...]]:
        return self.database.rows("SELECT topic, order_id, code FROM waiting_messages ORDER BY since")

    def dead(self) -> list[tuple[Any, ...]]:
        return self.database.rows("SELECT topic, code, times FROM dead_messages ORDER BY first_at")

    def statuses(self) -> dict[str, str]:
        """Of every hold's reservation."""
        return {hold.reservation_id: str(hold.status) for hold in self.database.holds()}

    def check(self) -> None:
        """The log folds to what the index says, and no promise was made without stock."""
        check_index(audit(self.database.events()), self.database.holds(), self.database.headers())

    def applied(self) -> list[str]:
        """Keys of the messages that the log knows, in its order, repeats and all."""
        seen: dict[tuple[str, str], None] = {}
        for event in self.cluster.events():
            origin = event["origin"]
            if origin.get("causation_id") and origin.get("idempotency_key"):
                seen[origin["command_id"], origin["causation_id"]] = None
        return [cause for _, cause in seen]


# Without a broker ------------------------------------------------------------------------------------


class Shelf:
    """Takes what would go to the dead-letter topic."""

    def __init__(self) -> None:
        self.published: list[DeadMessage] = []

    async def publish(self, messages: Sequence[DeadMessage]) -> None:
        self.published += messages

    def said(self) -> list[tuple[str, str]]:
        return [(message.received.topic, message.code) for message in self.published]


class Desk:
    """A clerk of one process, handed messages by the test: a memory of its own, a store that others may share."""

    def __init__(self, executor: CommandExecutor, store: IntakeStore) -> None:
        self.shelf = Shelf()
        self.store = store
        self.lanes = Lanes(executor)
        self.clerk = Clerk(self.lanes, store, self.shelf)

    async def hand(self, *events: Any) -> None:
        """One batch: (topic, anything), or events that name their topic as their type."""
        batch = [
            received(event[0], event[1], offset=number)
            if isinstance(event, tuple)
            else received(event["type"], event, offset=number)
            for number, event in enumerate(events)
        ]
        await asyncio.wait_for(self.clerk.settle(batch), 30)

    async def look_after(self) -> None:
        await asyncio.wait_for(self.clerk.look_after(), 30)
