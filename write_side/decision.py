"""One batch's unit of work: what its commands may look at, and what they leave to be appended.

A handler has no way to reach a connection: it sees aggregates, reservations and the time.
"""

from collections.abc import Iterable
from datetime import datetime

import msgspec

from domain.aggregate import Aggregate
from domain.commands import Command
from domain.errors import UnknownOrder, UnknownReservation
from domain.events import Event, Origin, Registered
from domain.reservation import Reservation
from domain.stock_item import StockItem
from domain.values import split_stock_stream, stock_stream
from domain.warehouse import Warehouse
from infra.event_store.mapper import EventMapper
from infra.event_store.port import Loaded, Outcome, Refusal, StoredRow, Writes
from write_side.memory import KnownReservation, Memory


class NotLoaded(Exception):
    """A command turned out to need what was not loaded for it; it has changed nothing yet."""

    def __init__(
        self, streams: Iterable[str] = (), reservation_id: str | None = None, order_id: str | None = None
    ) -> None:
        super().__init__(*streams)
        self.streams = list(streams)
        self.reservation_id = reservation_id
        self.order_id = order_id


class _Touched(msgspec.Struct, eq=False, gc=False):
    """An aggregate that a batch has looked at, at version ``read_at``; ``own``: events of the batch that were collected."""

    aggregate: Aggregate
    read_at: int
    own: int = 0

    @property
    def fresh(self) -> int:
        """Events that were triggered since."""
        return self.aggregate.version - self.read_at - self.own


class Decision:
    """The commands of a batch, decided one after another against the same memory.

    ``loaded`` is what was read under the log's lock, or None if the batch is decided on memory alone.
    ``current`` are then the streams that memory has as the log has them: no other may be looked at.
    """

    def __init__(
        self, memory: Memory, mapper: EventMapper, now: datetime, loaded: Loaded | None, current: Iterable[str] = ()
    ) -> None:
        self.now = now
        self.documents_wanted = True
        """Whether anybody reads the document of the command at hand."""
        self._current = set(current)
        self._memory = memory
        self._mapper = mapper
        self._loaded = loaded
        self._touched: dict[str, _Touched] = {}
        self._accessed: dict[str, _Touched] = {}
        """Those of the command at hand, in the order in which it came to them."""
        self._outcomes: dict[tuple[str, str], Outcome] = {}
        self._made: dict[str, KnownReservation] = {}
        self._made_for: dict[str, list[str]] = {}
        self._writes = Writes(now)
        self.follow_ups: list[Command] = []

    # What a handler sees (and the allocator: domain.allocation.Stock) ----------------------------

    def stock_item(self, sku: str, warehouse: str) -> StockItem:
        """The item, at version 0 if it was never registered. Raises NotLoaded."""
        return self._item(stock_stream(sku, warehouse))

    def _item(self, stream: str) -> StockItem:
        touched = self._touched.get(stream)
        if touched is None:
            if stream in self._memory.unreadable:
                raise self._memory.unreadable[stream]
            item = self._memory.items.use(stream)
            if item is None or (self._loaded is not None and stream not in self._current):
                raise NotLoaded([stream])
            touched = self._touched[stream] = _Touched(item, item.version)
        self._accessed[stream] = touched
        assert isinstance(touched.aggregate, StockItem)
        return touched.aggregate

    def item_of_stream(self, stream: str) -> StockItem:
        """The item of a stream id. Raises NotLoaded."""
        return self._item(stream)

    def item(self, sku: str, warehouse: str) -> StockItem | None:
        """The item if it was ever registered. Raises NotLoaded."""
        item = self._item(stock_stream(sku, warehouse))
        return item if item.version else None

    def warehouse(self, code: str) -> Warehouse | None:
        """The warehouse if it exists."""
        warehouse = self._memory.warehouses.get(code)
        if self._memory.unreadable and warehouse is not None and warehouse.id in self._memory.unreadable:
            raise self._memory.unreadable[warehouse.id]
        return warehouse if warehouse is not None and warehouse.version else None

    def warehouse_to_put(self, code: str) -> Warehouse:
        """The warehouse, at version 0 if it does not exist yet, to be created or changed."""
        self.warehouse(code)  # raises if it cannot be read
        warehouse = self._memory.warehouses.get(code)
        if warehouse is None:
            warehouse = self._memory.warehouses[code] = Warehouse.uncreated(code)
        touched = self._touched.get(warehouse.id)
        if touched is None:
            touched = self._touched[warehouse.id] = _Touched(warehouse, warehouse.version)
        self._accessed[warehouse.id] = touched
        return warehouse

    def warehouses_of(self, sku: str) -> list[str]:
        """Codes of the warehouses where the SKU was registered, in this batch too. Raises NotLoaded."""
        if self._loaded is None or sku not in self._loaded.places:
            raise NotLoaded
        here = self._loaded.places[sku]
        return here + [code for s, code in self._writes.items if s == sku and code not in here]

    def find_reservation(self, reservation_id: str) -> Reservation | None:
        """The reservation as it stands now, None if there is none of this id. Raises NotLoaded."""
        known = self._made.get(reservation_id) or self._memory.reservations.use(reservation_id)
        if known is None:
            if self._loaded is None:
                raise NotLoaded(reservation_id=reservation_id)
            return None
        items = [self._item(stream) for stream in known.streams]
        rows = () if self._loaded is None else tuple(self._loaded.holds.get(reservation_id, ()))
        by_place = {(hold.sku, hold.warehouse): hold for hold in rows}
        holds = []
        for item in items:
            # The item is right about what is open, and about what this batch has closed; the index about the rest.
            hold = item.changed_holds.get(reservation_id) or item.holds.get(reservation_id)
            hold = hold or by_place.get((item.sku, item.warehouse))
            if hold is None:
                raise NotLoaded(reservation_id=reservation_id)
            holds.append(hold)
        return Reservation(known.header, holds, {(item.sku, item.warehouse): item for item in items})

    def knows(self, reservation_id: str) -> bool:
        """Whether memory has seen this reservation, or this batch has made it."""
        return reservation_id in self._made or reservation_id in self._memory.reservations

    @property
    def on_memory_alone(self) -> bool:
        """Whether this batch is decided without having looked into the log."""
        return self._loaded is None

    def reservation(self, reservation_id: str) -> Reservation:
        """The reservation as it stands now. Raises UnknownReservation, NotLoaded."""
        found = self.find_reservation(reservation_id)
        if found is None:
            raise UnknownReservation(reservation_id)
        return found

    def reservations_of(self, order_id: str) -> list[Reservation]:
        """Every reservation of the order, oldest first. Raises UnknownOrder, NotLoaded."""
        made = self._made_for.get(order_id, ())
        if self._loaded is not None:
            if order_id not in self._loaded.orders:
                raise NotLoaded(order_id=order_id)
            before: Iterable[str] = self._loaded.orders[order_id]
        else:
            known = self._memory.orders.use(order_id)
            if known is None and not made:
                raise NotLoaded(order_id=order_id)
            before = known or ()
            self._writes.orders.setdefault(order_id, len(known or ()))
        found = [self.reservation(reservation_id) for reservation_id in (*before, *made)]
        if not found:
            raise UnknownOrder(order_id)
        return found

    def refresh(self, reservation: Reservation) -> Reservation:
        """The reservation after the events that this command has triggered."""
        holds = [reservation.item_of(hold).changed_holds.get(hold.reservation_id, hold) for hold in reservation.holds]
        return Reservation(reservation.header, holds, reservation.items)

    # What the executor does with it --------------------------------------------------------------

    def outcome(self, scope: str, key: str) -> Outcome | None:
        """What was decided before under this key, in this batch or an earlier one."""
        outcome = self._outcomes.get((scope, key))
        if outcome is None and self._loaded is not None:
            outcome = self._loaded.outcomes.get((scope, key))
        return outcome

    def record(self, outcome: Outcome) -> None:
        """Keep the outcome of a decision with what it decided."""
        self._outcomes[outcome.scope, outcome.key] = outcome
        self._writes.outcomes.append(outcome)

    def record_refusal(self, refusal: Refusal) -> None:
        self._writes.refusals.append(refusal)

    def created(self, reservation: Reservation) -> None:
        """A new reservation: its header goes into the index."""
        header = reservation.header
        streams = tuple([item.id for item in reservation.items.values()])  # in the order of its holds
        self._made[header.reservation_id] = KnownReservation(header, streams)
        self._made_for.setdefault(header.order_id, []).append(header.reservation_id)
        self._writes.headers.append(header)

    def collect(self) -> None:
        """Take what the command that was just decided has triggered, in the order in which it came to the items."""
        for touched in self._accessed.values():
            fresh = touched.fresh
            if fresh:
                for event in touched.aggregate.new_events[-fresh:]:
                    self._collect_event(event)
                touched.own += fresh
        self._accessed.clear()

    @property
    def has_triggered(self) -> bool:
        """Whether the command at hand has changed anything yet."""
        return any(touched.fresh for touched in self._accessed.values())

    @property
    def changed_warehouses(self) -> bool:
        """Whether it appends to a warehouse."""
        return bool(self._writes.warehouses)

    def is_current(self, stream: str) -> bool:
        """Whether memory has this stream as the log has it."""
        return stream in self._current

    def extend(self, more: Loaded, current: Iterable[str]) -> None:
        """Add what was loaded later in the same transaction."""
        assert self._loaded is not None
        self._current.update(current)
        self._loaded.headers |= more.headers
        self._loaded.holds |= more.holds
        self._loaded.places |= more.places
        self._loaded.orders |= more.orders

    def _collect_event(self, event: Event) -> None:
        stream, version = event.originator_id, event.originator_version
        self._writes.events.append(StoredRow(stream, version, event.TOPIC, self._mapper.encode(event)))
        if type(event) is Registered:
            self._writes.items.append(split_stock_stream(stream))

    def writes(self) -> Writes:
        """Everything that this batch appends. To be asked once, when all is decided."""
        writes = self._writes
        for stream, touched in self._touched.items():
            aggregate = touched.aggregate
            if isinstance(aggregate, StockItem):
                if not touched.own:
                    writes.read[stream] = touched.read_at
                if aggregate.changed_holds:
                    writes.holds += aggregate.changed_holds.values()
                    aggregate.changed_holds.clear()  # a batch that is decided ahead must not write them again
            elif isinstance(aggregate, Warehouse) and touched.own:
                writes.warehouses.append((aggregate.code, aggregate.version))
        return writes

    def accept(self) -> list[StockItem]:
        """The batch is in the log: memory may keep it. The stock items that it changed."""
        changed = []
        for touched in self._touched.values():
            if touched.own:
                touched.aggregate.accept(touched.own)
                if isinstance(touched.aggregate, StockItem):
                    changed.append(touched.aggregate)
        for made in self._made.values():
            self._memory.reservation_made(made)
        return changed

    def undo(self) -> None:
        """The batch is not in the log: memory must not keep it. What was decided after it is undone first."""
        for touched in self._touched.values():
            aggregate = touched.aggregate
            if aggregate.new_events:  # else it may have moved on meanwhile, by what the log says
                aggregate.undo(aggregate.version - touched.read_at)


def origin_of(
    command_id: str,
    actor: str,
    correlation_id: str | None,
    causation_id: str | None,
    key: str | None,
    command: Command,
) -> Origin:
    """Where the events of ``command`` come from."""
    return Origin(
        command_id=command_id,
        actor=actor,
        correlation_id=correlation_id or command_id,
        causation_id=causation_id,
        idempotency_key=key,
        note=getattr(command, "note", None),
        reference=getattr(command, "reference", None),
        metadata=getattr(command, "metadata", None),
    )
