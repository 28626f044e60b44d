"""The level of a stock item: one row per SKU and warehouse, and the watermark of everything about it."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from domain.events import (
    Adjusted,
    Committed,
    Counted,
    Damaged,
    Discontinued,
    Event,
    Extended,
    PolicyChanged,
    Registered,
    Reinstated,
    Released,
    Repaired,
    Reserved,
    Restocked,
    Returned,
    Shipped,
    WrittenOff,
)
from domain.policy import Policy, stock_status
from domain.values import AdjustmentReason, Bucket, Condition, split_stock_stream
from infra.documents import Buckets, LevelDocument, LevelFacts
from projections.views.errors import ImpossibleEvent


class Level(msgspec.Struct, frozen=True, gc=False):
    """A row of ``stock_levels``, without what the store adds.

    ``reserved`` counts due holds until they are released. ``next_due_at`` is never later than the
    earliest end of an active hold (null: none has an end), and exactly that once it is stored.
    """

    sku: str
    warehouse: str
    version: int
    as_of: datetime
    created_at: datetime
    on_hand: int = 0
    reserved: int = 0
    committed: int = 0
    damaged: int = 0
    quarantined: int = 0
    in_transit: int = 0
    incoming: int = 0
    safety_stock: int = 0
    low_stock_threshold: int = 0
    backorder_limit: int = 0
    sold: int = 0
    returned: int = 0
    lost: int = 0
    discontinued: bool = False
    stale: bool = False
    next_due_at: datetime | None = None
    last_movement_at: datetime | None = None
    last_restocked_at: datetime | None = None
    last_sold_at: datetime | None = None
    last_counted_at: datetime | None = None

    @property
    def free(self) -> int:
        """Available units without the floor: what a sum over warehouses and a status are made of."""
        return self.on_hand - self.reserved - self.committed - self.safety_stock

    @property
    def buckets(self) -> tuple[int, ...]:
        """The seven buckets in the order of ``documents.Buckets``."""
        return (
            self.on_hand,
            self.reserved,
            self.committed,
            self.damaged,
            self.quarantined,
            self.in_transit,
            self.incoming,
        )

    def facts(self) -> LevelFacts:
        """What a level document is made from; of the policy only what a level shows."""
        return LevelFacts(
            buckets=Buckets(*self.buckets),
            policy=Policy(
                safety_stock=self.safety_stock,
                low_stock_threshold=self.low_stock_threshold,
                backorder_limit=self.backorder_limit,
            ),
            sold=self.sold,
            returned=self.returned,
            lost=self.lost,
            discontinued=self.discontinued,
            version=self.version,
            as_of=self.as_of,
            created_at=self.created_at,
            last_movement_at=self.last_movement_at,
            last_restocked_at=self.last_restocked_at,
            last_sold_at=self.last_sold_at,
            last_counted_at=self.last_counted_at,
        )

    def document(self, due: int = 0) -> LevelDocument:
        """The level as the contract shows it when ``due`` of its reserved units have expired.

        As ``level_document(facts())`` would make it, for a third of the cost: the cache's writer makes one per row.
        """
        reserved, free = self.reserved - due, self.free + due
        return LevelDocument(
            sku=self.sku,
            warehouse=self.warehouse,
            on_hand=self.on_hand,
            reserved=reserved,
            committed=self.committed,
            damaged=self.damaged,
            quarantined=self.quarantined,
            in_transit=self.in_transit,
            incoming=self.incoming,
            safety_stock=self.safety_stock,
            available=max(0, free),
            total=self.on_hand + self.damaged + self.quarantined + self.in_transit,
            short=max(0, reserved + self.committed - self.on_hand - self.backorder_limit),
            backorder_limit=self.backorder_limit,
            sold=self.sold,
            returned=self.returned,
            lost=self.lost,
            status=stock_status(free, self.low_stock_threshold, self.backorder_limit, discontinued=self.discontinued),
            version=self.version,
            as_of=self.as_of,
            created_at=self.created_at,
            last_movement_at=self.last_movement_at,
            last_restocked_at=self.last_restocked_at,
            last_sold_at=self.last_sold_at,
            last_counted_at=self.last_counted_at,
            stale=True if self.stale else UNSET,
        )


def fold_level(level: Level | None, event: Event) -> Level:
    """``level`` after ``event``; ``None`` before the first, which is a ``Registered``.

    ``next_due_at`` is the hold's fold's to change (:mod:`projections.item_fold`). Raises ImpossibleEvent.
    """
    # The classes are told apart by identity throughout the folds: isinstance() of a struct costs ten times as much,
    # several times an event.
    if type(event) is Registered:
        if level is not None:
            raise ImpossibleEvent(f"{event.originator_id} is registered a second time at {event.originator_version}")
        return _registered(event)
    if level is None:
        raise ImpossibleEvent(f"{event.originator_id} begins with {event.TOPIC}")
    fold = _FOLDS.get(type(event))
    if fold is None:
        raise ImpossibleEvent(f"{event.TOPIC} does nothing to a stock level")
    after = replace(level, version=event.originator_version, as_of=event.timestamp, **fold(level, event))
    if after.on_hand < 0 or after.reserved < 0 or after.committed < 0 or after.damaged < 0:
        raise ImpossibleEvent(f"{event.originator_id} at {event.originator_version}: a bucket below zero")
    return after


def _registered(event: Registered) -> Level:
    sku, warehouse = split_stock_stream(event.originator_id)
    return Level(
        sku=sku,
        warehouse=warehouse,
        version=event.originator_version,
        as_of=event.timestamp,
        created_at=event.timestamp,
        **_thresholds(event.policy),
    )


def _thresholds(policy: Policy) -> dict[str, Any]:
    return {
        "safety_stock": policy.safety_stock,
        "low_stock_threshold": policy.low_stock_threshold,
        "backorder_limit": policy.backorder_limit,
    }


def _restocked(level: Level, event: Restocked) -> dict[str, Any]:
    at = event.timestamp
    return {"on_hand": level.on_hand + event.quantity, "last_movement_at": at, "last_restocked_at": at}


def _reserved(level: Level, event: Reserved) -> dict[str, Any]:
    return {"reserved": level.reserved + event.quantity, "last_movement_at": event.timestamp}


def _committed(level: Level, event: Committed) -> dict[str, Any]:
    return {
        "reserved": level.reserved - event.quantity,
        "committed": level.committed + event.quantity,
        "last_movement_at": event.timestamp,
    }


def _released(level: Level, event: Released) -> dict[str, Any]:
    if event.bucket is Bucket.RESERVED:
        return {"reserved": level.reserved - event.quantity, "last_movement_at": event.timestamp}
    return {"committed": level.committed - event.quantity, "last_movement_at": event.timestamp}


def _shipped(level: Level, event: Shipped) -> dict[str, Any]:
    return {
        "on_hand": level.on_hand - event.quantity,
        "committed": level.committed - event.quantity,
        "sold": level.sold + event.quantity,
        "last_movement_at": event.timestamp,
        "last_sold_at": event.timestamp,
    }


def _returned(level: Level, event: Returned) -> dict[str, Any]:
    bucket = _RETURNED_TO[event.condition]
    return {
        bucket: getattr(level, bucket) + event.quantity,
        "returned": level.returned + event.quantity,
        "last_movement_at": event.timestamp,
    }


def _adjusted(level: Level, event: Adjusted) -> dict[str, Any]:
    lost = -event.delta if event.delta < 0 and event.reason in _LOSSES else 0
    return {
        "on_hand": level.on_hand + event.delta,
        "lost": level.lost + lost,
        "last_movement_at": event.timestamp,
    }


def _counted(_: Level, event: Counted) -> dict[str, Any]:
    return {"on_hand": event.counted, "last_movement_at": event.timestamp, "last_counted_at": event.timestamp}


def _damaged(level: Level, event: Damaged) -> dict[str, Any]:
    return {
        "on_hand": level.on_hand - event.quantity,
        "damaged": level.damaged + event.quantity,
        "last_movement_at": event.timestamp,
    }


def _repaired(level: Level, event: Repaired) -> dict[str, Any]:
    return {
        "on_hand": level.on_hand + event.quantity,
        "damaged": level.damaged - event.quantity,
        "last_movement_at": event.timestamp,
    }


def _written_off(level: Level, event: WrittenOff) -> dict[str, Any]:
    return {"damaged": level.damaged - event.quantity, "last_movement_at": event.timestamp}


_LOSSES = frozenset({AdjustmentReason.LOST, AdjustmentReason.THEFT})
_RETURNED_TO = {
    Condition.SELLABLE: "on_hand",
    Condition.DAMAGED: "damaged",
    Condition.QUARANTINE: "quarantined",
}

_FOLDS: dict[type[Event], Callable[[Level, Any], dict[str, Any]]] = {
    Restocked: _restocked,
    Reserved: _reserved,
    Committed: _committed,
    Released: _released,
    Extended: lambda _level, _event: {},
    Shipped: _shipped,
    Returned: _returned,
    Adjusted: _adjusted,
    Counted: _counted,
    Damaged: _damaged,
    Repaired: _repaired,
    WrittenOff: _written_off,
    PolicyChanged: lambda _level, event: _thresholds(event.policy),
    Discontinued: lambda _level, _event: {"discontinued": True},
    Reinstated: lambda _level, _event: {"discontinued": False},
}
