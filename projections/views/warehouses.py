"""Warehouses: one row per code, replaced whole by each event."""

from datetime import datetime

import msgspec

from domain.events import WarehouseCreated, WarehouseDetails, WarehouseEvent
from infra.documents import WarehouseDocument
from projections.views.errors import ImpossibleEvent

_PREFIX = "warehouse:"


class WarehouseRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of ``warehouses``, which is also the watermark of the warehouse's stream."""

    code: str
    version: int
    details: WarehouseDetails
    created_at: datetime
    updated_at: datetime

    def document(self) -> WarehouseDocument:
        """The warehouse as the contract shows it."""
        details = self.details
        return WarehouseDocument(
            code=self.code,
            name=details.name,
            address=details.address,
            timezone=details.timezone,
            latitude=details.latitude,
            longitude=details.longitude,
            priority=details.priority,
            capacity=details.capacity,
            status=details.status,
            policy=details.policy,
            version=self.version,
            created_at=self.created_at,
            updated_at=self.updated_at,
        )


def is_warehouse_stream(stream: str) -> bool:
    return stream.startswith(_PREFIX)


def code_of(stream: str) -> str:
    """The warehouse's code from its stream id."""
    return stream.removeprefix(_PREFIX)


def fold_warehouse(row: WarehouseRow | None, event: WarehouseEvent) -> WarehouseRow:
    """``row`` after ``event``; ``None`` before its creation. Raises ImpossibleEvent."""
    if (row is None) is not isinstance(event, WarehouseCreated):
        raise ImpossibleEvent(f"{event.originator_id} at {event.originator_version}: {event.TOPIC} out of place")
    return WarehouseRow(
        code=code_of(event.originator_id),
        version=event.originator_version,
        details=event.details,
        created_at=event.timestamp if row is None else row.created_at,
        updated_at=event.timestamp,
    )
