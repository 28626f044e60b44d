"""The public topics themselves."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError, RecordListTooLargeError
from aiokafka.partitioner import DefaultPartitioner

from infra.kafka.clients import BrokerAway, all_or_first_error, let_go
from infra.kafka.topics import Topics
from projections.public.cloud_events import HEADERS, PublicMessage
from projections.public.publisher import MessageRefused

ACK_TIMEOUT_S: Final = 10.0
"""How long the brokers may take to acknowledge a batch: well below the time after which who waits for them counts as
stuck. aiokafka would go on for ever, at the cost of a processor.
"""

_TOO_LARGE: Final = (MessageSizeTooLargeError, RecordListTooLargeError)
_partition_of = DefaultPartitioner()
"""As every other client of Kafka puts a key into a partition."""


class KafkaSink:
    """Sends to the topics of one installation, by an idempotent producer that ``make`` makes."""

    def __init__(self, make: Callable[[], AIOKafkaProducer], topics: Topics) -> None:
        self._make = make
        self._topics = topics
        self._producer = make()

    async def __aenter__(self) -> Self:
        """Raises aiokafka's KafkaError, OSError."""
        try:
            await self._producer.start()
        except BaseException:
            await let_go(self._producer)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await let_go(self._producer)

    async def publish(self, messages: Sequence[PublicMessage]) -> None:
        """Return when the brokers have all of them. Raises MessageRefused, BrokerAway, aiokafka's KafkaError."""
        try:
            async with asyncio.timeout(ACK_TIMEOUT_S):
                by_place = await self._by_place(messages)
                await all_or_first_error(self._send(*place, own) for place, own in by_place.items())
        except TimeoutError:
            raise BrokerAway(f"the brokers did not acknowledge within {ACK_TIMEOUT_S:g} s") from None
        except _TOO_LARGE as error:
            # The refused one has left a hole in the numbering by which the brokers know repeats.
            await let_go(self._producer)
            self._producer = self._make()
            await self._producer.start()
            raise MessageRefused(str(error)) from error

    async def _by_place(self, messages: Sequence[PublicMessage]) -> dict[tuple[str, int], list[PublicMessage]]:
        """By topic and partition, each in its order."""
        partitions: dict[str, list[int]] = {}
        by_place: dict[tuple[str, int], list[PublicMessage]] = {}
        for message in messages:
            topic = self._topics.named(message.topic)
            if topic not in partitions:
                partitions[topic] = sorted(await self._producer.partitions_for(topic))
            place = topic, _partition_of(message.key.encode(), partitions[topic], partitions[topic])
            by_place.setdefault(place, []).append(message)
        return by_place

    async def _send(self, topic: str, partition: int, messages: Sequence[PublicMessage]) -> None:
        """Whole batches, which cost a third of single messages; each after the one before it is acknowledged.

        Were that one refused, what comes after it must not be there.
        """
        batch = self._producer.create_batch()
        for message in messages:
            record: dict[str, Any] = {
                "key": message.key.encode(),
                "value": message.value,
                "timestamp": None,
                "headers": list(HEADERS),
            }
            if batch.append(**record) is None:
                await (await self._producer.send_batch(batch, topic, partition=partition))
                batch = self._producer.create_batch()
                batch.append(**record)
        await (await self._producer.send_batch(batch, topic, partition=partition))
