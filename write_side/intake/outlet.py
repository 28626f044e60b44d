"""The dead-letter topic: each message as it came, with the reason in its headers."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from infra.kafka.clients import PAUSE_FIRST_S, PAUSE_MAX_S, is_away
from infra.kafka.topics import MESSAGE_BYTES_MAX
from write_side.intake.store import DeadMessage

log = logging.getLogger(__name__)

OVERHEAD_BYTES: Final = 4_096
"""What headers and framing may add: a message that leaves them no room goes without its body."""


class DeadLetterTopic:
    """``producer`` is started and stopped by whoever made it."""

    def __init__(self, producer: AIOKafkaProducer, topic: str) -> None:
        self._producer = producer
        self._topic = topic

    async def publish(self, messages: Sequence[DeadMessage]) -> None:
        """Return when the brokers have them. At least once: a message that is tried again may come again."""
        pause_s = PAUSE_FIRST_S
        left = list(messages)
        while left:
            try:
                while left:
                    await self._publish_one(left[0])
                    del left[0]
            except KafkaError as error:
                if not is_away(error):
                    raise
                log.warning("dead letters cannot be published, trying again: %s", error)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, PAUSE_MAX_S)

    async def _publish_one(self, message: DeadMessage) -> None:
        body = message.body
        if body is not None and len(body) > MESSAGE_BYTES_MAX - OVERHEAD_BYTES:
            body = None
        name = message.message_id.encode()  # aiokafka sends nothing that has neither key nor value
        key = message.received.key or name
        try:
            await self._producer.send_and_wait(self._topic, body, key=key, headers=headers(message))
        except MessageSizeTooLargeError:  # a key as large as a body
            await self._producer.send_and_wait(self._topic, None, key=name, headers=headers(message))


def headers(message: DeadMessage) -> list[tuple[str, bytes]]:
    """What is said of a dead letter, beside its key and value, which are the message's own as far as they fit."""
    received = message.received
    told: dict[str, object] = {
        "stockhold-id": message.message_id,
        "stockhold-code": message.code,
        "stockhold-detail": message.detail,
        "stockhold-topic": received.topic,
        "stockhold-partition": received.partition,
        "stockhold-offset": received.offset,
        "stockhold-size": message.size,
    }
    return [(name, str(value).encode()) for name, value in told.items()]
