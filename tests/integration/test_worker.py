"""Workers on a real broker: whatever Kafka repeats, reorders or loses, both stores end as the log says."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from domain.commands import Command, CreateReservation, Line, PutWarehouse, Restock
from infra.event_store.log_reader import LogRow
from infra.event_store.postgres import PostgresEventStore
from infra.health import Health
from infra.kafka.admin import ensure_topics
from infra.kafka.clients import producer, until_reachable
from infra.kafka.event_batches import MessageRow, encode_batch
from infra.kafka.partitions import partition_of
from infra.kafka.topics import Topics
from infra.redis import connect_redis
from infra.settings import WriteSettings
from projections import generations
from projections.follower import FollowerOptions
from projections.generations import Generation
from projections.lane import Servers
from projections.verify import GenerationName, Verification
from projections.worker import Feed, run_worker
from tests.support import eventually_async
from tests.support_kafka import own_broker
from tests.support_views import LogWriter, read_cache, read_views
from write_side.executor import CommandExecutor

pytestmark = pytest.mark.kafka

PARTITIONS = 4
SKUS = [f"SKU-{n}" for n in range(24)]
PROMPT = FollowerOptions(poll_s=0.05, reconcile_s=0.05, reconcile_lag_s=0.2)
FROM_KAFKA = FollowerOptions(poll_s=0.05, reconcile_s=0.05, reconcile_lag_s=3_600)
"""Nothing is read from the log: what is in the views has come by Kafka."""


class Bench:
    """A log, a topic, and workers that come and go."""

    def __init__(
        self,
        url: str,
        redis_url: str,
        topics: Topics,
        kafka: str,
        sender: AIOKafkaProducer,
        executor: CommandExecutor,
    ) -> None:
        self.url = url
        self.redis_url = redis_url
        self.log = LogWriter(url)
        self.topics = topics
        self.sender = sender
        self.executor = executor
        self.feed = Feed(kafka, topics, replication=1, client_id="worker", start="earliest")

    @asynccontextmanager
    async def starting(
        self, options: FollowerOptions = PROMPT, **feed: Any
    ) -> AsyncIterator[tuple[asyncio.Event, Health]]:
        """A worker, and what tells that it is ready."""
        stop, ready, health = asyncio.Event(), asyncio.Event(), Health()
        async with connect_redis(self.redis_url, timeout_s=1) as redis:
            servers = Servers(self.url, self.url, redis, partitions=PARTITIONS)
            task = asyncio.create_task(
                run_worker(servers, stop, ready.set, options, health, feed=replace(self.feed, **feed))
            )
            try:
                yield ready, health
            finally:
                stop.set()
                await asyncio.wait_for(task, 30)

    @asynccontextmanager
    async def worker(self, options: FollowerOptions = PROMPT, **feed: Any) -> AsyncIterator[None]:
        """A worker that is ready."""
        async with self.starting(options, **feed) as (ready, _):
            await asyncio.wait_for(ready.wait(), 30)
            yield

    async def busy(self, rounds: int = 3) -> list[LogRow]:
        """Something happens to every item, decided as ever; the rows of it."""
        before = len(self.log.rows())
        if not before:
            await self._done(PutWarehouse(code="W1"))
            await asyncio.gather(*(self._done(Restock(sku=sku, warehouse="W1", quantity=1_000)) for sku in SKUS))
        lines = [(Line(sku=sku, quantity=1, warehouse="W1"),) for sku in SKUS for _ in range(rounds)]
        await asyncio.gather(*(self._done(CreateReservation(order_id="o", lines=line)) for line in lines))
        return self.log.rows()[before:]

    async def _done(self, command: Command) -> None:
        answer = await self.executor.execute(command, key=uuid4().hex)
        assert answer.status < 300, answer

    async def send(self, rows: Iterable[LogRow | MessageRow], size: int = 5, epoch: int = 1) -> None:
        """In the order in which they come, in messages of at most ``size`` events."""
        by_partition: dict[int, list[LogRow | MessageRow]] = {}
        for row in rows:
            by_partition.setdefault(partition_of(row.stream, PARTITIONS), []).append(row)
        for partition, own in by_partition.items():
            for start in range(0, len(own), size):
                await self.put(partition, encode_batch(epoch, own[start : start + size]))

    async def put(self, partition: int, value: bytes) -> None:
        await self.sender.send_and_wait(self.topics.stock_events, value, partition=partition)

    async def generation(self) -> Generation:
        async with await generations.connect(self.url) as connection:
            current = await generations.current(connection)
        assert current is not None
        return current

    async def shows_all(self, skus: Sequence[str] = tuple(SKUS)) -> None:
        """Wait until both stores have every item at the version that the log has."""
        wanted = {row.stream: row.version for row in self.log.rows()}

        async def both() -> bool:
            generation = await self.generation()
            found = {
                (r["sku"], r["warehouse"]): r["version"]
                for r in read_views(self.url, generation.schema)["stock_levels"]
            }
            async with connect_redis(self.redis_url) as redis:
                assert await redis.hlen(f"{generation.redis_prefix}:filled") == PARTITIONS
                cached = await read_cache(redis, generation.redis_prefix)
            for sku in skus:
                version = wanted[f"stock:{sku}@W1"]
                assert found.get((sku, "W1")) == version, sku
                level = cached.levels.get((sku, "W1"))
                assert level is not None, sku
                assert level.version == version, sku
            return True

        await eventually_async(both, what="every item in both stores")

    async def is_clean(self) -> None:
        generation = await self.generation()
        name = GenerationName(generation.schema, generation.redis_prefix)

        def verify() -> None:
            with Verification(self.url, self.url, self.redis_url, generation=name) as verification:
                report = verification.run()
            assert report.is_clean, (report.violation_details, report.difference_details)

        await asyncio.to_thread(verify)


@pytest.fixture
async def bench(database_url: str, redis_url: str, kafka: str, kafka_prefix: str) -> AsyncIterator[Bench]:
    topics = Topics(kafka_prefix, PARTITIONS)
    await ensure_topics(kafka, [topics.specs()[0]], 1)
    sender = producer(kafka, "test")
    await sender.start()
    store = PostgresEventStore(
        database_url, lock_timeout_ms=5_000, idle_in_transaction_timeout_ms=5_000, connect_timeout_s=5
    )
    executor = CommandExecutor(store, WriteSettings())
    await executor.start()
    try:
        yield Bench(database_url, redis_url, topics, kafka, sender, executor)
    finally:
        await executor.drain()
        await sender.stop()


async def test_what_kafka_brings_is_in_both_stores(bench: Bench) -> None:
    async with bench.worker(FROM_KAFKA):
        await bench.send(await bench.busy())
        await bench.shows_all()
        await bench.send(await bench.busy(1), size=1)
        await bench.shows_all()
    async with bench.worker():
        await bench.is_clean()


async def test_whatever_kafka_does_to_them_the_views_are_right(bench: Bench) -> None:
    chance = random.Random(7)
    async with bench.worker():
        for _ in range(5):
            rows = await bench.busy(2)
            kept = [row for row in rows if chance.random() < 0.8]
            repeated = kept + chance.choices(kept, k=20)
            chance.shuffle(repeated)
            await bench.send(repeated, size=3)
        await bench.shows_all()
        await bench.is_clean()


async def test_nothing_comes_at_all_and_the_log_says_it(bench: Bench) -> None:
    async with bench.worker():
        await bench.busy()
        await bench.shows_all()
        await bench.is_clean()


@pytest.mark.parametrize("start", ["earliest", "latest"])
async def test_a_worker_that_begins_anew_makes_the_same_views(bench: Bench, start: str) -> None:
    await bench.send(await bench.busy())
    async with bench.worker(start=start):
        await bench.shows_all()
        views = read_views(bench.url, (await bench.generation()).schema)
    async with bench.worker(start=start, group="again"):
        await bench.shows_all()
        await bench.is_clean()
        assert read_views(bench.url, (await bench.generation()).schema) == views


async def test_workers_come_and_go_under_load(bench: Bench) -> None:
    done = asyncio.Event()

    async def load() -> None:
        while not done.is_set():
            await bench.send(await bench.busy(1), size=2)

    async with bench.worker():
        loading = asyncio.create_task(load())
        async with AsyncExitStack() as second:
            await second.enter_async_context(bench.worker())
            async with bench.worker():
                pass
        done.set()
        await loading
        await bench.shows_all()
        await bench.is_clean()


async def test_two_workers_refill_an_emptied_cache_each_its_own_part(bench: Bench) -> None:
    async with bench.worker(), bench.worker():
        await bench.send(await bench.busy())
        await bench.shows_all()
        async with connect_redis(bench.redis_url) as redis:
            await redis.flushdb()
        await bench.send(await bench.busy(1))
        await bench.shows_all()
        await bench.is_clean()


async def test_a_poison_event_stops_its_item_alone(bench: Bench) -> None:
    await bench.busy(1)
    version = max(row.version for row in bench.log.rows() if row.stream == "stock:SKU-3@W1") + 1
    bench.log.append_rows([("stock:SKU-3@W1", version, "stock-item.no-such-thing", b"{}")])
    async with bench.worker(FROM_KAFKA):
        await bench.send(bench.log.rows())
        await bench.shows_all([sku for sku in SKUS if sku != "SKU-3"])
        generation = await bench.generation()
        parked = read_views(bench.url, generation.schema)["dead_letters"]
        assert [(letter["stream"], letter["version"]) for letter in parked] == [("stock:SKU-3@W1", version)]


async def test_messages_that_cannot_be_read_or_are_of_another_life_do_no_harm(bench: Bench) -> None:
    rows = await bench.busy()
    foreign = [MessageRow(row.position, row.stream, row.version, "stock-item.discontinued", b"{}") for row in rows]
    async with bench.worker():
        for partition in range(PARTITIONS):
            await bench.put(partition, b"\xff not ours")
            await bench.put(partition, b"")
        await bench.send(foreign, epoch=2)
        await bench.send(rows)
        await bench.shows_all()
        await bench.is_clean()


async def test_an_event_too_large_for_a_message_is_read_from_the_log(bench: Bench) -> None:
    rows = [
        MessageRow(row.position, row.stream, row.version, row.topic, None if row.version == 2 else row.state)
        for row in await bench.busy()
    ]
    async with bench.worker(FROM_KAFKA):
        await bench.send(rows)
        await bench.shows_all()


async def test_postgres_ends_every_connection_in_the_middle(bench: Bench) -> None:
    async with bench.worker(FROM_KAFKA):
        for _ in range(3):
            rows = await bench.busy(1)
            await bench.send(rows[: len(rows) // 2])
            with psycopg.connect(bench.url, autocommit=True) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            await bench.send(rows[len(rows) // 2 :])
            await bench.shows_all()
    async with bench.worker():
        await bench.is_clean()


async def test_a_worker_waits_for_its_broker(bench: Bench, data_dir: Path) -> None:
    with own_broker(data_dir) as broker:
        await asyncio.to_thread(broker.stop)
        async with bench.starting(servers=broker.servers) as (ready, health):
            away = await eventually_async(lambda: next(filter(None, health.checks().values()), None))
            assert broker.servers in str(away)
            assert not ready.is_set()
            broker.start()  # in this thread, for the broker ends with the one that started it
            await asyncio.wait_for(ready.wait(), 30)
            await bench.busy(1)
            await bench.shows_all()


async def test_a_topic_that_is_deleted_and_made_again(bench: Bench) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bench.feed.servers)
    await admin.start()
    try:
        async with bench.worker(stall_s=2):
            await bench.send(await bench.busy())
            await bench.shows_all()
            await admin.delete_topics([bench.topics.stock_events])
            await bench.busy(1)
            await until_reachable(
                lambda: ensure_topics(bench.feed.servers, [bench.topics.specs()[0]], 1), bench.feed.servers
            )
            await bench.busy(1)
            await bench.shows_all()
            await bench.is_clean()
    finally:
        await admin.close()
