"""The publisher while what it needs goes away and comes back: it says so, waits, and loses nothing."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from infra.kafka.admin import ensure_topics
from infra.migrations.runner import EVENT_STORE, PUBLIC, migrate
from tests.support import eventually_async
from tests.support_domain import registered, reserved, restocked
from tests.support_kafka import OwnBroker, own_broker
from tests.support_publisher import FROM_KAFKA, Bench, publisher_bench
from tests.support_servers import own_servers

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


@pytest.fixture
def broker(data_dir: Path) -> Iterator[OwnBroker]:
    with own_broker(data_dir / "kafka") as found:
        yield found


def busy(bench: Bench, name: str) -> None:
    """Something happens to six items."""
    for number in range(6):
        bench.log.happened(f"{name}-{number}", "W1", registered(), restocked(20), reserved("r-1", 3))


async def test_brokers_that_are_away_at_the_start_are_waited_for(database_url: str, broker: OwnBroker) -> None:
    async with publisher_bench(database_url, broker.servers, "") as bench:
        busy(bench, "A")
        await bench.send(bench.log.rows())
        await asyncio.to_thread(broker.stop)
        async with bench.publisher(at_once=True) as running:
            await eventually_async(
                lambda: "no broker answers" in (running.health.checks().get("publishing") or ""),
                60,
                what="why it waits",
            )
            assert not running.ready.is_set()
            await asyncio.to_thread(broker.start)
            await bench.hears_all()
            assert running.ready.is_set()
            await eventually_async(lambda: running.health.checks()["publishing"] is None, what="that it is well")


async def test_a_broker_that_dies_and_comes_back_is_told_everything(database_url: str, broker: OwnBroker) -> None:
    async with publisher_bench(database_url, broker.servers, "") as bench, bench.publisher():
        busy(bench, "A")
        await bench.send(bench.log.rows())
        await bench.hears_all()
        await asyncio.to_thread(broker.kill)
        busy(bench, "B")
        await asyncio.to_thread(broker.start)
        await bench.send(bench.log.rows())
        busy(bench, "C")
        await bench.hears_all()


async def test_a_broker_that_hangs_is_away_before_the_publisher_counts_as_stuck(
    database_url: str, broker: OwnBroker
) -> None:
    async with publisher_bench(database_url, broker.servers, "") as bench, bench.publisher() as running:
        busy(bench, "A")
        await bench.hears_all()
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            busy(bench, "B")  # which the publisher finds in the log
            await eventually_async(lambda: "did not ack" in (running.health.checks().get("publishing") or ""), 20)
            assert running.health.stuck is None
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        await bench.hears_all()


async def test_a_topic_that_is_deleted_and_made_again_loses_nothing(database_url: str, broker: OwnBroker) -> None:
    async with publisher_bench(database_url, broker.servers, "") as bench, bench.publisher():
        busy(bench, "A")
        await bench.send(bench.log.rows())
        await bench.hears_all()
        admin = AIOKafkaAdminClient(bootstrap_servers=broker.servers)
        await admin.start()
        try:
            await admin.delete_topics([bench.topics.stock_events])
        finally:
            await admin.close()
        before = len(bench.log.rows())
        busy(bench, "B")
        await ensure_topics(broker.servers, [bench.topics.spec_of(bench.topics.stock_events)], 1)
        await bench.send(bench.log.rows()[before:])
        await bench.hears_all()


async def test_a_database_that_dies_and_comes_back_loses_nothing(data_dir: Path, kafka: str, kafka_prefix: str) -> None:
    with own_servers(data_dir) as servers:
        migrate(servers.postgres_url, EVENT_STORE)
        migrate(servers.postgres_url, PUBLIC)
        async with (
            publisher_bench(servers.postgres_url, kafka, kafka_prefix) as bench,
            bench.publisher(FROM_KAFKA) as running,
        ):
            busy(bench, "A")
            await bench.send(bench.log.rows()[:9])
            await bench.hears(lambda: len(bench.received) >= 9, "the first of it")
            await asyncio.to_thread(servers.postgres.kill)
            await eventually_async(lambda: bool(running.health.checks().get("publishing")), 30, what="that it is away")
            await asyncio.to_thread(servers.postgres.start)
            await bench.send(bench.log.rows()[9:])
            await bench.hears_all()
