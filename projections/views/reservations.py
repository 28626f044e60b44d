"""Reservations: a header that never changes, and a row per hold, each of one stock item."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
from msgspec.structs import replace

from domain.errors import Shortage
from domain.events import (
    Allocated,
    Choice,
    Committed,
    Event,
    Extended,
    Released,
    RequestedLine,
    Reserved,
    Returned,
    Shipped,
)
from domain.hold import Hold, Shipment
from domain.values import Bucket, HoldKind, ReleaseReason, split_stock_stream
from projections.views.errors import ImpossibleEvent


class ReservationRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ``reservations``: what part 1 of its create says of the whole.

    ``allocations`` name its holds in the order in which they were allocated.
    """

    reservation_id: str
    order_id: str
    kind: HoldKind
    customer_ref: str | None
    created_at: datetime
    created_by: str
    digest: str
    lines: tuple[RequestedLine, ...]
    allocations: tuple[Allocated, ...]
    shortages: tuple[Shortage, ...] = ()
    choices: tuple[Choice, ...] = ()


def reservation_of(event: Event) -> ReservationRow | None:
    """The header that ``event`` carries: it is part 1 of a create, or there is none."""
    if type(event) is not Reserved or event.request is None:
        return None
    request = event.request
    return ReservationRow(
        reservation_id=event.reservation_id,
        order_id=event.order_id,
        kind=event.kind,
        customer_ref=request.customer_ref,
        created_at=event.timestamp,
        created_by=event.origin.actor,
        digest=request.digest,
        lines=request.lines,
        allocations=event.allocations,
        shortages=request.shortages,
        choices=request.choices,
    )


def hold_named_by(event: Event) -> str | None:
    """The reservation whose hold ``event`` touches, if it touches one."""
    if type(event) is Reserved or type(event) in _FOLDS:
        named: str | None = event.reservation_id  # type: ignore[attr-defined]  # every class of the table has it
        return named
    return None


def due_at(hold: Hold | None) -> datetime | None:
    """When the active part of ``hold`` ends; ``None`` if nothing of it is active, or it never ends."""
    return hold.expires_at if hold is not None and hold.active > 0 else None


def fold_hold(hold: Hold | None, event: Event) -> Hold:
    """``hold`` after ``event``, which names it; ``None`` before its ``Reserved``. Raises ImpossibleEvent."""
    if type(event) is Reserved:
        if hold is not None:
            raise ImpossibleEvent(f"{event.reservation_id} holds {event.originator_id} a second time")
        return _reserved(event)
    if hold is None:
        raise ImpossibleEvent(f"{event.TOPIC} at {event.originator_id} of a reservation that holds none of it")
    fold = _FOLDS.get(type(event))
    if fold is None:
        raise ImpossibleEvent(f"{event.TOPIC} does nothing to a hold")
    after = replace(hold, version=event.originator_version, **fold(hold, event))
    if after.active < 0 or after.committed < 0 or after.returned > after.shipped:
        raise ImpossibleEvent(f"{event.originator_id} at {event.originator_version}: more than the hold has")
    return after


def _reserved(event: Reserved) -> Hold:
    sku, warehouse = split_stock_stream(event.originator_id)
    return Hold(
        reservation_id=event.reservation_id,
        order_id=event.order_id,
        sku=sku,
        warehouse=warehouse,
        version=event.originator_version,
        part=event.part,
        active=event.quantity,
        expires_at=event.expires_at,
    )


def _committed(hold: Hold, event: Committed) -> dict[str, Any]:
    return {
        "active": hold.active - event.quantity,
        "committed": hold.committed + event.quantity,
        "committed_at": event.timestamp,
    }


def _released(hold: Hold, event: Released) -> dict[str, Any]:
    expired = event.reason is ReleaseReason.EXPIRED
    # An expired hold ended at its own instant, however late it was swept.
    released_at = hold.expires_at if expired else event.timestamp
    changes: dict[str, Any] = {"released": hold.released + event.quantity}
    cancelled_since = expired and hold.released_at and released_at and hold.released_at >= released_at
    if not cancelled_since:
        changes |= {
            "released_at": released_at,
            "released_by": event.origin.actor,
            "release_reason": event.reason,
        }
    if expired:
        changes["expired"] = True
    if event.bucket is Bucket.COMMITTED:
        return changes | {"committed": hold.committed - event.quantity, "cancelled": True}
    return changes | {"active": hold.active - event.quantity}


def _shipped(hold: Hold, event: Shipped) -> dict[str, Any]:
    shipment = Shipment(quantity=event.quantity, shipped_at=event.timestamp, tracking=event.tracking)
    return {
        "committed": hold.committed - event.quantity,
        "shipped": hold.shipped + event.quantity,
        "shipped_at": event.timestamp,
        "shipments": (*hold.shipments, shipment),
    }


_FOLDS: dict[type[Event], Callable[[Hold, Any], dict[str, Any]]] = {
    Committed: _committed,
    Released: _released,
    Extended: lambda _hold, event: {"expires_at": event.expires_at},
    Shipped: _shipped,
    Returned: lambda hold, event: {"returned": hold.returned + event.quantity},
}
