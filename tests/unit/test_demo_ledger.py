import pytest

from demo.answers import Level
from demo.baskets import Item, Line
from demo.ledger import ItemBook, Ledger, Status
from demo.script import Action, Order, Outcome, ReturnedLine

MILK = Item("product-1", "store-1")
EGGS = Item("product-2", "store-1")
BREAKFAST = (Line(MILK, 2), Line(EGGS, 1))


def order(*returns, lines=BREAKFAST):
    return Order("basket-1", "household-1", lines, Outcome.SHIPPED, None, returns)


@pytest.fixture
def ledger():
    ledger = Ledger()
    ledger.restocked(MILK, 10)
    ledger.restocked(EGGS, 6)
    return ledger


def level(item=MILK, **figures):
    known = {"version": 2, "on_hand": 10}
    zeros = dict.fromkeys(("reserved", "committed", "damaged", "quarantined", "sold", "returned"), 0)
    return Level(sku=item.sku, warehouse=item.warehouse, **zeros | known | figures)


def test_a_first_delivery_registers_the_item_and_stocks_it(ledger):
    assert ledger.items[MILK] == ItemBook(version=2, on_hand=10)


@pytest.mark.parametrize(
    ("actions", "milk", "status"),
    [
        ([Action.RESERVE], {"version": 3, "reserved": 2}, Status.ACTIVE),
        ([Action.RESERVE, Action.PAY], {"version": 4, "committed": 2}, Status.COMMITTED),
        ([Action.RESERVE, Action.FAIL], {"version": 4}, Status.RELEASED),
        ([Action.RESERVE, Action.LEAVE], {"version": 4}, Status.RELEASED),
        ([Action.RESERVE, Action.EXPIRE], {"version": 4}, Status.EXPIRED),
        ([Action.RESERVE, Action.PAY, Action.CANCEL], {"version": 5}, Status.CANCELLED),
        ([Action.RESERVE, Action.PAY, Action.SHIP], {"version": 5, "on_hand": 8, "sold": 2}, Status.SHIPPED),
    ],
)
def test_each_step_moves_the_quantities_of_its_lines_by_one_event(ledger, actions, milk, status):
    for action in actions:
        ledger.happened(action, order())
    assert ledger.items[MILK] == ItemBook(**{"on_hand": 10} | milk)
    assert ledger.items[EGGS].version == milk["version"]
    assert ledger.statuses == {"basket-1": status}


@pytest.mark.parametrize(("condition", "bucket"), [("DAMAGED", "damaged"), ("QUARANTINE", "quarantined")])
def test_goods_come_back_where_their_condition_puts_them(ledger, condition, bucket):
    brought_back = order(ReturnedLine(MILK, 1, condition))
    for action in (Action.RESERVE, Action.PAY, Action.SHIP):
        ledger.happened(action, brought_back)
    ledger.brought_back(brought_back)
    assert ledger.items[MILK] == ItemBook(**{"version": 6, "on_hand": 8, "sold": 2, "returned": 1, bucket: 1})
    assert ledger.statuses["basket-1"] == Status.SHIPPED


def test_an_order_is_returned_when_all_of_it_is_back(ledger):
    brought_back = order(ReturnedLine(MILK, 2, "SELLABLE"), ReturnedLine(EGGS, 1, "SELLABLE"))
    for action in (Action.RESERVE, Action.PAY, Action.SHIP):
        ledger.happened(action, brought_back)
    ledger.brought_back(brought_back)
    assert ledger.statuses["basket-1"] == Status.RETURNED
    assert ledger.items[MILK].on_hand == 10


def test_a_refused_order_moves_nothing(ledger):
    ledger.refused(order())
    assert ledger.items[MILK] == ItemBook(version=2, on_hand=10)
    assert ledger.refusals() == 1


def test_a_level_as_answered_makes_no_difference(ledger):
    assert ledger.differences(level()) == []


@pytest.mark.parametrize("name", ["version", "on_hand", "reserved", "committed", "damaged", "sold", "returned"])
def test_any_other_level_does(ledger, name):
    [sentence] = ledger.differences(level(**{name: 99}))
    assert f"{name} is 99" in sentence


def test_events_are_counted_over_all_items(ledger):
    ledger.happened(Action.RESERVE, order())
    assert ledger.events() == 6


def test_nothing_is_oversold_at_the_limit(ledger):
    ledger.saw(level(reserved=4, committed=6))
    assert ledger.oversold() == 0


def test_a_level_that_promises_more_than_there_is_counts_at_its_worst_moment(ledger):
    ledger.saw(level(reserved=11))
    ledger.saw(level(reserved=13, committed=1))
    ledger.saw(level(reserved=12))
    ledger.saw(level(EGGS, on_hand=6, committed=7))
    assert ledger.oversold() == 4 + 1


def test_answers_that_promise_more_than_there_is_are_caught_without_any_level(ledger):
    ledger.happened(Action.RESERVE, order(lines=(Line(MILK, 7),)))
    ledger.happened(Action.RESERVE, order(lines=(Line(MILK, 7),)))
    assert ledger.oversold() == 4
