"""Given / when / then for the domain, and a shop: the smallest write side that there can be, in memory.

    given(restocked(10)).when(StockItem.reserve, "r-1", "o-1", 3, None, HoldKind.ORDER).then(reserved("r-1", 3))
    given(restocked(2)).when(…).refused(InsufficientStock)

Events are described by their class and facts (:class:`Fact`); stream, version, time and origin are the fixture's.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import msgspec

from domain.allocation import Stock
from domain.commands import CreateReservation, ReservationCommand, Restock
from domain.errors import DomainError, SweepNeeded
from domain.events import (
    Committed,
    Event,
    Extended,
    Origin,
    Registered,
    Released,
    Reserved,
    Restocked,
    Returned,
    Shipped,
    StockEvent,
)
from domain.hold import Hold
from domain.policy import DEFAULT_POLICY, Policy
from domain.reservation import MAX_RELEASES, Reservation, ReservationHeader, create, expire_due, relieve_shortage
from domain.stock_item import StockItem
from domain.values import Bucket, Condition, ReleaseReason, WarehouseStatus, stock_stream
from domain.warehouse import Warehouse

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
"""When what is given has happened; `when` decides at this instant too unless told another."""
ORIGIN = Origin(command_id="command-1", actor="tester", correlation_id="correlation-1")
SKU, CODE = "A", "W1"


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@dataclass(frozen=True)
class Fact:
    """An event without what the fixture adds to it."""

    event_class: type[Event]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def at(self, stream: str, version: int, timestamp: datetime, origin: Origin = ORIGIN) -> Event:
        return self.event_class(
            originator_id=stream, originator_version=version, timestamp=timestamp, origin=origin, **self.facts
        )


def happened(event_class: type[Event], **facts: Any) -> Fact:
    return Fact(event_class, facts)


def registered(policy: Policy = DEFAULT_POLICY) -> Fact:
    return happened(Registered, policy=policy)


def restocked(quantity: int, **facts: Any) -> Fact:
    return happened(Restocked, quantity=quantity, **facts)


def reserved(reservation_id: str, quantity: int, *, ttl_s: float | None = 900, **facts: Any) -> Fact:
    """A hold that ends `ttl_s` after NOW (None: never)."""
    expires_at = None if ttl_s is None else after(ttl_s)
    return happened(
        Reserved,
        reservation_id=reservation_id,
        order_id=facts.pop("order_id", f"order-{reservation_id}"),
        quantity=quantity,
        expires_at=expires_at,
        **facts,
    )


def committed(reservation_id: str, quantity: int) -> Fact:
    return happened(Committed, reservation_id=reservation_id, quantity=quantity)


def released(reservation_id: str, quantity: int, reason: ReleaseReason, bucket: Bucket = Bucket.RESERVED) -> Fact:
    return happened(Released, reservation_id=reservation_id, quantity=quantity, bucket=bucket, reason=reason)


def extended(reservation_id: str, *, ttl_s: float) -> Fact:
    return happened(Extended, reservation_id=reservation_id, expires_at=after(ttl_s))


def shipped(reservation_id: str, quantity: int, tracking: str | None = None) -> Fact:
    return happened(Shipped, reservation_id=reservation_id, quantity=quantity, tracking=tracking)


def returned(quantity: int, condition: Condition = Condition.SELLABLE, **facts: Any) -> Fact:
    return happened(Returned, quantity=quantity, condition=condition, **facts)


# One item --------------------------------------------------------------------------------------------


def item_after(*history: Fact, policy: Policy = DEFAULT_POLICY, at: datetime = NOW) -> StockItem:
    """The registered item after `history`, nothing of it pending."""
    stream = stock_stream(SKU, CODE)
    facts = (registered(policy), *history)
    return StockItem.fold(SKU, CODE, [fact.at(stream, n, at) for n, fact in enumerate(facts, start=1)])


class Given:
    """An item with a history, waiting for a decision."""

    def __init__(self, item: StockItem, now: datetime = NOW) -> None:
        self.item = item
        self._now = now

    def at(self, seconds: float) -> "Given":
        """Decide so many seconds after NOW."""
        return Given(self.item, after(seconds))

    def when(self, decision: Callable[..., Any], *args: Any, **facts: Any) -> "Outcome":
        """Let the item decide: `decision` is a method of StockItem that takes `origin` and `now` by name."""
        before = (self.item.version, self.item.figures, dict(self.item.holds))
        try:
            decision(self.item, *args, origin=ORIGIN, now=self._now, **facts)
        except DomainError as error:
            assert (self.item.version, self.item.figures, dict(self.item.holds)) == before
            assert not self.item.new_events
            return Outcome(self.item, error)
        return Outcome(self.item, None)


def given(*history: Fact, policy: Policy = DEFAULT_POLICY) -> Given:
    return Given(item_after(*history, policy=policy))


def given_unregistered() -> Given:
    return Given(StockItem.unregistered(stock_stream(SKU, CODE)))


class Outcome:
    """What a decision came to."""

    def __init__(self, item: StockItem, error: DomainError | None) -> None:
        self.item = item
        self.error = error

    def then(self, *facts: Fact) -> "Outcome":
        """Exactly these events, in this order, each the next of its stream."""
        if self.error is not None:
            raise self.error
        first = self.item.version - len(self.item.new_events) + 1
        expected = [
            fact.at(self.item.id, n, event.timestamp, event.origin)
            for n, (fact, event) in enumerate(zip(facts, self.item.new_events, strict=False), start=first)
        ]
        assert self.item.new_events == expected
        assert len(facts) == len(expected)
        return self

    def then_nothing(self) -> "Outcome":
        return self.then()

    def leaving(self, **figures: Any) -> "Outcome":
        """The item's figures afterwards, those that are named."""
        assert {name: getattr(self.item.figures, name) for name in figures} == figures
        return self

    def refused(self, error_class: type[DomainError], **facts: Any) -> None:
        """Nothing happened (that much `when` has seen to), and the error says these facts."""
        assert type(self.error) is error_class, repr(self.error)
        assert {name: self.error.facts.get(name) for name in facts} == facts


# Several items: a shop ---------------------------------------------------------------------------------


class Shelves(Stock):
    """Everything that an allocation may look at."""

    def __init__(self) -> None:
        self.items: dict[tuple[str, str], StockItem] = {}
        self.warehouses: dict[str, Warehouse] = {}

    def item(self, sku: str, warehouse: str) -> StockItem | None:
        return self.items.get((sku, warehouse))

    def warehouse(self, code: str) -> Warehouse | None:
        return self.warehouses.get(code)

    def warehouses_of(self, sku: str) -> Iterable[str]:
        return [warehouse for of, warehouse in self.items if of == sku]


class Shop:
    """Takes commands one at a time, keeps the log and the index of reservations; time moves when it is told to.

    `commit_each` False leaves events pending, as in a batch that is not yet in the log: see `accept` and `undo`.
    """

    def __init__(self) -> None:
        self.stock = Shelves()
        self.now = NOW
        self.log: list[Event] = []
        self.headers: dict[str, ReservationHeader] = {}
        self.holds: dict[str, dict[tuple[str, str], Hold]] = {}
        self._numbers = count(1)

    # Setting up

    def warehouse(self, code: str, **details: Any) -> None:
        warehouse = self.stock.warehouses.setdefault(code, Warehouse.uncreated(code))
        if "status" in details:
            details["status"] = WarehouseStatus(details["status"])
        warehouse.put(details, self._origin(), self.now)
        self.log += warehouse.new_events
        warehouse.accept()

    def stocked(self, sku: str, warehouse: str, quantity: int, policy: Policy = DEFAULT_POLICY) -> StockItem:
        """Restock an item, registering it (and its warehouse) if it is new."""
        if warehouse not in self.stock.warehouses:
            self.warehouse(warehouse)
        item = self.stock.items.get((sku, warehouse))
        if item is None:
            item = self.stock.items[sku, warehouse] = StockItem.unregistered(stock_stream(sku, warehouse))
            item.register(policy, self._origin(), self.now)
        if quantity:
            item.restock(quantity, self._origin(), self.now)
        self._append()
        return item

    def item(self, sku: str, warehouse: str) -> StockItem:
        return self.stock.items[sku, warehouse]

    def elapse(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    # Deciding

    def on_item(self, sku: str, warehouse: str, decision: Callable[..., Any], *args: Any, **facts: Any) -> None:
        decision(self.item(sku, warehouse), *args, origin=self._origin(), now=self.now, **facts)
        self._append()

    def create(
        self, reservation_id: str, lines: Sequence[tuple[Any, ...] | dict[str, Any]], **fields: Any
    ) -> Reservation:
        """`lines` are (sku, quantity), (sku, quantity, warehouse) or as in the body of the call, like `fields`."""
        body = {"order_id": f"order-{reservation_id}", "lines": [_line(line) for line in lines]} | fields
        command = msgspec.convert(body, CreateReservation)
        while True:
            try:
                reservation = create(
                    command, reservation_id, "digest", self.stock, self._origin(), self.now, self._command_id
                )
                break
            except SweepNeeded as needed:
                sku, _, warehouse = needed.stream.removeprefix("stock:").partition("@")
                assert self.sweep(sku, warehouse, MAX_RELEASES)
        self.headers[reservation_id] = reservation.header
        self._append()
        return reservation

    def reservation(self, reservation_id: str) -> Reservation:
        holds = self.holds[reservation_id]
        items = {place: self.stock.items[place] for place in holds}
        return Reservation(self.headers[reservation_id], list(holds.values()), items)

    def on(self, handler: Callable[..., None], command_class: type[ReservationCommand], rid: str, **body: Any) -> None:
        """`shop.on(commit, CommitReservation, "r-1", lines=[…])`"""
        command = msgspec.convert({"reservation_id": rid} | body, command_class)
        handler(self.reservation(rid), command, self._origin(), self.now)
        self._append()

    def sweep(self, sku: str, warehouse: str, limit: int = MAX_RELEASES) -> int:
        swept = expire_due(self.item(sku, warehouse), limit, self._origin("stockhold"), self.now)
        self._append()
        return swept

    def relieve(self, sku: str, warehouse: str, limit: int = MAX_RELEASES) -> int:
        relieved = relieve_shortage(self.item(sku, warehouse), limit, self._origin("stockhold"), self.now)
        self._append()
        return relieved

    # Looking

    def status(self, reservation_id: str) -> str:
        reservation = self.reservation(reservation_id)
        return reservation.status(reservation.moment(self.now))

    def stream(self, sku: str, warehouse: str) -> list[StockEvent]:
        stream = stock_stream(sku, warehouse)
        return [event for event in self.log if isinstance(event, StockEvent) and event.originator_id == stream]

    def events_since(self, position: int) -> list[Any]:
        return self.log[position:]

    def _origin(self, actor: str = "tester") -> Origin:
        command_id = self._command_id()
        return Origin(command_id=command_id, actor=actor, correlation_id=command_id)

    def _command_id(self) -> str:
        return f"command-{next(self._numbers)}"

    def _append(self) -> None:
        """Everything pending goes into the log, and what it did to holds into the index."""
        for place, item in self.stock.items.items():
            self.log += item.new_events
            for reservation_id, hold in item.changed_holds.items():
                self.holds.setdefault(reservation_id, {})[place] = hold
            item.accept()


def _line(line: tuple[Any, ...] | dict[str, Any]) -> dict[str, Any]:
    if isinstance(line, dict):
        return line
    return dict(zip(("sku", "quantity", "warehouse"), line, strict=False))


def restock_command(**fields: Any) -> Restock:
    return msgspec.convert({"sku": SKU, "warehouse": CODE, "quantity": 1} | fields, Restock)


def invariants(item: StockItem, now: datetime) -> Iterator[str]:
    """What is wrong with an item, in words; nothing ever should be."""
    figures = item.figures
    buckets = ("on_hand", "reserved", "committed", "damaged", "quarantined", "in_transit", "incoming")
    yield from (f"{name} is negative" for name in buckets if getattr(figures, name) < 0)
    if figures.reserved != sum(hold.active for hold in item.holds.values()):
        yield "reserved is not the sum of active holds"
    if figures.committed != sum(hold.committed for hold in item.holds.values()):
        yield "committed is not the sum of committed holds"
    due = sum(hold.active for hold in item.holds.values() if hold.is_due(item.at(now)))
    if item.due_units(now) != due:
        yield f"{item.due_units(now)} units due by the queue, {due} by the holds"
    if not all(hold.is_open for hold in item.holds.values()):
        yield "a closed hold is kept"
