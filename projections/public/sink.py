"""The public topics themselves."""

import asyncio
from collections.abc import Sequence

from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError, RecordTooLargeError

from infra.kafka.topics import Topics
from projections.public.cloud_events import HEADERS, PublicMessage
from projections.public.publisher import MessageRefused


class KafkaSink:
    """Sends to the topics of one installation."""

    def __init__(self, producer: AIOKafkaProducer, topics: Topics) -> None:
        self._producer = producer
        self._topics = topics

    async def publish(self, messages: Sequence[PublicMessage]) -> None:
        """Return when the brokers have all of them. Raises MessageRefused, aiokafka's KafkaError."""
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
