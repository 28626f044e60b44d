from collections import Counter, defaultdict

import pytest

from demo.baskets import Basket, Item, Line
from demo.script import ACTS, CONDITIONS, ODDS, UNPAID_TTL_S, Action, Order, Outcome, write_script


def baskets(count=2_000):
    """At three stores with seven products each, up to four lines of up to three pieces."""
    for n in range(count):
        lines = tuple(Line(Item(f"product-{(n + k) % 7}", f"store-{n % 3}"), 1 + (n + k) % 3) for k in range(1 + n % 4))
        yield Basket(f"basket-{n}", f"household-{n % 50}", lines)


@pytest.fixture(scope="module")
def script():
    return write_script(baskets(), seed=1)


def test_the_same_seed_writes_the_same_script(script):
    assert write_script(baskets(), seed=1) == script


def test_another_seed_writes_another(script):
    other = write_script(baskets(), seed=2)
    assert [order.outcome for order in other.orders] != [order.outcome for order in script.orders]


def test_every_basket_becomes_one_order(script):
    assert [order.order_id for order in script.orders] == [basket.basket_id for basket in baskets()]
    assert [order.lines for order in script.orders] == [basket.lines for basket in baskets()]


def test_outcomes_come_about_as_often_as_the_odds_say(script):
    counts = Counter(order.outcome for order in script.orders)
    for outcome, percent in ODDS.items():
        assert counts[outcome] / len(script.orders) == pytest.approx(percent / sum(ODDS.values()), abs=0.02)


def test_each_order_goes_through_the_acts_of_its_outcome_in_their_order(script):
    acts = defaultdict(list)
    for step in script.steps:
        if isinstance(step.subject, Order):
            acts[step.subject.order_id].append(step.action)
    for order in script.orders:
        assert tuple(acts[order.order_id]) == ACTS[order.outcome]


def test_steps_are_in_time_order_and_orders_come_in_as_they_were_bought(script):
    positions = [step.position for step in script.steps]
    assert positions == sorted(positions)
    reserved = [step.subject for step in script.steps if step.action is Action.RESERVE]
    assert reserved == list(script.orders)


def test_deliveries_are_steps_too(script):
    assert any(step.action is Action.RESTOCK for step in script.steps)


def test_only_those_who_never_pay_have_a_short_hold(script):
    for order in script.orders:
        if order.outcome is Outcome.EXPIRED:
            assert order.ttl_s in range(UNPAID_TTL_S[0], UNPAID_TTL_S[1] + 1)
        else:
            assert order.ttl_s is None


def test_what_is_brought_back_was_bought(script):
    for order in script.orders:
        bought = {line.item: line.quantity for line in order.lines}
        brought_back = {line.item for line in order.returns}
        assert len(brought_back) == len(order.returns)
        assert bool(order.returns) == (order.outcome is Outcome.RETURNED)
        for line in order.returns:
            assert 1 <= line.quantity <= bought[line.item]
            assert line.condition in CONDITIONS


def test_stores_are_named_with_the_busiest_first():
    busy, quiet = Item("product-1", "store-9"), Item("product-1", "store-1")
    lines = [(Line(quiet, 1),), (Line(busy, 1),), (Line(busy, 1),)]
    script = write_script([Basket(f"basket-{n}", "household-1", each) for n, each in enumerate(lines)], seed=1)
    assert script.warehouses == ("store-9", "store-1")


def test_every_item_is_on_its_shelf_before_the_first_customer_comes(script):
    stocked = [delivery.item for delivery in script.opening]
    assert len(set(stocked)) == len(stocked)
    assert set(stocked) == {line.item for order in script.orders for line in order.lines}
