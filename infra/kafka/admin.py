"""Topics as we need them, made by us: explicitly, once, with the partitions and settings that they shall have."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    InvalidReplicationFactorError,
    KafkaError,
    NoError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)

from infra.kafka.clients import BrokerAway, is_away
from infra.kafka.topics import TopicSpec

REQUEST_TIMEOUT_MS: Final = 15_000
LEADERS_TIMEOUT_S: Final = 15.0
POLL_S: Final = 0.05
NO_CONTROLLER: Final = -1


class TopicMismatch(Exception):
    """A topic is there with another number of partitions than it must have: streams would change places."""


class TopicRefused(Exception):
    """The brokers will not have a topic as it shall be."""


async def ensure_topics(servers: str, specs: Sequence[TopicSpec], replication: int) -> None:
    """Make those of the topics that are missing and return when every partition has a leader.

    A topic that exists keeps its settings: they are the operator's by then. Any number of processes may do this at once.
    Raises TopicMismatch, TopicRefused; BrokerAway if no broker answers (`clients.until_reachable` tries again).
    """
    admin = AIOKafkaAdminClient(
        bootstrap_servers=servers, client_id="stockhold-admin", request_timeout_ms=REQUEST_TIMEOUT_MS
    )
    try:
        await admin.start()
        await _ensure(admin, specs, replication)
    except (KafkaError, OSError, TimeoutError) as error:
        if not is_away(error):
            raise
        raise BrokerAway(f"no broker answers at {servers}: {error}") from error
    finally:
        await admin.close()


async def _ensure(admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec], replication: int) -> None:
    cluster = await admin.describe_cluster()
    if not cluster["brokers"] or cluster["controller_id"] == NO_CONTROLLER:
        raise BrokerAway("the brokers are still starting: there is no controller yet")
    found = await _partitions(admin)
    missing = [spec for spec in specs if spec.name not in found]
    if missing:
        await _create(admin, missing, replication)
    await _until_led(admin, specs)


async def _create(admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec], replication: int) -> None:
    wanted = [
        NewTopic(spec.name, num_partitions=spec.partitions, replication_factor=replication, topic_configs=spec.settings)
        for spec in specs
    ]
    answer = await admin.create_topics(wanted, timeout_ms=REQUEST_TIMEOUT_MS)
    for name, code, *said in answer.topic_errors:
        kind = for_code(code)
        if kind in {NoError, TopicAlreadyExistsError}:
            continue
        why = f"topic {name} cannot be made: {(said or [None])[0] or kind.__name__}"
        # Brokers that are still coming up are too few for their copies, too.
        raise BrokerAway(why) if kind.retriable or kind is InvalidReplicationFactorError else TopicRefused(why)


async def _until_led(admin: AIOKafkaAdminClient, specs: Sequence[TopicSpec]) -> None:
    """Until then producers and consumers complain. Raises TopicMismatch, BrokerAway."""
    deadline_s = time.monotonic() + LEADERS_TIMEOUT_S
    while True:
        found = await _partitions(admin)
        _check_partitions(found, specs)
        waiting = [spec.name for spec in specs if not all(led for led in found.get(spec.name, [False]))]
        if not waiting:
            return
        if time.monotonic() > deadline_s:
            raise BrokerAway(f"topics without a leader: {', '.join(waiting)}")
        await asyncio.sleep(POLL_S)


def _check_partitions(found: dict[str, list[bool]], specs: Sequence[TopicSpec]) -> None:
    wrong = [
        f"{spec.name} has {len(found[spec.name])}, not {spec.partitions}"
        for spec in specs
        if spec.name in found and len(found[spec.name]) != spec.partitions
    ]
    if wrong:
        raise TopicMismatch(
            f"partitions of a topic cannot change, and STOCKHOLD_KAFKA_PARTITIONS must say how many there are: {'; '.join(wrong)}"
        )


async def _partitions(admin: AIOKafkaAdminClient) -> dict[str, list[bool]]:
    """By topic, whether each of its partitions has a leader.

    Asks for all topics: asking for one by its name makes it, on brokers that make topics by themselves.
    """
    topics: list[dict[str, Any]] = await admin.describe_topics()
    return {
        topic["topic"]: [partition["leader"] >= 0 and not partition["error_code"] for partition in topic["partitions"]]
        for topic in topics
        if topic["error_code"] != UnknownTopicOrPartitionError.errno and topic["partitions"]
    }
