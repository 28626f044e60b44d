"""One item's life, read from its history and told in plain sentences."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

import msgspec

from demo.answers import HistoryPage, Movement
from demo.baskets import Item
from demo.client import OK, Client, expect
from demo.ledger import REGISTERED, Ledger, Status
from demo.script import Order, Outcome

MOVEMENTS_MAX = 30

# By the movement's type and reason; without a reason for all others of the type.
SENTENCES = {
    ("RECEIPT", None): "A delivery brings {units}.",
    ("RESERVATION", None): "{who} reserves {units}.",
    ("SALE", None): "{who} pays; {units} promised for good.",
    ("RELEASE", None): "{who} leaves before paying; {units} free again.",
    ("RELEASE", "EXPIRED"): "{who} has not paid in time; the hold on {units} runs out.",
    ("RELEASE", "PAYMENT_FAILED"): "{who} cannot pay; {units} free again.",
    ("REFUND", None): "{who} is cancelled after paying; {units} free again.",
    ("SHIPMENT", None): "{units} shipped to {who}.",
    ("RETURN", None): "{who} brings {units} back, {condition}.",
}
OTHER = "{what}: {units}."


def most_eventful(orders: Iterable[Order], ledger: Ledger) -> Item:
    """The item whose orders ended in the most different ways, of those whose story fits on a page the longest."""
    ends: defaultdict[Item, set[Outcome]] = defaultdict(set)
    for order in orders:
        if ledger.statuses[order.order_id] is not Status.REFUSED:
            brought_back = {line.item for line in order.returns}
            for item in (line.item for line in order.lines):
                kept = order.outcome is Outcome.RETURNED and item not in brought_back
                ends[item].add(Outcome.SHIPPED if kept else order.outcome)

    def interest(item: Item) -> tuple[bool, int, int]:
        movements = ledger.items[item].version - REGISTERED
        return movements <= MOVEMENTS_MAX, len(ends[item]), movements

    return max(ledger.items, key=interest)


async def read_history(client: Client, item: Item) -> list[Movement]:
    """All movements of the item, oldest first."""
    path = f"/v1/stock/{item.sku}/{item.warehouse}/history"
    movements: list[Movement] = []
    cursor = ""
    while True:
        answer = await client.read(path + cursor)
        page = msgspec.json.decode(expect(answer, f"Reading the history of {item.sku}", OK).body, type=HistoryPage)
        movements += page.items
        if page.next_cursor is None:
            return movements[::-1]
        cursor = f"?cursor={page.next_cursor}"


def tell(movements: Sequence[Movement]) -> Iterator[str]:
    """A line for each movement: seconds since the first, what happened, and what is left."""
    began = _instant(movements[0])
    for movement in movements:
        after_s = (_instant(movement) - began).total_seconds()
        yield f"{after_s:7.2f} s  {sentence(movement):72} {_shelf(movement)}"


def sentence(movement: Movement) -> str:
    template = SENTENCES.get((movement.type, movement.reason)) or SENTENCES.get((movement.type, None), OTHER)
    text = template.format(
        what=movement.type.lower(),
        who=(movement.order_id or "somebody").replace("-", " "),
        units="1 unit" if movement.quantity == 1 else f"{movement.quantity} units",
        condition=_condition(movement),
    )
    return text[0].upper() + text[1:]


def _condition(movement: Movement) -> str:
    """By the bucket that grew."""
    if movement.after["damaged"] > movement.before["damaged"]:
        return "damaged"
    if movement.after["quarantined"] > movement.before["quarantined"]:
        return "to be inspected"
    return "as good as new"


def _shelf(movement: Movement) -> str:
    on_hand = movement.after["on_hand"]
    free = on_hand - movement.after["reserved"] - movement.after["committed"]
    return f"{on_hand:3} on the shelf, {free:3} free"


def _instant(movement: Movement) -> datetime:
    return datetime.fromisoformat(movement.at)
