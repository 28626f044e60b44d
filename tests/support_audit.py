"""An auditor of the write side's log that shares no code with it: stored JSON in, plain dicts, every version checked.

items = audit(rows)            # raises AssertionError at the first version that breaks an invariant
items["stock:A@W1"].reserved
check_index(items, holds, headers)
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from domain.hold import Hold
from infra.event_store.port import StoredRow

JsonObject = dict[str, Any]


@dataclass
class AuditedHold:
    """Of one reservation at one item."""

    reserved_at: int
    active: int
    committed: int = 0
    shipped: int = 0
    returned: int = 0
    released: int = 0
    expires_at: datetime | None = None
    version: int = 0


@dataclass
class AuditedItem:
    """What the log says of a stock item. Holds are kept when they are closed."""

    version: int = 0
    last_at: datetime | None = None
    on_hand: int = 0
    reserved: int = 0
    committed: int = 0
    damaged: int = 0
    quarantined: int = 0
    policy: JsonObject = field(default_factory=dict)
    holds: dict[str, AuditedHold] = field(default_factory=dict)
    active: int = 0
    paid: int = 0
    """Sums over the holds, kept apart from the buckets that must be equal to them."""
    promised: int = 0
    """Units in `Reserved` events, ever."""

    def take(self, topic: str, event: JsonObject) -> None:
        """Fold the next event and check what must hold at its version."""
        where = f"{event['originator_id']}#{event['originator_version']} ({topic})"
        assert event["originator_version"] == self.version + 1, f"{where}: after version {self.version}"
        at = datetime.fromisoformat(event["timestamp"])
        assert self.last_at is None or at >= self.last_at, f"{where}: back in time"
        self.version, self.last_at = event["originator_version"], at
        assert (topic == "stock-item.registered") == (self.version == 1), f"{where}: registered once, first"
        reservation_id = event.get("reservation_id", "")
        active, committed = self._open(reservation_id)
        getattr(self, "_" + topic.partition(".")[2].replace("-", "_"))(event)
        still_active, still_committed = self._open(reservation_id)
        self.active += still_active - active
        self.paid += still_committed - committed
        self._check(where, self.holds.get(reservation_id))

    def _open(self, reservation_id: str) -> tuple[int, int]:
        hold = self.holds.get(reservation_id)
        return (hold.active, hold.committed) if hold else (0, 0)

    def _check(self, where: str, hold: AuditedHold | None) -> None:
        buckets = (self.on_hand, self.reserved, self.committed, self.damaged, self.quarantined)
        assert min(buckets) >= 0, f"{where}: {buckets}"
        assert self.reserved == self.active, f"{where}: {self.reserved} reserved, {self.active} in active holds"
        assert self.committed == self.paid, f"{where}: {self.committed} committed, {self.paid} in committed holds"
        if hold is not None:
            parts = (hold.active, hold.committed, hold.shipped, hold.released, hold.returned)
            assert min(parts) >= 0, f"{where}: {parts}"
            assert hold.returned <= hold.shipped, f"{where}: {parts}"

    @property
    def _now(self) -> datetime:
        assert self.last_at is not None
        return self.last_at

    def _hold(self, event: JsonObject) -> AuditedHold:
        hold = self.holds[event["reservation_id"]]
        hold.version = self.version
        return hold

    def _registered(self, event: JsonObject) -> None:
        self.policy = event["policy"]

    _policy_changed = _registered

    def _restocked(self, event: JsonObject) -> None:
        self.on_hand += event["quantity"]

    def _reserved(self, event: JsonObject) -> None:
        quantity = event["quantity"]
        assert event["reservation_id"] not in self.holds, f"{event['reservation_id']} was promised twice"
        self.reserved += quantity
        self.promised += quantity
        limit = self.on_hand - self.policy.get("safety_stock", 0) + self.policy.get("backorder_limit", 0)
        assert self.reserved + self.committed <= limit, f"oversold: {self.reserved} + {self.committed} of {limit}"
        self.holds[event["reservation_id"]] = AuditedHold(
            self.version, quantity, expires_at=_time(event.get("expires_at")), version=self.version
        )

    def _committed(self, event: JsonObject) -> None:
        hold = self._hold(event)
        assert hold.expires_at is None or self._now < hold.expires_at, "committed after it had expired"
        self.reserved -= event["quantity"]
        self.committed += event["quantity"]
        hold.active -= event["quantity"]
        hold.committed += event["quantity"]

    def _released(self, event: JsonObject) -> None:
        hold, quantity = self._hold(event), event["quantity"]
        hold.released += quantity
        if event["bucket"] == "COMMITTED":
            self.committed -= quantity
            hold.committed -= quantity
            return
        if event["reason"] == "EXPIRED":
            assert hold.expires_at is not None, "expired without an end"
            assert hold.expires_at <= self._now, "expired before its end"
        self.reserved -= quantity
        hold.active -= quantity

    def _extended(self, event: JsonObject) -> None:
        self._hold(event).expires_at = _time(event["expires_at"])

    def _shipped(self, event: JsonObject) -> None:
        hold, quantity = self._hold(event), event["quantity"]
        self.committed -= quantity
        self.on_hand -= quantity
        hold.committed -= quantity
        hold.shipped += quantity

    def _returned(self, event: JsonObject) -> None:
        quantity = event["quantity"]
        bucket = {"SELLABLE": "on_hand", "DAMAGED": "damaged", "QUARANTINE": "quarantined"}[event["condition"]]
        setattr(self, bucket, getattr(self, bucket) + quantity)
        if event.get("reservation_id"):
            self._hold(event).returned += quantity

    def _adjusted(self, event: JsonObject) -> None:
        self.on_hand += event["delta"]

    def _counted(self, event: JsonObject) -> None:
        assert event["expected"] == self.on_hand, "counted against another quantity"
        self.on_hand = event["counted"]

    def _damaged(self, event: JsonObject) -> None:
        self.on_hand -= event["quantity"]
        self.damaged += event["quantity"]

    def _repaired(self, event: JsonObject) -> None:
        self.on_hand += event["quantity"]
        self.damaged -= event["quantity"]

    def _written_off(self, event: JsonObject) -> None:
        self.damaged -= event["quantity"]


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def audit(rows: Iterable[StoredRow]) -> dict[str, AuditedItem]:
    """The stock items of the log, each checked at every version; parts of a command must be complete."""
    items: dict[str, AuditedItem] = {}
    parts: dict[str, list[int]] = {}
    for row in rows:
        event = msgspec.json.decode(row.state)
        assert (event["originator_id"], event["originator_version"]) == (row.stream, row.version)
        if row.stream.startswith("stock:"):
            items.setdefault(row.stream, AuditedItem()).take(row.topic, event)
        if "reservation_id" in event:
            command = event["origin"]["command_id"]
            number, of = event.get("part", 1), event.get("parts", 1)
            parts.setdefault(command, [of]).append(number)
            assert (number == 1) == bool(event.get("allocations")), "part 1, and it alone, names all parts"
            assert number > 1 or len(event["allocations"]) == of
    for stream, item in items.items():
        assert item.active == sum(hold.active for hold in item.holds.values()), stream
        assert item.paid == sum(hold.committed for hold in item.holds.values()), stream
    for command, (of, *numbers) in parts.items():
        assert sorted(numbers) == list(range(1, of + 1)), f"{command} is in the log in part: {numbers} of {of}"
    return items


def check_index(items: dict[str, AuditedItem], holds: Iterable[Hold], headers: set[str]) -> None:
    """The write-side index is what the log says: each hold in its row, each reservation with its header."""
    rows = {(f"stock:{hold.sku}@{hold.warehouse}", hold.reservation_id): _facts_of(hold) for hold in holds}
    told = {
        (stream, reservation_id): (
            hold.active, hold.committed, hold.shipped, hold.returned, hold.released, hold.version
        )
        for stream, item in items.items()
        for reservation_id, hold in item.holds.items()
    }  # fmt: skip
    assert rows == told
    assert headers == {reservation_id for item in items.values() for reservation_id in item.holds}


def _facts_of(hold: Hold) -> tuple[int, ...]:
    return (hold.active, hold.committed, hold.shipped, hold.returned, hold.released, hold.version)
