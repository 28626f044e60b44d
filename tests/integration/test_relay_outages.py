"""The relay while its broker is away, hangs, or has lost the topic."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from infra.health import Health
from infra.kafka.clients import BrokerAway, quiet_kafka_loggers
from tests.support import eventually_async
from tests.support_domain import registered, restocked
from tests.support_kafka import OwnBroker, own_broker
from tests.support_relay import arrived, checkpoint_reaches, leading_backends, messages, options_for, relaying
from tests.support_views import LogWriter
from write_side import relay_publisher
from write_side.relay import Relay, RelayOptions
from write_side.relay_again import BeyondHead, publish_to_head

pytestmark = pytest.mark.kafka


@pytest.fixture(scope="module")
def module_broker(module_data_dir: Path) -> Iterator[OwnBroker]:
    with own_broker(module_data_dir) as broker:
        yield broker


@pytest.fixture
def broker(module_broker: OwnBroker) -> Iterator[OwnBroker]:
    """Running at first, and again at the end."""
    yield module_broker
    if not module_broker.server.answers():
        module_broker.stop()
        module_broker.start()


@pytest.fixture
def log(database_url: str) -> LogWriter:
    return LogWriter(database_url)


@pytest.fixture
def options(database_url: str, module_broker: OwnBroker, kafka_prefix: str) -> RelayOptions:
    return options_for(database_url, module_broker.servers, kafka_prefix)


async def test_a_broker_that_is_away_at_the_start_is_waited_for(
    log: LogWriter, options: RelayOptions, broker: OwnBroker, caplog: pytest.LogCaptureFixture
) -> None:
    log.happened("A", "W1", registered())
    broker.stop()
    async with relaying(options, wait=False) as running:
        await eventually_async(lambda: f"no broker answers at {broker.servers}" in caplog.text)
        assert not running.ready.is_set()
        await asyncio.to_thread(broker.start)
        await asyncio.wait_for(running.ready.wait(), 30)
        assert await arrived(options, log.rows()) == 0


async def test_an_outage_is_survived_and_caught_up(
    log: LogWriter,
    options: RelayOptions,
    broker: OwnBroker,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Long enough that terms begin and end in it; neither the log lines nor what is in memory grow with it."""
    monkeypatch.setattr(relay_publisher, "ACK_TIMEOUT_S", 1.0)
    quiet_kafka_loggers()
    log.happened("A", "W1", registered())
    health = Health()
    stop = asyncio.Event()
    relaying = asyncio.create_task(Relay(options, health).run(stop))
    try:
        await checkpoint_reaches(options, log.rows()[-1].position)
        broker.kill()
        for _ in range(300):
            log.happened("A", "W1", restocked(1))
        await eventually_async(lambda: health.checks()["relay"], 30)
        lines = len(caplog.records)
        away_until_s = time.monotonic() + 5
        await eventually_async(lambda: time.monotonic() > away_until_s)
        assert len(caplog.records) - lines < 50
        await asyncio.to_thread(broker.start)
        await arrived(options, log.rows())
        await eventually_async(lambda: health.checks()["relay"] is None)
    finally:
        stop.set()
        await relaying


async def test_a_broker_that_hangs_while_the_checkpoint_is_moved_back(
    log: LogWriter, options: RelayOptions, broker: OwnBroker
) -> None:
    """What was on its way arrives, does not count, and is published again from where the checkpoint is now."""
    log.happened("A", "W1", registered())
    async with relaying(options) as running:
        await checkpoint_reaches(options, log.rows()[-1].position)
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            log.happened("A", "W1", restocked(1))
            await eventually_async(lambda: sending(running.relay))
            with psycopg.connect(options.event_store_url) as connection:
                connection.execute("UPDATE stockhold.relay_checkpoints SET position = 0")
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        await checkpoint_reaches(options, log.rows()[-1].position)
    assert await arrived(options, log.rows()) == 2


async def test_a_leader_that_is_cut_off_while_it_sends_only_repeats(
    log: LogWriter, options: RelayOptions, broker: OwnBroker
) -> None:
    """What it has sent arrives after its successor has begun from the same checkpoint."""
    log.happened("A", "W1", registered())
    async with relaying(options) as first, relaying(options) as second:
        await checkpoint_reaches(options, log.rows()[-1].position)
        (leader,) = leading_backends(options)
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            log.happened("A", "W1", *[restocked(1)] * 3)
            await eventually_async(lambda: sending(first.relay))
            with psycopg.connect(options.event_store_url) as connection:
                connection.execute("SELECT pg_terminate_backend(%s)", [leader])
            await eventually_async(lambda: leading_backends(options) not in ([], [leader]))
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        await eventually_async(lambda: second.relay.leads, 30)
        log.happened("A", "W1", restocked(1))
        assert await arrived(options, log.rows()) == 3
        assert not first.relay.leads


def sending(relay: Relay) -> bool:
    """Whether a flush is on its way."""
    return relay.flushing


async def test_stopping_does_not_wait_for_a_broker_that_is_away(
    log: LogWriter, options: RelayOptions, broker: OwnBroker
) -> None:
    log.happened("A", "W1", registered())
    async with relaying(options) as running:
        await checkpoint_reaches(options, log.rows()[-1].position)
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            log.happened("A", "W1", restocked(1))
            await eventually_async(lambda: sending(running.relay))
            running.stop.set()
            await asyncio.wait_for(running.task, 15)
        finally:
            os.kill(broker.pid, signal.SIGCONT)
    async with relaying(options):
        await arrived(options, log.rows())


async def test_a_topic_that_was_deleted_is_made_again_and_filled_on_demand(
    log: LogWriter, options: RelayOptions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(relay_publisher, "ACK_TIMEOUT_S", 1.0)
    log.happened("A", "W1", registered())
    log.happened("B", "W1", registered())
    async with relaying(options):
        await checkpoint_reaches(options, log.rows()[-1].position)
        await delete_topic(options)
        log.happened("A", "W1", restocked(1))
        await checkpoint_reaches(options, log.rows()[-1].position)
        assert "`stockhold relay --from 0` publishes it again" in caplog.text
        passed: list[int] = []
        done = await publish_to_head(options, 0, lambda _goal: passed.append)
        assert (done.after, done.upto) == (0, log.rows()[-1].position)
        assert sum(passed) == done.upto
        await arrived_whole(options, log)


async def arrived_whole(options: RelayOptions, log: LogWriter) -> None:
    """Everything is there; what came before it was all published again is not looked at."""
    found = await messages(options)
    there = {row.position for batches in found.values() for batch in batches for row in batch.rows}
    assert there == {row.position for row in log.rows()}


async def delete_topic(options: RelayOptions) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=options.kafka_servers)
    await admin.start()
    try:
        await admin.delete_topics([options.topic.name])
    finally:
        await admin.close()


async def test_published_again_by_the_relay_that_runs(log: LogWriter, options: RelayOptions) -> None:
    log.happened("A", "W1", registered(), restocked(1), restocked(2))
    rows = log.rows()
    async with relaying(options):
        await checkpoint_reaches(options, rows[-1].position)
        done = await publish_to_head(options, rows[0].position)
        assert done == (rows[0].position, rows[-1].position)
        assert await arrived(options, rows) == 2


async def test_published_again_while_no_relay_runs(log: LogWriter, options: RelayOptions) -> None:
    log.happened("A", "W1", registered(), restocked(1), restocked(2))
    rows = log.rows()
    assert await publish_to_head(options) == (0, rows[-1].position)
    assert await arrived(options, rows) == 0
    assert await publish_to_head(options) == (rows[-1].position, rows[-1].position)
    assert await arrived(options, rows) == 0
    assert await publish_to_head(options, rows[1].position) == (rows[1].position, rows[-1].position)
    assert await arrived(options, rows) == 1


async def test_what_is_not_in_the_log_cannot_be_published(log: LogWriter, options: RelayOptions) -> None:
    log.happened("A", "W1", registered())
    with pytest.raises(BeyondHead):
        await publish_to_head(options, log.rows()[-1].position + 1)


async def test_without_a_broker_the_checkpoint_stays(log: LogWriter, options: RelayOptions, broker: OwnBroker) -> None:
    log.happened("A", "W1", registered())
    await publish_to_head(options)
    broker.stop()
    with pytest.raises(BrokerAway):
        await publish_to_head(options, 0)
    await checkpoint_reaches(options, log.rows()[-1].position, timeout_s=0)
