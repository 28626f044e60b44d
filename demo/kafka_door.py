"""The door through Kafka: a CloudEvent per step on the saga's topics, answered on the public ones."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError

from demo.door import Told, Traffic
from demo.errors import CHECK_FAILED, NOT_REACHABLE, DemoError
from demo.http_door import delivery_key
from demo.ledger import Ledger
from demo.postbox import DEAD_LETTERS, HEARD, Exchange, Postbox
from demo.restocking import Delivery
from demo.saga import SPOKEN, awaited, cloud_event, refuse_letter, said, understood
from demo.script import Action, Order
from demo.timings import Timings

PLACED_TO_RESERVED = "order.placed to inventory.reserved"
ANSWER_S_MAX = 60.0
STOP_S_MAX = 5.0
LISTEN_MS = 200
HEADERS = [("content-type", b"application/cloudevents+json; charset=UTF-8")]


class Brokers(NamedTuple):
    """Where Kafka is, as host:port with commas between, and what stands before the names of its topics."""

    servers: str
    prefix: str = ""


class KafkaDoor:
    """Use `through_kafka`. Times from an order's message to its answer are noted under `PLACED_TO_RESERVED`."""

    def __init__(
        self, producer: AIOKafkaProducer, postbox: Postbox, brokers: Brokers, source: str, timings: Timings
    ) -> None:
        self._producer = producer
        self._postbox = postbox
        self._prefix = brokers.prefix
        self._source = source
        self._timings = timings

    @property
    def traffic(self) -> Traffic:
        return self._postbox.traffic

    async def restock(self, delivery: Delivery) -> Told:
        item = delivery.item
        self._postbox.stock(item)
        exchange = Exchange([item])
        data = {"sku": item.sku, "warehouse": item.warehouse, "quantity": delivery.quantity}
        await self._ask("warehouse.received", item.sku, delivery_key(delivery), data, exchange)
        refuse_letter(exchange, f"Restocking {item}")
        return Told(None, item, exchange.levels[item].sequence, exchange.since_s(item))

    async def act(self, action: Action, order: Order) -> Told | None:
        exchange = awaited(action, order)
        message_id = f"{order.order_id}:{action.name.lower()}"
        await self._ask(SPOKEN[action].topic, order.order_id, message_id, said(action, order), exchange)
        told = understood(action, order, exchange)
        if told and action is Action.RESERVE:
            self._timings.note(PLACED_TO_RESERVED, exchange.told_s - exchange.began_s)
        return told

    async def pay_too_late(self, order: Order) -> str | None:
        exchange = Exchange((line.item for line in order.lines), order.order_id, about_order=True)
        data = {"order_id": order.order_id}
        await self._ask("payment.authorized", order.order_id, f"{order.order_id}:pay-too-late", data, exchange)
        if exchange.letter is None:
            return f"answered with {exchange.told.type if exchange.told else 'nothing'}"
        code = exchange.letter.code
        return None if code == "reservation-expired" else f"given up as {code}"

    async def differences(self, ledger: Ledger) -> list[str]:
        """Every version of every item must have been told, in order: the last ones may still be on their way."""
        versions = {item: book.version for item, book in ledger.items.items()}
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S_MAX):
                while self._postbox.lacks(versions):
                    await self._postbox.next_level()
        return self._postbox.differences(versions)

    async def _ask(self, topic: str, key: str, message_id: str, data: object, exchange: Exchange) -> None:
        """Send, and wait until it is answered. Raises DemoError if it is not."""
        self._postbox.begin(message_id, exchange)
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                event = cloud_event(topic, message_id, self._source, data)
                await self._producer.send_and_wait(self._prefix + topic, event, key=key.encode(), headers=HEADERS)
                self.traffic.sent[topic] += 1
                await exchange.over
        except TimeoutError:
            lacks = exchange.lacks()
            raise DemoError(f"{message_id}: not heard of within {ANSWER_S_MAX:g} s: {lacks}", CHECK_FAILED) from None
        except KafkaError as error:
            raise DemoError(f"Kafka: {error}", NOT_REACHABLE) from error
        finally:
            self._postbox.end(message_id)


@asynccontextmanager
async def through_kafka(brokers: Brokers, source: str, postbox: Postbox, timings: Timings) -> AsyncIterator[KafkaDoor]:
    """A door that listens from now on. Raises DemoError if Kafka is away, or has not got the service's topics."""
    # It tells of everything that it tries again, as right after a start; what it gives up it raises.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    topics = {brokers.prefix + topic: topic for topic in HEARD}
    consumer = AIOKafkaConsumer(
        *topics, bootstrap_servers=brokers.servers, auto_offset_reset="latest", enable_auto_commit=False
    )
    producer = AIOKafkaProducer(bootstrap_servers=brokers.servers, acks="all", enable_idempotence=True)
    try:
        try:
            await consumer.start()
            await producer.start()
            for place in consumer.assignment():
                await consumer.position(place)  # from here on nothing is missed
        except KafkaError as error:
            raise DemoError(f"Kafka at {brokers.servers}: {error}", NOT_REACHABLE) from error
        listening = asyncio.create_task(_listen(consumer, topics, postbox))
        try:
            yield KafkaDoor(producer, postbox, brokers, source, timings)
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError, Exception):  # those who waited have been told
                await listening
    finally:
        for client in (producer, consumer):
            with suppress(TimeoutError):  # a producer waits for brokers that do not come back
                async with asyncio.timeout(STOP_S_MAX):
                    await client.stop()


async def _listen(consumer: AIOKafkaConsumer, topics: dict[str, str], postbox: Postbox) -> None:
    try:
        while True:
            found: dict[Any, list[Any]] = await consumer.getmany(timeout_ms=LISTEN_MS)
            for place, records in found.items():
                topic = topics[place.topic]
                for record in records:
                    if topic == DEAD_LETTERS:
                        postbox.hear_dead(record.value, record.headers)
                    else:
                        postbox.hear(topic, record.value)
    except Exception as error:
        postbox.fail(error if isinstance(error, DemoError) else DemoError(f"Kafka: {error!r}", CHECK_FAILED))
        raise
