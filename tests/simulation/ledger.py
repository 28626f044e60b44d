"""What the log says, folded event by event as it grows, and every invariant at every version."""

from collections.abc import Iterable
from typing import Any

import msgspec

from domain.events import Reserved, Returned, StockEvent
from domain.hold import Hold
from domain.stock_item import StockItem
from infra.event_store.mapper import EventMapper
from infra.event_store.port import StoredRow
from tests.simulation.books import Place
from tests.support_audit import AuditedItem

HoldKey = tuple[str, str, str]
"""Reservation, SKU and warehouse."""


class Ledger:
    """Two folds of one log: through the domain's aggregates, and through an auditor that shares nothing with them."""

    def __init__(self) -> None:
        self._mapper = EventMapper()
        self.size = 0
        self.items: dict[Place, StockItem] = {}
        self.audited: dict[Place, AuditedItem] = {}
        self.holds: dict[HoldKey, Hold] = {}
        """The index as it must be."""
        self.headers: set[str] = set()
        self.command_of: dict[str, str] = {}
        """The one command that each idempotency key has caused."""

    def take(self, rows: Iterable[StoredRow]) -> None:
        """Fold what is new. AssertionError at the first version that breaks an invariant."""
        for row in rows:
            self.size += 1
            event = self._mapper.decode(row.topic, row.state)
            key, command_id = event.origin.idempotency_key, event.origin.command_id
            if key is not None:
                assert self.command_of.setdefault(key, command_id) == command_id, f"{key} was applied twice"
            if isinstance(event, StockEvent):
                self._fold(row, event)

    def _fold(self, row: StoredRow, event: StockEvent) -> None:
        sku, _, code = row.stream.removeprefix("stock:").rpartition("@")
        place = (sku, code)
        if place not in self.items:
            self.items[place] = StockItem.unregistered(row.stream)
            self.audited[place] = AuditedItem()
        item = self.items[place]
        item.evolve(event)
        self.audited[place].take(row.topic, msgspec.json.decode(row.state))
        if isinstance(event, Reserved):
            self.headers.add(event.reservation_id)
        changed = dict(item.changed_holds)
        if isinstance(event, Returned) and event.reservation_id is not None and event.reservation_id not in changed:
            # The hold is closed: the aggregate knows nothing of it any more.
            closed = self.holds[event.reservation_id, sku, code]
            changed[event.reservation_id] = closed.take_back(event.quantity, event.originator_version)
        self.holds |= {(reservation_id, sku, code): hold for reservation_id, hold in changed.items()}
        item.accept()

    def version(self, place: Place) -> int:
        item = self.items.get(place)
        return item.version if item else 0

    def figures(self, place: Place) -> dict[str, Any]:
        """The quantities of an item as its aggregate has them: what is due is still in ``reserved``."""
        return msgspec.to_builtins(self.items[place].figures)  # type: ignore[no-any-return]  # a struct becomes a dict
