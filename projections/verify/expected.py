"""What every row must say, computed from the domain's aggregates and events: nothing here is the views' own code.

Rows are dicts by column, as the tables name them.
"""

from datetime import datetime
from operator import attrgetter
from struct import Struct
from typing import Any, Final

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
    WrittenOff,
)
from domain.hold import Hold
from domain.policy import stock_status
from domain.reservation import ReservationHeader
from domain.stock_item import StockItem
from domain.values import Bucket
from domain.warehouse import Warehouse
from projections.verify.replay import BUCKETS, ItemReplay

_TYPES: Final[dict[type[Event], str]] = {
    Restocked: "RECEIPT",
    Reserved: "RESERVATION",
    Committed: "SALE",
    Released: "RELEASE",
    Shipped: "SHIPMENT",
    Returned: "RETURN",
    Adjusted: "ADJUSTMENT",
    Counted: "COUNT",
    Damaged: "DAMAGE",
    Repaired: "REPAIR",
    WrittenOff: "WRITE_OFF",
}
"""The movement type of each event that moves a quantity. A paid order's release is a REFUND."""

LEVEL_COLUMNS: Final = (
    "version",
    *BUCKETS,
    "safety_stock",
    "low_stock_threshold",
    "backorder_limit",
    "sold",
    "returned",
    "lost",
    "as_of",
    "created_at",
    "next_due_at",
    "last_movement_at",
    "last_restocked_at",
    "last_sold_at",
    "last_counted_at",
    "discontinued",
    "stale",
)
MOVEMENT_COLUMNS: Final = (
    "version",
    "at",
    "quantity",
    "type",
    "before",
    "after",
    "actor",
    "correlation_id",
    "reason",
    "reservation_id",
    "order_id",
    "reference_type",
    "reference_id",
    "note",
    "metadata",
    "unit_cost",
    "lot",
    "supplier",
    "idempotency_key",
)
HOLD_COLUMNS: Final = (
    "version",
    "part",
    "active",
    "committed",
    "shipped",
    "returned",
    "released",
    "due_at",
    "expires_at",
    "committed_at",
    "shipped_at",
    "released_at",
    "expired",
    "cancelled",
    "order_id",
    "released_by",
    "release_reason",
    "shipments",
)
HEADER_COLUMNS: Final = (
    "created_at",
    "order_id",
    "kind",
    "customer_ref",
    "created_by",
    "digest",
    "lines",
    "allocations",
    "shortages",
    "choices",
)

_buckets = attrgetter(*BUCKETS)
_SEVEN: Final = Struct("!7q")
"""``before`` and ``after`` as the tables keep them."""


def plain(value: Any) -> Any:
    """``value`` as its JSON reads."""
    return msgspec.json.decode(msgspec.json.encode(value))


def level_row(replay: ItemReplay) -> dict[str, Any]:
    """The item's row of ``stock_levels`` at this version."""
    item, figures, policy = replay.item, replay.item.figures, replay.item.figures.policy
    return {
        "version": item.version,
        **{name: getattr(figures, name) for name in BUCKETS},
        "safety_stock": policy.safety_stock,
        "low_stock_threshold": policy.low_stock_threshold,
        "backorder_limit": policy.backorder_limit,
        "sold": figures.sold,
        "returned": figures.returned,
        "lost": figures.lost,
        "as_of": item.modified_on,
        "created_at": item.created_on,
        "next_due_at": replay.next_due_at(),
        "last_movement_at": figures.last_movement_at,
        "last_restocked_at": figures.last_restocked_at,
        "last_sold_at": figures.last_sold_at,
        "last_counted_at": figures.last_counted_at,
        "discontinued": figures.discontinued,
        "stale": False,
    }


def level_document(item: StockItem) -> dict[str, Any]:
    """The item's level as the HTTP contract shows it at this version, no hold counted as due."""
    figures, policy = item.figures, item.figures.policy
    promised = figures.reserved + figures.committed
    available = figures.on_hand - promised - policy.safety_stock
    status = stock_status(
        available, policy.low_stock_threshold, policy.backorder_limit, discontinued=figures.discontinued
    )
    document = {
        "sku": item.sku,
        "warehouse": item.warehouse,
        **{name: getattr(figures, name) for name in BUCKETS},
        "safety_stock": policy.safety_stock,
        "available": max(0, available),
        "total": figures.on_hand + figures.damaged + figures.quarantined + figures.in_transit,
        "short": max(0, promised - figures.on_hand - policy.backorder_limit),
        "backorder_limit": policy.backorder_limit,
        "sold": figures.sold,
        "returned": figures.returned,
        "lost": figures.lost,
        "status": status,
        "version": item.version,
        "as_of": item.modified_on,
        "created_at": item.created_on,
        "last_movement_at": figures.last_movement_at,
        "last_restocked_at": figures.last_restocked_at,
        "last_sold_at": figures.last_sold_at,
        "last_counted_at": figures.last_counted_at,
    }
    read: dict[str, Any] = plain(document)
    return read


def level_head(replay: ItemReplay) -> dict[str, Any]:
    """The figures beside the document in the cache: ``free`` is available without the floor."""
    figures, policy = replay.item.figures, replay.item.figures.policy
    return {
        "version": replay.item.version,
        "free": figures.on_hand - figures.reserved - figures.committed - policy.safety_stock,
        "low_stock_threshold": policy.low_stock_threshold,
        "backorder_limit": policy.backorder_limit,
        "next_due": replay.next_due_at(),
        "as_of": replay.item.modified_on,
        "discontinued": figures.discontinued,
        "stale": False,
    }


def moves(event: Event) -> bool:
    """Whether ``event`` has a row of ``movements``."""
    return type(event) in _TYPES


def movement_row(event: Any, replay: ItemReplay) -> tuple[Any, ...]:
    """The row of ``event``, which ``replay`` has just applied and which :func:`moves`, in the order of MOVEMENT_COLUMNS."""
    origin, hold, kind = event.origin, replay.hold, type(event)
    restocked = kind is Restocked
    return (
        event.originator_version,
        event.timestamp,
        _quantity(event),
        "REFUND" if kind is Released and event.bucket is Bucket.COMMITTED else _TYPES[kind],
        _SEVEN.pack(*_buckets(replay.before)),
        _SEVEN.pack(*_buckets(replay.item.figures)),
        origin.actor,
        origin.correlation_id,
        _reason(event),
        event.reservation_id if hold is not None else None,
        hold.order_id if hold is not None else event.order_id if kind is Returned else None,
        origin.reference.type if origin.reference else None,
        origin.reference.id if origin.reference else None,
        origin.note,
        origin.metadata,
        event.unit_cost if restocked else None,
        event.lot if restocked else None,
        event.supplier if restocked else None,
        origin.idempotency_key,
    )


def _quantity(event: Any) -> Any:
    """Units; of an adjustment its delta and of a count its variance, with their sign."""
    if type(event) is Adjusted:
        return event.delta
    return event.variance if type(event) is Counted else event.quantity


def _reason(event: Any) -> Any:
    kind = type(event)
    if kind is Released or kind is Adjusted:
        return event.reason
    return event.condition if kind is Returned else None


def hold_row(hold: Hold) -> tuple[Any, ...]:
    """The hold's row of ``holds``, in the order of HOLD_COLUMNS."""
    return (
        hold.version,
        hold.part,
        hold.active,
        hold.committed,
        hold.shipped,
        hold.returned,
        hold.released,
        hold.expires_at if hold.active else None,
        hold.expires_at,
        hold.committed_at,
        hold.shipped_at,
        hold.released_at,
        hold.expired,
        hold.cancelled,
        hold.order_id,
        hold.released_by,
        hold.release_reason,
        plain(hold.shipments) if hold.shipments else None,
    )


def reservation_row(event: Reserved) -> tuple[Any, ...]:
    """The reservation's row in the views, in the order of HEADER_COLUMNS; ``event`` is part 1 of its create."""
    request = event.request
    assert request is not None
    return (
        event.timestamp,
        event.order_id,
        event.kind,
        request.customer_ref,
        event.origin.actor,
        request.digest,
        plain(request.lines),
        plain(event.allocations),
        plain(request.shortages) or None,
        plain(request.choices) or None,
    )


def reservation_header(event: Reserved) -> ReservationHeader:
    """The reservation's header in the write side's index."""
    request = event.request
    assert request is not None
    return ReservationHeader(
        reservation_id=event.reservation_id,
        order_id=event.order_id,
        kind=event.kind,
        customer_ref=request.customer_ref,
        lines=request.lines,
        shortages=request.shortages,
        created_at=event.timestamp,
        created_by=event.origin.actor,
        digest=request.digest,
    )


def due_members(replay: ItemReplay) -> dict[str, datetime]:
    """The item's active holds that end, as members of its sorted set: ``units:reservation``."""
    return {f"{h.active}:{h.reservation_id}": h.expires_at for h in replay.active_holds() if h.expires_at}


def warehouse_document(warehouse: Warehouse) -> dict[str, Any]:
    """The warehouse as the HTTP contract shows it."""
    details = warehouse.details
    document: dict[str, Any] = plain(
        {
            "code": warehouse.code,
            "name": details.name,
            "address": details.address,
            "timezone": details.timezone,
            "latitude": details.latitude,
            "longitude": details.longitude,
            "priority": details.priority,
            "capacity": details.capacity,
            "status": details.status,
            "policy": details.policy,
            "version": warehouse.version,
            "created_at": warehouse.created_on,
            "updated_at": warehouse.modified_on,
        }
    )
    return document


def warehouse_row(warehouse: Warehouse) -> dict[str, Any]:
    """The warehouse's row in the views."""
    details = warehouse.details
    return {
        "version": warehouse.version,
        "status": details.status,
        "country": details.address.country if details.address else None,
        "created_at": warehouse.created_on,
        "updated_at": warehouse.modified_on,
        "stale": False,
        "details": plain(details),
    }


def read_buckets(stored: bytes) -> Any:
    """What ``before`` or ``after`` of a movement says; bytes that are no buckets say themselves."""
    return _SEVEN.unpack(stored) if len(stored) == _SEVEN.size else stored


def read_json(text: str | bytes | None) -> Any:
    """What a JSON column says; text that is no JSON says itself."""
    try:
        return None if text is None else msgspec.json.decode(text)
    except msgspec.MsgspecError:
        return text
