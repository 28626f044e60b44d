import pytest

from demo.answers import Movement
from demo.baskets import Item, Line
from demo.ledger import Ledger
from demo.script import ACTS, Action, Order, Outcome, ReturnedLine
from demo.story import most_eventful, sentence, tell

MILK = Item("product-1", "store-1")
EGGS = Item("product-2", "store-1")
EMPTY = dict.fromkeys(("on_hand", "reserved", "committed", "damaged", "quarantined"), 0)


def movement(kind, quantity=2, reason=None, order_id="basket-9", at="2026-11-21T10:00:00.000Z", before=(), after=()):
    return Movement(1, at, kind, quantity, EMPTY | dict(before), EMPTY | dict(after), reason, order_id)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (movement("RECEIPT", 12, order_id=None), "A delivery brings 12 units."),
        (movement("RESERVATION", 1), "Basket 9 reserves 1 unit."),
        (movement("SALE"), "Basket 9 pays; 2 units promised for good."),
        (movement("RELEASE", reason="EXPIRED"), "Basket 9 has not paid in time; the hold on 2 units runs out."),
        (movement("RELEASE", reason="PAYMENT_FAILED"), "Basket 9 cannot pay; 2 units free again."),
        (movement("RELEASE", reason="CANCELLED"), "Basket 9 leaves before paying; 2 units free again."),
        (movement("REFUND", reason="ORDER_CANCELLED"), "Basket 9 is cancelled after paying; 2 units free again."),
        (movement("SHIPMENT"), "2 units shipped to basket 9."),
        (movement("RETURN", after={"on_hand": 2}), "Basket 9 brings 2 units back, as good as new."),
        (movement("RETURN", after={"damaged": 2}), "Basket 9 brings 2 units back, damaged."),
        (movement("RETURN", after={"quarantined": 2}), "Basket 9 brings 2 units back, to be inspected."),
        (movement("COUNT", 7), "Count: 7 units."),
    ],
)
def test_movements_are_told_in_plain_sentences(told, expected):
    assert sentence(told) == expected


def test_each_line_has_its_time_and_what_is_left():
    lines = list(
        tell(
            [
                movement("RECEIPT", 12, after={"on_hand": 12}),
                movement("SALE", at="2026-11-21T10:00:01.250Z", after={"on_hand": 12, "reserved": 1, "committed": 4}),
            ]
        )
    )
    assert lines[0].startswith("   0.00 s  A delivery")
    assert lines[0].endswith(" 12 on the shelf,  12 free")
    assert lines[1].startswith("   1.25 s  Basket 9 pays")
    assert lines[1].endswith(" 12 on the shelf,   7 free")


def played(ledger, *orders):
    """Each order through all its acts."""
    for order in orders:
        for action in ACTS[order.outcome]:
            if action is Action.RETURN:
                ledger.brought_back(order)
            else:
                ledger.happened(action, order)
    return orders


def an_order(number, outcome, *items, returns=()):
    return Order(f"basket-{number}", "household-1", tuple(Line(item, 1) for item in items), outcome, None, returns)


@pytest.fixture
def ledger():
    ledger = Ledger()
    ledger.restocked(MILK, 100)
    ledger.restocked(EGGS, 100)
    return ledger


def test_the_hero_has_seen_the_most_different_ends(ledger):
    orders = played(
        ledger,
        an_order(1, Outcome.SHIPPED, MILK, EGGS),
        an_order(2, Outcome.SHIPPED, MILK),
        an_order(3, Outcome.SHIPPED, MILK),
        an_order(4, Outcome.PAYMENT_FAILED, EGGS),
    )
    assert most_eventful(orders, ledger) == EGGS


def test_a_return_counts_for_what_was_brought_back_alone(ledger):
    back = (ReturnedLine(EGGS, 1, "SELLABLE"),)
    orders = played(
        ledger, an_order(1, Outcome.SHIPPED, MILK, EGGS), an_order(2, Outcome.RETURNED, MILK, EGGS, returns=back)
    )
    assert most_eventful(orders, ledger) == EGGS


def test_a_story_that_fills_more_than_a_page_is_left_untold(ledger):
    long_one = [an_order(n, Outcome.PAYMENT_FAILED, MILK) for n in range(20)]
    orders = played(ledger, *long_one, an_order(90, Outcome.SHIPPED, MILK), an_order(91, Outcome.SHIPPED, EGGS))
    assert most_eventful(orders, ledger) == EGGS


def test_who_was_refused_has_no_part_in_it(ledger):
    refused = an_order(1, Outcome.EXPIRED, MILK)
    ledger.refused(refused)
    orders = played(ledger, an_order(2, Outcome.SHIPPED, EGGS))
    assert most_eventful([refused, *orders], ledger) == EGGS
