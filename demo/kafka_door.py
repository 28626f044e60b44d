"""The door through Kafka: a CloudEvent per step on the saga's topics, answered on the public ones."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError

from demo.baskets import Item
from demo.door import Told, Traffic
from demo.errors import CHECK_FAILED, NOT_REACHABLE, DemoError
from demo.http_door import delivery_key, placed, returned_lines
from demo.ledger import STATUS_AFTER, Ledger
from demo.postbox import (
    COMMITTED,
    DEAD_LETTERS,
    HEARD,
    REFUNDED,
    REJECTED,
    RELEASED,
    RESERVED,
    Exchange,
    Postbox,
    units_of,
)
from demo.restocking import Delivery
from demo.script import Action, Order
from demo.timings import Timings

PLACED_TO_RESERVED = "order.placed to inventory.reserved"
ANSWER_S_MAX = 60.0
LISTEN_MS = 200
HEADERS = [("content-type", b"application/cloudevents+json; charset=UTF-8")]


class Brokers(NamedTuple):
    """Where Kafka is, as host:port with commas between, and what stands before the names of its topics."""

    servers: str
    prefix: str = ""


class Spoken(NamedTuple):
    """Which topic an action goes to, and what answers it about the order: its type, and its reason if it has one."""

    topic: str
    answer: str | None = None
    reason: str = ""


# What left or came back is told of the items alone.
SPOKEN = {
    Action.RESERVE: Spoken("order.placed", RESERVED),
    Action.PAY: Spoken("payment.authorized", COMMITTED),
    Action.FAIL: Spoken("payment.failed", RELEASED, "PAYMENT_FAILED"),
    Action.LEAVE: Spoken("order.cancelled", RELEASED, "ORDER_CANCELLED"),
    Action.CANCEL: Spoken("order.cancelled", REFUNDED, "ORDER_CANCELLED"),
    Action.SHIP: Spoken("order.shipped"),
    Action.RETURN: Spoken("order.returned"),
}


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
        _refuse_letter(exchange, f"Restocking {item}")
        return _told(None, item, exchange)

    async def act(self, action: Action, order: Order) -> Told | None:
        spoken = SPOKEN[action]
        lines = order.returns if action is Action.RETURN else order.lines
        exchange = Exchange((line.item for line in lines), order.order_id, about_order=spoken.answer is not None)
        await self._ask(spoken.topic, order.order_id, f"{order.order_id}:{action}", _said(action, order), exchange)
        what = f"{order.order_id}: {action}"
        _refuse_letter(exchange, what)
        if action is Action.RESERVE and _is_rejected(exchange):
            return None
        if spoken.answer is not None:
            _check(exchange, spoken, order, what)
        if action is Action.RESERVE:
            self._timings.note(PLACED_TO_RESERVED, exchange.told_s - exchange.began_s)
        return _told(STATUS_AFTER[action] if spoken.answer else None, lines[0].item, exchange)

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
        told = self._postbox.versions
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S_MAX):
                while any(told[item] < book.version for item, book in ledger.items.items()):
                    await self._postbox.next_level()
        return self._postbox.out_of_order + [
            f"{item.sku} at {item.warehouse}: told up to version {told[item]}, by the answers it must be {book.version}"
            for item, book in ledger.items.items()
            if told[item] != book.version
        ]

    async def _ask(self, topic: str, key: str, message_id: str, data: object, exchange: Exchange) -> None:
        """Send, and wait until it is answered. Raises DemoError if it is not."""
        event = {
            "specversion": "1.0",
            "id": message_id,
            "source": self._source,
            "type": topic,
            "time": datetime.now(UTC),
            "datacontenttype": "application/json",
            "data": data,
        }
        self._postbox.begin(message_id, exchange)
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                await self._producer.send_and_wait(
                    self._prefix + topic, msgspec.json.encode(event), key=key.encode(), headers=HEADERS
                )
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
        await producer.stop()
        await consumer.stop()


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


def _said(action: Action, order: Order) -> dict[str, object]:
    """The message's `data`."""
    if action is Action.RESERVE:
        return placed(order)
    if action is Action.RETURN:
        return {"order_id": order.order_id, "lines": returned_lines(order)}
    return {"order_id": order.order_id}


def _told(status: str | None, item: Item, exchange: Exchange) -> Told:
    return Told(status, item, exchange.levels[item].sequence, exchange.since_s(item))


def _refuse_letter(exchange: Exchange, what: str) -> None:
    if exchange.letter is not None:
        raise DemoError(f"{what}: given up, {exchange.letter.code}: {exchange.letter.detail}", CHECK_FAILED)


def _is_rejected(exchange: Exchange) -> bool:
    return exchange.told is not None and exchange.told.type == REJECTED and exchange.data.code == "insufficient-stock"


def _check(exchange: Exchange, spoken: Spoken, order: Order, what: str) -> None:
    """The answer must be of the kind and for the reason that was asked for, and of all the order's units."""
    assert exchange.told is not None
    answered, wanted = (exchange.told.type, exchange.data.reason), (spoken.answer, spoken.reason)
    if answered != wanted:
        raise DemoError(f"{what}: answered with {answered}, it must be {wanted}; {exchange.data.code}", CHECK_FAILED)
    if not exchange.data.truncated and exchange.data.units() != units_of(order.lines):
        raise DemoError(f"{what}: the units that {spoken.answer} names are not the order's", CHECK_FAILED)
