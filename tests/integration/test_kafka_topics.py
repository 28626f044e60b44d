"""Topics are made by us, once, as they shall be: on the real broker."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from infra.kafka.admin import TopicMismatch, TopicRefused, ensure_topics
from infra.kafka.clients import BrokerAway, until_reachable
from infra.kafka.topics import Topics, TopicSpec
from tests.support_kafka import own_broker

pytestmark = pytest.mark.kafka


@pytest.fixture
async def admin(kafka: str) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await client.start()
    yield client
    await client.close()


async def partitions(admin: AIOKafkaAdminClient, prefix: str) -> dict[str, int]:
    """Of every topic whose name begins so."""
    topics = await admin.describe_topics()
    return {topic["topic"]: len(topic["partitions"]) for topic in topics if topic["topic"].startswith(prefix)}


async def settings(admin: AIOKafkaAdminClient, topic: str) -> dict[str, str]:
    (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    return {entry[0]: entry[1] for entry in answer.resources[0][4]}


async def test_every_topic_is_made_with_its_partitions_and_settings(
    kafka: str, kafka_prefix: str, admin: AIOKafkaAdminClient
) -> None:
    topics = Topics(kafka_prefix, 3)
    await ensure_topics(kafka, topics.specs(), 1)
    assert await partitions(admin, kafka_prefix) == {spec.name: spec.partitions for spec in topics.specs()}
    for spec in topics.specs():
        assert spec.settings.items() <= (await settings(admin, spec.name)).items()


async def test_again_changes_nothing_and_several_at_once_are_no_conflict(
    kafka: str, kafka_prefix: str, admin: AIOKafkaAdminClient
) -> None:
    specs = Topics(kafka_prefix, 2).specs()
    await asyncio.gather(*(ensure_topics(kafka, specs, 1) for _ in range(4)))
    await ensure_topics(kafka, specs, 1)
    await ensure_topics(kafka, specs[:1], 1)
    assert await partitions(admin, kafka_prefix) == {spec.name: spec.partitions for spec in specs}


async def test_settings_of_a_topic_that_exists_are_the_operators(
    kafka: str, kafka_prefix: str, admin: AIOKafkaAdminClient
) -> None:
    name = kafka_prefix + "kept"
    await ensure_topics(kafka, [TopicSpec(name, 1, {"retention.ms": "1000000"})], 1)
    await ensure_topics(kafka, [TopicSpec(name, 1, {"retention.ms": "2000000"})], 1)
    assert (await settings(admin, name))["retention.ms"] == "1000000"


async def test_another_number_of_partitions_is_refused_and_nothing_is_changed(
    kafka: str, kafka_prefix: str, admin: AIOKafkaAdminClient
) -> None:
    await ensure_topics(kafka, Topics(kafka_prefix, 2).specs(), 1)
    with pytest.raises(TopicMismatch, match=rf"{kafka_prefix}stockhold.stock-events has 2, not 3"):
        await ensure_topics(kafka, Topics(kafka_prefix, 3).specs(), 1)
    assert (await partitions(admin, kafka_prefix))[Topics(kafka_prefix, 2).stock_events] == 2


async def test_what_the_broker_will_never_have_is_refused_with_its_reason(kafka: str, kafka_prefix: str) -> None:
    with pytest.raises(TopicRefused, match=r"retention.ms"):
        await ensure_topics(kafka, [TopicSpec(kafka_prefix + "odd", 1, {"retention.ms": "for ever"})], 1)


async def test_more_copies_than_there_are_brokers_may_become_possible(kafka: str, kafka_prefix: str) -> None:
    with pytest.raises(BrokerAway, match=r"(?i)replication factor"):
        await ensure_topics(kafka, [TopicSpec(kafka_prefix + "copied", 1, {})], 3)


async def test_a_broker_that_is_starting_is_waited_for(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    with own_broker(data_dir) as broker:
        broker.kill()
        with pytest.raises(BrokerAway, match=rf"no broker answers at {broker.servers}"):
            await ensure_topics(broker.servers, [TopicSpec("late", 2, {})], 1)
        with caplog.at_level("INFO", logger="infra.kafka.clients"):
            waiting = asyncio.create_task(
                until_reachable(lambda: ensure_topics(broker.servers, [TopicSpec("late", 2, {})], 1), broker.servers)
            )
            # From this thread and while the client asks: the broker must not outlive the thread, and is met half-way up.
            child = broker.begin()
            while not child.is_ready():
                child.check_start()
                await asyncio.sleep(0.02)
            await waiting
    said = [record.getMessage() for record in caplog.records if record.name == "infra.kafka.clients"]
    assert len(said) == 2
    assert "is away" in said[0]
    assert "STOCKHOLD_KAFKA_SERVERS" in said[0]
    assert "is there after" in said[1]
