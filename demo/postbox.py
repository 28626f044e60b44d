"""What the service tells in messages: each is put to the message of ours that it answers, and every level is checked.

The messages are CloudEvents, as `docs/asyncapi.yaml` describes them; only what is read here is decoded. No Kafka here.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from time import monotonic, time
from typing import NamedTuple

import msgspec

from demo.answers import Level
from demo.baskets import Item, Line
from demo.door import Traffic
from demo.errors import CHECK_FAILED, DemoError

RESERVED = "inventory.reserved"
REJECTED = "inventory.reservation-rejected"
COMMITTED = "inventory.committed"
RELEASED = "inventory.released"
REFUNDED = "inventory.refunded"
EXPIRED = "inventory.reservation-expired"
STOCK_UPDATED = "inventory.stock-updated"
DEAD_LETTERS = "stockhold.dead-letters"
HEARD = (RESERVED, REJECTED, COMMITTED, RELEASED, REFUNDED, EXPIRED, STOCK_UPDATED, DEAD_LETTERS)


class Event(msgspec.Struct):
    """The envelope. `sequence`: the item's version, of messages about an item."""

    id: str
    source: str
    type: str
    time: datetime
    data: msgspec.Raw
    sequence: int = 0
    causationid: str = ""


class Allocated(msgspec.Struct):
    sku: str
    warehouse: str
    quantity: int


class OrderData(msgspec.Struct):
    """Of a message about an order."""

    order_id: str | None = None
    allocations: list[Allocated] = []
    truncated: list[str] = []
    reason: str = ""
    code: str = ""

    def units(self) -> Counter[Item]:
        moved: Counter[Item] = Counter()
        for part in self.allocations:
            moved[Item(part.sku, part.warehouse)] += part.quantity
        return moved


class Letter(NamedTuple):
    """A message that the service gave up, and why."""

    source: str
    id: str
    code: str
    detail: str


class Exchange:
    """A message of ours until it is answered: by a message about the order, and by one about each item that it moved.

    Over when `over` is done. `told` is the message about the order; `letter` why the service gave ours up, in its place.
    """

    def __init__(self, items: Iterable[Item], order_id: str | None = None, *, about_order: bool = False) -> None:
        self.began_s = monotonic()
        self.order_id = order_id
        self.told: Event | None = None
        self.told_s = 0.0
        self.data = OrderData()
        self.letter: Letter | None = None
        self.levels: dict[Item, Event] = {}
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lacking = set(items)
        self._awaits_order = about_order

    def hear_of_order(self, event: Event, data: OrderData) -> None:
        # A reservation may be what releases the holds of others that have run out.
        if data.order_id != self.order_id:
            return
        self.told, self.data, self.told_s = event, data, monotonic()
        self._awaits_order = False
        if event.type == REJECTED:
            self._lacking.clear()
        self._look_whether_over()

    def hear_of_item(self, event: Event, item: Item) -> None:
        self.levels[item] = event
        self._lacking.discard(item)
        self._look_whether_over()

    def given_up(self, letter: Letter) -> None:
        self.letter = letter
        self._awaits_order = False
        self._lacking.clear()
        self._look_whether_over()

    def lacks(self) -> str:
        return ", ".join(["an answer about the order"] * self._awaits_order + sorted(map(str, self._lacking)))

    def since_s(self, item: Item) -> float:
        """Since when the item is as told, on the clock `monotonic`. The service's clock must be this machine's."""
        return monotonic() - (time() - self.levels[item].time.timestamp())

    def _look_whether_over(self) -> None:
        if not self._awaits_order and not self._lacking and not self.over.done():
            self.over.set_result(None)


_decode_event = msgspec.json.Decoder(Event).decode
_decode_order = msgspec.json.Decoder(OrderData).decode
_decode_level = msgspec.json.Decoder(Level).decode


class Postbox:
    """Messages about what others did are passed over. `on_level` hears of every level of our items, at every version."""

    def __init__(self, source: str, on_level: Callable[[Level], None]) -> None:
        self.traffic = Traffic()
        self.versions: dict[Item, int] = {}
        """Of each of our items: the newest that was told."""
        self.out_of_order: list[str] = []
        """A sentence for each version that came too early: every one is told, in their order."""
        self._source = source
        self._on_level = on_level
        self._open: dict[str, Exchange] = {}
        self._orders: set[str] = set()
        self._seen: set[tuple[str, str]] = set()
        self._failed: BaseException | None = None
        self._news = asyncio.Event()

    def begin(self, message_id: str, exchange: Exchange) -> None:
        """Call it before the message is sent. Raises what ended the listening."""
        if self._failed is not None:
            raise self._failed
        self._open[message_id] = exchange
        if exchange.order_id is not None:
            self._orders.add(exchange.order_id)

    def stock(self, item: Item) -> None:
        """The item is ours from now on."""
        self.versions.setdefault(item, 0)

    async def next_level(self) -> None:
        """Return when something more was told of an item of ours. Raises what ended the listening."""
        self._news.clear()
        await self._news.wait()
        if self._failed is not None:
            raise self._failed

    def lacks(self, versions: Mapping[Item, int]) -> bool:
        """Whether something of `versions`, the newest of each item, has not been told yet."""
        return any(self.versions.get(item, 0) < version for item, version in versions.items())

    def differences(self, versions: Mapping[Item, int]) -> list[str]:
        """A sentence for each version that was told too early, and for each item that was not told up to `versions`."""
        return self.out_of_order + [
            f"{item.sku} at {item.warehouse}: told up to version {told}, by the answers it must be {version}"
            for item, version in versions.items()
            if (told := self.versions.get(item, 0)) != version
        ]

    def end(self, message_id: str) -> None:
        del self._open[message_id]

    def fail(self, error: BaseException) -> None:
        """Nothing more will be heard."""
        self._failed = error
        self._news.set()
        for exchange in self._open.values():
            if not exchange.over.done():
                exchange.over.set_exception(error)

    def hear(self, topic: str, value: bytes) -> None:
        """A message of one of the public topics."""
        event = _decode_event(value)
        if event.type != topic:
            raise DemoError(f"a message of type {event.type} came on {topic}", CHECK_FAILED)
        if topic == STOCK_UPDATED:
            self._hear_of_item(event)
        else:
            self._hear_of_order(event)

    def hear_dead(self, value: bytes | None, headers: Iterable[tuple[str, bytes]]) -> None:
        """A dead letter: the message as it was sent, and in the headers why."""
        said = {name: text.decode(errors="replace") for name, text in headers}
        try:
            ours = msgspec.json.decode(value or b"")
            name = ours["source"], ours["id"]
        except (msgspec.DecodeError, KeyError, TypeError):
            return  # somebody else's, and the worse for it
        letter = Letter(*name, said.get("stockhold-code", ""), said.get("stockhold-detail", ""))
        if letter.source != self._source or not self._is_new(DEAD_LETTERS, letter.id):
            return
        self.traffic.heard[DEAD_LETTERS] += 1
        if letter.id in self._open:
            self._open[letter.id].given_up(letter)

    def _hear_of_item(self, event: Event) -> None:
        level = _decode_level(event.data)
        item = level.item()
        known = self.versions.get(item)
        if known is None:
            return
        if event.sequence <= known:
            self.traffic.repeated += 1
            return
        if event.sequence != known + 1:
            self.out_of_order.append(f"{item.sku} at {item.warehouse}: version {event.sequence} was told after {known}")
        self.versions[item] = event.sequence
        self.traffic.heard[event.type] += 1
        self._on_level(level)
        self._news.set()
        if event.causationid in self._open and event.sequence > 1:  # the first version is not yet what was asked for
            self._open[event.causationid].hear_of_item(event, item)

    def _hear_of_order(self, event: Event) -> None:
        data = _decode_order(event.data)
        if data.order_id not in self._orders:
            return
        if not self._is_new(event.source, event.id):
            self.traffic.repeated += 1
            return
        self.traffic.heard[event.type] += 1
        if event.causationid in self._open:
            self._open[event.causationid].hear_of_order(event, data)

    def _is_new(self, source: str, message_id: str) -> bool:
        name = (source, message_id)
        is_new = name not in self._seen
        self._seen.add(name)
        return is_new


def units_of(lines: Iterable[Line]) -> Counter[Item]:
    wanted: Counter[Item] = Counter()
    for line in lines:
        wanted[line.item] += line.quantity
    return wanted
