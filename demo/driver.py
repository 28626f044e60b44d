"""Plays a script through one of the doors, step by step, and every answer goes into the ledger."""

import asyncio
from collections import defaultdict
from collections.abc import Coroutine, Iterable
from time import monotonic

import msgspec

from demo.answers import Level
from demo.baskets import Item
from demo.client import CREATED, OK, Client, expect
from demo.door import Door, Told
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


class Driver:
    """Timings are noted under the action's name, and under `LAG` from an answer's commit until a read shows it."""

    def __init__(self, client: Client, door: Door, ledger: Ledger, timings: Timings) -> None:
        self._client = client
        self._door = door
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

    async def _clocked(self, action: Action, command: Coroutine[None, None, Told | None]) -> None:
        began = monotonic()
        told = await command
        self._timings.note(action, monotonic() - began)
        self._commands += 1
        if told and self._commands % LOOK_EVERY == 0:
            await self._look(told)

    async def _look(self, told: Told) -> None:
        level = await read_level(self._client, told.item, told.version)
        self._timings.note(LAG, monotonic() - told.since_s)
        self._ledger.saw(level)

    async def _restock(self, delivery: Delivery) -> Told:
        told = await self._door.restock(delivery)
        self._ledger.restocked(delivery.item, delivery.quantity)
        return told

    async def _act(self, action: Action, order: Order) -> Told | None:
        told = await self._door.act(action, order)
        if told is None:
            self._ledger.refused(order)
            return None
        if action is Action.RETURN:
            self._ledger.brought_back(order)
        else:
            self._ledger.happened(action, order)
        expected = self._ledger.statuses[order.order_id]
        if told.status is not None and told.status != expected:
            raise DemoError(f"{order.order_id} is answered as {told.status}, it must be {expected}", CHECK_FAILED)
        return told


async def read_level(client: Client, item: Item, version: int | None = None) -> Level:
    """The item as the read API shows it, `version` or newer. DemoError if the view does not get there in a minute."""
    path = f"/v1/stock/{item.sku}/{item.warehouse}"
    if version is not None:
        path += f"?min_version={item.warehouse}:{version}"
    answer = await client.read(path)
    return msgspec.json.decode(expect(answer, f"Reading {item.sku} at {item.warehouse}", OK).body, type=Level)
