"""Everything that is ever written to the log.

Two kinds of stream: a stock item's (``stock:{sku}@{warehouse}``) and a warehouse's
(``warehouse:{code}``). An event is a frozen struct; its ``TOPIC`` is its name in the log for ever,
whatever its class is called. When the shape of an event changes, raise its ``class_version`` and add
``upcast_vN_vM`` (see :mod:`infra.event_store.mapper`).

The library's ``DomainEvent`` insists on UUIDs; these events follow its ``DomainEventProtocol`` and
``CanMutateProtocol`` instead.
"""

from datetime import date, datetime
from decimal import Decimal
from typing import Any, ClassVar

import msgspec

from domain.errors import Shortage
from domain.policy import Policy
from domain.values import (
    Address,
    AdjustmentReason,
    Bucket,
    Condition,
    HoldKind,
    Reference,
    ReleaseReason,
    WarehouseStatus,
)


class Origin(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Where an event came from: the command, who gave it, and what that was part of."""

    command_id: str
    actor: str
    correlation_id: str
    causation_id: str | None = None
    idempotency_key: str | None = None
    note: str | None = None
    reference: Reference | None = None
    metadata: dict[str, Any] | None = None


class Allocated(msgspec.Struct, frozen=True, gc=False):
    """Units of one stock item that one part of a command moved."""

    sku: str
    warehouse: str
    quantity: int


class RequestedLine(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A line of a reservation as it was asked for, equal lines merged."""

    sku: str
    quantity: int
    warehouse: str | None = None
    metadata: dict[str, Any] | None = None


class Choice(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Why the allocator took this warehouse for a line that named none."""

    sku: str
    warehouse: str
    quantity: int
    why: str


class ReservationRequest(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What part 1 of a create says of the whole: the reservation's header can be rebuilt from it."""

    lines: tuple[RequestedLine, ...]
    digest: str
    customer_ref: str | None = None
    shortages: tuple[Shortage, ...] = ()
    choices: tuple[Choice, ...] = ()


class Event(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What every event carries. ``timestamp`` (UTC) is when it occurred, by the database's clock."""

    TOPIC: ClassVar[str]
    class_version: ClassVar[int] = 1

    originator_id: str
    originator_version: int
    timestamp: datetime
    origin: Origin


class StockEvent(Event, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """An event of a stock item."""


class HoldEvent(StockEvent, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """An event that touches a hold: part ``part`` of the ``parts`` of its command.

    Part 1 carries the ``allocations`` of all parts, in their order.
    """

    reservation_id: str
    part: int = 1
    parts: int = 1
    allocations: tuple[Allocated, ...] = ()


class Registered(StockEvent, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    TOPIC = "stock-item.registered"
    policy: Policy


class Restocked(StockEvent, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    TOPIC = "stock-item.restocked"
    quantity: int
    unit_cost: Decimal | None = None
    supplier: str | None = None
    lot: str | None = None
    expires_on: date | None = None
    received_on: date | None = None


class Reserved(HoldEvent, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    TOPIC = "stock-item.reserved"
    order_id: str
    quantity: int
    expires_at: datetime | None = None
    kind: HoldKind = HoldKind.ORDER
    request: ReservationRequest | None = None


class Committed(HoldEvent, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    TOPIC = "stock-item.committed"
    quantity: int


class Released(HoldEvent, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    TOPIC = "stock-item.released"
    quantity: int
    bucket: Bucket
    reason: ReleaseReason


class Extended(HoldEvent, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    TOPIC = "stock-item.extended"
    expires_at: datetime


class Shipped(HoldEvent, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    TOPIC = "stock-item.shipped"
    quantity: int
    tracking: str | None = None


class Returned(StockEvent, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """Units came back, of a reservation (then a part of its command, like a hold event) or of none."""

    TOPIC = "stock-item.returned"
    quantity: int
    condition: Condition
    order_id: str | None = None
    reservation_id: str | None = None
    part: int = 1
    parts: int = 1
    allocations: tuple[Allocated, ...] = ()


class Adjusted(StockEvent, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    TOPIC = "stock-item.adjusted"
    delta: int
    reason: AdjustmentReason


class Counted(StockEvent, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A physical count: ``variance`` = counted - expected."""

    TOPIC = "stock-item.counted"
    counted: int
    expected: int
    variance: int


class Damaged(StockEvent, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    TOPIC = "stock-item.damaged"
    quantity: int


class Repaired(StockEvent, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    TOPIC = "stock-item.repaired"
    quantity: int


class WrittenOff(StockEvent, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    TOPIC = "stock-item.written-off"
    quantity: int


class PolicyChanged(StockEvent, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """``policy`` is the whole policy from now on, not the difference."""

    TOPIC = "stock-item.policy-changed"
    policy: Policy


class Discontinued(StockEvent, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    TOPIC = "stock-item.discontinued"


class Reinstated(StockEvent, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    TOPIC = "stock-item.reinstated"


class WarehouseDetails(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Everything that is said of a warehouse. ``capacity`` in units; priority 1 is served first."""

    name: str | None = None
    address: Address | None = None
    timezone: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    priority: int = 100
    capacity: int | None = None
    status: WarehouseStatus = WarehouseStatus.ACTIVE
    policy: Policy | None = None


class WarehouseEvent(Event, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """An event of a warehouse: ``details`` is the whole description from now on."""

    details: WarehouseDetails


class WarehouseCreated(WarehouseEvent, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    TOPIC = "warehouse.created"


class WarehouseChanged(WarehouseEvent, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    TOPIC = "warehouse.changed"


EVENT_CLASSES: tuple[type[Event], ...] = (
    Registered,
    Restocked,
    Reserved,
    Committed,
    Released,
    Extended,
    Shipped,
    Returned,
    Adjusted,
    Counted,
    Damaged,
    Repaired,
    WrittenOff,
    PolicyChanged,
    Discontinued,
    Reinstated,
    WarehouseCreated,
    WarehouseChanged,
)
"""The closed list: a topic that is not among these is a dead letter, never an import."""
