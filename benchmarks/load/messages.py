"""Orders as messages: CloudEvents for `order.placed`, sent as fast as the brokers take them."""

import asyncio
import logging
from collections.abc import Iterable, Iterator
from itertools import islice

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from benchmarks.errors import LoadFailedError
from benchmarks.items import Items

TOPIC = "order.placed"
_AT_ONCE = 2_000
_LINGER_MS, _BATCH_BYTES = 5, 262_144

Keyed = tuple[bytes, bytes]


def orders(items: Items, run: str, numbers: Iterable[int]) -> Iterator[Keyed]:
    """(key, message) of orders for one unit of these items; `run` makes their ids unlike every other's."""
    names = items.names()
    for count, number in enumerate(numbers):
        sku, warehouse = names[number]
        order = f"{run}-{count}"
        yield (
            order.encode(),
            (
                f'{{"specversion":"1.0","id":"{order}","source":"/bench","type":"{TOPIC}","data":{{"order_id":"{order}",'
                f'"lines":[{{"sku":"{sku}","quantity":1,"warehouse":"{warehouse}"}}]}}}}'
            ).encode(),
        )


def send(servers: str, messages: Iterable[Keyed]) -> int:
    """Returns when the brokers have all of them; how many those were. Raises LoadFailedError."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what it gives up it raises
    try:
        return asyncio.run(_send(servers, iter(messages)))
    except KafkaError as error:
        raise LoadFailedError(f"Kafka at {servers}: {error!r}") from error


async def _send(servers: str, messages: Iterator[Keyed]) -> int:
    sent = 0
    async with AIOKafkaProducer(
        bootstrap_servers=servers, acks="all", linger_ms=_LINGER_MS, max_batch_size=_BATCH_BYTES
    ) as producer:
        while some := list(islice(messages, _AT_ONCE)):
            await asyncio.gather(*[await producer.send(TOPIC, value, key=key) for key, value in some])
            sent += len(some)
    return sent
