"""The JSON shapes of the HTTP contract, v1: clients are written against these fields.

Write side and read API answer with the same structs, so that a caller cannot tell them apart.
Quantities are units, times UTC (ISO 8601 with ``Z``).
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from domain.errors import Shortage
from domain.events import RequestedLine
from domain.hold import Hold, Shipment, overall_status
from domain.policy import Policy, stock_status
from domain.reservation import ReservationHeader
from domain.values import (
    Address,
    HoldKind,
    ReleaseReason,
    ReservationStatus,
    StockStatus,
    WarehouseStatus,
)

encode = msgspec.json.Encoder(decimal_format="string").encode


class LevelDocument(msgspec.Struct, frozen=True, gc=False):
    """What there is of a SKU at a warehouse, due holds already counted as free."""

    sku: str
    warehouse: str
    on_hand: int
    reserved: int
    committed: int
    damaged: int
    quarantined: int
    in_transit: int
    incoming: int
    safety_stock: int
    available: int
    total: int
    short: int
    backorder_limit: int
    sold: int
    returned: int
    lost: int
    status: StockStatus
    version: int
    as_of: datetime
    created_at: datetime
    last_movement_at: datetime | None
    last_restocked_at: datetime | None
    last_sold_at: datetime | None
    last_counted_at: datetime | None
    stale: bool | UnsetType = UNSET


class Buckets(msgspec.Struct, frozen=True, gc=False):
    """The quantities of a stock item at one version, as a movement shows them before and after."""

    on_hand: int = 0
    reserved: int = 0
    committed: int = 0
    damaged: int = 0
    quarantined: int = 0
    in_transit: int = 0
    incoming: int = 0


class LevelFacts(msgspec.Struct, frozen=True, gc=False):
    """The figures from which a level document follows; ``buckets.reserved`` still counts due holds."""

    buckets: Buckets
    policy: Policy
    sold: int
    returned: int
    lost: int
    discontinued: bool
    version: int
    as_of: datetime
    created_at: datetime
    last_movement_at: datetime | None = None
    last_restocked_at: datetime | None = None
    last_sold_at: datetime | None = None
    last_counted_at: datetime | None = None


def level_document(
    sku: str, warehouse: str, facts: LevelFacts, due: int, stale: bool | UnsetType = UNSET
) -> LevelDocument:
    """The level of an item of which ``due`` reserved units have expired without being swept yet."""
    buckets, policy = facts.buckets, facts.policy
    reserved = buckets.reserved - due
    available = buckets.on_hand - reserved - buckets.committed - policy.safety_stock
    return LevelDocument(
        sku=sku,
        warehouse=warehouse,
        on_hand=buckets.on_hand,
        reserved=reserved,
        committed=buckets.committed,
        damaged=buckets.damaged,
        quarantined=buckets.quarantined,
        in_transit=buckets.in_transit,
        incoming=buckets.incoming,
        safety_stock=policy.safety_stock,
        available=max(0, available),
        total=buckets.on_hand + buckets.damaged + buckets.quarantined + buckets.in_transit,
        short=max(0, reserved + buckets.committed - buckets.on_hand - policy.backorder_limit),
        backorder_limit=policy.backorder_limit,
        sold=facts.sold,
        returned=facts.returned,
        lost=facts.lost,
        status=stock_status(
            available, policy.low_stock_threshold, policy.backorder_limit, discontinued=facts.discontinued
        ),
        version=facts.version,
        as_of=facts.as_of,
        created_at=facts.created_at,
        last_movement_at=facts.last_movement_at,
        last_restocked_at=facts.last_restocked_at,
        last_sold_at=facts.last_sold_at,
        last_counted_at=facts.last_counted_at,
        stale=stale,
    )


class AllocationDocument(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A hold as the contract shows it. ``quantity`` = active + committed + shipped + released."""

    warehouse: str
    quantity: int
    active: int = msgspec.field()
    committed: int = msgspec.field()
    shipped: int = msgspec.field()
    returned: int = msgspec.field()
    released: int = msgspec.field()
    status: ReservationStatus = msgspec.field()
    version: int = msgspec.field()
    shipments: tuple[Shipment, ...] = ()


class LineDocument(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    sku: str
    quantity: int
    allocations: list[AllocationDocument] = msgspec.field()
    metadata: dict[str, Any] | UnsetType | None = UNSET


class ReservationDocument(msgspec.Struct, frozen=True, gc=False):
    reservation_id: str
    order_id: str
    kind: HoldKind
    customer_ref: str | None
    status: ReservationStatus
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    committed_at: datetime | None
    shipped_at: datetime | None
    released_at: datetime | None
    released_by: str | None
    release_reason: ReleaseReason | None
    lines: list[LineDocument]
    shortages: Sequence[Shortage]


def reservation_document(header: ReservationHeader, holds: Iterable[Hold], now: datetime) -> ReservationDocument:
    """The reservation at ``now``: a due hold is shown as expired, swept or not.

    ``holds`` come in the order in which they were allocated.
    """
    seen = [hold.as_seen(now) for hold in holds]
    expires_at = committed_at = shipped_at = released_at = released_by = release_reason = None
    for hold in seen:
        if hold.active:
            expires_at = _later(expires_at, hold.expires_at)
        committed_at = _later(committed_at, hold.committed_at)
        shipped_at = _later(shipped_at, hold.shipped_at)
        at = hold.released_at
        if at is not None and (released_at is None or at > released_at):
            released_at, released_by, release_reason = at, hold.released_by, hold.release_reason
    return ReservationDocument(
        reservation_id=header.reservation_id,
        order_id=header.order_id,
        kind=header.kind,
        customer_ref=header.customer_ref,
        status=overall_status(seen),
        created_at=header.created_at,
        created_by=header.created_by,
        expires_at=expires_at,
        committed_at=committed_at,
        shipped_at=shipped_at,
        released_at=released_at,
        released_by=released_by,
        release_reason=release_reason,
        lines=_lines(header.lines, seen),
        shortages=header.shortages,
    )


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    if one is None or (other is not None and other > one):
        return other
    return one


def _lines(lines: Sequence[RequestedLine], holds: Sequence[Hold]) -> list[LineDocument]:
    """Each line with its holds: a hold stands under the line that names its warehouse, else under its SKU's."""
    if len(lines) == 1:
        return [_line(lines[0], [_allocation(hold) for hold in holds])]
    named = {(line.sku, line.warehouse) for line in lines if line.warehouse}
    by_line: dict[tuple[str, str | None], list[AllocationDocument]] = {}
    for hold in holds:
        place = (hold.sku, hold.warehouse)
        key = place if place in named else (hold.sku, None)
        by_line.setdefault(key, []).append(_allocation(hold))
    return [_line(line, by_line.get((line.sku, line.warehouse), [])) for line in lines]


def _line(line: RequestedLine, allocations: list[AllocationDocument]) -> LineDocument:
    metadata = UNSET if line.metadata is None else line.metadata
    return LineDocument(sku=line.sku, quantity=line.quantity, allocations=allocations, metadata=metadata)


def _allocation(hold: Hold) -> AllocationDocument:
    return AllocationDocument(
        warehouse=hold.warehouse,
        quantity=hold.quantity,
        active=hold.active,
        committed=hold.committed,
        shipped=hold.shipped,
        returned=hold.returned,
        released=hold.released,
        status=hold.status,
        version=hold.version,
        shipments=hold.shipments,
    )


class WarehouseDocument(msgspec.Struct, frozen=True, gc=False):
    code: str
    name: str | None
    address: Address | None
    timezone: str | None
    latitude: float | None
    longitude: float | None
    priority: int
    capacity: int | None
    status: WarehouseStatus
    policy: Policy | None
    version: int
    created_at: datetime
    updated_at: datetime
