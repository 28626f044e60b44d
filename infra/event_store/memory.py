"""The event store in memory: the same promises as in PostgreSQL, for tests that ask for no server.

Several stores on one :class:`MemoryLog` are several processes on one database.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain

from domain.hold import Hold
from domain.reservation import ReservationHeader
from domain.stock_item import StockItemState
from infra.event_store.port import (
    STALE_AFTER,
    Conflict,
    Loaded,
    Needs,
    Outcome,
    Refusal,
    Rejected,
    SnapshotRow,
    StoredRow,
    WarehouseRow,
    Writes,
    by_age,
)


@dataclass
class MemoryLog:
    """What a database would keep. ``clock`` gives the store's time (UTC)."""

    clock: Callable[[], datetime]
    events: list[StoredRow] = field(default_factory=list)
    streams: dict[str, list[StoredRow]] = field(default_factory=dict)
    outcomes: dict[tuple[str, str], Outcome] = field(default_factory=dict)
    headers: dict[str, ReservationHeader] = field(default_factory=dict)
    holds: dict[str, dict[tuple[str, str], Hold]] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)
    warehouses: dict[str, WarehouseRow] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    snapshots: dict[str, SnapshotRow] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    changes: int = 0


class MemoryEventStore:
    """One writer's way to a :class:`MemoryLog` (see :class:`infra.event_store.port.EventStore`)."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self._holds_lock = False

    async def open(self) -> None:
        """There is nothing to connect to."""
        await self.close()

    async def close(self) -> None:
        """Let go of the lock, if an open transaction holds it."""
        if self._holds_lock:
            await self.abandon()

    async def read(self, needs: Needs, warehouses_after: int) -> Loaded:
        """Load outside the lock."""
        return self._load(needs, warehouses_after)

    async def lock_and_load(self, needs: Needs, warehouses_after: int) -> Loaded:
        """Take the lock, then load."""
        await self._log.lock.acquire()
        self._holds_lock = True
        return self._load(needs, warehouses_after)

    async def load_more(self, needs: Needs, warehouses_after: int) -> Loaded:
        """Load more under the lock."""
        return self._load(needs, warehouses_after)

    async def append(self, writes: Writes) -> datetime:
        """Append and let go of the lock. Raises Conflict, Rejected: then nothing was appended."""
        try:
            self._write(writes)
            return self._log.clock()
        finally:
            await self.abandon()

    def append_unseen(self, writes: Writes, warehouses_after: int) -> Awaitable[datetime]:
        """Lock, check, append. Raises Conflict if memory was stale, and what :meth:`append` raises."""
        return self._append_unseen(writes, warehouses_after)

    async def _append_unseen(self, writes: Writes, warehouses_after: int) -> datetime:
        async with self._log.lock:
            if self._log.clock() - writes.now > STALE_AFTER:
                raise Conflict("decided too long ago", stale=False)
            if self._changed_after(warehouses_after):
                raise Conflict("a warehouse has changed", stale=True)
            for stream, version in writes.read.items():
                if self._version(stream) != version:
                    raise Conflict(f"{stream} has grown", stale=True)
            for order_id, known in writes.orders.items():
                if len(self._reservations_of(order_id)) != known:
                    raise Conflict(f"order {order_id} has other reservations", stale=False)
            self._write(writes)
            return self._log.clock()

    async def abandon(self) -> None:
        """Let go of the lock; nothing was written before :meth:`append`."""
        self._holds_lock = False
        self._log.lock.release()

    async def write_snapshots(self, snapshots: Sequence[SnapshotRow]) -> None:
        """Keep these states, unless newer ones are kept already."""
        for row in snapshots:
            kept = self._log.snapshots.get(row.stream)
            if kept is None or (kept.state_version, kept.version) < (row.state_version, row.version):
                self._log.snapshots[row.stream] = row

    def _version(self, stream: str) -> int:
        rows = self._log.streams.get(stream)
        return rows[-1].version if rows else 0

    def _reservations_of(self, order_id: str) -> list[str]:
        headers = sorted((header for header in self._log.headers.values() if header.order_id == order_id), key=by_age)
        return [header.reservation_id for header in headers]

    def _changed_after(self, known: int) -> list[WarehouseRow]:
        rows = (row for row in self._log.warehouses.values() if row.changed > known)
        return sorted(rows, key=lambda row: row.changed)

    def _load(self, needs: Needs, warehouses_after: int) -> Loaded:
        log = self._log
        loaded = Loaded(now=log.clock(), warehouses=self._changed_after(warehouses_after))
        for stream, version in needs.cached.items():
            loaded.rows += log.streams.get(stream, [])[version:]
        for stream in needs.cold:
            snapshot = log.snapshots.get(stream)
            if snapshot is not None and snapshot.state_version != StockItemState.STATE_VERSION:
                snapshot = None
            if snapshot is not None:
                loaded.rows.append(StoredRow(stream, snapshot.version, "", snapshot.state))
            loaded.rows += log.streams.get(stream, [])[snapshot.version if snapshot else 0 :]
        loaded.outcomes = {key: log.outcomes[key] for key in needs.keys if key in log.outcomes}
        for order_id in needs.orders:
            loaded.orders[order_id] = self._reservations_of(order_id)
        named = needs.reservations.union(*loaded.orders.values())
        for reservation_id in named & log.headers.keys():
            loaded.headers[reservation_id] = log.headers[reservation_id]
            loaded.holds[reservation_id] = sorted(log.holds[reservation_id].values(), key=lambda hold: hold.part)
        loaded.places = {sku: list(log.places.get(sku, [])) for sku in needs.skus}
        return loaded

    def _write(self, writes: Writes) -> None:
        self._check(writes)
        log = self._log
        for row in writes.events:
            log.events.append(row)
            log.streams.setdefault(row.stream, []).append(row)
        log.outcomes |= {(outcome.scope, outcome.key): outcome for outcome in writes.outcomes}
        log.headers |= {header.reservation_id: header for header in writes.headers}
        for hold in writes.holds:
            log.holds.setdefault(hold.reservation_id, {})[hold.sku, hold.warehouse] = hold
        for sku, warehouse in writes.items:
            places = log.places.setdefault(sku, [])
            if warehouse not in places:
                places.append(warehouse)
        for code, version in writes.warehouses:
            log.changes += 1
            log.warehouses[code] = WarehouseRow(code, version, log.changes)
        log.refusals += writes.refusals

    def _check(self, writes: Writes) -> None:
        """Everything that a database would refuse, before anything is changed."""
        log = self._log
        next_version: dict[str, int] = {}
        for row in writes.events:
            expected = next_version.get(row.stream, self._version(row.stream) + 1)
            if row.version != expected:
                raise Conflict(f"{row.stream} has a version {row.version}", stale=True)
            next_version[row.stream] = expected + 1
        for outcome in writes.outcomes:
            if (outcome.scope, outcome.key) in log.outcomes:
                raise Conflict(f"key {outcome.key} is taken", stale=False)
        for header in writes.headers:
            if header.reservation_id in log.headers:
                raise Conflict(f"reservation {header.reservation_id} is taken", stale=False)
        texts = chain(
            (row.stream for row in writes.events),
            (outcome.key for outcome in writes.outcomes),
            *((header.reservation_id, header.order_id, header.customer_ref or "") for header in writes.headers),
        )
        if any("\x00" in text for text in texts):
            raise Rejected("a text holds a NUL")
