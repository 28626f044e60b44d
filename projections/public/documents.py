"""What a public message says: its ``data``. What the HTTP contract shows already is shown in the same shape here."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from domain.errors import Shortage
from domain.events import Allocated, RequestedLine
from domain.values import HoldKind, ReleaseReason, StockStatus
from infra.documents import LevelDocument
from projections.views.movements import MovementDocument

Truncated = Annotated[
    list[str],
    Meta(
        description="members that were left empty because the message would have been larger than the brokers take;"
        " `GET /v1/reservations/{id}` has the whole"
    ),
]


class ReservedData(msgspec.Struct, frozen=True):
    """Stock is held: the whole reservation, over all its items."""

    reservation_id: str
    order_id: str
    kind: HoldKind
    customer_ref: str | None
    expires_at: Annotated[datetime | None, Meta(description="when unpaid holds end; null: never")]
    lines: Annotated[Sequence[RequestedLine], Meta(description="as asked for, equal lines merged")]
    allocations: Annotated[Sequence[Allocated], Meta(description="what is held, and where")]
    shortages: Annotated[Sequence[Shortage], Meta(description="what was short; empty unless a part was acceptable")]
    truncated: Truncated | UnsetType = UNSET


class CommittedData(msgspec.Struct, frozen=True):
    """Held stock was paid for."""

    reservation_id: str
    order_id: str
    allocations: Annotated[Sequence[Allocated], Meta(description="the units that were paid for")]
    truncated: Truncated | UnsetType = UNSET


class ReleasedData(msgspec.Struct, frozen=True):
    """Held or paid stock was given back, for a reason."""

    reservation_id: str
    order_id: str
    reason: ReleaseReason
    allocations: Annotated[Sequence[Allocated], Meta(description="the units that are free again")]
    truncated: Truncated | UnsetType = UNSET


class ExpiredData(msgspec.Struct, frozen=True):
    """A hold on one stock item ended unpaid."""

    reservation_id: str
    order_id: str
    expired_at: Annotated[datetime | None, Meta(description="the instant at which it ended, whenever that was noticed")]
    allocations: Sequence[Allocated]


class RejectedData(msgspec.Struct, frozen=True):
    """A reservation was refused; nothing of it is held."""

    order_id: str | None
    reservation_id: Annotated[str | None, Meta(description="null: the order gave none")]
    code: Annotated[str, Meta(description="stable name of the error; act on it")]
    shortages: Annotated[Sequence[Shortage], Meta(description="what was short, if that is why")]
    problem: Annotated[dict[str, Any], Meta(description="the problem document (RFC 9457) that HTTP would answer")]


class StatusData(LevelDocument, frozen=True, kw_only=True, gc=False):
    """A level whose status is another than before."""

    previous_status: Annotated[StockStatus | None, Meta(description="null: the item is new")]


class LowStockData(LevelDocument, frozen=True, kw_only=True, gc=False):
    """A level that has fallen to its threshold, or below."""

    low_stock_threshold: int


class RestockedData(MovementDocument, frozen=True, kw_only=True):
    """A receipt: the movement, and what else was said of the goods."""

    type: Literal["RECEIPT"]  # type: ignore[assignment]  # of a movement's types this one alone
    expires_on: date | UnsetType = UNSET
    received_on: date | UnsetType = UNSET


Data = (
    ReservedData
    | CommittedData
    | ReleasedData
    | ExpiredData
    | RejectedData
    | LevelDocument
    | StatusData
    | LowStockData
    | RestockedData
    | MovementDocument
)
