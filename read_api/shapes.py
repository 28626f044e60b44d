"""The read API's own JSON shapes; what it shares with the command API is in :mod:`infra.documents`."""

from datetime import datetime
from typing import Annotated, Generic, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from domain.hold import Hold
from domain.values import ReservationStatus, StockStatus
from infra.documents import LevelDocument, ReservationDocument, WarehouseDocument
from projections.views.movements import MovementDocument

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
