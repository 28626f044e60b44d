"""The intake when things go wrong: messages that are none, processes that die, servers that are away."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from domain.commands import PutWarehouse
from infra.kafka.admin import TopicMismatch, ensure_topics
from infra.kafka.topics import MESSAGE_BYTES_MAX, Topics
from infra.migrations.runner import EVENT_STORE, migrate
from tests.support import eventually_async
from tests.support_intake import PARTITIONS, IntakeRig, Member, about, cloud_event, encoded, placed
from tests.support_kafka import OwnBroker, own_broker
from tests.support_servers import OwnServers, own_servers
from tests.support_write_side import ask
from write_side.intake.postgres_store import NobodyReplays, dead_messages, retry_dead

pytestmark = pytest.mark.kafka


@pytest.fixture
async def rig(database_url: str, kafka: str, kafka_prefix: str) -> AsyncIterator[IntakeRig]:
    async with opened(database_url, kafka, kafka_prefix) as rig:
        yield rig


class opened:  # noqa: N801  reads like a function
    """A rig with stock of A, closed at the end of the block."""

    def __init__(self, database_url: str, servers: str, prefix: str) -> None:
        self._rig = IntakeRig(database_url, servers, prefix)

    async def __aenter__(self) -> IntakeRig:
        await self._rig.open()
        executor = await self._rig.cluster.executor()
        await self._rig.cluster.stock(executor, ("A", "W1", 1_000_000))
        await self._rig.cluster.drain(executor)
        return self._rig

    async def __aexit__(self, *_: object) -> None:
        await self._rig.close()


def order_and_payment(n: int) -> tuple[dict[str, Any], dict[str, Any]]:
    return placed(f"o{n}", ("A", 1)), about("payment.authorized", f"o{n}")


async def more_than(rig: IntakeRig, orders: int) -> None:
    await eventually_async(lambda: len(rig.database.headers()) > orders, 60, what=f"more than {orders} orders")


async def everything_once(rig: IntakeRig, orders: int) -> None:
    """Every order was held once and paid once, and nothing waits or was given up."""
    await rig.caught_up(60)
    await eventually_async(lambda: len(rig.database.headers()) == orders, what="every order is held")
    await eventually_async(lambda: not rig.waiting(), 30, what="nothing waits")
    assert rig.dead() == []
    events = [event["topic"].partition(".")[2] for event in rig.cluster.events("stock:A@W1")]
    assert (events.count("reserved"), events.count("committed")) == (orders, orders)
    rig.check()


# Messages that are none ------------------------------------------------------------------------------


async def test_what_is_no_message_is_given_up_and_its_neighbours_go_on(rig: IntakeRig) -> None:
    await rig.member()
    wrong: dict[str, Any] = {
        "no JSON": b"not json",
        "binary": bytes(range(256)),
        "foreign": b"\x00\x00\x00\x00\x2aavro",
        "another version": placed("o9", ("A", 1)) | {"specversion": "0.3"},
        "another type": placed("o9", ("A", 1)) | {"type": "payment.authorized"},
        "an unknown field": placed("o9", ("A", 1), colour="red"),
        "NUL": placed("o9", ("A", 1), customer_ref="a\x00"),
        "half a character": encoded(placed("o9", ("A", 1))).replace(b"/shop", b"/sh\\ud800p"),
        "too large": encoded(placed("o9", ("A", 1))) + b" " * MESSAGE_BYTES_MAX,
    }
    for number, event in enumerate(wrong.values()):
        await rig.send(placed(f"o{number}", ("A", 1)), key="k")
        await rig.send(event, topic="order.placed", key="k")
    await rig.send(placed("last", ("A", 1)), key="k")
    await rig.caught_up()
    assert rig.database.headers() == {f"o{number}" for number in range(len(wrong))} | {"last"}
    codes = [code for _, code, _ in rig.dead()]
    assert codes.count("payload-too-large") == 1
    assert codes.count("invalid-request") == len(wrong) - 1
    letters = await rig.dead_letters()
    assert len(letters) == len(wrong)
    by_code = {said["stockhold-code"]: (said, value) for said, value in letters}
    said, value = by_code["payload-too-large"]
    assert (value, int(said["stockhold-size"]) > MESSAGE_BYTES_MAX) == (None, True)
    assert {value for said, value in letters if said["stockhold-code"] == "invalid-request"} == {
        encoded(event) for event in list(wrong.values())[:-1]
    }
    assert {said["stockhold-topic"] for said, _ in letters} == {"order.placed"}
    listed = {row.message_id: row for row in await dead_messages(rig.database_url)}
    assert listed.keys() == {said["stockhold-id"] for said, _ in letters}


async def test_a_message_without_a_value_or_key_and_a_very_long_key(rig: IntakeRig) -> None:
    await rig.member()
    assert rig._producer is not None
    await rig._producer.send_and_wait(rig.topics.named("order.placed"), None, key=b"o1")
    await rig._producer.send_and_wait(rig.topics.named("order.placed"), b"x", key=b"k" * (MESSAGE_BYTES_MAX // 2))
    await rig._producer.send_and_wait(rig.topics.named("order.placed"), b"y" * (MESSAGE_BYTES_MAX - 1_000))
    await rig.caught_up()
    assert len(rig.dead()) == len(await rig.dead_letters()) == 3


async def test_dead_letters_are_tried_again_by_the_intake_that_runs(rig: IntakeRig) -> None:
    await rig.send(cloud_event("warehouse.received", {"sku": "A", "warehouse": "W9", "quantity": 5}))
    member = await rig.member()
    await rig.caught_up()
    await member.stop()
    with pytest.raises(NobodyReplays):
        await retry_dead(rig.database_url, timeout_s=0.1)
    await rig.member()
    assert await retry_dead(rig.database_url) == 0
    executor = await rig.cluster.executor()
    await ask(executor, PutWarehouse(code="W9"))
    assert await retry_dead(rig.database_url) == 1
    assert rig.dead() == []
    assert (await rig.cluster.level(executor, "A", "W9"))["on_hand"] == 5


async def test_topics_of_another_shape_are_no_matter_of_time(rig: IntakeRig) -> None:
    rig.topics = Topics(rig.topics.prefix, PARTITIONS + 1)
    member = await Member(rig).start()
    for end in (member.until_ready, member.stop):
        with pytest.raises(TopicMismatch, match="STOCKHOLD_KAFKA_PARTITIONS"):
            await end()


# Processes that come and go --------------------------------------------------------------------------


async def test_killed_between_the_decision_and_its_offset(rig: IntakeRig) -> None:
    sent = uncommitted = 0
    while not uncommitted:
        assert sent < 2_000, "it never happened"
        process = rig.process()
        before = len(rig.database.headers())
        await rig.send(*(event for n in range(sent, sent + 100) for event in order_and_payment(n)))
        sent += 100
        await more_than(rig, before)
        rig.kill(process)
        uncommitted = len(rig.database.headers()) - await rig.committed("order.placed")
    assert uncommitted > 0
    await rig.member()
    await everything_once(rig, sent)


async def test_an_order_to_stop_finishes_what_was_begun_and_commits_it(rig: IntakeRig) -> None:
    process = rig.process()
    await rig.send(*(placed(f"o{n}", ("A", 1)) for n in range(3_000)))
    await eventually_async(rig.database.headers, 60)
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 60) == 0
    # Nothing was decided that will come again, and nothing was passed over.
    assert await rig.committed("order.placed") == len(rig.database.headers())
    await rig.member()
    await rig.caught_up()
    assert len(rig.database.headers()) == 3_000


async def test_two_intakes_come_and_go_under_load(rig: IntakeRig) -> None:
    members = [await rig.member()]
    orders = 0
    over = asyncio.Event()

    async def load() -> None:
        nonlocal orders
        while not over.is_set():
            await rig.send(*(event for n in range(orders, orders + 20) for event in order_and_payment(n)))
            orders += 20

    loading = asyncio.create_task(load())
    for goal in (200, 400, 600, 800):
        await more_than(rig, goal)
        if len(members) == 1:
            members.append(await rig.member())
        else:
            await members.pop(0).stop()
    over.set()
    await loading
    await everything_once(rig, orders)


# Servers that are away -------------------------------------------------------------------------------


@pytest.fixture
def broker(data_dir: Path) -> "Any":
    with own_broker(data_dir / "kafka") as running:
        yield running


async def test_a_broker_that_is_down_at_the_start_is_waited_for(
    database_url: str, broker: OwnBroker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.stop()
    rig = IntakeRig(database_url, broker.servers, "")
    member = Member(rig)
    with caplog.at_level(logging.WARNING):
        await member.start()
        await eventually_async(lambda: "STOCKHOLD_KAFKA_SERVERS" in caplog.text, 30)
        assert not member.ready.is_set()
        assert member.health.checks()["kafka"]
        broker.start()
        await member.until_ready()
    assert not member.health.checks()["kafka"]
    await member.stop()


async def test_told_to_stop_while_the_broker_is_away(database_url: str, broker: OwnBroker) -> None:
    broker.stop()
    member = await Member(IntakeRig(database_url, broker.servers, "")).start()
    await member.stop()


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_broker_that_goes_away_in_the_middle(database_url: str, broker: OwnBroker, how: str) -> None:
    async with opened(database_url, broker.servers, "") as rig:
        member = await rig.member()
        for first in range(0, 200, 100):
            sending = asyncio.create_task(
                rig.send(*(event for n in range(first, first + 100) for event in order_and_payment(n)))
            )
            await more_than(rig, first)
            getattr(broker, how)()
            await eventually_async(lambda: member.health.checks()["kafka"], 30, what="it says that the broker is away")
            broker.start()
            await sending
            await eventually_async(lambda: not member.health.checks()["kafka"], 30, what="the broker is back")
        await everything_once(rig, 200)


async def test_a_database_that_is_killed_in_the_middle(kafka: str, kafka_prefix: str, data_dir: Path) -> None:
    with own_servers(data_dir) as servers:
        migrate(servers.postgres_url, EVENT_STORE)
        async with opened(servers.postgres_url, kafka, kafka_prefix) as rig:
            await rig.member()
            # The payments first: they are to wait, and to be woken, while the database comes and goes.
            for first in range(0, 300, 100):
                events = [order_and_payment(n) for n in range(first, first + 100)]
                await rig.send(*(payment for _, payment in events))
                await rig.send(*(order for order, _ in events))
                await _killed_while_it_works(rig, servers, first)
            await everything_once(rig, 300)


async def _killed_while_it_works(rig: IntakeRig, servers: OwnServers, first: int) -> None:
    await eventually_async(lambda: len(rig.database.headers()) > first or rig.waiting(), 60)
    servers.postgres.kill()
    servers.postgres.start()


async def test_an_input_topic_that_is_made_anew_is_read_from_its_beginning(rig: IntakeRig) -> None:
    await rig.member()
    await rig.send(placed("o1", ("A", 1)))
    await rig.caught_up()
    await rig.delete_topic("order.placed")
    await ensure_topics(rig.servers, rig.topics.specs(), 1)
    await rig.send(placed("o2", ("A", 1)), placed("o3", ("A", 1)))
    await eventually_async(lambda: rig.database.headers() == {"o1", "o2", "o3"}, 60)
