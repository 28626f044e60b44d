"""Movements: every event that moved a quantity, with the buckets before and after it."""

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

import msgspec

from domain.events import (
    Adjusted,
    Committed,
    Counted,
    Damaged,
    Event,
    Released,
    Repaired,
    Reserved,
    Restocked,
    Returned,
    Shipped,
    StockEvent,
    WrittenOff,
)
from domain.hold import Hold
from domain.values import Bucket, Reference, stock_stream
from projections.views.stock_levels import Level

NOTHING = (0, 0, 0, 0, 0, 0, 0)


class MovementType(StrEnum):
    RECEIPT = "RECEIPT"
    RESERVATION = "RESERVATION"
    SALE = "SALE"
    RELEASE = "RELEASE"
    REFUND = "REFUND"
    SHIPMENT = "SHIPMENT"
    RETURN = "RETURN"
    ADJUSTMENT = "ADJUSTMENT"
    COUNT = "COUNT"
    DAMAGE = "DAMAGE"
    REPAIR = "REPAIR"
    WRITE_OFF = "WRITE_OFF"


class Movement(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ``movements``. ``before`` and ``after`` are the seven buckets in the order of ``Buckets``.

    ``quantity`` is what was moved, in units; of an adjustment its delta and of a count its variance,
    both with their sign. ``reason`` is the release's or the adjustment's, and the condition of a return.
    """

    sku: str
    warehouse: str
    version: int
    at: datetime
    type: MovementType
    quantity: int
    before: tuple[int, ...]
    after: tuple[int, ...]
    actor: str
    correlation_id: str
    reason: str | None = None
    reservation_id: str | None = None
    order_id: str | None = None
    reference: Reference | None = None
    note: str | None = None
    metadata: dict[str, Any] | None = None
    unit_cost: Decimal | None = None
    lot: str | None = None
    supplier: str | None = None
    idempotency_key: str | None = None

    @property
    def movement_id(self) -> str:
        """``stock:{sku}@{warehouse}#{version}``: the event's own place in the log."""
        return f"{stock_stream(self.sku, self.warehouse)}#{self.version}"


def movement_of(event: StockEvent, before: Level | None, after: Level, hold: Hold | None) -> Movement | None:
    """What ``event`` moved between the two levels; ``None`` if it is of a kind that moves nothing.

    ``hold`` is the hold that the event touched, if any: it knows the order, which most events do not name.
    """
    kind = _TYPES.get(type(event))
    if kind is None:
        return None
    origin = event.origin
    receipt = event if isinstance(event, Restocked) else _NO_RECEIPT
    return Movement(
        sku=after.sku,
        warehouse=after.warehouse,
        version=event.originator_version,
        at=event.timestamp,
        type=kind(event),
        quantity=_quantity(event),
        before=before.buckets if before is not None else NOTHING,
        after=after.buckets,
        actor=origin.actor,
        correlation_id=origin.correlation_id,
        reason=_reason(event),
        reservation_id=hold.reservation_id if hold is not None else None,
        order_id=hold.order_id if hold is not None else getattr(event, "order_id", None),
        reference=origin.reference,
        note=origin.note,
        metadata=origin.metadata,
        unit_cost=receipt.unit_cost,
        lot=receipt.lot,
        supplier=receipt.supplier,
        idempotency_key=origin.idempotency_key,
    )


class _NoReceipt(msgspec.Struct, frozen=True):
    unit_cost: Decimal | None = None
    lot: str | None = None
    supplier: str | None = None


_NO_RECEIPT = _NoReceipt()


def _quantity(event: Any) -> int:
    if isinstance(event, Adjusted):
        return event.delta
    if isinstance(event, Counted):
        return event.variance
    quantity: int = event.quantity
    return quantity


def _reason(event: StockEvent) -> str | None:
    if isinstance(event, Released | Adjusted):
        return event.reason
    return event.condition if isinstance(event, Returned) else None


def _always(kind: MovementType) -> Callable[[Any], MovementType]:
    return lambda _event: kind


_TYPES: dict[type[Event], Callable[[Any], MovementType]] = {
    Restocked: _always(MovementType.RECEIPT),
    Reserved: _always(MovementType.RESERVATION),
    Committed: _always(MovementType.SALE),
    Released: lambda event: MovementType.RELEASE if event.bucket is Bucket.RESERVED else MovementType.REFUND,
    Shipped: _always(MovementType.SHIPMENT),
    Returned: _always(MovementType.RETURN),
    Adjusted: _always(MovementType.ADJUSTMENT),
    Counted: _always(MovementType.COUNT),
    Damaged: _always(MovementType.DAMAGE),
    Repaired: _always(MovementType.REPAIR),
    WrittenOff: _always(MovementType.WRITE_OFF),
}
