"""Plays a script against the APIs: one HTTP call per step, and every answer goes into the ledger."""

import asyncio
from collections import defaultdict
from collections.abc import Coroutine, Iterable
from time import monotonic
from typing import NamedTuple

import msgspec

from demo.answers import Level, Reservation
from demo.baskets import Item
from demo.client import CONFLICT, CREATED, OK, Answer, Client, expect
from demo.errors import CHECK_FAILED, DemoError
from demo.ledger import Ledger, Status
from demo.parallel import in_parallel
from demo.progress import Bar
from demo.restocking import Delivery
from demo.script import Action, Order, Step
from demo.timings import Timings

LAG = "commit to visible"
LOOK_EVERY = 10
"""After each tenth command its caller looks at the product page, and goes on when the page shows what it did."""

ENDPOINTS: dict[Action, tuple[str, dict[str, str]]] = {
    Action.PAY: ("commit", {}),
    Action.FAIL: ("release", {"reason": "PAYMENT_FAILED"}),
    Action.LEAVE: ("release", {"reason": "CANCELLED"}),
    Action.CANCEL: ("cancel", {}),
    Action.SHIP: ("ship", {}),
}


class Seen(NamedTuple):
    """An item and its version, from an answer to a command."""

    item: Item
    version: int


class Driver:
    """Timings are noted under the action's name, and under `LAG` from an answer until a read shows it."""

    def __init__(self, client: Client, ledger: Ledger, timings: Timings) -> None:
        self._client = client
        self._ledger = ledger
        self._timings = timings
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._commands = 0

    async def open_stores(self, warehouses: Iterable[str], bar: Bar) -> None:
        """The first has the highest priority: where an order leaves the choice, it is served from there."""

        async def open_store(numbered: tuple[int, str]) -> None:
            priority, warehouse = numbered
            body = {"name": warehouse.replace("-", " ").capitalize(), "priority": priority}
            answer = await self._client.command("PUT", f"/v1/warehouses/{warehouse}", body, f"{warehouse}:open")
            expect(answer, f"Opening {warehouse}", CREATED)
            bar.advance()

        await in_parallel(open_store, enumerate(warehouses, start=1))

    async def fill_shelves(self, deliveries: Iterable[Delivery], bar: Bar) -> None:
        async def fill(delivery: Delivery) -> None:
            await self._restock(delivery)
            bar.advance()

        await in_parallel(fill, deliveries)

    async def play(self, steps: Iterable[Step], bar: Bar) -> None:
        async def play_one(step: Step) -> None:
            await self._play(step)
            bar.advance()

        await in_parallel(play_one, steps)

    async def _play(self, step: Step) -> None:
        if isinstance(step.subject, Delivery):
            await self._clocked(step.action, self._restock(step.subject))
            return
        order = step.subject
        # Steps begin in the script's order and the lock is fair, so an order's steps stay in their own order.
        async with self._turns[order.order_id]:
            if self._ledger.statuses.get(order.order_id) is not Status.REFUSED:
                await self._clocked(step.action, self._act(step.action, order))

    async def _clocked(self, action: Action, command: Coroutine[None, None, Seen | None]) -> None:
        began = monotonic()
        seen = await command
        self._timings.note(action, monotonic() - began)
        self._commands += 1
        if seen and self._commands % LOOK_EVERY == 0:
            await self._look(seen)

    async def _look(self, seen: Seen) -> None:
        began = monotonic()
        level = await read_level(self._client, seen.item, seen.version)
        self._timings.note(LAG, monotonic() - began)
        self._ledger.saw(level)

    async def _restock(self, delivery: Delivery) -> Seen:
        item = delivery.item
        path = f"/v1/stock/{item.sku}/{item.warehouse}/restock"
        # Opening stock and later deliveries count up each for itself; with the store's name the key is the run's own.
        key = f"{delivery.delivery_id}:{item.warehouse}"
        answer = await self._client.command("POST", path, {"quantity": delivery.quantity}, key)
        level = msgspec.json.decode(expect(answer, f"Restocking {item}", OK).body, type=Level)
        self._ledger.restocked(item, delivery.quantity)
        self._ledger.saw(level)
        return Seen(item, level.version)

    async def _act(self, action: Action, order: Order) -> Seen | None:
        if action is Action.RESERVE:
            return await self._reserve(order)
        if action is Action.RETURN:
            return await self._bring_back(order)
        verb, body = ENDPOINTS[action]
        answer = expect(await self._command(order, verb, body), f"{order.order_id}: {action}", OK)
        self._ledger.happened(action, order)
        return self._checked(order, order.lines[0].item, answer)

    async def _reserve(self, order: Order) -> Seen | None:
        lines = [{"sku": item.sku, "quantity": quantity, "warehouse": item.warehouse} for item, quantity in order.lines]
        body: dict[str, object] = {"reservation_id": order.order_id, "order_id": order.order_id, "lines": lines}
        body["customer_ref"] = order.customer
        if order.ttl_s is not None:
            body["ttl_seconds"] = order.ttl_s
        answer = await self._client.command("POST", "/v1/reservations", body, f"{order.order_id}:reserve")
        if answer.is_refusal(CONFLICT, "insufficient-stock"):
            self._ledger.refused(order)
            return None
        expect(answer, f"Reserving {order.order_id}", CREATED)
        self._ledger.happened(Action.RESERVE, order)
        return self._checked(order, order.lines[0].item, answer)

    async def _bring_back(self, order: Order) -> Seen:
        lines = [
            {"sku": item.sku, "warehouse": item.warehouse, "quantity": quantity, "condition": condition}
            for item, quantity, condition in order.returns
        ]
        answer = expect(await self._command(order, "return", {"lines": lines}), f"Returning {order.order_id}", OK)
        self._ledger.brought_back(order)
        return self._checked(order, order.returns[0].item, answer)

    async def _command(self, order: Order, verb: str, body: object) -> Answer:
        path = f"/v1/reservations/{order.order_id}/{verb}"
        return await self._client.command("POST", path, body, f"{order.order_id}:{verb}")

    def _checked(self, order: Order, item: Item, answer: Answer) -> Seen:
        reservation = msgspec.json.decode(answer.body, type=Reservation)
        expected = self._ledger.statuses[order.order_id]
        if reservation.status != expected:
            message = f"{order.order_id} is answered as {reservation.status}, it must be {expected}"
            raise DemoError(message, CHECK_FAILED)
        return Seen(item, reservation.versions()[item])


async def read_level(client: Client, item: Item, version: int | None = None) -> Level:
    """The item as the read API shows it, `version` or newer. DemoError if the view does not get there in a minute."""
    path = f"/v1/stock/{item.sku}/{item.warehouse}"
    if version is not None:
        path += f"?min_version={item.warehouse}:{version}"
    answer = await client.read(path)
    return msgspec.json.decode(expect(answer, f"Reading {item.sku} at {item.warehouse}", OK).body, type=Level)
