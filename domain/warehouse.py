"""A warehouse: where stock is, and what the allocator needs to know of the place."""

from datetime import datetime
from typing import Any, Self

from msgspec.structs import replace

from domain.aggregate import Aggregate
from domain.errors import VersionMismatch, WarehouseInactive
from domain.events import Event, Origin, WarehouseChanged, WarehouseCreated, WarehouseDetails, WarehouseEvent
from domain.values import WarehouseStatus, warehouse_stream


class Warehouse(Aggregate):
    """One warehouse; at version 0 it does not exist yet."""

    code: str
    details: WarehouseDetails
    _undo: list[tuple[int, datetime, datetime, WarehouseDetails]]

    @classmethod
    def uncreated(cls, code: str) -> Self:
        """The warehouse before its first event."""
        warehouse = cls.empty(warehouse_stream(code))
        warehouse.code = code
        warehouse.details = WarehouseDetails()
        warehouse._undo = []
        return warehouse

    def refuse_new_promises(self) -> None:
        """Raise WarehouseInactive unless the warehouse takes new reservations."""
        if self.details.status is not WarehouseStatus.ACTIVE:
            raise WarehouseInactive(self.code, self.details.status)

    def put(self, changes: dict[str, Any], origin: Origin, now: datetime, *, only_create: bool = False) -> None:
        """Create the warehouse, or change the details that ``changes`` names and leave the others.

        Nothing is appended if that changes nothing. Raises VersionMismatch if it exists and ``only_create``.
        """
        if only_create and self._version:
            raise VersionMismatch(self._id, 0, self._version)
        details = replace(self.details, **changes)
        if not self._version:
            self._trigger(WarehouseCreated, now, origin, details=details)
        elif details != self.details:
            self._trigger(WarehouseChanged, now, origin, details=details)

    def _apply(self, event: Event) -> None:
        assert isinstance(event, WarehouseEvent)
        self.details = event.details

    def _remember(self, event: Event) -> None:
        del event
        self._undo.append((self._version, self._created_on, self._modified_on, self.details))

    def accept(self, count: int | None = None) -> None:
        """The first ``count`` new events (None: all) are in the log."""
        del self.new_events[:count]
        del self._undo[:count]

    def undo(self, count: int | None = None) -> None:
        """The last ``count`` new events (None: all) will not reach the log."""
        kept = 0 if count is None else len(self._undo) - count
        if kept < len(self._undo):
            self._version, self._created_on, self._modified_on, self.details = self._undo[kept]
        del self.new_events[kept:]
        del self._undo[kept:]
