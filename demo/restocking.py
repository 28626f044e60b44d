"""How much stands on the shelves at first, and which deliveries come when.

A buyer who knows the season's demand fills each shelf for a part of it and orders more when little is left. A lorry
takes its time, so a shelf can be empty before it comes: that is when a customer is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from random import Random
from typing import NamedTuple

from demo.baskets import Item, Line

# Parts of an item's demand over the whole script.
OPENING_SHARE = 0.6
REORDER_SHARE = 0.1
DELIVERY_SHARE = 0.4

LEAD_TIME_ORDERS = (10, 80)


class Delivery(NamedTuple):
    delivery_id: str
    item: Item
    quantity: int


@dataclass(slots=True)
class Plan:
    opening: list[Delivery] = field(default_factory=list)
    later: list[tuple[int, Delivery]] = field(default_factory=list)
    """With the number of orders that come in before it."""


@dataclass(slots=True)
class _Shelf:
    demand: int = 0
    largest_line: int = 0
    balance: int = 0
    wanted: int = 0
    """What later customers will ask for."""
    awaits_delivery: bool = False

    def opening(self) -> int:
        """Enough for the hungriest customer at least, who would otherwise be refused for ever."""
        return max(self.largest_line, ceil(self.demand * OPENING_SHARE))

    def runs_low(self) -> bool:
        low = self.balance <= ceil(self.demand * REORDER_SHARE)
        return low and self.wanted > self.balance and not self.awaits_delivery


def plan_deliveries(orders: Sequence[Sequence[Line]], chance: Random) -> Plan:
    """`orders` are the lines of each order, in time order. Goods that customers put back are not counted on."""
    shelves = _shelves(orders)
    plan = Plan([Delivery(f"opening-{n}", item, shelf.balance) for n, (item, shelf) in enumerate(shelves.items())])
    arriving: dict[int, list[Delivery]] = {}
    for position, lines in enumerate(orders):
        for delivery in arriving.pop(position, ()):
            shelves[delivery.item].balance += delivery.quantity
            shelves[delivery.item].awaits_delivery = False
        _sell(lines, shelves)
        for item in (line.item for line in lines if shelves[line.item].runs_low()):
            shelf = shelves[item]
            shelf.awaits_delivery = True
            arrival = position + chance.randint(*LEAD_TIME_ORDERS)
            delivery = Delivery(f"delivery-{len(plan.later)}", item, max(1, ceil(shelf.demand * DELIVERY_SHARE)))
            plan.later.append((arrival, delivery))
            arriving.setdefault(arrival, []).append(delivery)
    return plan


def _shelves(orders: Sequence[Sequence[Line]]) -> dict[Item, _Shelf]:
    shelves: dict[Item, _Shelf] = {}
    for line in (line for lines in orders for line in lines):
        shelf = shelves.setdefault(line.item, _Shelf())
        shelf.demand += line.quantity
        shelf.largest_line = max(shelf.largest_line, line.quantity)
    for shelf in shelves.values():
        shelf.balance = shelf.opening()
        shelf.wanted = shelf.demand
    return shelves


def _sell(lines: Sequence[Line], shelves: dict[Item, _Shelf]) -> None:
    """All lines or none, as the reservation will be."""
    enough = all(shelves[line.item].balance >= line.quantity for line in lines)
    for line in lines:
        shelf = shelves[line.item]
        shelf.wanted -= line.quantity
        if enough:
            shelf.balance -= line.quantity
