"""Which messages an event makes, one after the other: the contract of the public topics, as a table.

Of a command on a reservation, part 1 speaks for all parts, because it carries their allocations. What the service itself
gives back (expired, short) may belong to many reservations at once: there every part speaks for itself.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import UNSET

from domain.events import Allocated, Committed, Event, Origin, Released, Reserved, Restocked
from domain.policy import stock_status
from domain.values import Bucket, ReleaseReason, StockStatus, split_stock_stream
from projections.public.cloud_events import Envelopes, PublicMessage
from projections.public.documents import (
    CommittedData,
    Data,
    ExpiredData,
    LowStockData,
    RejectedData,
    ReleasedData,
    ReservedData,
    RestockedData,
    StatusData,
)
from projections.public.refusals import RefusedCreate
from projections.public.stream_fold import Step
from projections.views.movements import Movement
from projections.views.stock_levels import Level

RESERVED: Final = "inventory.reserved"
REJECTED: Final = "inventory.reservation-rejected"
COMMITTED: Final = "inventory.committed"
RELEASED: Final = "inventory.released"
EXPIRED: Final = "inventory.reservation-expired"
REFUNDED: Final = "inventory.refunded"
STOCK_UPDATED: Final = "inventory.stock-updated"
STATUS_CHANGED: Final = "inventory.status-changed"
LOW_STOCK: Final = "inventory.low-stock"
RESTOCKED: Final = "inventory.restocked"
MOVEMENTS: Final = "inventory.movements"

_OF_EACH_HOLD: Final = {ReleaseReason.EXPIRED, ReleaseReason.SHORTAGE}
"""Reasons for which one command releases holds of several reservations."""


def messages_of(step: Step, envelopes: Envelopes) -> list[PublicMessage]:
    """Everything that is told of one event, the order's part first."""
    told = _TELLS.get(type(step.event))
    return [*(told(step, envelopes) if told is not None else ()), *_of_stock(step, envelopes)]


# Of an order -----------------------------------------------------------------------------------------


def _reserved(step: Step, envelopes: Envelopes) -> list[PublicMessage]:
    event: Any = step.event
    request = event.request
    if event.part != 1 or request is None:
        return []
    data = ReservedData(
        reservation_id=event.reservation_id,
        order_id=event.order_id,
        kind=event.kind,
        customer_ref=request.customer_ref,
        expires_at=event.expires_at,
        lines=request.lines,
        allocations=event.allocations,
        shortages=request.shortages,
    )
    return [_of_order(RESERVED, step, data, envelopes)]


def _committed(step: Step, envelopes: Envelopes) -> list[PublicMessage]:
    event: Any = step.event
    if event.part != 1:
        return []
    data = CommittedData(event.reservation_id, _order_of(step), event.allocations)
    return [_of_order(COMMITTED, step, data, envelopes)]


def _released(step: Step, envelopes: Envelopes) -> list[PublicMessage]:
    event: Any = step.event
    alone = event.reason in _OF_EACH_HOLD
    if event.part != 1 and not alone:
        return []
    sku, warehouse = split_stock_stream(event.originator_id)
    allocations = (Allocated(sku, warehouse, event.quantity),) if alone else event.allocations
    data = ReleasedData(event.reservation_id, _order_of(step), event.reason, allocations)
    if event.bucket is Bucket.COMMITTED:
        return [_of_order(REFUNDED, step, data, envelopes)]
    released = _of_order(RELEASED, step, data, envelopes)
    if event.reason is not ReleaseReason.EXPIRED:
        return [released]
    assert step.hold is not None
    expired = ExpiredData(event.reservation_id, _order_of(step), step.hold.expires_at, allocations)
    return [released, _of_order(EXPIRED, step, expired, envelopes)]


_TELLS: dict[type[Event], Callable[[Step, Envelopes], list[PublicMessage]]] = {
    Reserved: _reserved,
    Committed: _committed,
    Released: _released,
}


def _order_of(step: Step) -> str:
    assert step.hold is not None
    return step.hold.order_id


def _of_order(topic: str, step: Step, data: Any, envelopes: Envelopes) -> PublicMessage:
    """The command's id is the message's; the further holds of a command of the service's own have their part beside it."""
    event: Any = step.event
    command_id = event.origin.command_id
    return envelopes.message(
        topic,
        data.order_id,
        command_id if event.part == 1 else f"{command_id}#{event.part}",
        time=event.timestamp,
        subject=data.reservation_id,
        origin=event.origin,
        data=data,
        smaller=_smaller,
    )


_LEFT_OUT_FIRST: Final = ("lines", "shortages", "allocations")


def _smaller(data: Data) -> Data | None:
    """The data without the next list that can be left out and is there."""
    named: list[str] = list(getattr(data, "truncated", UNSET) or ())
    for name in _LEFT_OUT_FIRST:
        if getattr(data, name, None):
            return msgspec.structs.replace(data, **{name: (), "truncated": [*named, name]})
    return None


def rejection_of(refusal: RefusedCreate, envelopes: Envelopes) -> PublicMessage:
    """The message that says a reservation was refused, from whichever door it was asked for."""
    data = RejectedData(
        order_id=refusal.order_id,
        reservation_id=refusal.reservation_id,
        code=refusal.code,
        shortages=refusal.shortages,
        problem=refusal.problem,
    )
    return envelopes.message(
        REJECTED,
        refusal.order_id or refusal.message_id,
        refusal.message_id,
        time=refusal.at,
        subject=refusal.reservation_id or refusal.order_id or refusal.message_id,
        origin=Origin(refusal.message_id, refusal.actor, refusal.correlation_id or "", refusal.causation_id),
        data=data,
    )


# Of a stock item -------------------------------------------------------------------------------------


def status_of(level: Level) -> StockStatus:
    """The status of the row as it stands: a hold that has ended counts until it is released (the sweeper's second)."""
    return stock_status(level.free, level.low_stock_threshold, level.backorder_limit, discontinued=level.discontinued)


def has_fallen_low(before: Level | None, after: Level) -> bool:
    """Whether what is available has come from above its threshold to it, or below: once per crossing."""
    return before is not None and before.free > before.low_stock_threshold and after.free <= after.low_stock_threshold


def _of_stock(step: Step, envelopes: Envelopes) -> list[PublicMessage]:
    before, after = step.before, step.after
    document = after.document()
    told: list[tuple[str, Data]] = [(STOCK_UPDATED, document)]
    previous = status_of(before) if before is not None else None
    if document.status is not previous:
        told.append((STATUS_CHANGED, StatusData(**_fields(document), previous_status=previous)))
    if has_fallen_low(before, after):
        told.append((LOW_STOCK, LowStockData(**_fields(document), low_stock_threshold=after.low_stock_threshold)))
    if type(step.event) is Restocked and step.movement is not None:
        told.append((RESTOCKED, _receipt(step.event, step.movement)))
    if step.movement is not None:
        told.append((MOVEMENTS, step.movement.document()))
    return [_of_item(topic, step, data, envelopes) for topic, data in told]


def _receipt(event: Restocked, movement: Movement) -> RestockedData:
    fields = _fields(movement.document()) | {"type": "RECEIPT"}
    return RestockedData(**fields, expires_on=event.expires_on or UNSET, received_on=event.received_on or UNSET)


def _of_item(topic: str, step: Step, data: Data, envelopes: Envelopes) -> PublicMessage:
    event = step.event
    return envelopes.message(
        topic,
        step.after.sku,
        f"{event.originator_id}#{event.originator_version}",
        time=event.timestamp,
        subject=event.originator_id,
        origin=event.origin,
        data=data,
        sequence=event.originator_version,
    )


def _fields(document: msgspec.Struct) -> dict[str, Any]:
    return {name: getattr(document, name) for name in document.__struct_fields__}
