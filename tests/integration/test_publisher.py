"""The publisher on a real broker: the whole life of an order reaches the public topics, whatever dies in between."""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import msgspec
import psycopg
import pytest

from domain.commands import (
    CancelReservation,
    CommitReservation,
    CreateReservation,
    ExpireHolds,
    Line,
    PutWarehouse,
    ReleaseReservation,
    Restock,
    ReturnLine,
    ReturnReservation,
    ShipReservation,
)
from domain.values import Condition, stock_stream
from infra.kafka.topics import PUBLIC_TOPICS, Topics
from projections.public.dead_letters import parked_publications
from projections.public.runner import GROUP
from tests.support import eventually_async
from tests.support_asyncapi import faults
from tests.support_domain import NOW, ORIGIN, registered, reserved, restocked
from tests.support_public import body, first_of_each
from tests.support_publisher import FROM_KAFKA, PARTITIONS, Bench, publisher_bench

pytestmark = pytest.mark.kafka


@pytest.fixture
async def bench(database_url: str, kafka: str, kafka_prefix: str) -> AsyncIterator[Bench]:
    async with publisher_bench(database_url, kafka, kafka_prefix) as found:
        yield found


async def orders(bench: Bench) -> None:
    """Orders of every kind of life, and one that is refused."""
    await bench.do(PutWarehouse(code="W1"))
    for sku in ("A", "B"):
        await bench.do(Restock(sku=sku, warehouse="W1", quantity=40))
    both = (Line(sku="A", quantity=2, warehouse="W1"), Line(sku="B", quantity=1, warehouse="W1"))
    for name in ("paid", "failed", "refunded", "late"):
        made = CreateReservation(reservation_id=f"r-{name}", order_id=f"o-{name}", lines=both, ttl_seconds=1)
        if name != "late":
            made = CreateReservation(reservation_id=f"r-{name}", order_id=f"o-{name}", lines=both)
        assert await bench.do(made) == 201
    for name in ("paid", "refunded"):
        await bench.do(CommitReservation(reservation_id=f"r-{name}"))
    await bench.do(ShipReservation(reservation_id="r-paid", tracking="T1"))
    back = ReturnLine(sku="A", warehouse="W1", quantity=1, condition=Condition.SELLABLE)
    await bench.do(ReturnReservation(reservation_id="r-paid", lines=(back,)))
    await bench.do(ReleaseReservation(reservation_id="r-failed"))
    await bench.do(CancelReservation(reservation_id="r-refunded"))
    await bench.do(CreateReservation(order_id="o-last", lines=(Line(sku="A", quantity=30, warehouse="W1"),)))

    async def swept() -> bool:
        for sku in ("A", "B"):
            await bench.executor.execute(ExpireHolds(stream=stock_stream(sku, "W1"), limit=10))
        return sum(row.topic == "stock-item.released" and b"EXPIRED" in row.state for row in bench.log.rows()) == 2

    await eventually_async(swept, what="the hold to expire")
    too_many = CreateReservation(order_id="o-refused", lines=(Line(sku="A", quantity=500, warehouse="W1"),))
    assert await bench.do(too_many, correlation_id="checkout", causation_id="placed-1") == 409


async def test_the_whole_life_of_orders_is_told(bench: Bench) -> None:
    async with bench.publisher(FROM_KAFKA):
        await orders(bench)
        await bench.send(bench.log.rows(), size=3)
        await bench.hears_all()
        await bench.hears(lambda: any("rejected" in m.topic for m in bench.received), "the refusal")
    assert {message.topic for message in bench.received} == set(PUBLIC_TOPICS)
    for message, record in zip(bench.received, bench.records, strict=True):
        assert faults(message.topic, body(message)) == []
        assert record.headers == (("content-type", b"application/cloudevents+json; charset=UTF-8"),)
    (rejected,) = [body(m) for m in bench.received if "rejected" in m.topic]
    assert (rejected["data"]["order_id"], rejected["data"]["code"]) == ("o-refused", "insufficient-stock")
    assert (rejected["correlationid"], rejected["causationid"]) == ("checkout", "placed-1")
    assert {m.key for m in bench.received if m.topic == "inventory.movements"} == {"A", "B"}


async def test_started_over_from_the_first_message_nothing_is_told_again(bench: Bench) -> None:
    await orders(bench)
    await bench.send(bench.log.rows())
    async with bench.publisher():
        await bench.hears_all()
        await bench.hears(lambda: any("rejected" in m.topic for m in bench.received), "the refusal")
    told = list(bench.received)
    # Another group has no offsets: it begins with the first message of all.
    again = replace(bench.settings, topics=_OtherGroup(bench.topics.prefix, PARTITIONS))
    bench.settings = again
    async with bench.publisher():
        await orders_more(bench)
        await bench.hears_all()
    assert bench.received[: len(told)] == told
    assert len({(m.source, m.id) for m in bench.received}) == len(bench.received)


class _OtherGroup(Topics):
    def named(self, topic: str) -> str:
        return super().named(topic + ".again" if topic == GROUP else topic)


async def orders_more(bench: Bench) -> None:
    before = len(bench.log.rows())
    await bench.do(Restock(sku="A", warehouse="W1", quantity=1))
    await bench.send(bench.log.rows()[before:])


async def test_states_that_are_lost_are_told_again_under_the_same_ids(bench: Bench) -> None:
    bench.log.happened("A", "W1", registered(), restocked(20), reserved("r-1", 3))
    await bench.send(bench.log.rows())
    async with bench.publisher():
        await bench.hears_all()
    once = list(bench.received)
    with psycopg.connect(bench.settings.read_model_url) as connection:
        connection.execute("TRUNCATE stockhold_public.streams, stockhold_public.holds, stockhold_public.partitions")
    async with bench.publisher():
        await bench.hears(lambda: len(bench.received) >= 2 * len(once), "everything again")
    assert Counter(bench.received) == Counter(once * 2)


async def test_what_kafka_loses_comes_from_the_log(bench: Bench) -> None:
    async with bench.publisher():
        for sku in "ABCDEF":
            bench.log.happened(sku, "W1", registered(), restocked(20), reserved("r-1", 3))
        rows = bench.log.rows()
        await bench.send([row for number, row in enumerate(rows) if number % 4])
        await bench.hears_all()


async def test_a_poison_event_stops_its_item_and_nothing_else(bench: Bench) -> None:
    bench.log.happened("A", "W1", registered(), restocked(20))
    bench.log.append_poison(stock_stream("A", "W1"))
    bench.log.happened("B", "W1", registered(), restocked(20))
    async with bench.publisher():
        await bench.send(bench.log.rows())
        await bench.put(0, b"no batch at all")
        bench.log.happened("B", "W1", reserved("r-1", 1))
        await bench.send(bench.log.rows()[-1:])
        await bench.hears(lambda: any(m.id == "stock:B@W1#3" for m in bench.received), "the other item")
    assert {m.id for m in bench.received if m.id.startswith("stock:A")} == {"stock:A@W1#1", "stock:A@W1#2"}


async def test_a_message_that_the_brokers_do_not_take_stops_its_item_and_nothing_else(bench: Bench) -> None:
    await bench.limit("inventory.movements", message_bytes=4_000)
    long = {"note": "x" * 1_900, "metadata": {"text": "y" * 3_000}}
    origin = msgspec.structs.replace(ORIGIN, **long)
    bench.log.happened("A", "W1", registered())
    bench.log.append([restocked(5).at(stock_stream("A", "W1"), 2, NOW, origin)])
    bench.log.happened("B", "W1", registered(), restocked(5), reserved("r-1", 3))
    await bench.send(bench.log.rows())
    async with bench.publisher():
        await bench.hears(lambda: any(m.id == "stock:B@W1#3" for m in bench.received), "the other item")
        bench.log.happened("B", "W1", restocked(5))
        await bench.send(bench.log.rows()[-1:])
        await bench.hears(lambda: any(m.id == "stock:B@W1#4" for m in bench.received), "what comes after")
        (parked,) = await eventually_async(lambda: parked_publications(bench.settings.read_model_url))
    assert (parked.stream, parked.version) == ("stock:A@W1", 2)
    assert "refused" in parked.error
    assert not [m for m in bench.received if m.topic == "inventory.movements" and m.key == "A"]


async def test_two_publishers_share_the_work_and_one_takes_over(bench: Bench) -> None:
    skus = [f"SKU-{n}" for n in range(16)]
    async with bench.publisher(client_id="one"):
        async with bench.publisher(client_id="two"):
            for sku in skus:
                bench.log.happened(sku, "W1", registered(), restocked(20))
            await bench.send(bench.log.rows(), size=2)
            await bench.hears_all()
        before = len(bench.log.rows())
        for sku in skus:
            bench.log.happened(sku, "W1", restocked(1))
        await bench.send(bench.log.rows()[before:], size=1)
        await bench.hears_all()


async def test_killed_between_telling_and_noting_it_tells_again_and_then_the_rest(bench: Bench) -> None:
    bench.log.happened("first", "W1", registered())
    first = bench.log.rows()
    for sku in [f"SKU-{n}" for n in range(12)]:
        bench.log.happened(sku, "W1", registered(), *([restocked(1)] * 40))
    noted = "SELECT count(*) FROM stockhold_public.streams"
    with psycopg.connect(bench.settings.read_model_url) as connection:
        async with _process(bench) as process:
            await bench.send(first)
            await eventually_async(lambda: connection.execute(noted).fetchone() == (1,), 40, what="that it works")
            # It may read its tables and tell everybody, but it cannot note that it has.
            connection.execute("LOCK TABLE stockhold_public.streams IN EXCLUSIVE MODE")
            await bench.send(bench.log.rows()[1:], size=20)
            await bench.hears(lambda: len(bench.received) > 50, "the first messages")
            os.kill(process.pid, signal.SIGKILL)
            await process.wait()
        assert connection.execute(noted).fetchone() == (1,)
        connection.rollback()
        async with _process(bench):
            await bench.hears_all()
            # The first may have told everything before it was killed: only what is noted is the second's doing.
            await eventually_async(lambda: connection.execute(noted).fetchone() == (13,), 40, what="that all is noted")
            await bench.hears(lambda: len(bench.received) > len(first_of_each(bench.received)), "something again")


@asynccontextmanager
async def _process(bench: Bench) -> AsyncIterator[asyncio.subprocess.Process]:
    """A publisher as the supervisor starts it."""
    environment = {
        **os.environ,
        "STOCKHOLD_EVENT_STORE_URL": bench.settings.event_store_url,
        "STOCKHOLD_READ_MODEL_URL": bench.settings.read_model_url,
        "STOCKHOLD_KAFKA_SERVERS": bench.settings.kafka_servers,
        "STOCKHOLD_KAFKA_PREFIX": bench.topics.prefix,
        "STOCKHOLD_KAFKA_PARTITIONS": str(PARTITIONS),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "infra.cli.main", "process", "publisher"), env=environment
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 30) == 0
