"""What can be asked of the service. A command is imperative, typed, and within its limits once it exists.

Field types carry the limits (see :mod:`domain.values`), so that decoding a request body into a
command is its validation. What a path names (``sku``, ``reservation_id`` …) is a field like the others.
"""

from datetime import date
from decimal import Decimal
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from domain.policy import Policy, PolicyPatch
from domain.values import (
    MAX_LINES,
    Address,
    AdjustmentReason,
    Condition,
    Count,
    Delta,
    EntityId,
    HoldKind,
    Latitude,
    Longitude,
    Metadata,
    Note,
    OpaqueRef,
    Priority,
    Quantity,
    Reference,
    ReleaseReason,
    ShortText,
    Sku,
    Strategy,
    TtlSeconds,
    Version,
    WarehouseCode,
    WarehouseStatus,
    check_metadata,
)


class Command(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """Anything that can be asked of the executor."""


class Line(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Units wanted of a SKU, at a warehouse or wherever the allocator finds them."""

    sku: Sku
    quantity: Quantity
    warehouse: WarehouseCode | None = None
    metadata: Metadata | None = None

    def __post_init__(self) -> None:
        check_metadata(self.metadata)


class PartLine(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Part of what a reservation has; without a warehouse, of its allocations in their order."""

    sku: Sku
    quantity: Quantity
    warehouse: WarehouseCode | None = None


class ShipLine(PartLine, frozen=True, gc=False, forbid_unknown_fields=True):
    tracking: ShortText | None = None


class ReturnLine(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    sku: Sku
    warehouse: WarehouseCode
    quantity: Quantity
    condition: Condition


class Coordinates(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Degrees, WGS 84."""

    latitude: Latitude
    longitude: Longitude


class AllocationOptions(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    strategy: Strategy = Strategy.PRIORITY
    allow_split: bool = True
    allow_partial: bool = False
    ship_to: Coordinates | None = None

    def __post_init__(self) -> None:
        if self.strategy is Strategy.NEAREST and self.ship_to is None:
            raise ValueError("strategy `nearest` needs `ship_to`")


Lines = Annotated[tuple[Line, ...], Meta(min_length=1, max_length=MAX_LINES)]
PartLines = Annotated[tuple[PartLine, ...], Meta(min_length=1, max_length=MAX_LINES)]


class CreateReservation(Command, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """Hold stock for an order. ``ttl_seconds`` null: for ever (``manual`` only); absent: by policy."""

    order_id: EntityId
    lines: Lines
    reservation_id: EntityId | None = None
    kind: HoldKind = HoldKind.ORDER
    customer_ref: OpaqueRef | None = None
    ttl_seconds: TtlSeconds | UnsetType | None = UNSET
    allocation: AllocationOptions = AllocationOptions()

    def __post_init__(self) -> None:
        if self.ttl_seconds is None and self.kind is not HoldKind.MANUAL:
            raise ValueError("only a reservation of kind `manual` may have no end (`ttl_seconds` null)")


class ReservationCommand(Command, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """A command on one existing reservation."""

    reservation_id: EntityId


class CommitReservation(ReservationCommand, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    lines: PartLines | None = None


class ReleaseReservation(ReservationCommand, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    reason: ReleaseReason = ReleaseReason.CANCELLED
    lines: PartLines | None = None

    def __post_init__(self) -> None:
        if self.reason not in _CALLERS_REASONS:
            raise ValueError(f"`reason` {self.reason} is the service's own")


_CALLERS_REASONS = {ReleaseReason.CANCELLED, ReleaseReason.PAYMENT_FAILED, ReleaseReason.ORDER_CANCELLED}


class ExtendReservation(ReservationCommand, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """A new end: ``ttl_seconds`` from now, or ``add_seconds`` to the present one."""

    ttl_seconds: TtlSeconds | None = None
    add_seconds: TtlSeconds | None = None

    def __post_init__(self) -> None:
        if (self.ttl_seconds is None) == (self.add_seconds is None):
            raise ValueError("say either `ttl_seconds` or `add_seconds`")


class ShipReservation(ReservationCommand, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    tracking: ShortText | None = None
    lines: Annotated[tuple[ShipLine, ...], Meta(min_length=1, max_length=MAX_LINES)] | None = None


class CancelReservation(ReservationCommand, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    lines: PartLines | None = None


class ReturnReservation(ReservationCommand, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    lines: Annotated[tuple[ReturnLine, ...], Meta(min_length=1, max_length=MAX_LINES)]


class OrderCommand(Command, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """A command on every reservation of an order, all or nothing."""

    order_id: EntityId


class CommitOrder(OrderCommand, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """The order has paid."""


class ReleaseOrder(OrderCommand, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """The order will not pay."""


class CancelOrder(OrderCommand, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """The order is cancelled, paid or not: what is held is released, what is committed comes back."""


class ShipOrder(OrderCommand, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """Paid units leave; without lines all of them."""

    tracking: ShortText | None = None
    lines: Annotated[tuple[ShipLine, ...], Meta(min_length=1, max_length=MAX_LINES)] | None = None


class ReturnOrder(OrderCommand, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """Shipped units come back."""

    lines: Annotated[tuple[ReturnLine, ...], Meta(min_length=1, max_length=MAX_LINES)]


class StockCommand(Command, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """A command on one stock item. ``expected_version`` compares before it sets; 0: must not exist yet."""

    sku: Sku
    warehouse: WarehouseCode
    expected_version: Version | None = None
    reference: Reference | None = None
    note: Note | None = None
    metadata: Metadata | None = None

    def __post_init__(self) -> None:
        check_metadata(self.metadata)


class Restock(StockCommand, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    quantity: Quantity
    unit_cost: Annotated[Decimal, Meta()] | None = None
    supplier: ShortText | None = None
    lot: ShortText | None = None
    expires_on: date | None = None
    received_on: date | None = None

    def __post_init__(self) -> None:
        check_metadata(self.metadata)
        if self.unit_cost is not None and not _is_cost(self.unit_cost):
            raise ValueError("`unit_cost` is from 0 to 10^12, with at most 6 decimals")


def _is_cost(cost: Decimal) -> bool:
    exponent = cost.as_tuple().exponent  # a letter for what is not finite
    return isinstance(exponent, int) and -6 <= exponent <= 12 and 0 <= cost < 10**12  # noqa: PLR2004  as in the message


class Adjust(StockCommand, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    delta: Delta
    reason: AdjustmentReason


class CountStock(StockCommand, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    counted: Count


class Damage(StockCommand, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    quantity: Quantity


class Repair(StockCommand, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    quantity: Quantity


class WriteOff(StockCommand, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    quantity: Quantity


class ReturnStock(StockCommand, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """Units came back that no reservation of ours accounts for."""

    quantity: Quantity
    condition: Condition
    order_id: EntityId | None = None


class ChangePolicy(StockCommand, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    patch: PolicyPatch


class PutWarehouse(Command, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """Create a warehouse, or change what is named of it; null clears a detail that may be absent."""

    code: WarehouseCode
    name: ShortText | UnsetType | None = UNSET
    address: Address | UnsetType | None = UNSET
    timezone: ShortText | UnsetType | None = UNSET
    latitude: Latitude | UnsetType | None = UNSET
    longitude: Longitude | UnsetType | None = UNSET
    priority: Priority | UnsetType = UNSET
    capacity: Count | UnsetType | None = UNSET
    status: WarehouseStatus | UnsetType = UNSET
    policy: Policy | UnsetType | None = UNSET
    only_create: bool = False


class ExpireHolds(Command, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """The service's own: release what is due on one item, at most ``limit`` holds, the longest overdue first."""

    stream: str
    limit: int = 200


class RelieveShortage(Command, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """The service's own: release the newest unpaid holds of an item that fell short, if its policy says so."""

    stream: str
    limit: int = 200
