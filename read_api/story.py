"""One stock item's history as a story: what each event did, in a sentence, and what was left.

Told from the log itself, so that it needs no view and hides nothing that a view may not have seen yet.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec.structs import asdict

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
from domain.hold import Hold
from domain.policy import DEFAULT_POLICY, Policy
from domain.values import Bucket, ReleaseReason, stock_stream
from infra.event_store.mapper import UnreadableEvent
from projections.item_fold import ItemFold
from projections.views.errors import ImpossibleEvent
from projections.views.stock_levels import Level
from read_api.as_of import Log


class Chapter(msgspec.Struct, frozen=True):
    """One event: when, what it did, by whom, and the units afterwards (``free``: before any floor)."""

    version: int
    at: datetime
    event: str
    sentence: str
    actor: str
    on_hand: int
    reserved: int
    committed: int
    free: int
    reservation_id: str | None = None
    note: str | None = None


class Story:
    """Told by iterating over :meth:`chapters`; afterwards :attr:`level` and :attr:`holds` are how it ended.

    ``broken``: why it ended before its time, at an event that cannot be read or cannot have happened.
    """

    def __init__(self, log: Log, sku: str, warehouse: str, until: datetime | None = None) -> None:
        self._log = log
        self._stream = stock_stream(sku, warehouse)
        self._until = until
        self._fold = ItemFold()
        self.broken: str | None = None

    async def chapters(self) -> AsyncIterator[Chapter]:
        """From the first event on, up to ``until``. Raises ConnectionLost, StatementFailed."""
        try:
            async with aclosing(self._log.events(self._stream)) as events:
                async for event in events:
                    if self._until is not None and event.timestamp > self._until:
                        return
                    policy = self._fold.policy
                    self._fold.apply(event)
                    assert self._fold.level is not None
                    yield _chapter(event, policy, self._fold.level)
        except (UnreadableEvent, ImpossibleEvent) as error:
            self.broken = f"version {self._fold.version + 1}: {error}"

    @property
    def level(self) -> Level | None:
        """As the events left it; None: never registered."""
        return self._fold.level

    def due(self, now: datetime) -> int:
        """Units whose holds have ended by ``now`` without being released."""
        return self._fold.due_units(now)

    def holds(self, now: datetime) -> list[Hold]:
        """What is active at ``now``."""
        return [hold for hold in self._fold.holds.values() if hold.active > 0 and not hold.is_due(now)]


def _chapter(event: Event, policy_before: Policy | None, after: Level) -> Chapter:
    return Chapter(
        version=event.originator_version,
        at=event.timestamp,
        event=event.TOPIC,
        sentence=sentence(event, policy_before),
        actor=event.origin.actor,
        on_hand=after.on_hand,
        reserved=after.reserved,
        committed=after.committed,
        free=after.free,
        reservation_id=getattr(event, "reservation_id", None),
        note=event.origin.note,
    )


def sentence(event: Event, policy_before: Policy | None) -> str:
    """What ``event`` did, as one would tell it."""
    return _SENTENCES[type(event)](event, policy_before)


def _units(quantity: int) -> str:
    return "1 unit" if quantity == 1 else f"{quantity:,} units"


def _received(event: Restocked) -> str:
    details = [
        f"at {event.unit_cost} each" if event.unit_cost is not None else "",
        f"from {event.supplier}" if event.supplier else "",
        f"as lot {event.lot}" if event.lot else "",
    ]
    return " ".join([f"{_units(event.quantity)} received", *filter(None, details)])


def _reserved(event: Reserved) -> str:
    until = "without an end" if event.expires_at is None else f"until {event.expires_at:%Y-%m-%d %H:%M:%S} UTC"
    return f"{_units(event.quantity)} held for {event.reservation_id} (order {event.order_id}) {until}"


def _released(event: Released) -> str:
    if event.reason is ReleaseReason.EXPIRED:
        return f"the hold of {event.reservation_id} ran out: {_units(event.quantity)} free again"
    what = "paid order" if event.bucket is Bucket.COMMITTED else "hold"
    reason = event.reason.replace("_", " ").lower()
    return f"{_units(event.quantity)} of the {what} {event.reservation_id} given back: {reason}"


def _shipped(event: Shipped) -> str:
    return f"{_units(event.quantity)} shipped for {event.reservation_id}" + (
        f" ({event.tracking})" if event.tracking else ""
    )


def _returned(event: Returned) -> str:
    origin = event.reservation_id or event.order_id
    return f"{_units(event.quantity)} came back" + (f" of {origin}" if origin else "") + f", {event.condition.lower()}"


def _adjusted(event: Adjusted) -> str:
    direction = "added" if event.delta > 0 else "taken off"
    return f"{_units(abs(event.delta))} {direction}: {event.reason.replace('_', ' ').lower()}"


def _counted(event: Counted) -> str:
    if event.variance == 0:
        return f"counted {event.counted:,}, as expected"
    return f"counted {event.counted:,} where {event.expected:,} were expected ({event.variance:+,})"


def _policy_changed(event: PolicyChanged, before: Policy | None) -> str:
    old, new = asdict(before or DEFAULT_POLICY), asdict(event.policy)
    changes = [
        f"{name.replace('_', ' ')} {_told(old[name])} → {_told(new[name])}" for name in new if old[name] != new[name]
    ]
    return "policy changed" + (f": {', '.join(changes)}" if changes else "")


def _told(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("_", " ")


def _alone(tell: Callable[[Any], str]) -> Callable[[Any, Policy | None], str]:
    return lambda event, _: tell(event)


_SENTENCES: Final[dict[type[Event], Callable[[Any, Policy | None], str]]] = {
    Registered: _alone(lambda _: "registered"),
    Restocked: _alone(_received),
    Reserved: _alone(_reserved),
    Committed: _alone(lambda event: f"{_units(event.quantity)} of {event.reservation_id} paid"),
    Released: _alone(_released),
    Extended: _alone(lambda event: f"{event.reservation_id} extended until {event.expires_at:%Y-%m-%d %H:%M:%S} UTC"),
    Shipped: _alone(_shipped),
    Returned: _alone(_returned),
    Adjusted: _alone(_adjusted),
    Counted: _alone(_counted),
    Damaged: _alone(lambda event: f"{_units(event.quantity)} damaged"),
    Repaired: _alone(lambda event: f"{_units(event.quantity)} repaired"),
    WrittenOff: _alone(lambda event: f"{_units(event.quantity)} written off"),
    PolicyChanged: _policy_changed,
    Discontinued: _alone(lambda _: "discontinued"),
    Reinstated: _alone(lambda _: "reinstated"),
}
