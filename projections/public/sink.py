"""The public topics themselves."""

import asyncio
from collections.abc import Sequence
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError, RecordTooLargeError

from infra.kafka.clients import BrokerAway
from infra.kafka.topics import Topics
from projections.public.cloud_events import HEADERS, PublicMessage
from projections.public.publisher import MessageRefused

ACK_TIMEOUT_S: Final = 30.0
"""How long the brokers may take to acknowledge a batch. aiokafka would go on for ever, at the cost of a processor."""


class KafkaSink:
    """Sends to the topics of one installation."""

    def __init__(self, producer: AIOKafkaProducer, topics: Topics) -> None:
        self._producer = producer
        self._topics = topics

    async def publish(self, messages: Sequence[PublicMessage]) -> None:
        """Return when the brokers have all of them. Raises MessageRefused, BrokerAway, aiokafka's KafkaError."""
        try:
            async with asyncio.timeout(ACK_TIMEOUT_S):
                await self._publish(messages)
        except TimeoutError:
            raise BrokerAway(f"the brokers did not acknowledge within {ACK_TIMEOUT_S:g} s") from None

    async def _publish(self, messages: Sequence[PublicMessage]) -> None:
        waiting: list[asyncio.Future[object]] = []
        try:
            for message in messages:
                topic, key = self._topics.named(message.topic), message.key.encode()
                waiting.append(await self._producer.send(topic, message.value, key, headers=list(HEADERS)))
        except (MessageSizeTooLargeError, RecordTooLargeError) as error:
            await asyncio.gather(*waiting, return_exceptions=True)
            raise MessageRefused(f"{message.topic} {message.id}: {error}") from error
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            if isinstance(outcome, MessageSizeTooLargeError | RecordTooLargeError):
                raise MessageRefused(str(outcome)) from outcome
            if isinstance(outcome, BaseException):
                raise outcome
