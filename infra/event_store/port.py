"""What the executor needs of an event store, whatever keeps it: load under the log's lock, append, commit.

A batch is one transaction of two round trips: :meth:`EventStore.lock_and_load`, then
:meth:`EventStore.append`. Between the two nobody else appends. :meth:`EventStore.append_unseen` does
both in one trip for a batch that was decided on what memory held; it conflicts if that was stale.
"""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

import msgspec

from domain.hold import Hold
from domain.reservation import ReservationHeader

STALE_AFTER = timedelta(milliseconds=250)
"""How old a decision may be when it is appended unseen: beyond it time itself must be looked up again."""


class StoreError(Exception):
    """The store could not do what was asked."""


class StoreUnavailable(StoreError):
    """The store is away, or went away: whether a commit under way was applied is not known."""


class Conflict(StoreError):
    """Somebody else was first (stream version, idempotency key or reservation id): nothing was appended.

    ``stale`` tells that memory was behind the log; otherwise only a key or an id was taken, or time had passed.
    """

    def __init__(self, detail: str, *, stale: bool) -> None:
        super().__init__(detail)
        self.stale = stale


class Rejected(StoreError):
    """The store refuses the rows themselves, for neither conflict nor connection: nothing was appended."""


class LockTimeout(StoreError):
    """The append lock was not to be had in time: nothing was appended."""


class StoredRow(msgspec.Struct, frozen=True, gc=False):
    """An event as it is stored. ``topic`` empty: a snapshot, its ``state`` that of the aggregate at ``version``."""

    stream: str
    version: int
    topic: str
    state: bytes


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """A recorded outcome of a decision under (scope, key)."""

    scope: str
    key: str
    digest: bytes
    status: int
    body: bytes


class Refusal(NamedTuple):
    """A refused decision, kept as demand that was not met. ``source`` is the scope of its command's key."""

    operation: str
    code: str
    order_id: str | None
    actor: str
    problem: bytes
    command_id: str | None = None
    reservation_id: str | None = None
    source: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None


class WarehouseRow(NamedTuple):
    code: str
    version: int
    changed: int


class SnapshotRow(NamedTuple):
    stream: str
    version: int
    state_version: int
    state: bytes


def by_age(header: ReservationHeader) -> tuple[datetime, str]:
    """The order in which an order's reservations come: oldest first."""
    return header.created_at, header.reservation_id


@dataclass(slots=True)
class Needs:
    """What a batch may read. ``streams``: version already in memory by stream (0: nothing)."""

    cached: dict[str, int] = field(default_factory=dict)
    cold: set[str] = field(default_factory=set)
    keys: set[tuple[str, str]] = field(default_factory=set)
    reservations: set[str] = field(default_factory=set)
    skus: set[str] = field(default_factory=set)
    orders: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.cached or self.cold or self.keys or self.reservations or self.skus or self.orders)


@dataclass(slots=True)
class Loaded:
    """What was found. ``rows`` of a stream are in order: a snapshot first if there is one, then later events.

    ``now`` is the store's clock, UTC. ``warehouses`` are those changed after what was known.
    """

    now: datetime
    rows: list[StoredRow] = field(default_factory=list)
    outcomes: dict[tuple[str, str], Outcome] = field(default_factory=dict)
    headers: dict[str, ReservationHeader] = field(default_factory=dict)
    holds: dict[str, list[Hold]] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)
    """Warehouses by SKU, for every SKU asked for."""
    orders: dict[str, list[str]] = field(default_factory=dict)
    """Reservation ids by order, oldest first, for every order asked for; ``headers`` and ``holds`` have them all."""
    warehouses: list[WarehouseRow] = field(default_factory=list)


@dataclass(slots=True)
class Writes:
    """What a batch appends, all or nothing. ``read``: streams that were read and not written, at these versions.

    ``orders``: how many reservations each order that was decided about had before this batch, as far as memory knew.
    :meth:`EventStore.append_unseen` conflicts where either is otherwise.
    """

    now: datetime
    events: list[StoredRow] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    headers: list[ReservationHeader] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    items: list[tuple[str, str]] = field(default_factory=list)
    warehouses: list[tuple[str, int]] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    read: dict[str, int] = field(default_factory=dict)
    orders: dict[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.events or self.outcomes or self.refusals)


class EventStore(Protocol):
    """One writer's way to the log. One transaction at a time; :meth:`read` may run beside it."""

    async def open(self) -> None:
        """Connect (again). Raises StoreUnavailable."""

    async def close(self) -> None:
        """Let go of everything; an open transaction is rolled back."""

    def read(self, needs: Needs, warehouses_after: int) -> Awaitable[Loaded]:
        """Load outside the lock, beside a transaction. Raises StoreUnavailable."""

    def lock_and_load(self, needs: Needs, warehouses_after: int) -> Awaitable[Loaded]:
        """Begin a transaction, take the append lock, load: one round trip, sent before this returns.

        Raises StoreUnavailable, LockTimeout.
        """

    def load_more(self, needs: Needs, warehouses_after: int) -> Awaitable[Loaded]:
        """Load more in the open transaction. Raises StoreUnavailable."""

    def append(self, writes: Writes) -> Awaitable[datetime]:
        """Append and commit the open transaction: one round trip, sent before this returns. The store's clock.

        Raises Conflict, Rejected (both: rolled back), StoreUnavailable (outcome unknown).
        """

    def append_unseen(self, writes: Writes, warehouses_after: int) -> Awaitable[datetime]:
        """Lock, check, append and commit in one round trip: for what was decided on memory alone.

        Raises Conflict if memory was stale or the decision is older than STALE_AFTER, and what :meth:`append`
        raises, and LockTimeout.
        """

    async def abandon(self) -> None:
        """Roll the open transaction back. Raises StoreUnavailable."""

    async def write_snapshots(self, snapshots: Sequence[SnapshotRow]) -> None:
        """Keep these states, unless newer ones are kept already. Raises StoreUnavailable."""
