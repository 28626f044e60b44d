"""The read API's own JSON shapes; what it shares with the command API is in :mod:`infra.documents`."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from domain.hold import Hold
from domain.values import Reference, ReservationStatus, StockStatus
from infra.documents import Buckets, LevelDocument, ReservationDocument, WarehouseDocument
from projections.views.movements import Movement, MovementType

Item = TypeVar("Item")

Source = Annotated[Literal["redis", "postgres"], Meta(description="which of the views answered")]


class WarehouseLevel(LevelDocument, frozen=True, kw_only=True, gc=False):
    """A level with the name of its warehouse and, where asked for, how far away that is."""

    name: str | None
    distance_km: float | UnsetType | None = UNSET


class Availability(msgspec.Struct, frozen=True):
    """What can be had of a SKU. Only ACTIVE warehouses count; all that have the SKU are listed."""

    sku: str
    known: bool
    available: Annotated[int, Meta(description="sum of the ACTIVE warehouses' `available`")]
    status: StockStatus
    warehouses: list[WarehouseLevel]
    as_of: datetime | None
    source: Source
    can_fulfil: (
        Annotated[bool, Meta(description="whether `quantity` can be promised, backorders included")] | UnsetType
    ) = UNSET


class Availabilities(msgspec.Struct, frozen=True):
    """In the order asked for. ``can_fulfil``: all quantities that were named, together."""

    items: list[Availability]
    can_fulfil: bool | UnsetType = UNSET


class Page(msgspec.Struct, Generic[Item], frozen=True):
    """A part of a list; ``next_cursor`` is null on the last one."""

    items: list[Item]
    next_cursor: str | None


class HoldDocument(msgspec.Struct, frozen=True):
    """What a reservation holds of one stock item."""

    reservation_id: str
    order_id: str
    status: ReservationStatus
    active: int
    committed: int
    expires_at: datetime | None
    version: int


class AsOfLevel(LevelDocument, frozen=True, kw_only=True, gc=False):
    """A level as it was, with the holds that were active."""

    holds: list[HoldDocument]


class ShortLevel(LevelDocument, frozen=True, kw_only=True, gc=False):
    """An item with less stock than was promised of it, and whose promises those are, the newest first."""

    reservations: list[HoldDocument]


class MovementDocument(msgspec.Struct, frozen=True):
    """One event that moved a quantity."""

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


class LevelPage(Page[LevelDocument], frozen=True):
    """Stock levels, in the order of SKU and warehouse."""


class WarehousePage(Page[WarehouseDocument], frozen=True):
    """Warehouses, in the order of their codes."""


class ReservationPage(Page[ReservationDocument], frozen=True):
    """Reservations, in the order of their ids."""


class MovementPage(Page[MovementDocument], frozen=True):
    """Movements, the newest first."""


class ShortagePage(Page[ShortLevel], frozen=True):
    """Items short of their promises, in the order of SKU and warehouse."""


def movement_document(movement: Movement) -> MovementDocument:
    """The movement as the contract shows it: what it does not have is left out."""
    return MovementDocument(
        movement_id=movement.movement_id,
        sku=movement.sku,
        warehouse=movement.warehouse,
        version=movement.version,
        at=movement.at,
        type=movement.type,
        quantity=movement.quantity,
        before=Buckets(*movement.before),
        after=Buckets(*movement.after),
        actor=movement.actor,
        reason=movement.reason,
        correlation_id=movement.correlation_id,
        reservation_id=_or_unset(movement.reservation_id),
        order_id=_or_unset(movement.order_id),
        reference=_or_unset(movement.reference),
        note=_or_unset(movement.note),
        metadata=_or_unset(movement.metadata),
        unit_cost=_or_unset(movement.unit_cost),
        lot=_or_unset(movement.lot),
        supplier=_or_unset(movement.supplier),
        idempotency_key=_or_unset(movement.idempotency_key),
    )


def hold_document(hold: Hold) -> HoldDocument:
    return HoldDocument(
        reservation_id=hold.reservation_id,
        order_id=hold.order_id,
        status=hold.status,
        active=hold.active,
        committed=hold.committed,
        expires_at=hold.expires_at if hold.active else None,
        version=hold.version,
    )


Found = TypeVar("Found")


def _or_unset(value: Found | None) -> Found | UnsetType:
    return UNSET if value is None else value
