"""Movements: every event that moved a quantity, with the buckets before and after it."""

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

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
    WrittenOff,
)
from domain.hold import Hold
from domain.values import Bucket, Reference, stock_stream
from infra.documents import Buckets
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


class MovementDocument(msgspec.Struct, frozen=True):
    """One event that moved a quantity, as the contract shows it: what it does not have is left out."""

    movement_id: str
    sku: str
    warehouse: str
    version: int
    at: datetime
    type: MovementType
    quantity: Annotated[int, Meta(description="units moved; of a correction or a count the difference, with its sign")]
    before: Buckets
    after: Buckets
    actor: str
    reason: str | None
    correlation_id: str
    reservation_id: str | UnsetType = UNSET
    order_id: str | UnsetType = UNSET
    reference: Reference | UnsetType = UNSET
    note: str | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    unit_cost: Decimal | UnsetType = UNSET
    lot: str | UnsetType = UNSET
    supplier: str | UnsetType = UNSET
    idempotency_key: str | UnsetType = UNSET


class Movement(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ``movements``. ``before`` and ``after`` are the seven buckets in the order of ``Buckets``.

    ``quantity`` is what was moved, in units; of an adjustment its delta and of a count its variance,
    both with their sign. ``reason`` is the release's or the adjustment's, and the condition of a return.
    """

    sku: str
    warehouse: str
    type: MovementType
    version: int
    quantity: int
    at: datetime
    before: tuple[int, ...]
    after: tuple[int, ...]
    actor: str
    correlation_id: str
    reason: str | None = None
    reservation_id: str | None = None
    order_id: str | None = None
    note: str | None = None
    lot: str | None = None
    supplier: str | None = None
    idempotency_key: str | None = None
    unit_cost: Decimal | None = None
    reference: Reference | None = None
    metadata: dict[str, Any] | None = None

    @property
    def movement_id(self) -> str:
        """``stock:{sku}@{warehouse}#{version}``: the event's own place in the log."""
        return f"{stock_stream(self.sku, self.warehouse)}#{self.version}"

    def document(self) -> MovementDocument:
        """The movement as the contract shows it."""
        return MovementDocument(
            movement_id=self.movement_id,
            sku=self.sku,
            warehouse=self.warehouse,
            version=self.version,
            at=self.at,
            type=self.type,
            quantity=self.quantity,
            before=Buckets(*self.before),
            after=Buckets(*self.after),
            actor=self.actor,
            reason=self.reason,
            correlation_id=self.correlation_id,
            reservation_id=_or_unset(self.reservation_id),
            order_id=_or_unset(self.order_id),
            reference=_or_unset(self.reference),
            note=_or_unset(self.note),
            metadata=_or_unset(self.metadata),
            unit_cost=_or_unset(self.unit_cost),
            lot=_or_unset(self.lot),
            supplier=_or_unset(self.supplier),
            idempotency_key=_or_unset(self.idempotency_key),
        )


_Given = TypeVar("_Given")


def _or_unset(value: _Given | None) -> _Given | UnsetType:
    return UNSET if value is None else value


def movement_of(event: Event, before: Level | None, after: Level, hold: Hold | None) -> Movement | None:
    """What ``event`` moved between the two levels; ``None`` if it is of a kind that moves nothing.

    ``hold`` is the hold that the event touched, if any: it knows the order, which most events do not name.
    """
    says = _SAYS.get(type(event))
    if says is None:
        return None
    kind, quantity, reason = says(event)
    origin = event.origin
    receipt = event if type(event) is Restocked else _NO_RECEIPT
    return Movement(
        sku=after.sku,
        warehouse=after.warehouse,
        version=event.originator_version,
        at=event.timestamp,
        type=kind,
        quantity=quantity,
        before=before.buckets if before is not None else NOTHING,
        after=after.buckets,
        actor=origin.actor,
        correlation_id=origin.correlation_id,
        reason=reason,
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

_Said = tuple[MovementType, int, str | None]
"""Kind, quantity, reason."""


def _plain(kind: MovementType) -> Callable[[Any], _Said]:
    return lambda event: (kind, event.quantity, None)


def _released(event: Released) -> _Said:
    kind = MovementType.RELEASE if event.bucket is Bucket.RESERVED else MovementType.REFUND
    return kind, event.quantity, event.reason


_SAYS: dict[type[Event], Callable[[Any], _Said]] = {
    Restocked: _plain(MovementType.RECEIPT),
    Reserved: _plain(MovementType.RESERVATION),
    Committed: _plain(MovementType.SALE),
    Released: _released,
    Shipped: _plain(MovementType.SHIPMENT),
    Returned: lambda event: (MovementType.RETURN, event.quantity, event.condition),
    Adjusted: lambda event: (MovementType.ADJUSTMENT, event.delta, event.reason),
    Counted: lambda event: (MovementType.COUNT, event.variance, None),
    Damaged: _plain(MovementType.DAMAGE),
    Repaired: _plain(MovementType.REPAIR),
    WrittenOff: _plain(MovementType.WRITE_OFF),
}
