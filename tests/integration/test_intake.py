"""The saga's intake on a real broker and a real database."""

from collections.abc import AsyncIterator

import psycopg
import pytest
from aiokafka import AIOKafkaProducer
from prometheus_client import REGISTRY

from infra.event_store.append_lock import append_lock_key
from infra.kafka.clients import running
from tests.support import eventually_async
from tests.support_intake import IntakeRig, about, cloud_event, encoded, placed

pytestmark = pytest.mark.kafka


@pytest.fixture
async def rig(database_url: str, kafka: str, kafka_prefix: str) -> AsyncIterator[IntakeRig]:
    opened = IntakeRig(database_url, kafka, kafka_prefix)
    await opened.open()
    yield opened
    await opened.close()


async def stocked(rig: IntakeRig, *skus: str, quantity: int = 1_000) -> None:
    executor = await rig.cluster.executor()
    await rig.cluster.stock(executor, *((sku, "W1", quantity) for sku in skus))
    await rig.cluster.drain(executor)


async def test_the_life_of_an_order(rig: IntakeRig) -> None:
    await stocked(rig, "A")
    await rig.member()
    order = placed("o1", ("A", 3)) | {"correlationid": "c-1"}
    await rig.send(order)
    await rig.caught_up()
    assert rig.statuses() == {"o1": "ACTIVE"}
    back = {"lines": [{"sku": "A", "warehouse": "W1", "quantity": 3, "condition": "SELLABLE"}]}
    for event, status in (
        (about("payment.authorized", "o1"), "COMMITTED"),
        (about("order.shipped", "o1", tracking="T1"), "SHIPPED"),
        (about("order.returned", "o1", **back), "RETURNED"),
    ):
        await rig.send(event)
        await rig.caught_up()
        assert rig.statuses() == {"o1": status}
    reserved = next(event for event in rig.cluster.events() if event["topic"].endswith("reserved"))
    origin = reserved["origin"]
    assert (origin["actor"], origin["correlation_id"]) == ("/shop", "c-1")
    assert origin["causation_id"] == origin["idempotency_key"] == order["id"]
    rig.check()
    assert rig.dead() == rig.waiting() == []


async def test_a_warehouse_tells_of_what_came_what_is_there_and_what_has_left(rig: IntakeRig) -> None:
    await stocked(rig, "A")
    await rig.member()
    received = {"sku": "B", "warehouse": "W1", "quantity": 5, "lot": "L1"}
    await rig.send(cloud_event("warehouse.received", received))
    await rig.caught_up()
    await rig.send(cloud_event("warehouse.counted", {"sku": "B", "warehouse": "W1", "counted": 4}))
    await rig.send(placed("o1", ("A", 1)), placed("o2", ("A", 1)))
    await rig.caught_up()
    await rig.send(about("payment.authorized", "o1"), about("payment.authorized", "o2"))
    await rig.caught_up()
    await rig.send(
        about("warehouse.shipped", "o1"), cloud_event("warehouse.shipped", {"reservation_id": "o2", "tracking": "T"})
    )
    await rig.caught_up()
    assert rig.statuses() == {"o1": "SHIPPED", "o2": "SHIPPED"}
    assert rig.cluster.topics("stock:B@W1") == ["registered", "restocked", "counted"]
    rig.check()


async def test_repeats_and_disorder_over_two_intakes(rig: IntakeRig) -> None:
    await stocked(rig, "A")
    members = [await rig.member(), await rig.member()]
    back = {"lines": [{"sku": "A", "warehouse": "W1", "quantity": 1, "condition": "SELLABLE"}]}
    life = [("order.returned", back), ("order.shipped", {}), ("payment.authorized", {})]
    for topic, data in life:
        events = [about(topic, f"o{n}", **data) for n in range(40)]
        await rig.send(*events, *events)
    orders = [placed(f"o{n}", ("A", 1)) for n in range(40)]
    await rig.send(*orders, *orders)
    await rig.caught_up()
    await eventually_async(lambda: not rig.waiting(), 20, what="nothing waits")
    assert rig.statuses() == dict.fromkeys((f"o{n}" for n in range(40)), "RETURNED")
    assert rig.dead() == []
    rig.check()
    for member in members:
        await member.stop()


async def test_of_a_backlog_the_orders_are_read_before_their_payments(rig: IntakeRig) -> None:
    await stocked(rig, "A", quantity=10_000)
    orders = 2_000
    for first in range(0, orders, 100):
        await rig.send(*(placed(f"o{n}", ("A", 1)) for n in range(first, first + 100)))
        await rig.send(*(about("payment.authorized", f"o{n}") for n in range(first, first + 100)))
    labels = {"topic": "payment.authorized", "outcome": "waiting"}
    before = REGISTRY.get_sample_value("stockhold_intake_messages_total", labels) or 0
    await rig.member()
    await rig.caught_up()
    await eventually_async(lambda: not rig.waiting(), 20, what="nothing waits")
    waited = (REGISTRY.get_sample_value("stockhold_intake_messages_total", labels) or 0) - before
    assert waited < orders / 2
    assert set(rig.statuses().values()) == {"COMMITTED"}
    rig.check()


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
async def test_others_compress_as_they_like(rig: IntakeRig, compression: str) -> None:
    await stocked(rig, "A")
    await rig.member()
    async with running(
        lambda: AIOKafkaProducer(bootstrap_servers=rig.servers, compression_type=compression), rig.servers
    ) as foreign:
        for n in range(3):
            await foreign.send_and_wait(rig.topics.named("order.placed"), encoded(placed(f"o{n}", ("A", 1))))
    await rig.caught_up()
    assert rig.database.headers() == {"o0", "o1", "o2"}


async def test_what_a_producer_has_taken_back_was_never_said(rig: IntakeRig) -> None:
    await stocked(rig, "A")
    await rig.member()
    topic = rig.topics.named("order.placed")
    async with running(
        lambda: AIOKafkaProducer(bootstrap_servers=rig.servers, transactional_id=f"{rig.group}.shop"), rig.servers
    ) as shop:
        for number, kept in enumerate([True, False, True]):
            await shop.begin_transaction()
            await shop.send_and_wait(topic, encoded(placed(f"o{number}", ("A", 1))), partition=0)
            await (shop.commit_transaction() if kept else shop.abort_transaction())
    await eventually_async(lambda: rig.database.headers() >= {"o0", "o2"}, 20)
    assert rig.database.headers() == {"o0", "o2"}
    await eventually_async(lambda: lag("order.placed") == 0, what="nothing is behind")


def append_lock_held(rig: IntakeRig) -> psycopg.Connection:
    connection = psycopg.connect(rig.database_url, autocommit=True)
    connection.execute("SELECT pg_advisory_lock(%s)", [append_lock_key()])
    return connection


async def test_what_is_not_durable_is_told_and_nothing_of_it_is_committed(rig: IntakeRig) -> None:
    await stocked(rig, "A")
    await rig.member()
    with append_lock_held(rig):
        await rig.send(*(placed(f"o{n}", ("A", 1)) for n in range(50)))
        await eventually_async(lambda: lag("order.placed") == 50, 20, what="all of it is behind")
        assert await rig.committed("order.placed") == 0
    await rig.caught_up()
    assert len(rig.database.headers()) == 50
    await eventually_async(lambda: lag("order.placed") == 0, what="nothing is behind")


def lag(topic: str) -> float:
    return REGISTRY.get_sample_value("stockhold_intake_lag_messages", {"topic": topic}) or 0.0
