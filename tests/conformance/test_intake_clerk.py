"""What becomes of messages: applied, refused as an order may be, left to wait, woken, given up, tried again."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from domain.commands import PutWarehouse
from infra.event_store.port import StoreUnavailable
from tests.support import eventually_async, nothing_for_the_collector
from tests.support_audit import audit, check_index
from tests.support_intake import SOURCE, Desk, about, cloud_event, placed, received
from tests.support_write_side import Cluster, MemoryDatabase, PostgresDatabase, ask, order
from write_side.intake.clerk import End, judge
from write_side.intake.memory_store import MemoryIntakeStore
from write_side.intake.messages import read
from write_side.intake.metrics import MESSAGES
from write_side.intake.postgres_store import PostgresIntakeStore
from write_side.intake.store import IntakeStore, StoreAway, Wait
from write_side.submission import Answer


@pytest.fixture(params=["memory", "postgres"])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    database = (
        MemoryDatabase() if request.param == "memory" else PostgresDatabase(request.getfixturevalue("database_url"))
    )
    opened = Cluster(database, optimistic=True)
    yield opened
    await opened.close()


class Office:
    """Desks on one database: each has an executor, and in PostgreSQL a store, of its own."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.retry_s = 0.0
        self.wait_s = 3_600.0
        self._shared = MemoryIntakeStore(retry_s=0.0)
        self._stores: list[IntakeStore] = []

    async def desk(self) -> Desk:
        self._shared.retry_s, self._shared.wait_s = self.retry_s, self.wait_s
        store: IntakeStore = self._shared
        if isinstance(self.cluster.database, PostgresDatabase):
            store = PostgresIntakeStore(self.cluster.database.url, retry_s=self.retry_s, wait_s=self.wait_s)
        self._stores.append(store)
        return Desk(await self.cluster.executor(), store)

    async def stock(self, *skus: str, quantity: int = 100) -> None:
        executor = await self.cluster.executor()
        await self.cluster.stock(executor, *((sku, "W1", quantity) for sku in skus))

    async def waiting(self, *order_ids: str) -> list[str]:
        return [row.received.topic for row in await self._stores[0].waiting_for(order_ids or ["o1"])]

    def statuses(self) -> dict[str, str]:
        return {hold.reservation_id: str(hold.status) for hold in self.cluster.database.holds()}

    async def close(self) -> None:
        database = self.cluster.database
        check_index(audit(database.events()), database.holds(), database.headers())
        for store in self._stores:
            await store.close()


@pytest.fixture
async def office(cluster: Cluster) -> AsyncIterator[Office]:
    opened = Office(cluster)
    await opened.stock("A")
    yield opened
    await opened.close()


async def test_a_whole_life_in_one_batch_in_any_order(office: Office) -> None:
    desk = await office.desk()
    back = {"lines": [{"sku": "A", "warehouse": "W1", "quantity": 1, "condition": "SELLABLE"}]}
    await desk.hand(
        about("order.returned", "o1", **back),
        about("order.shipped", "o1"),
        about("payment.authorized", "o1"),
        placed("o1", ("A", 1)),
    )
    assert office.statuses() == {"o1": "RETURNED"}
    assert desk.shelf.said() == []
    assert await office.waiting() == []


async def test_what_is_settled_is_gone_without_the_collector(office: Office) -> None:
    desk = await office.desk()
    await desk.hand(placed("o0", ("A", 1)))
    with nothing_for_the_collector():
        await desk.hand(about("payment.authorized", "o2"), placed("o1", ("A", 1)), placed("o3", ("A", 1_000_000)))
        await desk.hand(placed("o2", ("A", 1)), about("order.cancelled", "o1"), placed("o1", ("A", 1)))
    assert office.statuses() == {"o0": "ACTIVE", "o1": "RELEASED", "o2": "COMMITTED"}


async def test_one_by_one_in_the_wrong_order(office: Office) -> None:
    desk = await office.desk()
    await desk.hand(about("order.shipped", "o1"))
    await desk.hand(about("payment.authorized", "o1"))
    assert await office.waiting() == ["order.shipped", "payment.authorized"]
    assert office.cluster.database.refusals() == []
    await desk.hand(placed("o1", ("A", 1)))
    assert office.statuses() == {"o1": "SHIPPED"}
    assert await office.waiting() == []


async def test_what_another_process_has_let_wait_is_woken_here(office: Office) -> None:
    one, other = await office.desk(), await office.desk()
    await one.hand(about("payment.authorized", "o1"))
    await other.hand(placed("o1", ("A", 1)))
    assert office.statuses() == {"o1": "COMMITTED"}


async def test_no_wake_is_lost_between_two_processes(office: Office) -> None:
    """Both at the same time, many times: whichever is later sees the other."""
    one, other = await office.desk(), await office.desk()
    for n in range(30):
        await asyncio.gather(one.hand(about("payment.authorized", f"o{n}")), other.hand(placed(f"o{n}", ("A", 1))))
    assert set(office.statuses().values()) == {"COMMITTED"}
    assert await office.waiting(*(f"o{n}" for n in range(30))) == []


async def test_what_was_made_at_another_door_is_found_in_time(office: Office) -> None:
    desk = await office.desk()
    await desk.hand(about("payment.authorized", "o1"))
    await ask(await office.cluster.executor(), order("r1", ("A", 1, "W1"), order_id="o1"))

    async def committed() -> bool:
        await desk.look_after()
        return office.statuses() == {"r1": "COMMITTED"}

    await eventually_async(committed)
    assert await office.waiting() == []


async def test_a_repeat_counts_once_in_the_same_batch_later_and_elsewhere(office: Office) -> None:
    one, other = await office.desk(), await office.desk()
    order_placed = placed("o1", ("A", 1))
    received_goods = cloud_event("warehouse.received", {"sku": "A", "warehouse": "W1", "quantity": 5})
    await one.hand(order_placed, order_placed, received_goods, received_goods)
    await other.hand(received_goods, order_placed)
    await one.hand(received_goods)
    level = await office.cluster.level(await office.cluster.executor(), "A", "W1")
    assert (level["on_hand"], level["reserved"]) == (105, 1)
    assert one.shelf.said() == other.shelf.said() == []


async def test_the_same_id_from_another_source_is_another_message(office: Office) -> None:
    desk = await office.desk()
    goods = {"sku": "A", "warehouse": "W1", "quantity": 5}
    await desk.hand(
        cloud_event("warehouse.received", goods, id="1", source="/wms/1"),
        cloud_event("warehouse.received", goods, id="1", source="/wms/2"),
    )
    level = await office.cluster.level(await office.cluster.executor(), "A", "W1")
    assert level["on_hand"] == 110


async def test_the_same_id_for_something_else_is_a_dead_letter(office: Office) -> None:
    desk = await office.desk()
    await desk.hand(placed("o1", ("A", 1)) | {"id": "1"})
    await desk.hand(placed("o2", ("A", 1)) | {"id": "1"}, placed("o3", ("A", 1)))
    await desk.hand(about("payment.authorized", "o9") | {"id": "2"})
    await desk.hand(about("payment.failed", "o9") | {"id": "2"})
    assert desk.shelf.said() == [
        ("order.placed", "idempotency-key-reused"),
        ("payment.failed", "idempotency-key-reused"),
    ]
    assert office.statuses() == {"o1": "ACTIVE", "o3": "ACTIVE"}
    assert await office.waiting("o9") == ["payment.authorized"]


async def test_an_order_that_cannot_be_held_is_an_ordinary_answer(office: Office) -> None:
    desk = await office.desk()
    too_much = placed("o1", ("A", 101)) | {"id": "m-1", "correlationid": "c-1"}
    await desk.hand(too_much, placed("o2", ("NONE", 1)))
    await desk.hand(too_much)
    assert desk.shelf.said() == []
    rejected, unknown = sorted(office.cluster.database.refusal_rows(), key=lambda row: row.code)
    assert (rejected.operation, rejected.code, rejected.order_id) == ("reservation.create", "insufficient-stock", "o1")
    assert (rejected.reservation_id, rejected.source, rejected.actor) == ("o1", "/shop", "/shop")
    assert (rejected.correlation_id, rejected.causation_id) == ("c-1", "m-1")
    assert rejected.command_id
    assert msgspec.json.decode(rejected.problem)["shortages"][0]["available"] == 100
    assert unknown.code == "unknown-stock-item"


@pytest.mark.parametrize(
    ("history", "event", "code"),
    [
        (["payment.failed"], "payment.authorized", "reservation-not-active"),
        (["payment.authorized", "order.shipped"], "order.cancelled", "reservation-not-active"),
        (["payment.authorized"], "payment.failed", "reservation-not-active"),
        (["order.cancelled"], "order.shipped", "reservation-not-active"),
    ],
)
async def test_what_can_never_apply_is_a_dead_letter_and_its_neighbours_go_on(
    office: Office, history: list[str], event: str, code: str
) -> None:
    desk = await office.desk()
    await desk.hand(placed("o1", ("A", 1)))
    for topic in history:
        await desk.hand(about(topic, "o1"))
    await desk.hand(placed("o2", ("A", 1)), about(event, "o1"), ("order.placed", b"not json"), placed("o3", ("A", 1)))
    assert sorted(desk.shelf.said()) == sorted([(event, code), ("order.placed", "invalid-request")])
    assert {"o2", "o3"} <= office.statuses().keys()


async def test_a_dead_letter_has_its_name_where_it_can_be_read(office: Office) -> None:
    desk = await office.desk()
    await desk.hand(placed("o1") | {"id": "m-1"}, ("order.placed", b"not json"))
    assert [(message.source, message.id) for message in desk.shelf.published] == [(SOURCE, "m-1"), (None, None)]


async def test_what_has_waited_too_long_is_given_up(office: Office) -> None:
    office.wait_s = 0.0
    desk = await office.desk()
    await desk.hand(about("payment.authorized", "o1"))

    async def given_up() -> bool:
        await desk.look_after()
        return bool(desk.shelf.published)

    await eventually_async(given_up)
    (message,) = desk.shelf.published
    assert (message.code, message.order_id) == ("unknown-reservation", "o1")
    assert message.detail.startswith("waited since ")
    assert await office.waiting() == []


async def want_again(office: Office, desk: Desk) -> None:
    if isinstance(office.cluster.database, PostgresDatabase):
        office.cluster.database.run("UPDATE stockhold.dead_messages SET retry_requested = true")
    else:
        assert isinstance(desk.store, MemoryIntakeStore)
        desk.store.wanted = set(desk.store.dead)
    await desk.look_after()


async def test_a_dead_letter_that_is_tried_again_when_it_is_right(office: Office) -> None:
    desk = await office.desk()
    goods = cloud_event("warehouse.received", {"sku": "A", "warehouse": "W2", "quantity": 5})
    await desk.hand(goods, ("order.placed", b"not json"))
    assert desk.shelf.said() == [("order.placed", "invalid-request"), ("warehouse.received", "unknown-warehouse")]
    await want_again(office, desk)
    assert (await desk.store.figures()).dead == 2
    await ask(await office.cluster.executor(), PutWarehouse(code="W2"))
    await want_again(office, desk)
    assert (await desk.store.figures()).dead == 1
    assert (await office.cluster.level(await office.cluster.executor(), "A", "W2"))["on_hand"] == 5


async def test_a_dead_letter_that_is_tried_again_too_early_waits(office: Office) -> None:
    office.wait_s = 0.0
    desk = await office.desk()
    await desk.hand(about("payment.authorized", "o1"))
    await eventually_async(lambda: _given_up(desk))
    await desk.store.close()  # that process is gone: another one looks after what waits
    office.wait_s = 3_600.0
    later = await office.desk()
    await eventually_async(later.store.lead)
    await want_again(office, later)
    assert ((await later.store.figures()).dead, await office.waiting()) == (0, ["payment.authorized"])
    await later.hand(placed("o1", ("A", 1)))
    assert office.statuses() == {"o1": "COMMITTED"}


async def _given_up(desk: Desk) -> bool:
    await desk.look_after()
    return bool((await desk.store.figures()).dead)


async def test_an_item_that_cannot_be_read_lets_its_messages_wait(office: Office) -> None:
    await office.stock("B")
    database = office.cluster.database
    good = next(row for row in database.events() if row.stream == "stock:A@W1" and row.version == 2)
    database.spoil("stock:A@W1", 2, good.topic, b"not json")
    desk = await office.desk()
    await desk.hand(placed("o1", ("A", 1)), placed("o2", ("B", 1)))
    assert office.statuses() == {"o2": "ACTIVE"}
    assert await office.waiting("o1", "o2") == ["order.placed"]
    database.spoil("stock:A@W1", 2, good.topic, good.state)
    later = await office.desk()

    async def held() -> bool:
        await later.look_after()
        return office.statuses().keys() == {"o1", "o2"}

    await eventually_async(held)


async def test_an_unsure_outcome_is_asked_for_until_it_is_sure(office: Office) -> None:
    executor = await office.cluster.executor(request_deadline_ms=200)
    desk = Desk(executor, MemoryIntakeStore())
    interposed = office.cluster.store_of(executor)
    interposed.fail(StoreUnavailable("away"), "append", "append_unseen", "open", "lock_and_load", always=True)
    handed = asyncio.create_task(desk.hand(placed("o1", ("A", 1)), placed("o2", ("A", 1))))
    await eventually_async(lambda: interposed.calls["open"] > 3)
    assert not handed.done()
    interposed.forgive()
    await handed
    assert office.statuses() == {"o1": "ACTIVE", "o2": "ACTIVE"}


async def test_a_full_queue_takes_its_time(office: Office) -> None:
    desk = Desk(await office.cluster.executor(queue_limit=3), MemoryIntakeStore())
    await desk.hand(*(placed(f"o{n}", ("A", 1)) for n in range(10)))
    assert len(office.statuses()) == 10


async def test_a_store_that_is_away_is_waited_for(office: Office) -> None:
    class Shaky(MemoryIntakeStore):
        troubles = 2

        async def keep(self, waits):
            if self.troubles:
                self.troubles -= 1
                raise StoreAway("away")
            return await super().keep(waits)

    store = Shaky()
    desk = Desk(await office.cluster.executor(), store)
    await desk.hand(about("payment.authorized", "o1"))
    assert store.troubles == 0
    assert len(store.rows) == 1


@pytest.mark.parametrize(
    ("topic", "answer", "end", "outcome"),
    [
        ("order.placed", Answer(201, b"{}"), End.DONE, "applied"),
        ("order.placed", Answer(201, b"{}", replayed=True), End.DONE, "replayed"),
        ("order.placed", Answer(409, b'{"code":"insufficient-stock","detail":"d"}'), End.DONE, "rejected"),
        ("order.placed", Answer(409, b'{"code":"idempotency-key-reused","detail":"d"}'), End.DEAD, "dead"),
        ("order.placed", Answer(500, b'{"code":"internal","detail":"d"}'), End.WAITS, "waiting"),
        ("order.shipped", Answer(404, b'{"code":"c","detail":"d"}', premature=True), End.WAITS, "waiting"),
        ("order.shipped", Answer(409, b'{"code":"c","detail":"d"}'), End.DEAD, "dead"),
    ],
)
def test_what_an_answer_means(topic: str, answer: Answer, end: End, outcome: str) -> None:
    event = placed("o1", ("A", 1)) if topic == "order.placed" else about(topic, "o1")
    verdict = judge(read(received(topic, event)), answer)
    assert (verdict.end, verdict.outcome) == (end, outcome)


def counted(topic: str) -> dict[str, float]:
    """By outcome, messages of a topic that this process has counted."""
    return {
        sample.labels["outcome"]: sample.value
        for metric in MESSAGES.collect()
        for sample in metric.samples
        if sample.name.endswith("_total") and sample.labels["topic"] == topic
    }


async def test_every_message_is_counted_by_what_became_of_it(office: Office) -> None:
    desk = await office.desk()
    before = {topic: counted(topic) for topic in ("order.placed", "payment.authorized")}
    first, rejected = placed("o1", ("A", 1)), placed("o2", ("A", 1_000))
    await desk.hand(about("payment.authorized", "o1"))
    await desk.hand(first, rejected, ("order.placed", b"not json"))
    await desk.hand(first)

    def more(topic: str) -> dict[str, float]:
        grown = {outcome: n - before[topic].get(outcome, 0) for outcome, n in counted(topic).items()}
        return {outcome: n for outcome, n in grown.items() if n}

    assert more("order.placed") == {"applied": 1, "rejected": 1, "dead": 1, "replayed": 1}
    assert more("payment.authorized") == {"waiting": 1, "retried": 1}


async def test_what_two_have_woken_at_once_is_counted_once(office: Office) -> None:
    desk = await office.desk()
    payment = about("payment.authorized", "o1")
    await desk.hand(payment)
    await desk.hand(placed("o1", ("A", 1)))
    before = counted("payment.authorized")
    await desk.store.keep([Wait(read(received("payment.authorized", payment)), "unknown-reservation", "")])

    async def gone() -> bool:
        await desk.look_after()
        return await office.waiting() == []

    await eventually_async(gone)
    after = counted("payment.authorized")
    assert {outcome: n - before.get(outcome, 0) for outcome, n in after.items() if n != before.get(outcome)} == {
        "replayed": 1
    }
