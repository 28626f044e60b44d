"""The door through Kafka, without Kafka: what is said, what answers it, and what is noticed on the way."""

import asyncio
import json

import pytest

from demo.answers import Level
from demo.baskets import Item, Line
from demo.errors import DemoError
from demo.postbox import DEAD_LETTERS, Exchange, Postbox
from demo.saga import SPOKEN, awaited, cloud_event, said, understood
from demo.script import Action, Order, Outcome, ReturnedLine
from domain import commands
from write_side.intake.messages import Received, read

SOURCE = "/demo"
MILK, EGGS = Item("milk", "store-1"), Item("eggs", "store-1")
ORDER = Order(
    "basket-1", "household-1", (Line(MILK, 2), Line(EGGS, 1)), Outcome.RETURNED, 3, (ReturnedLine(EGGS, 1, "DAMAGED"),)
)
WRONG_UNITS = [{"sku": "milk", "warehouse": "store-1", "quantity": 2}]
UNITS = [*WRONG_UNITS, {"sku": "eggs", "warehouse": "store-1", "quantity": 1}]


class Service:
    """Tells a postbox what the service would tell; each item of ours has been restocked, which made two versions."""

    def __init__(self):
        self.levels: list[Level] = []
        self.postbox = Postbox(SOURCE, self.levels.append)
        for item in (MILK, EGGS):
            self.postbox.stock(item)
            self.tell_level(item, 1)
            self.tell_level(item, 2)

    def _tell(self, topic, message_id, cause, data, **more):
        event = {"specversion": "1.0", "id": message_id, "source": f"/stockhold/{topic}", "type": topic, "data": data}
        event |= {"time": "2026-11-21T10:00:00Z", "causationid": cause, **more}
        self.postbox.hear(topic, json.dumps(event).encode())

    def tell_level(self, item, version, cause="another"):
        zeros = dict.fromkeys(("on_hand", "reserved", "committed", "damaged", "quarantined", "sold", "returned"), 0)
        level = {"sku": item.sku, "warehouse": item.warehouse, "version": version, **zeros}
        self._tell("inventory.stock-updated", f"{item}#{version}", cause, level, sequence=version)

    def tell_order(self, topic, cause, order_id="basket-1", allocations=UNITS, **data):
        self._tell(topic, f"{topic} for {cause}", cause, {"order_id": order_id, "allocations": allocations, **data})

    def give_up(self, message_id, source=SOURCE, code="reservation-expired"):
        value = json.dumps({"id": message_id, "source": source}).encode()
        self.postbox.hear_dead(value, [("stockhold-code", code.encode()), ("stockhold-detail", b"too late")])


@pytest.fixture
async def service():
    return Service()


def ask(service, action, message_id="m-1"):
    exchange = awaited(action, ORDER)
    service.postbox.begin(message_id, exchange)
    return exchange


@pytest.mark.parametrize("action", SPOKEN)
def test_the_intake_understands_what_is_said(action):
    topic = SPOKEN[action].topic
    message = read(Received(topic, 0, 0, b"basket-1", cloud_event(topic, "m-1", SOURCE, said(action, ORDER))))
    assert (message.name, message.order_id) == ((SOURCE, "m-1"), "basket-1")


def test_a_placed_order_says_all_that_the_customer_wants():
    value = cloud_event("order.placed", "m-1", SOURCE, said(Action.RESERVE, ORDER))
    command = read(Received("order.placed", 0, 0, None, value)).command
    assert isinstance(command, commands.CreateReservation)
    assert [(line.sku, line.warehouse, line.quantity) for line in command.lines] == [
        ("milk", "store-1", 2),
        ("eggs", "store-1", 1),
    ]
    assert (command.reservation_id, command.ttl_seconds, command.customer_ref) == ("basket-1", 3, "household-1")


async def test_it_is_answered_when_the_order_and_each_of_its_items_have_been_told_of(service):
    exchange = ask(service, Action.RESERVE)
    service.tell_level(EGGS, 3, "m-1")
    service.tell_order("inventory.reserved", "m-1")
    assert not exchange.over.done()
    assert "milk" in exchange.lacks()
    service.tell_level(MILK, 3, "m-1")
    assert exchange.over.done()
    told = understood(Action.RESERVE, ORDER, exchange)
    assert told is not None
    assert (told.status, told.item, told.version) == ("ACTIVE", MILK, 3)


async def test_what_others_cause_is_no_answer(service):
    exchange = ask(service, Action.RESERVE)
    service.tell_order("inventory.reserved", "m-2")
    service.tell_level(MILK, 3, "m-2")
    service.tell_level(EGGS, 3, "m-2")
    assert not exchange.over.done()
    assert exchange.lacks().startswith("an answer about the order")


async def test_the_hold_of_another_that_our_order_releases_is_no_answer(service):
    ask(service, Action.RESERVE, "m-0")
    service.postbox.begin("m-9", awaited(Action.PAY, Order("basket-9", "h", ORDER.lines, Outcome.EXPIRED, 1, ())))
    exchange = ask(service, Action.RESERVE)
    service.tell_order("inventory.released", "m-1", order_id="basket-9", reason="EXPIRED")
    service.tell_level(MILK, 3, "m-1")
    service.tell_level(EGGS, 3, "m-1")
    assert not exchange.over.done()
    service.tell_order("inventory.reserved", "m-1")
    assert understood(Action.RESERVE, ORDER, exchange) is not None


async def test_a_refused_order_waits_for_no_item(service):
    exchange = ask(service, Action.RESERVE)
    service.tell_order("inventory.reservation-rejected", "m-1", allocations=[], code="insufficient-stock")
    assert exchange.over.done()
    assert understood(Action.RESERVE, ORDER, exchange) is None


async def test_what_has_left_is_told_of_the_items_alone(service):
    exchange = ask(service, Action.RETURN)
    service.tell_level(EGGS, 3, "m-1")
    assert exchange.over.done()
    told = understood(Action.RETURN, ORDER, exchange)
    assert told is not None
    assert (told.status, told.item, told.version) == (None, EGGS, 3)


@pytest.mark.parametrize(
    ("action", "topic", "data", "words"),
    [
        (Action.RESERVE, "inventory.reservation-rejected", {"code": "unknown-sku"}, "unknown-sku"),
        (Action.PAY, "inventory.released", {"reason": "EXPIRED"}, "EXPIRED"),
        (Action.FAIL, "inventory.released", {"reason": "ORDER_CANCELLED"}, "PAYMENT_FAILED"),
        (Action.CANCEL, "inventory.released", {"reason": "ORDER_CANCELLED"}, "refunded"),
        (Action.PAY, "inventory.committed", {"allocations": WRONG_UNITS}, "units"),
    ],
)
async def test_a_wrong_answer_ends_the_demo(service, action, topic, data, words):
    exchange = ask(service, action)
    service.tell_order(topic, "m-1", **data)
    with pytest.raises(DemoError, match=words):
        understood(action, ORDER, exchange)


async def test_a_message_that_is_given_up_ends_the_demo(service):
    exchange = ask(service, Action.PAY)
    service.give_up("m-1")
    assert exchange.over.done()
    with pytest.raises(DemoError, match="given up, reservation-expired: too late"):
        understood(Action.PAY, ORDER, exchange)


async def test_dead_letters_of_others_are_passed_over(service):
    exchange = ask(service, Action.PAY)
    service.give_up("m-1", source="/somebody")
    service.postbox.hear_dead(b"no JSON", [])
    service.postbox.hear_dead(None, [])
    assert not exchange.over.done()
    assert DEAD_LETTERS not in service.postbox.traffic.heard


async def test_what_is_told_again_counts_once(service):
    ask(service, Action.PAY)
    for _ in range(2):
        service.tell_order("inventory.committed", "m-1")
        service.tell_level(MILK, 3, "m-1")
    assert service.postbox.traffic.heard == {"inventory.stock-updated": 5, "inventory.committed": 1}
    assert service.postbox.traffic.repeated == 2
    assert len(service.levels) == 5


async def test_a_version_that_was_left_out_is_noticed(service):
    service.tell_level(MILK, 4)
    assert service.postbox.differences({MILK: 4, EGGS: 2}) == ["milk at store-1: version 4 was told after 2"]


async def test_what_was_told_is_held_to_the_books(service):
    postbox = service.postbox
    assert not postbox.lacks({MILK: 2, EGGS: 2})
    assert postbox.differences({MILK: 2, EGGS: 2}) == []
    assert postbox.lacks({MILK: 3, EGGS: 2})
    assert postbox.differences({MILK: 3, EGGS: 1}) == [
        "milk at store-1: told up to version 2, by the answers it must be 3",
        "eggs at store-1: told up to version 2, by the answers it must be 1",
    ]


async def test_items_and_orders_of_others_are_passed_over(service):
    heard = service.postbox.traffic.heard.total()
    service.tell_level(Item("milk", "store-2"), 7)
    service.tell_order("inventory.reserved", "m-5", order_id="basket-5")
    assert service.postbox.traffic.heard.total() == heard
    assert service.postbox.differences({MILK: 2, EGGS: 2}) == []


async def test_the_first_version_of_an_item_is_not_yet_its_delivery(service):
    bread = Item("bread", "store-1")
    service.postbox.stock(bread)
    exchange = Exchange([bread])
    service.postbox.begin("m-1", exchange)
    service.tell_level(bread, 1, "m-1")
    assert not exchange.over.done()
    service.tell_level(bread, 2, "m-1")
    assert exchange.over.done()


async def test_a_message_on_the_wrong_topic_is_told(service):
    value = json.dumps({"id": "1", "source": "s", "type": "a", "time": "2026-11-21T10:00:00Z", "data": {}}).encode()
    with pytest.raises(DemoError, match="of type a"):
        service.postbox.hear("inventory.reserved", value)


async def test_when_nothing_more_can_be_heard_nobody_waits(service):
    exchange = ask(service, Action.PAY)
    waiting = asyncio.create_task(service.postbox.next_level())
    await asyncio.sleep(0)
    error = DemoError("Kafka is away", 3)
    service.postbox.fail(error)
    for waiter in (exchange.over, waiting):
        with pytest.raises(DemoError, match="away"):
            await waiter
    with pytest.raises(DemoError, match="away"):
        ask(service, Action.PAY, "m-2")
