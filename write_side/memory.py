"""What an executor remembers between batches: a cache of the log, thrown away without harm.

Stock items are an LRU of bounded size; warehouses are few and all kept; of reservations the immutable
header and the places of its holds, so that a later command finds its items without asking.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import TypeVar

import msgspec
from eventsourcing.domain import OriginatorVersionError

from domain.aggregate import Aggregate
from domain.reservation import ReservationHeader
from domain.stock_item import StockItem, StockItemState
from domain.values import warehouse_stream
from domain.warehouse import Warehouse
from infra.event_store.mapper import EventMapper, UnreadableEvent
from infra.event_store.port import Loaded, Needs, SnapshotRow, StoredRow

_WAREHOUSE = warehouse_stream("")

K = TypeVar("K")
V = TypeVar("V")


class Lru(OrderedDict[K, V]):
    """A mapping of bounded size: what was least recently put or used goes first, when :meth:`trim` is called."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def use(self, key: K) -> V | None:
        """The value, which is now the most recently used."""
        value = self.get(key)
        if value is not None:
            self.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        self[key] = value
        self.move_to_end(key)

    def trim(self) -> list[K]:
        """Drop what is over the limit; the keys that went."""
        return [self.popitem(last=False)[0] for _ in range(len(self) - self._limit)]


class KnownReservation(msgspec.Struct, frozen=True, gc=False):
    """What never changes of a reservation: its header, and where its holds are, in their order."""

    header: ReservationHeader
    streams: tuple[str, ...]


class Memory:
    """Aggregates, warehouses and reservations that this process has seen."""

    def __init__(self, mapper: EventMapper, *, items_limit: int, reservations_limit: int, snapshot_every: int) -> None:
        self._mapper = mapper
        self._snapshot_every = snapshot_every
        self.items: Lru[str, StockItem] = Lru(items_limit)
        """Stock items by stream, at version 0 if the log has none."""
        self._snapshot_versions: dict[str, int] = {}
        self._decode_state = msgspec.json.Decoder(StockItemState).decode
        self.reservations: Lru[str, KnownReservation] = Lru(reservations_limit)
        self.orders: Lru[str, tuple[str, ...]] = Lru(reservations_limit)
        """Reservations by order, oldest first, as far as this process has seen: a guess, which the log checks."""
        self.places: Lru[str, tuple[str, ...]] = Lru(items_limit)
        """Warehouses by SKU, as last seen: a hint at what to load, never an answer."""
        self.warehouses: dict[str, Warehouse] = {}
        self.warehouses_changed = 0
        self.unreadable: dict[str, UnreadableEvent] = {}

    def version(self, stream: str) -> int:
        """The version in memory of an item that is in memory."""
        return self.items[stream].version

    def take_in(self, loaded: Loaded, needs: Needs, *, locked: bool) -> list[str]:
        """Bring memory up to what was loaded; the warehouse streams whose events must be loaded as well.

        What was read outside the lock only fills what is missing: it may be older than what is here.
        """
        present = set() if locked else {stream for stream in needs.cold if stream in self.items}
        for row in loaded.rows:
            if row.stream not in present:
                self._take_row(row, fresh=locked or row.stream in needs.cold)
        for sku, codes in loaded.places.items():
            self.places.put(sku, tuple(codes))
        absent = [stream for stream in needs.cold if stream not in self.items]
        if absent:
            stored = {row.stream for row in loaded.rows}
            for stream in absent:
                if stream not in stored:  # else it is there and did not fit what was in memory: to be loaded anew
                    self.items.put(stream, StockItem.unregistered(stream))
        for reservation_id, header in loaded.headers.items():
            streams = tuple(f"stock:{hold.sku}@{hold.warehouse}" for hold in loaded.holds[reservation_id])
            self.reservations.put(reservation_id, KnownReservation(header, streams))
        for order_id, reservation_ids in loaded.orders.items():
            if reservation_ids and (locked or order_id not in self.orders):
                self.orders.put(order_id, tuple(reservation_ids))
        if not loaded.warehouses:
            return []
        return self._note_warehouses(loaded)

    def reservation_made(self, made: KnownReservation) -> None:
        """A reservation of this process is in the log."""
        reservation_id, order_id = made.header.reservation_id, made.header.order_id
        self.reservations.put(reservation_id, made)
        known = self.orders.get(order_id, ())
        if reservation_id not in known:  # a look at the log beside the commit may have found it
            self.orders.put(order_id, (*known, reservation_id))

    def _note_warehouses(self, loaded: Loaded) -> list[str]:
        missing = []
        for row in loaded.warehouses:
            warehouse = self.warehouses.setdefault(row.code, Warehouse.uncreated(row.code))
            if warehouse.version < row.version:
                missing.append(warehouse.id)
        return missing

    def warehouses_seen(self, loaded: Loaded) -> None:
        """Move on to what ``loaded`` named, if the events of all those warehouses are in memory now, and to stay.

        A change of our own that is committing may be seen here before its answer comes, and be undone if none comes.
        """
        named = [(self.warehouses[row.code], row.version) for row in loaded.warehouses]
        if named and all(known.version >= version and not known.new_events for known, version in named):
            self.warehouses_changed = max(self.warehouses_changed, loaded.warehouses[-1].changed)

    def _take_row(self, row: StoredRow, *, fresh: bool) -> None:
        stream = row.stream
        if stream in self.unreadable:
            return
        try:
            if not row.topic:
                self._take_snapshot(row)
            else:
                self._take_event(row, fresh=fresh)
        except OriginatorVersionError:
            # Memory and log disagree about what comes next: the log is right.
            self.items.pop(stream, None)
        except Exception as error:  # noqa: BLE001 - an event that cannot be read or folded, whatever it trips over
            # Only decisions about this item suffer: they are refused with the reason, its neighbours go on.
            self.unreadable[stream] = error if isinstance(error, UnreadableEvent) else UnreadableEvent(repr(error))
            self.items.pop(stream, None)

    def _take_snapshot(self, row: StoredRow) -> None:
        known = self.items.use(row.stream)
        if known is None or (known.version < row.version and not known.new_events):
            try:
                state = self._decode_state(row.state)
            except msgspec.MsgspecError as error:
                raise UnreadableEvent(f"snapshot of {row.stream}: {error}") from error
            self.items.put(row.stream, StockItem.from_state(row.stream, row.version, state))
            self._snapshot_versions[row.stream] = row.version

    def _take_event(self, row: StoredRow, *, fresh: bool) -> None:
        aggregate: Aggregate | None
        if row.stream.startswith(_WAREHOUSE):
            aggregate = self.warehouses[row.stream.removeprefix(_WAREHOUSE)]
        else:
            aggregate = self.items.use(row.stream)
            if aggregate is None and fresh:
                aggregate = StockItem.unregistered(row.stream)
                self.items.put(row.stream, aggregate)
        if aggregate is None or row.version <= aggregate.version or aggregate.new_events:
            return  # known already, or a batch that is committing has changed it: the lock will settle it
        aggregate.evolve(self._mapper.decode(row.topic, row.state))
        aggregate.accept()

    def forget(self, stream: str) -> None:
        """Drop an item: it is loaded again when it is needed."""
        self.items.pop(stream, None)
        self.unreadable.pop(stream, None)

    def snapshots_due(self, items: Iterable[StockItem]) -> list[SnapshotRow]:
        """Snapshots worth taking: at least ``snapshot_every`` events old, more for items with many holds."""
        due = []
        for item in items:
            if item.new_events:
                continue  # decided ahead: not in the log yet
            age = item.version - self._snapshot_versions.get(item.id, 0)
            if age >= max(self._snapshot_every, len(item.holds)):
                state = msgspec.json.encode(item.to_state())
                due.append(SnapshotRow(item.id, item.version, StockItemState.STATE_VERSION, state))
                self._snapshot_versions[item.id] = item.version
        return due

    def clear(self) -> None:
        """Forget everything; between batches only."""
        for entries in (self.items, self.reservations, self.orders, self.places):
            entries.clear()
        self._snapshot_versions.clear()
        self.unreadable.clear()
        self.warehouses.clear()
        self.warehouses_changed = 0

    def trim(self) -> None:
        """Keep within the limits; between batches only."""
        for stream in self.items.trim():
            self._snapshot_versions.pop(stream, None)
        self.reservations.trim()
        self.orders.trim()
        self.places.trim()
        self.unreadable.clear()
