"""What will happen: every order, payment, shipment and delivery, in the order in which it is played.

A script is fixed by its baskets and the seed. What it does not fix is how steps that are played at the same time
interleave, and so which of two customers gets the last piece.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import NamedTuple

from demo.baskets import Basket, Item, Line
from demo.restocking import Delivery, plan_deliveries


class Outcome(StrEnum):
    """How an order ends, if its stock could be held."""

    SHIPPED = "paid and shipped"
    RETURNED = "paid, shipped, and some of it brought back"
    UNSHIPPED = "paid, not yet shipped when the curtain falls"
    CANCELLED = "paid, then cancelled"
    PAYMENT_FAILED = "payment failed"
    LEFT = "left before paying"
    EXPIRED = "never paid"


ODDS = {
    Outcome.SHIPPED: 68,
    Outcome.RETURNED: 6,
    Outcome.UNSHIPPED: 4,
    Outcome.CANCELLED: 4,
    Outcome.PAYMENT_FAILED: 7,
    Outcome.LEFT: 3,
    Outcome.EXPIRED: 8,
}


class Action(StrEnum):
    """What happens to stock. All but the last are played; holds run out by themselves."""

    RESTOCK = "restock"
    RESERVE = "reserve"
    PAY = "pay"
    FAIL = "payment fails"
    LEAVE = "leave"
    CANCEL = "cancel"
    SHIP = "ship"
    RETURN = "return"
    EXPIRE = "hold runs out"


ACTS = {
    Outcome.SHIPPED: (Action.RESERVE, Action.PAY, Action.SHIP),
    Outcome.RETURNED: (Action.RESERVE, Action.PAY, Action.SHIP, Action.RETURN),
    Outcome.UNSHIPPED: (Action.RESERVE, Action.PAY),
    Outcome.CANCELLED: (Action.RESERVE, Action.PAY, Action.CANCEL),
    Outcome.PAYMENT_FAILED: (Action.RESERVE, Action.FAIL),
    Outcome.LEFT: (Action.RESERVE, Action.LEAVE),
    Outcome.EXPIRED: (Action.RESERVE,),
}

# How many other orders come in before this happens to an order.
PAUSE_ORDERS = {
    Action.PAY: (1, 40),
    Action.FAIL: (1, 40),
    Action.LEAVE: (1, 40),
    Action.CANCEL: (5, 80),
    Action.SHIP: (5, 150),
    Action.RETURN: (20, 200),
}

UNPAID_TTL_S = (2, 6)
CONDITIONS = ("SELLABLE", "SELLABLE", "SELLABLE", "DAMAGED", "QUARANTINE")


class ReturnedLine(NamedTuple):
    item: Item
    quantity: int
    condition: str


@dataclass(frozen=True, slots=True)
class Order:
    """`ttl_s` is set for those who will not pay, so that the demo need not wait a quarter of an hour for them."""

    order_id: str
    customer: str
    lines: tuple[Line, ...]
    outcome: Outcome
    ttl_s: int | None
    returns: tuple[ReturnedLine, ...]


class Step(NamedTuple):
    """Something that happens when `position` orders have come in."""

    position: int
    action: Action
    subject: Order | Delivery


@dataclass(frozen=True, slots=True)
class Script:
    seed: int
    warehouses: tuple[str, ...]
    """Busiest first."""
    opening: tuple[Delivery, ...]
    """What fills the shelves before the first customer comes."""
    orders: tuple[Order, ...]
    steps: tuple[Step, ...]


def write_script(baskets: Iterable[Basket], seed: int) -> Script:
    chance = Random(seed)
    orders = tuple(_order(basket, chance) for basket in baskets)
    plan = plan_deliveries([order.lines for order in orders], chance)
    steps = [Step(position, Action.RESTOCK, delivery) for position, delivery in plan.later]
    for position, order in enumerate(orders):
        steps += _acts(order, position, chance)
    # A stable sort by position alone: what happens to one order stays in its own order.
    steps.sort(key=lambda step: step.position)
    return Script(seed, _busiest_first(orders), tuple(plan.opening), orders, tuple(steps))


def _order(basket: Basket, chance: Random) -> Order:
    [outcome] = chance.choices(list(ODDS), weights=list(ODDS.values()))
    return Order(
        order_id=basket.basket_id,
        customer=basket.customer,
        lines=basket.lines,
        outcome=outcome,
        ttl_s=chance.randint(*UNPAID_TTL_S) if outcome is Outcome.EXPIRED else None,
        returns=_returns(basket.lines, chance) if outcome is Outcome.RETURNED else (),
    )


def _returns(lines: tuple[Line, ...], chance: Random) -> tuple[ReturnedLine, ...]:
    """Most people bring back a thing or two, a few all of it."""
    count = chance.choice((1, 1, 2, len(lines)))
    return tuple(
        ReturnedLine(line.item, chance.randint(1, line.quantity), chance.choice(CONDITIONS))
        for line in chance.sample(lines, min(count, len(lines)))
    )


def _acts(order: Order, position: int, chance: Random) -> Iterator[Step]:
    for action in ACTS[order.outcome]:
        if action in PAUSE_ORDERS:
            position += chance.randint(*PAUSE_ORDERS[action])
        yield Step(position, action, order)


def _busiest_first(orders: Iterable[Order]) -> tuple[str, ...]:
    counts: dict[str, int] = {}
    for order in orders:
        warehouse = order.lines[0].item.warehouse
        counts[warehouse] = counts.get(warehouse, 0) + 1
    return tuple(sorted(counts, key=lambda warehouse: (-counts[warehouse], warehouse)))
