"""The door over HTTP: one call per step."""

from collections.abc import Callable
from time import monotonic

import msgspec

from demo.answers import Level, Reservation
from demo.baskets import Item
from demo.client import CONFLICT, CREATED, GONE, OK, Answer, Client, expect
from demo.door import Told
from demo.ledger import Ledger
from demo.restocking import Delivery
from demo.script import Action, Order

ENDPOINTS: dict[Action, tuple[str, dict[str, str]]] = {
    Action.PAY: ("commit", {}),
    Action.FAIL: ("release", {"reason": "PAYMENT_FAILED"}),
    Action.LEAVE: ("release", {"reason": "CANCELLED"}),
    Action.CANCEL: ("cancel", {}),
    Action.SHIP: ("ship", {}),
}


class HttpDoor:
    """`on_level` hears of every level that an answer shows."""

    traffic = None

    def __init__(self, client: Client, on_level: Callable[[Level], None]) -> None:
        self._client = client
        self._on_level = on_level

    async def restock(self, delivery: Delivery) -> Told:
        item = delivery.item
        path = f"/v1/stock/{item.sku}/{item.warehouse}/restock"
        answer = await self._client.command("POST", path, {"quantity": delivery.quantity}, delivery_key(delivery))
        level = msgspec.json.decode(expect(answer, f"Restocking {item}", OK).body, type=Level)
        self._on_level(level)
        return Told(None, item, level.version, monotonic())

    async def act(self, action: Action, order: Order) -> Told | None:
        if action is Action.RESERVE:
            return await self._reserve(order)
        if action is Action.RETURN:
            body = {"lines": returned_lines(order)}
            answer = expect(await self._command(order, "return", body), f"Returning {order.order_id}", OK)
            return _told(order.returns[0].item, answer)
        verb, reason = ENDPOINTS[action]
        answer = expect(await self._command(order, verb, reason), f"{order.order_id}: {action}", OK)
        return _told(order.lines[0].item, answer)

    async def _reserve(self, order: Order) -> Told | None:
        body = {"reservation_id": order.order_id, **placed(order)}
        answer = await self._client.command("POST", "/v1/reservations", body, f"{order.order_id}:reserve")
        if answer.is_refusal(CONFLICT, "insufficient-stock"):
            return None
        return _told(order.lines[0].item, expect(answer, f"Reserving {order.order_id}", CREATED))

    async def pay_too_late(self, order: Order) -> str | None:
        path = f"/v1/reservations/{order.order_id}/commit"
        answer = await self._client.command("POST", path, {}, f"{order.order_id}:pay-too-late")
        return None if answer.is_refusal(GONE, "reservation-expired") else f"answered {answer.status}"

    async def differences(self, ledger: Ledger) -> list[str]:  # noqa: ARG002 - every answer was compared when it came
        return []

    async def _command(self, order: Order, verb: str, body: object) -> Answer:
        path = f"/v1/reservations/{order.order_id}/{verb}"
        return await self._client.command("POST", path, body, f"{order.order_id}:{verb}")


def delivery_key(delivery: Delivery) -> str:
    """What a repeat is known by."""
    # Opening stock and later deliveries count up each for itself; with the store's name the key is the run's own.
    return f"{delivery.delivery_id}:{delivery.item.warehouse}"


def placed(order: Order) -> dict[str, object]:
    """What both doors say of a new order."""
    lines = [{"sku": item.sku, "quantity": quantity, "warehouse": item.warehouse} for item, quantity in order.lines]
    said: dict[str, object] = {"order_id": order.order_id, "lines": lines, "customer_ref": order.customer}
    return said if order.ttl_s is None else said | {"ttl_seconds": order.ttl_s}


def returned_lines(order: Order) -> list[dict[str, object]]:
    return [
        {"sku": item.sku, "warehouse": item.warehouse, "quantity": quantity, "condition": condition}
        for item, quantity, condition in order.returns
    ]


def _told(item: Item, answer: Answer) -> Told:
    reservation = msgspec.json.decode(answer.body, type=Reservation)
    return Told(reservation.status, item, reservation.versions()[item], monotonic())
