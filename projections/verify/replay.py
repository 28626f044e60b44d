"""One stream after another, event by event, through the domain's own aggregates, and every invariant at every version.

Pure: events come in, complaints go out. What is checked here does not lean on the decisions that made the
events: sums are kept apart from the aggregate's, and a promise is held against what was there at its time.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from operator import attrgetter
from typing import Any, Final

from domain.events import (
    Allocated,
    Committed,
    Counted,
    Event,
    Extended,
    Registered,
    Released,
    Reserved,
    Returned,
    Shipped,
    StockEvent,
    WarehouseCreated,
    WarehouseEvent,
)
from domain.figures import Figures
from domain.hold import Hold
from domain.stock_item import StockItem
from domain.values import MAX_QUANTITY, Bucket, ReleaseReason
from domain.warehouse import Warehouse
from projections.verify.report import OVERSOLD

Complain = Callable[[str, str], None]
"""Takes where and what."""

BUCKETS: Final = ("on_hand", "reserved", "committed", "damaged", "quarantined", "in_transit", "incoming")
COUNTERS: Final = ("sold", "returned", "lost")
_quantities = attrgetter(*BUCKETS, *COUNTERS)


_OF_HOLDS: Final = frozenset({Reserved, Committed, Released, Extended, Shipped, Returned})


class Broken(Exception):
    """The stream cannot be replayed any further."""


class _Replay:
    """What both kinds of stream have in common: where the replay stands, and the order of its events."""

    def __init__(self, stream: str, complain: Complain) -> None:
        self.stream = stream
        self.version = 0
        self.position = 0
        self.occurred_at: datetime | None = None
        self.broken = False
        self._complain = complain

    def wrong(self, what: str) -> None:
        self._complain(f"{self.stream} at version {self.version}", what)

    def _advance(self, event: Event, position: int, version: int) -> None:
        """Take note of the next event's place. Raises Broken if it is not the next one of this stream."""
        if version != self.version + 1:
            self.wrong(f"is followed by version {version}")
            raise Broken
        if (event.originator_id, event.originator_version) != (self.stream, version):
            self.wrong(f"holds an event of {event.originator_id} at version {event.originator_version}")
            raise Broken
        self.version = version
        if position <= self.position:
            self.wrong(f"is at position {position}, the version before it at {self.position}")
        if self.occurred_at is not None and event.timestamp < self.occurred_at:
            self.wrong(f"occurred at {event.timestamp.isoformat()}, before the version before it")
        self.position, self.occurred_at = position, event.timestamp

    def _expect(self, event: Event, kind: type[Event], first: type[Event]) -> None:
        """Raise Broken unless ``event`` is of its stream's ``kind``, and ``first`` is the first and no other."""
        if not isinstance(event, kind) or (self.version == 1) is not isinstance(event, first):
            self.wrong(f"is {event.TOPIC}, out of place")
            raise Broken

    def unreadable(self, version: int, error: Exception) -> None:
        """The event at ``version`` cannot be read: the replay ends before it."""
        self._complain(f"{self.stream} at version {version}", f"cannot be read: {error}")
        self.broken = True


class WarehouseReplay(_Replay):
    """A warehouse's stream."""

    def __init__(self, stream: str, complain: Complain) -> None:
        super().__init__(stream, complain)
        self.warehouse = Warehouse.uncreated(stream.removeprefix("warehouse:"))

    def apply(self, event: Event, position: int, version: int) -> None:
        """Fold the next event in; afterwards ``broken`` tells whether that could be done."""
        try:
            self._advance(event, position, version)
            self._expect(event, WarehouseEvent, WarehouseCreated)
            self.warehouse.evolve(event)
            self.warehouse.accept()
        except Broken:
            self.broken = True


class ItemReplay(_Replay):
    """A stock item's stream. ``holds``: all that it ever had, the closed ones too."""

    def __init__(self, stream: str, complain: Complain) -> None:
        super().__init__(stream, complain)
        self.item = StockItem.unregistered(stream)
        self.holds: dict[str, Hold] = {}
        self.before = self.item.figures
        """The figures before the last event."""
        self.hold: Hold | None = None
        """The hold that the last event touched, as it left it."""
        self._active = 0
        self._committed = 0

    def apply(self, event: Event, position: int, version: int) -> None:
        """Fold the next event in; afterwards ``broken`` tells whether that could be done."""
        try:
            self._advance(event, position, version)
            self._expect(event, StockEvent, Registered)
            self._check_before(event)
            self._evolve(event)
        except Broken:
            self.broken = True
            return
        self._check_after(event)

    def _evolve(self, event: Event) -> None:
        item = self.item
        self.before, self.hold = item.figures, None
        try:
            item.evolve(event)
        except Exception as error:
            # Whatever it is: an aggregate that cannot take its own event is what we are looking for.
            self.wrong(f"{event.TOPIC} cannot follow: {error!r}")
            raise Broken from error
        for hold in item.changed_holds.values():
            self._take(hold)
        item.accept()
        if self.hold is None and isinstance(event, Returned) and event.reservation_id is not None:
            self._take_back(event, event.reservation_id)

    def _take(self, hold: Hold) -> None:
        before = self.holds.get(hold.reservation_id)
        self._active += hold.active - (before.active if before else 0)
        self._committed += hold.committed - (before.committed if before else 0)
        self.holds[hold.reservation_id] = self.hold = hold
        if min(hold.active, hold.committed, hold.shipped, hold.released) < 0 or not 0 <= hold.returned <= hold.shipped:
            self.wrong(f"the hold of {hold.reservation_id} does not add up: {hold}")

    def _take_back(self, event: Returned, reservation_id: str) -> None:
        """Units of a hold that the aggregate has closed came back: only its row still says so."""
        closed = self.holds.get(reservation_id)
        if closed is None:
            self.wrong(f"units of {reservation_id} came back, which never had any")
            raise Broken
        self._take(closed.take_back(event.quantity, event.originator_version))

    # Checks --------------------------------------------------------------------------------------

    def _check_before(self, event: Event) -> None:
        if type(event) in _OF_HOLDS:
            self._check_part(event)
            self._check_time(event)
        elif type(event) is Counted:
            present = self.item.figures.on_hand
            if (event.expected, event.variance) != (present, event.counted - present):
                self.wrong(f"a count expected {event.expected} and varied by {event.variance}; {present} were there")

    def _check_part(self, event: Any) -> None:
        """A part of a command: the first names all of them, the others none. (How parts agree: `commands`.)"""
        of_hold = event.reservation_id is not None
        if not 1 <= event.part <= event.parts or bool(event.allocations) is not (of_hold and event.part == 1):
            self.wrong(f"is part {event.part} of {event.parts} with {len(event.allocations)} allocations")
        elif event.parts == 1 and of_hold and event.allocations != (self._moved(event),):
            self.wrong(f"moved {self._moved(event)}, its command {event.allocations}")
        if type(event) is Reserved and (event.request is not None) is not (event.part == 1):
            self.wrong(f"part {event.part} {'lacks' if event.part == 1 else 'has'} the request")

    def _moved(self, event: Any) -> Allocated:
        if type(event) is Extended:
            hold = self.item.holds.get(event.reservation_id)
            return Allocated(self.item.sku, self.item.warehouse, hold.active if hold is not None else 0)
        return Allocated(self.item.sku, self.item.warehouse, event.quantity)

    def _check_time(self, event: Any) -> None:
        """A hold ends at its instant: nothing is paid or extended from then on, and nothing expires before."""
        kind, ends = type(event), False
        if kind is Reserved:
            ends = event.expires_at is not None and event.expires_at <= event.timestamp
        elif kind is Committed or kind is Extended:
            if self._is_due(event):
                self.wrong(f"{event.reservation_id} had expired when it was {event.TOPIC.rpartition('.')[2]}")
            ends = kind is Extended and event.expires_at <= event.timestamp
        elif kind is Released and event.reason is ReleaseReason.EXPIRED:
            if event.bucket is not Bucket.RESERVED:
                self.wrong(f"paid units of {event.reservation_id} expired")
            elif not self._is_due(event):
                self.wrong(f"{event.reservation_id} was released as expired before its end")
        if ends:
            self.wrong(f"{event.reservation_id} ended before it began")

    def _is_due(self, event: Any) -> bool:
        hold = self.item.holds.get(event.reservation_id)
        return hold is not None and hold.is_due(event.timestamp)

    def _check_after(self, event: Event) -> None:
        figures = self.item.figures
        quantities = _quantities(figures)
        if min(quantities) < 0 or max(quantities) > MAX_QUANTITY:
            named = zip((*BUCKETS, *COUNTERS), quantities, strict=True)
            self.wrong(", ".join(f"{name} is {value}" for name, value in named if not 0 <= value <= MAX_QUANTITY))
        if figures.reserved != self._active:
            self.wrong(f"{figures.reserved} reserved, {self._active} in active holds")
        if figures.committed != self._committed:
            self.wrong(f"{figures.committed} committed, {self._committed} in paid holds")
        if type(event) is Reserved:
            self._check_promise(event, figures)

    def _check_promise(self, event: Reserved, figures: Figures) -> None:
        """No oversell: what was promised at the event's time, due holds not counted, has stock (or backorders) behind it."""
        promised = figures.reserved - self.item.due_units(event.timestamp) + figures.committed
        policy = figures.policy
        if promised > figures.on_hand + policy.backorder_limit:
            self.wrong(
                f"{OVERSOLD}: {promised} promised, {figures.on_hand} on hand, {policy.backorder_limit} backorders allowed"
            )
        elif promised > figures.on_hand + policy.backorder_limit - policy.safety_stock:
            self.wrong(f"promised into the safety stock of {policy.safety_stock}")

    # Looking -------------------------------------------------------------------------------------

    def active_holds(self) -> Iterator[Hold]:
        return (hold for hold in self.item.holds.values() if hold.active)

    def next_due_at(self) -> datetime | None:
        """The earliest end of an active hold."""
        return min((hold.expires_at for hold in self.active_holds() if hold.expires_at), default=None)
