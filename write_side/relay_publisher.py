"""The Kafka side of one term of the relay: a topic that is as it shall be, and messages that are acknowledged or not."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Final, Self

from aiokafka import AIOKafkaProducer

from infra.kafka.admin import ensure_topics
from infra.kafka.clients import BrokerAway, all_or_first_error, let_go, producer
from infra.kafka.topics import TopicSpec

logger = logging.getLogger(__name__)

ACK_TIMEOUT_S: Final = 10.0
"""How long the brokers may take to acknowledge a flush. aiokafka would go on for ever, at the cost of a processor."""
START_TIMEOUT_S: Final = 10.0
TOPIC_TIMEOUT_S: Final = 15.0


async def prepare_topic(servers: str, topic: TopicSpec, replication: int) -> None:
    """Make the topic if it is missing. Raises BrokerAway, TopicMismatch, TopicRefused, or one of Kafka's errors."""
    try:
        async with asyncio.timeout(TOPIC_TIMEOUT_S):
            await ensure_topics(servers, [topic], replication)
    except TimeoutError:
        raise BrokerAway(f"the brokers at {servers} did not answer within {TOPIC_TIMEOUT_S:g} s") from None


class Publisher:
    """An idempotent producer. One that has failed is of no use any more: its numbering has a hole."""

    def __init__(self, servers: str, topic: str, client_id: str, offsets: dict[int, int]) -> None:
        self._topic = topic
        self._offsets = offsets
        self._producer: AIOKafkaProducer = producer(servers, client_id)

    @classmethod
    async def start(cls, servers: str, topic: str, client_id: str, offsets: dict[int, int]) -> Self:
        """``offsets``: by partition the last one given, kept by the caller over its producers. Raises BrokerAway, or one of
        Kafka's errors.
        """
        publisher = cls(servers, topic, client_id, offsets)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await publisher._producer.start()
        except BaseException as error:
            await publisher.close()
            if isinstance(error, TimeoutError):
                raise BrokerAway(f"the brokers at {servers} did not answer within {START_TIMEOUT_S:g} s") from None
            raise
        return publisher

    async def publish(self, messages: Mapping[int, Sequence[bytes]]) -> None:
        """Send the messages of each partition in their order; returns when the brokers have acknowledged them all.

        Raises BrokerAway, or one of Kafka's errors: then some may have arrived, but never one without those before it.
        """
        try:
            async with asyncio.timeout(ACK_TIMEOUT_S):
                await all_or_first_error(self._send(partition, values) for partition, values in messages.items())
        except TimeoutError:
            raise BrokerAway(f"the brokers did not acknowledge within {ACK_TIMEOUT_S:g} s") from None

    async def _send(self, partition: int, values: Sequence[bytes]) -> None:
        if partition not in await self._producer.partitions_for(self._topic):
            raise BrokerAway(f"{self._topic} has no partition {partition}")
        for value in values:
            # Each after the one before it is acknowledged: were that refused, this one must not be there.
            sent = await (await self._producer.send(self._topic, value, partition=partition))
            self._notice(partition, sent.offset)

    def _notice(self, partition: int, offset: int) -> None:
        if 0 <= offset <= self._offsets.get(partition, -1):
            logger.warning(
                "partition %d of %s begins anew: what was on the topic is gone, `stockhold relay --from 0` publishes it again",
                partition,
                self._topic,
            )
        self._offsets[partition] = offset

    async def close(self) -> None:
        """Let go of the brokers, acknowledged or not: messages of a term that has ended must not arrive later."""
        await let_go(self._producer)
