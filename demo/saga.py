"""What the demo says in messages, and what it must be answered. No Kafka here."""

from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from demo.door import Told
from demo.errors import CHECK_FAILED, DemoError
from demo.http_door import placed, returned_lines
from demo.ledger import STATUS_AFTER
from demo.postbox import COMMITTED, REFUNDED, REJECTED, RELEASED, RESERVED, Exchange, units_of
from demo.script import Action, Order


class Spoken(NamedTuple):
    """Which topic an action goes to, and what answers it about the order: its type, and its reason if it has one."""

    topic: str
    answer: str | None = None
    reason: str = ""


# What left or came back is told of the items alone.
SPOKEN = {
    Action.RESERVE: Spoken("order.placed", RESERVED),
    Action.PAY: Spoken("payment.authorized", COMMITTED),
    Action.FAIL: Spoken("payment.failed", RELEASED, "PAYMENT_FAILED"),
    Action.LEAVE: Spoken("order.cancelled", RELEASED, "ORDER_CANCELLED"),
    Action.CANCEL: Spoken("order.cancelled", REFUNDED, "ORDER_CANCELLED"),
    Action.SHIP: Spoken("order.shipped"),
    Action.RETURN: Spoken("order.returned"),
}


def said(action: Action, order: Order) -> dict[str, object]:
    """The message's `data`."""
    if action is Action.RESERVE:
        return placed(order)
    if action is Action.RETURN:
        return {"order_id": order.order_id, "lines": returned_lines(order)}
    return {"order_id": order.order_id}


def cloud_event(topic: str, message_id: str, source: str, data: object) -> bytes:
    event = {
        "specversion": "1.0",
        "id": message_id,
        "source": source,
        "type": topic,
        "time": datetime.now(UTC),
        "datacontenttype": "application/json",
        "data": data,
    }
    return msgspec.json.encode(event)


def awaited(action: Action, order: Order) -> Exchange:
    """What answers such a message. Inside a running event loop."""
    lines = order.returns if action is Action.RETURN else order.lines
    return Exchange((line.item for line in lines), order.order_id, about_order=SPOKEN[action].answer is not None)


def understood(action: Action, order: Order, exchange: Exchange) -> Told | None:
    """What an exchange that is over means; None: the reservation was refused, because there is not enough.

    Raises DemoError unless the answer is of the kind, for the reason and of the units that were asked for.
    """
    what = f"{order.order_id}: {action}"
    refuse_letter(exchange, what)
    told, data, spoken = exchange.told, exchange.data, SPOKEN[action]
    if told is not None:
        if action is Action.RESERVE and (told.type, data.code) == (REJECTED, "insufficient-stock"):
            return None
        answered, wanted = (told.type, data.reason or data.code), (spoken.answer, spoken.reason)
        if answered != wanted:
            raise DemoError(f"{what}: answered with {answered}, it must be {wanted}", CHECK_FAILED)
        if not data.truncated and data.units() != units_of(order.lines):
            raise DemoError(f"{what}: the units that {told.type} names are not the order's", CHECK_FAILED)
    item = (order.returns if action is Action.RETURN else order.lines)[0].item
    return Told(STATUS_AFTER[action] if told else None, item, exchange.levels[item].sequence, exchange.since_s(item))


def refuse_letter(exchange: Exchange, what: str) -> None:
    """Raises DemoError if the service gave our message up."""
    if exchange.letter is not None:
        raise DemoError(f"{what}: given up, {exchange.letter.code}: {exchange.letter.detail}", CHECK_FAILED)
