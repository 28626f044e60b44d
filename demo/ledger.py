"""The demo's own books: what the service must hold, counted from the answers it gave and from nothing else.

It is kept as a suspicious shopkeeper would keep it, with no idea of how the service works inside: each acknowledged
step moves quantities, and makes exactly one event per item. The audit then holds the read API to it.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from demo.answers import Level
from demo.baskets import Item, Line
from demo.script import Action, Order, ReturnedLine

REGISTERED = 1  # the event that a new item begins with


class Status(StrEnum):
    """Of an order's reservation, as the API names it; REFUSED has none."""

    REFUSED = "REFUSED"
    ACTIVE = "ACTIVE"
    COMMITTED = "COMMITTED"
    SHIPPED = "SHIPPED"
    RETURNED = "RETURNED"
    RELEASED = "RELEASED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


STATUS_AFTER = {
    Action.RESERVE: Status.ACTIVE,
    Action.PAY: Status.COMMITTED,
    Action.FAIL: Status.RELEASED,
    Action.LEAVE: Status.RELEASED,
    Action.CANCEL: Status.CANCELLED,
    Action.SHIP: Status.SHIPPED,
    Action.EXPIRE: Status.EXPIRED,
}

MOVES = {
    Action.RESTOCK: {"on_hand": +1},
    Action.RESERVE: {"reserved": +1},
    Action.PAY: {"reserved": -1, "committed": +1},
    Action.FAIL: {"reserved": -1},
    Action.LEAVE: {"reserved": -1},
    Action.EXPIRE: {"reserved": -1},
    Action.CANCEL: {"committed": -1},
    Action.SHIP: {"committed": -1, "on_hand": -1, "sold": +1},
}

BUCKET_OF_CONDITION = {"SELLABLE": "on_hand", "DAMAGED": "damaged", "QUARANTINE": "quarantined"}


@dataclass(slots=True)
class ItemBook:
    """What one item must look like; `version` counts its events."""

    version: int = REGISTERED
    on_hand: int = 0
    reserved: int = 0
    committed: int = 0
    damaged: int = 0
    quarantined: int = 0
    sold: int = 0
    returned: int = 0

    def move(self, action_moves: dict[str, int], quantity: int) -> None:
        self.version += 1
        for bucket, sign in action_moves.items():
            setattr(self, bucket, getattr(self, bucket) + sign * quantity)

    def oversold(self) -> int:
        return max(0, self.reserved + self.committed - self.on_hand)


class Ledger:
    def __init__(self) -> None:
        self.items: dict[Item, ItemBook] = {}
        self.statuses: dict[str, Status] = {}
        self.happenings: Counter[Action] = Counter()
        """How often each has been acknowledged."""
        self.oversold_seen: dict[Item, int] = {}
        """Units by which any level that the API ever showed was oversold, the worst moment of each item."""

    def restocked(self, item: Item, quantity: int) -> None:
        self.happenings[Action.RESTOCK] += 1
        self.items.setdefault(item, ItemBook()).move(MOVES[Action.RESTOCK], quantity)

    def refused(self, order: Order) -> None:
        self.statuses[order.order_id] = Status.REFUSED

    def happened(self, action: Action, order: Order) -> None:
        """The whole order was reserved, paid, shipped ..."""
        self.statuses[order.order_id] = STATUS_AFTER[action]
        self.happenings[action] += 1
        for line in order.lines:
            self.items[line.item].move(MOVES[action], line.quantity)

    def brought_back(self, order: Order) -> None:
        self.happenings[Action.RETURN] += 1
        for line in order.returns:
            self.items[line.item].move({"returned": +1, BUCKET_OF_CONDITION[line.condition]: +1}, line.quantity)
        if _everything_returned(order.lines, order.returns):
            self.statuses[order.order_id] = Status.RETURNED

    def saw(self, level: Level) -> None:
        if units := level.oversold():
            item = level.item()
            self.oversold_seen[item] = max(units, self.oversold_seen.get(item, 0))

    def oversold(self) -> int:
        """Units promised with no stock behind them, by any level the API showed or by the books themselves."""
        oversold = {item: book.oversold() for item, book in self.items.items()}
        return sum(max(units, self.oversold_seen.get(item, 0)) for item, units in oversold.items())

    def refusals(self) -> int:
        return sum(status is Status.REFUSED for status in self.statuses.values())

    def events(self) -> int:
        """That the log must hold for these items."""
        return sum(book.version for book in self.items.values())

    def differences(self, level: Level) -> list[str]:
        """In what a level of the API differs from the books, a sentence for each; empty is good."""
        book = self.items[level.item()]
        return [
            f"{level.sku} at {level.warehouse}: {name} is {shown}, by the answers it must be {expected}"
            for name in ItemBook.__slots__
            if (shown := getattr(level, name)) != (expected := getattr(book, name))
        ]


def _everything_returned(lines: Iterable[Line], returns: Iterable[ReturnedLine]) -> bool:
    returned = {line.item: line.quantity for line in returns}
    return all(returned.get(line.item) == line.quantity for line in lines)
