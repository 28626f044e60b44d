from random import Random

import pytest

from demo.baskets import Item, Line
from demo.restocking import LEAD_TIME_ORDERS, plan_deliveries

MILK = Item("product-1", "store-1")
EGGS = Item("product-2", "store-1")


class Promptly(Random):
    """Every lorry takes the shortest time."""

    def randint(self, a, b):
        return a


def plan(orders):
    return plan_deliveries(orders, Random(1))


def play(orders, deliveries):
    """One order after the other; what is not there is refused. Returns the positions of the refused ones."""
    shelf = {delivery.item: delivery.quantity for delivery in deliveries.opening}
    refused = []
    for position, lines in enumerate(orders):
        for _, delivery in (each for each in deliveries.later if each[0] == position):
            shelf[delivery.item] += delivery.quantity
        if all(shelf[line.item] >= line.quantity for line in lines):
            for line in lines:
                shelf[line.item] -= line.quantity
        else:
            refused.append(position)
    return refused


def test_a_shelf_opens_with_a_part_of_what_will_be_asked_for():
    [delivery] = plan([[Line(MILK, 1)]] * 100).opening
    assert delivery.item == MILK
    assert delivery.quantity == 60


def test_a_shelf_opens_with_enough_for_its_hungriest_customer():
    [delivery] = plan([[Line(MILK, 9)], [Line(MILK, 1)]]).opening
    assert delivery.quantity == 9


def test_more_is_ordered_when_little_is_left_and_comes_after_its_lead_time():
    deliveries = plan([[Line(MILK, 1)]] * 100)
    position, delivery = deliveries.later[0]
    ordered_at = 49  # sixty pieces less fifty: a tenth of the demand is left
    assert ordered_at + LEAD_TIME_ORDERS[0] <= position <= ordered_at + LEAD_TIME_ORDERS[1]
    assert delivery.item == MILK
    assert delivery.quantity == 40


def test_nothing_is_ordered_that_nobody_will_ask_for():
    assert plan([[Line(MILK, 1)]]).later == []


@pytest.mark.parametrize("seed", range(5))
def test_some_customers_are_refused_and_most_are_not(seed):
    chance = Random(seed)
    orders = [[Line(Item(f"product-{chance.randrange(60)}", "store-1"), 1)] for _ in range(300)]
    refused = play(orders, plan_deliveries(orders, chance))
    assert 0 < len(refused) < 60


def test_an_empty_shelf_is_filled_again():
    orders = [[Line(MILK, 1)]] * 100
    refused = play(orders, plan(orders))
    assert refused
    assert 99 not in refused


def test_who_finds_no_milk_leaves_the_eggs():
    """Six of ten find milk. So eighteen of the opening 24 eggs are left for others, and the 24th order makes them few."""
    orders = [[Line(MILK, 1), Line(EGGS, 1)]] * 10 + [[Line(EGGS, 1)]] * 30
    deliveries = plan_deliveries(orders, Promptly(1))
    [eggs] = [position for position, delivery in deliveries.later if delivery.item == EGGS]
    assert eggs == 23 + LEAD_TIME_ORDERS[0]


def test_deliveries_have_names_of_their_own():
    deliveries = plan([[Line(MILK, 1)], [Line(EGGS, 1)]] * 200)
    names = [delivery.delivery_id for delivery in (*deliveries.opening, *(each for _, each in deliveries.later))]
    assert len(set(names)) == len(names)
