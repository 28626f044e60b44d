"""After the last step: does the service show what its own answers promised?

Four questions. Do the holds that nobody paid run out? Is a payment that comes too late refused? Does every item stand
where the acknowledged steps left it, at the version that they add up to, so that each has happened exactly once? Does
every reservation end as it was answered?
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

import msgspec

from demo.answers import AvailabilityPage, Level, Reservation
from demo.baskets import Item
from demo.client import NOT_FOUND, OK, Client, expect
from demo.door import Door
from demo.driver import read_level
from demo.errors import DemoError
from demo.ledger import Ledger, Status
from demo.parallel import in_parallel
from demo.progress import Bar, Reporter
from demo.script import Action, Order, Outcome, Script

SKUS_PER_QUESTION = 200

Thing = TypeVar("Thing")


class Auditor:
    """`differences` holds a sentence for everything that is not as it must be."""

    def __init__(self, client: Client, door: Door, ledger: Ledger, reporter: Reporter) -> None:
        self._client = client
        self._door = door
        self._ledger = ledger
        self._reporter = reporter
        self.differences: list[str] = []
        self._patient = True

    async def audit(self, script: Script) -> None:
        unpaid = [order for order in script.orders if self._is_unpaid(order)]
        for order in unpaid:
            self._ledger.happened(Action.EXPIRE, order)
        items = list({line.item: None for order in unpaid for line in order.lines})
        with self._reporter.stage("Unpaid holds run out", len(items)) as bar:
            await self._wait_for(items, bar)
        with self._reporter.stage("Late payments are refused", len(unpaid)) as bar:
            await self._pay_too_late(unpaid, bar)
        with self._reporter.stage("Counting the shelves", len(self._ledger.items)) as bar:
            await self._compare_levels(bar)
        with self._reporter.stage("Asking after every order", len(script.orders)) as bar:
            await self._compare_reservations(script.orders, bar)
        self.differences += await self._door.differences(self._ledger)

    def _is_unpaid(self, order: Order) -> bool:
        return order.outcome is Outcome.EXPIRED and self._ledger.statuses[order.order_id] is Status.ACTIVE

    async def _wait_for(self, items: Iterable[Item], bar: Bar) -> None:
        """Until the release of the last hold is in the view: the read waits, nobody has to guess how long."""

        async def wait(item: Item) -> None:
            await self._level_in_time(item)
            bar.advance()

        await in_parallel(wait, items)

    async def _pay_too_late(self, orders: Iterable[Order], bar: Bar) -> None:
        async def pay(order: Order) -> None:
            if wrong := await self._door.pay_too_late(order):
                self.differences.append(f"{order.order_id}: a late payment was {wrong}")
            bar.advance()

        await in_parallel(pay, orders)

    async def _compare_levels(self, bar: Bar) -> None:
        async def compare(items_of_skus: list[tuple[str, list[Item]]]) -> None:
            levels = await self._levels([sku for sku, _ in items_of_skus])
            for item in (item for _, items in items_of_skus for item in items):
                await self._compare(item, levels.get(item))
                bar.advance()

        await in_parallel(compare, _chunks(self._items_by_sku().items(), SKUS_PER_QUESTION), workers=4)

    def _items_by_sku(self) -> dict[str, list[Item]]:
        by_sku: dict[str, list[Item]] = {}
        for item in self._ledger.items:
            by_sku.setdefault(item.sku, []).append(item)
        return by_sku

    async def _levels(self, skus: list[str]) -> dict[Item, Level]:
        answer = await self._client.ask("/v1/availability:batch", {"items": [{"sku": sku} for sku in skus]})
        page = msgspec.json.decode(expect(answer, "Reading levels", OK).body, type=AvailabilityPage)
        return {level.item(): level for availability in page.items for level in availability.warehouses}

    async def _compare(self, item: Item, level: Level | None) -> None:
        if level is None or level.version < self._ledger.items[item].version:
            level = await self._level_in_time(item)
        self._ledger.saw(level)
        self.differences += self._ledger.differences(level)

    async def _level_in_time(self, item: Item) -> Level:
        """At the version that the books have. Where a view does not get there, the item as the view has it."""
        if self._patient:
            try:
                return await read_level(self._client, item, self._ledger.items[item].version)
            except DemoError:
                self._patient = False  # one item that does not come has taken a minute; the others get no more
        return await read_level(self._client, item)

    async def _compare_reservations(self, orders: Iterable[Order], bar: Bar) -> None:
        async def compare(order: Order) -> None:
            expected = self._ledger.statuses[order.order_id]
            answer = await self._client.read(f"/v1/reservations/{order.order_id}")
            if answer.status == OK:
                shown: str = msgspec.json.decode(answer.body, type=Reservation).status
            elif answer.status == NOT_FOUND:
                shown = Status.REFUSED
            else:
                shown = f"answered {answer.status}"
            if shown != expected:
                self.differences.append(f"{order.order_id} is {shown}, by the answers it must be {expected}")
            bar.advance()

        await in_parallel(compare, orders)


def _chunks(things: Iterable[Thing], size: int) -> Iterator[list[Thing]]:
    rest = iter(things)
    while chunk := list(islice(rest, size)):
        yield chunk
