"""A relay to run, as a task or as a process, and what it has put on the topic, as the readers of it see it.

async with relaying(options) as relay: ...
await arrived(options, log.rows())
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from aiokafka import TopicPartition

from infra.event_store.log_reader import LogRow
from infra.event_store.relay_checkpoints import Checkpoint, leader_lock_key
from infra.kafka.clients import consumer
from infra.kafka.event_batches import EventBatch, MessageRow, decode_batch
from infra.kafka.partitions import partition_of
from infra.kafka.topics import Topics
from tests.support import eventually_async
from write_side.relay import Relay, RelayOptions

PARTITIONS = 4


def options_for(url: str, kafka: str, prefix: str, **more: Any) -> RelayOptions:
    topics = Topics(prefix, PARTITIONS)
    given = {"event_store_url": url, "kafka_servers": kafka, "topic": topics.spec_of(topics.stock_events)}
    return RelayOptions(**{**given, "connect_timeout_s": 2.0, **more})


@dataclass
class Running:
    """A relay that runs as a task of this loop."""

    relay: Relay
    ready: asyncio.Event
    stop: asyncio.Event
    task: asyncio.Task[None]


@asynccontextmanager
async def relaying(options: RelayOptions, *, wait: bool = True) -> AsyncIterator[Running]:
    """Run one for as long as the block lasts; ``wait`` until it is ready."""
    relay, stop, ready = Relay(options), asyncio.Event(), asyncio.Event()
    running = Running(relay, ready, stop, asyncio.create_task(relay.run(stop, ready.set)))
    try:
        if wait:
            await asyncio.wait_for(ready.wait(), 30)
        yield running
    finally:
        stop.set()
        await asyncio.wait_for(running.task, 20)


class RelayProcess:
    """A relay as the supervisor starts it."""

    def __init__(self, options: RelayOptions, prefix: str) -> None:
        self._ready, theirs = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "infra.cli.main", "process", "relay"],
            env={
                **os.environ,
                "STOCKHOLD_EVENT_STORE_URL": options.event_store_url,
                "STOCKHOLD_KAFKA_SERVERS": options.kafka_servers,
                "STOCKHOLD_KAFKA_PREFIX": prefix,
                "STOCKHOLD_KAFKA_PARTITIONS": str(PARTITIONS),
                "STOCKHOLD_READY_FD": str(theirs),
                "STOCKHOLD_LOG_LEVEL": "ERROR",
            },
            pass_fds=[theirs],
        )
        os.close(theirs)

    async def wait_ready(self) -> None:
        assert await asyncio.to_thread(os.read, self._ready, 100), "it ended"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Stop it as the supervisor does, unless it has ended."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)
        os.close(self._ready)


@contextmanager
def relay_processes(options: RelayOptions, prefix: str) -> Iterator["Starter"]:
    """Processes that end with the block."""
    starter = Starter(options, prefix)
    try:
        yield starter
    finally:
        for process in starter.started:
            process.close()


class Starter:
    def __init__(self, options: RelayOptions, prefix: str) -> None:
        self._options, self._prefix = options, prefix
        self.started: list[RelayProcess] = []

    async def start(self) -> RelayProcess:
        process = RelayProcess(self._options, self._prefix)
        self.started.append(process)
        await process.wait_ready()
        return process


async def messages(options: RelayOptions) -> dict[int, list[EventBatch]]:
    """By partition, everything that is on the topic."""
    reader = consumer(options.kafka_servers, None, "test")
    await reader.start()
    try:
        places = [TopicPartition(options.topic.name, n) for n in range(options.topic.partitions)]
        reader.assign(places)
        ends = await reader.end_offsets(places)
        found: dict[int, list[EventBatch]] = {place.partition: [] for place in places}
        while any([await reader.position(place) < ends[place] for place in places]):
            for place, records in (await reader.getmany(timeout_ms=1_000)).items():
                found[place.partition] += [decode_batch(record.value) for record in records]
        return found
    finally:
        await reader.stop()


def events_of(found: dict[int, list[EventBatch]]) -> dict[int, list[MessageRow]]:
    return {partition: [row for batch in batches for row in batch.rows] for partition, batches in found.items()}


def check_order(log: Sequence[LogRow], found: dict[int, list[EventBatch]]) -> int:
    """Every event of the log is there, unchanged, in its partition, and after all that came before it in the log.

    Repeats may be anywhere after that. How many there were.
    """
    repeats = 0
    for partition, arrived in events_of(found).items():
        first: dict[int, MessageRow] = {}
        for row in arrived:
            repeats += row.position in first
            first.setdefault(row.position, row)
            assert tuple(first[row.position]) == tuple(row)
        share = [row for row in log if partition_of(row.stream, len(found)) == partition]
        assert [tuple(row) for row in first.values()] == [tuple(row) for row in share]
    return repeats


async def arrived(options: RelayOptions, log: Sequence[LogRow], timeout_s: float = 30.0) -> int:
    """Wait until the log is published, and check the order; how many events came more than once."""
    await checkpoint_reaches(options, log[-1].position if log else 0, timeout_s)
    return check_order(log, await messages(options))


def checkpoint(options: RelayOptions) -> Checkpoint | None:
    with psycopg.connect(options.event_store_url, options="-c search_path=stockhold") as connection:
        row = connection.execute(
            "SELECT position, epoch FROM relay_checkpoints WHERE name = %s", [options.topic.name]
        ).fetchone()
    return None if row is None else Checkpoint(*row)


async def checkpoint_reaches(options: RelayOptions, position: int, timeout_s: float = 30.0) -> None:
    def reached() -> bool:
        found = checkpoint(options)
        assert found is not None, "there is no checkpoint"
        assert found.position >= position, f"{found.position} of {position}"
        return True

    await eventually_async(reached, timeout_s, what="the log published")


def leading_backends(options: RelayOptions) -> list[int]:
    """The server processes that hold the topic's lock; there must never be two."""
    key = leader_lock_key(options.topic.name) % 2**64
    with psycopg.connect(options.event_store_url) as connection:
        rows = connection.execute(
            "SELECT l.pid FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE l.locktype = 'advisory'"
            " AND l.granted AND d.datname = current_database() AND l.classid::bigint = %s AND l.objid::bigint = %s",
            [key >> 32, key % 2**32],
        ).fetchall()
    return [row[0] for row in rows]
