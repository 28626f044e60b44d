"""What requests may say, as structs: they are checked against these, and documented by these."""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from domain.commands import Coordinates
from domain.values import (
    EntityId,
    OpaqueRef,
    Quantity,
    ReservationStatus,
    Sku,
    StockStatus,
    Version,
    WarehouseCode,
    WarehouseStatus,
)
from infra.problems import InvalidRequest
from projections.views.movements import MovementType
from read_api.levels import Item

Instant = Annotated[datetime, Meta(tz=True)]

SKUS_MAX: Final = 100
BATCH_MAX: Final = 1_000

_NUMBER = r"[+-]?[0-9]{1,3}(?:\.[0-9]{1,15})?"
_NEAR = re.compile(rf"({_NUMBER}),({_NUMBER})")
_VERSION = r"(?:0|[1-9][0-9]{0,15})"
_SKU = r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}"
_WAREHOUSE = r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}"
_MIN_VERSION = re.compile(rf"(?:({_SKU})@)?({_WAREHOUSE}):({_VERSION})")

Near = Annotated[
    str,
    Meta(pattern=rf"^{_NUMBER},{_NUMBER}$(?!\n)", description="latitude,longitude in degrees: the nearest first"),
]
MinVersion = Annotated[
    str,
    Meta(
        pattern=rf"^{_SKU}@{_WAREHOUSE}:{_VERSION}$(?!\n)",
        description="{sku}@{warehouse}:{version}: the answer has this item at this version at least, or is 503",
    ),
]
MinVersionHere = Annotated[
    str,
    Meta(
        pattern=rf"^(?:{_SKU}@)?{_WAREHOUSE}:{_VERSION}$(?!\n)",
        description="{warehouse}:{version}: the answer has this item at this version at least, or is 503",
    ),
]
MinVersions = Annotated[list[MinVersion], Meta(max_length=BATCH_MAX)]
MinVersionsHere = Annotated[list[MinVersionHere], Meta(max_length=BATCH_MAX)]
Limit = Annotated[Quantity, Meta(description="rows on the page; more than the service's own maximum is that maximum")]
Cursor = Annotated[str, Meta(max_length=2_000, description="`next_cursor` of the page before")]


class SkuPath(msgspec.Struct):
    sku: Sku


class ItemPath(msgspec.Struct):
    sku: Sku
    warehouse: WarehouseCode


class WarehousePath(msgspec.Struct):
    code: WarehouseCode


class ReservationPath(msgspec.Struct):
    reservation_id: EntityId


class Freshness(msgspec.Struct, kw_only=True):
    min_version: MinVersions = []


class FreshnessHere(msgspec.Struct, kw_only=True):
    min_version: MinVersionsHere = []


class AvailabilityQuery(FreshnessHere, kw_only=True):
    quantity: Annotated[Quantity, Meta(description="answer whether so many can be had (`can_fulfil`)")] | None = None
    near: Near | None = None


class AvailabilitiesQuery(Freshness, kw_only=True):
    sku: Annotated[list[Sku], Meta(min_length=1, max_length=SKUS_MAX)]


class WantedItem(msgspec.Struct, forbid_unknown_fields=True):
    sku: Sku
    quantity: Quantity | None = None


class AvailabilityBatch(msgspec.Struct, forbid_unknown_fields=True):
    items: Annotated[list[WantedItem], Meta(min_length=1, max_length=BATCH_MAX)]


class PageQuery(msgspec.Struct, kw_only=True):
    limit: Limit | None = None
    cursor: Cursor | None = None


class WarehousesQuery(PageQuery, kw_only=True):
    status: WarehouseStatus | None = None
    country: Annotated[str, Meta(pattern=r"^[A-Z]{2}$(?!\n)", description="ISO 3166-1 alpha-2")] | None = None


class WarehouseStockQuery(PageQuery, kw_only=True):
    status: StockStatus | None = None
    min_version: MinVersions = []


class LowStockQuery(PageQuery, kw_only=True):
    warehouse: WarehouseCode | None = None
    min_version: MinVersions = []


class ShortagesQuery(LowStockQuery, kw_only=True):
    pass


class ReservationsQuery(PageQuery, kw_only=True):
    order_id: EntityId | None = None
    sku: Sku | None = None
    warehouse: WarehouseCode | None = None
    status: ReservationStatus | None = None
    expires_before: Annotated[Instant, Meta(description="active, and ending before this instant")] | None = None
    min_version: MinVersions = []


class HistoryQuery(PageQuery, kw_only=True):
    since: Annotated[Instant, Meta(description="not before this instant")] | None = msgspec.field(
        name="from", default=None
    )
    until: Annotated[Instant, Meta(description="before this instant")] | None = msgspec.field(name="to", default=None)
    min_version: MinVersionsHere = []


class MovementsQuery(HistoryQuery, kw_only=True):
    sku: Sku | None = None
    warehouse: WarehouseCode | None = None
    order_id: EntityId | None = None
    reservation_id: EntityId | None = None
    actor: OpaqueRef | None = None
    type: MovementType | None = None
    reference: (
        Annotated[
            str, Meta(pattern=r"^[^\x00]*$(?!\n)", min_length=1, max_length=401, description="{type}:{id} or {id}")
        ]
        | None
    ) = None
    min_version: MinVersions = []


class AsOfQuery(msgspec.Struct, kw_only=True):
    at: Annotated[Instant, Meta(description="the state at this instant; either this or `version`")] | None = None
    version: Annotated[Version, Meta(description="the state right after this version")] | None = None


def wanted_versions(said: Iterable[str], sku: str | None = None) -> dict[Item, int]:
    """The versions asked for by item; of several for one item the latest. ``sku``: of those that name none."""
    versions: dict[Item, int] = {}
    for text in said:
        found = _MIN_VERSION.fullmatch(text)
        if found is None or (found[1] is None and sku is None):
            raise InvalidRequest([("query.min_version", f"not {{sku}}@{{warehouse}}:{{version}}: {text}")])
        item = (found[1] or sku or "", found[2])
        versions[item] = max(int(found[3]), versions.get(item, 0))
    return versions


def coordinates(near: str) -> Coordinates:
    """The point that ``near`` names. Raises InvalidRequest if it is not on Earth."""
    found = _NEAR.fullmatch(near)
    if found is not None:
        latitude, longitude = float(found[1]), float(found[2])
        if abs(latitude) <= 90 and abs(longitude) <= 180:  # noqa: PLR2004  # degrees are what they are
            return Coordinates(latitude=latitude, longitude=longitude)
    raise InvalidRequest([("query.near", "not latitude,longitude in degrees")])
