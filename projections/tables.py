"""How the rows of the views become the columns of their tables (``views/tables.sql``), and come back."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from operator import attrgetter
from typing import Any

import msgspec
from msgspec.structs import astuple, fields

from domain.events import WarehouseDetails
from domain.hold import Hold, Shipment
from domain.policy import Policy
from domain.values import ReleaseReason
from infra.documents import encode
from projections.binary import BOOL, INT8, JSON, NUMERIC, SEVEN, TEXT, TIME, Column, Kind, Table
from projections.views.movements import Movement, MovementType
from projections.views.reservations import ReservationRow, due_at
from projections.views.stock_levels import Level
from projections.views.warehouses import WarehouseRow

Row = tuple[Any, ...]


_KINDS: dict[object, Kind] = {
    int: INT8,
    bool: BOOL,
    str: TEXT,
    str | None: TEXT,
    datetime: TIME,
    datetime | None: TIME,
    ReleaseReason | None: TEXT,
    MovementType: TEXT,
    tuple[int, ...]: SEVEN,
    Decimal | None: NUMERIC,
}


def _table(table: str, **kinds: Kind) -> Table:
    return Table(table, tuple(Column(name, kind) for name, kind in kinds.items()))


def _columns(kind: Kind, *names: str) -> dict[str, Kind]:
    return dict.fromkeys(names, kind)


def _columns_of(struct: type[msgspec.Struct], names: Sequence[str]) -> dict[str, Kind]:
    types = {field.name: field.type for field in fields(struct)}
    return {name: _KINDS[types[name]] for name in names}


_LEVEL_FIELDS = Level.__struct_fields__
_MOVEMENT_FIELDS = Movement.__struct_fields__[:-2]
"""All but the reference, which takes two columns, and the metadata, which are JSON."""
_HOLD_FIELDS = tuple(name for name in Hold.__struct_fields__ if name != "shipments")

STOCK_LEVELS = _table("stock_levels", **_columns_of(Level, _LEVEL_FIELDS), revision=INT8)
HOLDS = _table("holds", **_columns_of(Hold, _HOLD_FIELDS), shipments=JSON, due_at=TIME)
POLICIES = _table("policies", version=INT8, sku=TEXT, warehouse=TEXT, policy=JSON)
RESERVATIONS = _table(
    "reservations",
    created_at=TIME,
    **_columns(TEXT, "reservation_id", "order_id", "kind", "customer_ref", "created_by", "digest"),
    **_columns(JSON, "lines", "allocations", "shortages", "choices"),
)
MOVEMENTS = _table(
    "movements",
    **_columns_of(Movement, _MOVEMENT_FIELDS),
    **_columns(TEXT, "reference_type", "reference_id"),
    metadata=JSON,
)
WAREHOUSES = _table(
    "warehouses",
    **_columns(INT8, "version", "revision"),
    **_columns(TIME, "created_at", "updated_at"),
    **_columns(TEXT, "code", "status", "country"),
    stale=BOOL,
    details=JSON,
)

_hold_values = attrgetter(*_HOLD_FIELDS)
_shipments = msgspec.json.Decoder(tuple[Shipment, ...])
_details = msgspec.json.Decoder(WarehouseDetails)

LEVEL_SELECT = ", ".join(f"l.{name}" for name in _LEVEL_FIELDS)
"""The columns of a level as :func:`level_from` takes them, of ``stock_levels`` under the name ``l``."""
HOLD_SELECT = ", ".join(f"h.{name}" for name in (*_HOLD_FIELDS, "shipments"))
"""The columns of a hold as :func:`hold_from` takes them, of ``holds`` under the name ``h``."""
WAREHOUSE_SELECT = "w.code, w.version, w.details, w.created_at, w.updated_at"
"""The columns of a warehouse as :func:`warehouse_from` takes them, of ``warehouses`` under the name ``w``."""


def level_row(level: Level, revision: int) -> Row:
    return (*astuple(level), revision)


def level_from(row: Row) -> Level:
    """The level of the columns of LEVEL_SELECT."""
    return Level(*row)


def policy_row(level: Level, policy: Policy, version: int) -> Row:
    """``version``: of the event that said it."""
    return (version, level.sku, level.warehouse, encode(policy))


def reservation_row(header: ReservationRow) -> Row:
    return (
        header.created_at,
        header.reservation_id,
        header.order_id,
        header.kind,
        header.customer_ref,
        header.created_by,
        header.digest,
        encode(header.lines),
        encode(header.allocations),
        encode(header.shortages) if header.shortages else None,
        encode(header.choices) if header.choices else None,
    )


def hold_row(hold: Hold) -> Row:
    values: Row = _hold_values(hold)
    return (*values, encode(hold.shipments) if hold.shipments else None, due_at(hold))


def hold_from(row: Row) -> Hold:
    """The hold of the columns of HOLD_SELECT; json columns are bytes."""
    *values, reason, shipments = row
    values.append(None if reason is None else ReleaseReason(reason))
    values.append(() if shipments is None else _shipments.decode(shipments))
    return Hold(*values)


def movement_row(movement: Movement) -> Row:
    *values, reference, metadata = astuple(movement)
    if reference is None and metadata is None:
        return (*values, None, None, None)
    names = (None, None) if reference is None else (reference.type, reference.id)
    return (*values, *names, None if metadata is None else encode(metadata))


def warehouse_row(row: WarehouseRow, revision: int, stale: bool) -> Row:
    details = row.details
    return (
        row.version,
        revision,
        row.created_at,
        row.updated_at,
        row.code,
        details.status,
        details.address.country if details.address is not None else None,
        stale,
        encode(details),
    )


def warehouse_from(row: Row) -> WarehouseRow:
    """The warehouse of the columns of WAREHOUSE_SELECT; ``details`` are bytes."""
    code, version, details, created_at, updated_at = row
    return WarehouseRow(
        code=code, version=version, details=_details.decode(details), created_at=created_at, updated_at=updated_at
    )
