"""Whether a broker answers, whether the topics are as they should be, and how far each consumer group is."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaError

from infra.doctor_findings import Finding
from infra.kafka.clients import quiet_kafka_loggers
from infra.kafka.topics import Topics, TopicSpec

TIMEOUT_S = 15.0
REQUEST_TIMEOUT_MS = 5_000
COORDINATOR_S = 5.0
POLL_S = 0.2


class Group(NamedTuple):
    """A consumer group, the topics that it reads (whole names), and whether it begins with the oldest message."""

    name: str
    topics: Sequence[str]
    from_oldest: bool = True


class KafkaPlace(NamedTuple):
    """The brokers of an installation, what it keeps there, and who reads it."""

    servers: str
    topics: Topics
    groups: Sequence[Group] = ()


def look_at_kafka(place: KafkaPlace) -> list[Finding]:
    """Everything about the brokers; if none answers that is the one finding. Not to be called from an event loop."""
    quiet_kafka_loggers()
    try:
        return asyncio.run(_look(place))
    except (KafkaError, OSError, TimeoutError) as error:
        return [Finding("broker", False, f"none answers at {place.servers}: {error or type(error).__name__}")]


async def _look(place: KafkaPlace) -> list[Finding]:
    options: dict[str, Any] = {"bootstrap_servers": place.servers, "client_id": "stockhold-doctor"}
    options["request_timeout_ms"] = REQUEST_TIMEOUT_MS
    admin, reader = AIOKafkaAdminClient(**options), AIOKafkaConsumer(**options)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await admin.start()
            await reader.start()
            cluster = await admin.describe_cluster()
            brokers = len(cluster["brokers"])
            found = await _topics(admin)
            findings = [Finding("broker", True, f"{brokers} at {place.servers}"), _as_they_should_be(place, found)]
            return findings + [await _group_once_it_can_be_asked(admin, reader, group, found) for group in place.groups]
    finally:
        await admin.close()
        await reader.stop()


async def _topics(admin: AIOKafkaAdminClient) -> dict[str, int]:
    """Partitions by topic. Asks for all: asking for one by its name makes it, on brokers that make topics by themselves."""
    return {topic["topic"]: len(topic["partitions"]) for topic in await admin.describe_topics()}


def _as_they_should_be(place: KafkaPlace, found: dict[str, int]) -> Finding:
    specs = place.topics.specs()
    wrong = [fault for spec in specs if (fault := _fault(spec, found.get(spec.name))) is not None]
    return Finding("topics", not wrong, "; ".join(wrong) or f"{len(specs)} as they should be")


def _fault(spec: TopicSpec, partitions: int | None) -> str | None:
    if partitions is None:
        return f"{spec.name} is missing: it is made when a process that needs it starts"
    if partitions != spec.partitions:
        return f"{spec.name} has {partitions} partitions, not {spec.partitions}"
    return None


async def _group_once_it_can_be_asked(
    admin: AIOKafkaAdminClient, reader: AIOKafkaConsumer, group: Group, found: dict[str, int]
) -> Finding:
    """Brokers that have not had a group before take a moment to prepare for the first one that is asked for."""
    give_up_s = time.monotonic() + COORDINATOR_S
    while True:
        try:
            return await _group(admin, reader, group, found)
        except GroupCoordinatorNotAvailableError as error:
            if time.monotonic() > give_up_s:
                return Finding(f"group {group.name}", False, str(error))
        await asyncio.sleep(POLL_S)


async def _group(admin: AIOKafkaAdminClient, reader: AIOKafkaConsumer, group: Group, found: dict[str, int]) -> Finding:
    """A group that has messages to read and no members is not well."""
    partitions = [TopicPartition(topic, number) for topic in group.topics for number in range(found.get(topic, 0))]
    ends: dict[TopicPartition, int] = await reader.end_offsets(partitions)
    starts: dict[TopicPartition, int] = await reader.beginning_offsets(partitions)
    committed = await admin.list_consumer_group_offsets(group.name)
    lag = 0
    for partition in partitions:
        known = committed.get(partition)
        start = starts[partition] if group.from_oldest else ends[partition]
        lag += ends[partition] - (max(known.offset, starts[partition]) if known and known.offset >= 0 else start)
    members = await _members(admin, group.name)
    seen = f"{lag:,} messages to read, {members} members"
    return Finding(f"group {group.name}", members > 0 or not lag, seen)


async def _members(admin: AIOKafkaAdminClient, name: str) -> int:
    for answer in await admin.describe_consumer_groups([name]):
        for described in answer.to_object()["groups"]:
            if described["group"] == name:
                return len(described["members"])
    return 0
