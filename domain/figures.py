"""The quantities of a stock item, and what each event does to them: pure folds."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
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
from domain.policy import DEFAULT_POLICY, Policy
from domain.values import AdjustmentReason, Bucket, Condition


class Figures(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The quantities of a stock item and when they last changed; ``reserved`` counts due holds until released."""

    on_hand: int = 0
    reserved: int = 0
    committed: int = 0
    damaged: int = 0
    quarantined: int = 0
    in_transit: int = 0
    incoming: int = 0
    sold: int = 0
    returned: int = 0
    lost: int = 0
    discontinued: bool = False
    policy: Policy = DEFAULT_POLICY
    last_movement_at: datetime | None = None
    last_restocked_at: datetime | None = None
    last_sold_at: datetime | None = None
    last_counted_at: datetime | None = None


def _registered(figures: Figures, event: Registered) -> Figures:
    return replace(figures, policy=event.policy)


def _restocked(figures: Figures, event: Restocked) -> Figures:
    at = event.timestamp
    return replace(figures, on_hand=figures.on_hand + event.quantity, last_movement_at=at, last_restocked_at=at)


def _reserved(figures: Figures, event: Reserved) -> Figures:
    return replace(figures, reserved=figures.reserved + event.quantity, last_movement_at=event.timestamp)


def _committed(figures: Figures, event: Committed) -> Figures:
    return replace(
        figures,
        reserved=figures.reserved - event.quantity,
        committed=figures.committed + event.quantity,
        last_movement_at=event.timestamp,
    )


def _released(figures: Figures, event: Released) -> Figures:
    if event.bucket is Bucket.RESERVED:
        return replace(figures, reserved=figures.reserved - event.quantity, last_movement_at=event.timestamp)
    return replace(figures, committed=figures.committed - event.quantity, last_movement_at=event.timestamp)


def _extended(figures: Figures, _: Extended) -> Figures:
    return figures


def _shipped(figures: Figures, event: Shipped) -> Figures:
    at = event.timestamp
    return replace(
        figures,
        on_hand=figures.on_hand - event.quantity,
        committed=figures.committed - event.quantity,
        sold=figures.sold + event.quantity,
        last_movement_at=at,
        last_sold_at=at,
    )


def _returned(figures: Figures, event: Returned) -> Figures:
    bucket = _RETURN_BUCKETS[event.condition]
    return replace(
        figures,
        **{bucket: getattr(figures, bucket) + event.quantity},
        returned=figures.returned + event.quantity,
        last_movement_at=event.timestamp,
    )


def _adjusted(figures: Figures, event: Adjusted) -> Figures:
    gone = max(0, -event.delta) if event.reason in {AdjustmentReason.LOST, AdjustmentReason.THEFT} else 0
    return replace(
        figures, on_hand=figures.on_hand + event.delta, lost=figures.lost + gone, last_movement_at=event.timestamp
    )


def _counted(figures: Figures, event: Counted) -> Figures:
    at = event.timestamp
    return replace(figures, on_hand=event.counted, last_movement_at=at, last_counted_at=at)


def _damaged(figures: Figures, event: Damaged) -> Figures:
    return _between_hand_and_damaged(figures, event.quantity, event.timestamp)


def _repaired(figures: Figures, event: Repaired) -> Figures:
    return _between_hand_and_damaged(figures, -event.quantity, event.timestamp)


def _between_hand_and_damaged(figures: Figures, quantity: int, at: datetime) -> Figures:
    return replace(figures, on_hand=figures.on_hand - quantity, damaged=figures.damaged + quantity, last_movement_at=at)


def _written_off(figures: Figures, event: WrittenOff) -> Figures:
    return replace(figures, damaged=figures.damaged - event.quantity, last_movement_at=event.timestamp)


def _policy_changed(figures: Figures, event: PolicyChanged) -> Figures:
    return replace(figures, policy=event.policy)


def _discontinued(figures: Figures, _: Discontinued) -> Figures:
    return replace(figures, discontinued=True)


def _reinstated(figures: Figures, _: Reinstated) -> Figures:
    return replace(figures, discontinued=False)


_RETURN_BUCKETS = {
    Condition.SELLABLE: "on_hand",
    Condition.DAMAGED: "damaged",
    Condition.QUARANTINE: "quarantined",
}

_FOLDS: dict[type[Event], Callable[[Figures, Any], Figures]] = {
    Registered: _registered,
    Restocked: _restocked,
    Reserved: _reserved,
    Committed: _committed,
    Released: _released,
    Extended: _extended,
    Shipped: _shipped,
    Returned: _returned,
    Adjusted: _adjusted,
    Counted: _counted,
    Damaged: _damaged,
    Repaired: _repaired,
    WrittenOff: _written_off,
    PolicyChanged: _policy_changed,
    Discontinued: _discontinued,
    Reinstated: _reinstated,
}


def fold_figures(figures: Figures, event: Event) -> Figures:
    """``figures`` after ``event``."""
    return _FOLDS[type(event)](figures, event)
