"""The aggregate that decides about stock: one SKU at one warehouse.

Every decision is a method: guards that read as prose, then one event. Quantities are units; ``now``
is the caller's (the database's clock), never read here. An item that was never registered is a
``StockItem`` at version 0.
"""

from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, ClassVar, Self

import msgspec

from domain.aggregate import Aggregate
from domain.errors import (
    CapacityExceeded,
    InsufficientStock,
    ItemDiscontinued,
    QuantityOutOfRange,
    ReservationExpired,
    Shortage,
    SweepNeeded,
    UnknownStockItem,
    VersionMismatch,
)
from domain.events import (
    Adjusted,
    Committed,
    Counted,
    Damaged,
    Discontinued,
    Event,
    Extended,
    HoldEvent,
    Origin,
    PolicyChanged,
    Registered,
    Reinstated,
    Released,
    Repaired,
    ReservationRequest,
    Reserved,
    Restocked,
    Returned,
    Shipped,
    WrittenOff,
)
from domain.figures import Figures, fold_figures
from domain.hold import Hold, fold_hold
from domain.open_holds import OpenHolds
from domain.parts import WHOLE, Part
from domain.policy import Policy, PolicyPatch
from domain.undo import Undo
from domain.values import (
    MAX_QUANTITY,
    AdjustmentReason,
    Bucket,
    Condition,
    HoldKind,
    ReleaseReason,
    split_stock_stream,
    stock_stream,
)


class StockItemState(msgspec.Struct, frozen=True, gc=False):
    """A snapshot: everything that a level shows, the policy, and the open holds."""

    STATE_VERSION: ClassVar[int] = 1

    figures: Figures
    created_on: datetime
    modified_on: datetime
    holds: list[Hold]


_OF_A_RESERVATION = (HoldEvent, Returned)


class StockItem(Aggregate):
    """One SKU at one warehouse: its buckets, its policy and its open holds."""

    sku: str
    warehouse: str

    @classmethod
    def unregistered(cls, stream: str) -> Self:
        """The item of ``stream`` before its first event: version 0, nothing there."""
        item = cls.empty(stream)
        item.sku, item.warehouse = split_stock_stream(stream)
        item.figures = Figures()
        item._set_open_holds(OpenHolds())
        item.changed_holds = {}
        item._undo = []
        return item

    figures: Figures
    holds: dict[str, Hold]
    """Open holds by reservation."""
    changed_holds: dict[str, Hold]
    """Holds as the pending events left them, closed ones too: the rows that the write-side index needs."""
    _open: OpenHolds
    _undo: list[Undo]

    # What there is -------------------------------------------------------------------------------

    def at(self, now: datetime) -> datetime:
        """``now``, but never before the item's last event; what has ended by then becomes due."""
        moment = self.moment(now)
        self._open.expiry.advance(moment, self.holds)
        return moment

    def due_units(self, now: datetime) -> int:
        """Reserved units whose holds have ended by ``now`` without having been released."""
        self.at(now)
        return self._open.expiry.due_units

    def promisable(self, now: datetime) -> int:
        """How many units may be promised: available (due holds are free, no floor) plus the backorder limit."""
        self.at(now)
        return self._free + self._open.expiry.due_units

    @property
    def _free(self) -> int:
        """What may be promised while what is due has not been released."""
        figures, policy = self.figures, self.figures.policy
        promised = figures.reserved + figures.committed
        free = figures.on_hand - promised - policy.safety_stock
        if policy.backorder_limit:
            # Only backorders can take the promises past what a quantity may be: else they stay below what is on hand.
            return min(free + policy.backorder_limit, MAX_QUANTITY - promised)
        return free

    @property
    def short(self) -> int:
        """Units promised that are no longer there, beyond what the policy lets be promised without stock."""
        figures = self.figures
        promised = figures.reserved + figures.committed - self._open.expiry.due_units
        return max(0, promised - figures.on_hand - figures.policy.backorder_limit)

    # Receiving and correcting --------------------------------------------------------------------

    def register(self, policy: Policy, origin: Origin, now: datetime) -> None:
        """Begin the item's stream with the policy in force."""
        self._trigger(Registered, now, origin, policy=policy)

    def restock(
        self,
        quantity: int,
        origin: Origin,
        now: datetime,
        *,
        unit_cost: Decimal | None = None,
        supplier: str | None = None,
        lot: str | None = None,
        expires_on: date | None = None,
        received_on: date | None = None,
    ) -> None:
        """Receive ``quantity`` units for sale. Raises ItemDiscontinued, CapacityExceeded, QuantityOutOfRange."""
        self._refuse_if_discontinued()
        self.refuse_above_maximum(quantity, self.figures.policy)
        self._refuse_without_room(quantity)
        self._trigger(
            Restocked,
            now,
            origin,
            quantity=quantity,
            unit_cost=unit_cost,
            supplier=supplier,
            lot=lot,
            expires_on=expires_on,
            received_on=received_on,
        )

    def adjust(self, delta: int, reason: AdjustmentReason, origin: Origin, now: datetime) -> None:
        """Correct the units on hand; below the promises too: the world has the last word."""
        if delta == 0:
            return
        self._refuse_more_than(f"{self.sku} on hand", -delta, self.figures.on_hand)
        self._refuse_without_room(delta)
        self._refuse_overflow("lost", self.figures.lost, -delta)
        self._trigger(Adjusted, now, origin, delta=delta, reason=reason)

    def count(self, counted: int, origin: Origin, now: datetime) -> None:
        """Set the units on hand by a physical count."""
        expected = self.figures.on_hand
        self._refuse_more_than(f"room for {self.sku}", counted, expected + self._room)
        self._trigger(Counted, now, origin, counted=counted, expected=expected, variance=counted - expected)

    def damage(self, quantity: int, origin: Origin, now: datetime) -> None:
        """Units on hand turn out not to be sellable."""
        self._refuse_more_than(f"{self.sku} on hand", quantity, self.figures.on_hand)
        self._trigger(Damaged, now, origin, quantity=quantity)

    def repair(self, quantity: int, origin: Origin, now: datetime) -> None:
        """Damaged units become sellable again."""
        self._refuse_more_than(f"damaged {self.sku}", quantity, self.figures.damaged)
        self._trigger(Repaired, now, origin, quantity=quantity)

    def write_off(self, quantity: int, origin: Origin, now: datetime) -> None:
        """Damaged units leave for good."""
        self._refuse_more_than(f"damaged {self.sku}", quantity, self.figures.damaged)
        self._trigger(WrittenOff, now, origin, quantity=quantity)

    def take_back(
        self,
        quantity: int,
        condition: Condition,
        origin: Origin,
        now: datetime,
        *,
        order_id: str | None = None,
        hold: Hold | None = None,
        part: Part = WHOLE,
    ) -> None:
        """Units come back from a customer; ``hold`` is what they were shipped for, if that is known.

        The caller has checked that the hold shipped as many. Raises QuantityOutOfRange on overflow.
        """
        self.refuse_taking_back(quantity)
        if hold is None:
            self._trigger(Returned, now, origin, quantity=quantity, condition=condition, order_id=order_id)
            return
        self._trigger_part(
            Returned,
            hold.reservation_id,
            part,
            now,
            origin,
            quantity=quantity,
            condition=condition,
            order_id=hold.order_id,
        )
        if hold.reservation_id not in self.holds:  # closed: the aggregate no longer knows it, the index does
            self.changed_holds[hold.reservation_id] = hold.take_back(quantity, self._version)

    def change_policy(self, patch: PolicyPatch, origin: Origin, now: datetime) -> None:
        """Change the thresholds that ``patch`` names; nothing is appended if that changes nothing."""
        policy = patch.onto(self.figures.policy)
        if policy != self.figures.policy:
            self._trigger(PolicyChanged, now, origin, policy=policy)

    def discontinue(self, origin: Origin, now: datetime) -> None:
        """No more restocks; what is left sells through."""
        if not self.figures.discontinued:
            self._trigger(Discontinued, now, origin)

    def reinstate(self, origin: Origin, now: datetime) -> None:
        if self.figures.discontinued:
            self._trigger(Reinstated, now, origin)

    # Promising -----------------------------------------------------------------------------------

    def due_for(self, quantity: int, now: datetime, limit: int) -> list[Hold]:
        """The due holds, oldest first, that must be released before ``quantity`` units can be promised.

        Raises SweepNeeded if those are more than ``limit``: one decision never pays for thousands.
        """
        missing = quantity - self._free
        if missing <= 0:
            return []
        self.at(now)
        found: list[Hold] = []
        for reservation_id in self._open.expiry.due(limit):
            found.append(self.holds[reservation_id])
            missing -= found[-1].active
            if missing <= 0:
                return found
        raise SweepNeeded(self._id)

    def due_holds(self, limit: int, now: datetime) -> list[Hold]:
        """Holds that have ended by ``now``, the longest overdue first, at most ``limit``."""
        self.at(now)
        return [self.holds[reservation_id] for reservation_id in self._open.expiry.due(limit)]

    def newest_unpaid(self, units: int, limit: int, now: datetime) -> list[Hold]:
        """The newest active holds, not due ones, that together make up ``units``; at most ``limit`` of them."""
        return self._open.newest_unpaid(units, limit, now)

    def reserve(
        self,
        reservation_id: str,
        order_id: str,
        quantity: int,
        expires_at: datetime | None,
        kind: HoldKind,
        origin: Origin,
        now: datetime,
        part: Part = WHOLE,
        request: ReservationRequest | None = None,
    ) -> None:
        """Promise ``quantity`` units. Raises InsufficientStock; what is due must have been released before."""
        if quantity > self._free:
            available = max(0, self.promisable(now))
            raise InsufficientStock([Shortage(self.sku, quantity, available, self.warehouse)])
        self._trigger(
            Reserved,
            now,
            origin,
            reservation_id=reservation_id,
            part=part.number,
            parts=part.of,
            allocations=part.allocations,
            order_id=order_id,
            quantity=quantity,
            expires_at=expires_at,
            kind=kind,
            request=request,
        )

    def commit(self, reservation_id: str, quantity: int, origin: Origin, now: datetime, part: Part = WHOLE) -> None:
        """The order has paid: its active units become committed. Raises ReservationExpired, QuantityOutOfRange."""
        self._refuse_if_expired(reservation_id, now)
        self._refuse_more_than_held(reservation_id, Bucket.RESERVED, quantity)
        self._trigger_part(Committed, reservation_id, part, now, origin, quantity=quantity)

    def release(
        self,
        reservation_id: str,
        quantity: int,
        bucket: Bucket,
        reason: ReleaseReason,
        origin: Origin,
        now: datetime,
        part: Part = WHOLE,
    ) -> None:
        """Give back active units, or cancel committed ones. Raises QuantityOutOfRange."""
        self._refuse_more_than_held(reservation_id, bucket, quantity)
        self._trigger_part(Released, reservation_id, part, now, origin, quantity=quantity, bucket=bucket, reason=reason)

    def extend(
        self, reservation_id: str, expires_at: datetime, origin: Origin, now: datetime, part: Part = WHOLE
    ) -> None:
        """The active units' hold ends at another time. Raises ReservationExpired, QuantityOutOfRange."""
        self._refuse_if_expired(reservation_id, now)
        self._refuse_more_than_held(reservation_id, Bucket.RESERVED, 1)
        self._trigger_part(Extended, reservation_id, part, now, origin, expires_at=expires_at)

    def refuse_shipping(self, quantity: int) -> None:
        """Raise InsufficientStock if fewer than ``quantity`` units are there to go out of the door."""
        if quantity > self.figures.on_hand:
            raise InsufficientStock([Shortage(self.sku, quantity, self.figures.on_hand, self.warehouse)])
        self._refuse_overflow("sold", self.figures.sold, quantity)

    def ship(
        self,
        reservation_id: str,
        quantity: int,
        tracking: str | None,
        origin: Origin,
        now: datetime,
        part: Part = WHOLE,
    ) -> None:
        """Committed units leave the building. Raises InsufficientStock, QuantityOutOfRange."""
        self.refuse_shipping(quantity)
        self._refuse_more_than_held(reservation_id, Bucket.COMMITTED, quantity)
        self._trigger_part(Shipped, reservation_id, part, now, origin, quantity=quantity, tracking=tracking)

    # Guards --------------------------------------------------------------------------------------

    def refuse_other_version(self, expected: int | None) -> None:
        """Compare-and-set: raise VersionMismatch unless the item is at ``expected`` (None: any)."""
        if expected is not None and expected != self._version:
            raise VersionMismatch(self._id, expected, self._version)

    def refuse_if_unregistered(self) -> None:
        if not self._version:
            raise UnknownStockItem(self.sku, self.warehouse)

    def refuse_above_maximum(self, quantity: int, policy: Policy) -> None:
        """Raise CapacityExceeded if ``quantity`` more units would go above the policy's maximum stock level."""
        maximum = policy.max_stock_level
        if maximum is not None and self.figures.on_hand + quantity > maximum:
            raise CapacityExceeded(self.sku, self.warehouse, quantity, max(0, maximum - self.figures.on_hand))

    def _refuse_if_expired(self, reservation_id: str, now: datetime) -> None:
        hold = self.holds.get(reservation_id)
        if hold is not None and hold.is_due(self.moment(now)):
            raise ReservationExpired(reservation_id)

    def _refuse_more_than_held(self, reservation_id: str, bucket: Bucket, quantity: int) -> None:
        hold = self.holds.get(reservation_id)
        held = 0 if hold is None else hold.active if bucket is Bucket.RESERVED else hold.committed
        if quantity > held:
            self._refuse_more_than(f"{bucket} for {reservation_id}", quantity, held)

    def _refuse_if_discontinued(self) -> None:
        if self.figures.discontinued:
            raise ItemDiscontinued(self.sku, self.warehouse)

    def _refuse_more_than(self, what: str, requested: int, remaining: int) -> None:
        if requested > remaining:
            raise QuantityOutOfRange(what, requested, remaining, sku=self.sku, warehouse=self.warehouse)

    def refuse_taking_back(self, quantity: int) -> None:
        """Raise QuantityOutOfRange if ``quantity`` units more would be too many to be counted."""
        self._refuse_without_room(quantity)
        self._refuse_overflow("returned", self.figures.returned, quantity)

    @property
    def _room(self) -> int:
        """Units that may come before the physical total is more than a quantity may be."""
        figures = self.figures
        return MAX_QUANTITY - figures.on_hand - figures.damaged - figures.quarantined - figures.in_transit

    def _refuse_without_room(self, quantity: int) -> None:
        self._refuse_more_than(f"room for {self.sku}", quantity, self._room)

    def _refuse_overflow(self, counter: str, present: int, quantity: int) -> None:
        self._refuse_more_than(f"{self.sku} {counter}", quantity, MAX_QUANTITY - present)

    # Events --------------------------------------------------------------------------------------

    def _trigger_part(
        self, event_class: type[Event], reservation_id: str, part: Part, now: datetime, origin: Origin, **facts: Any
    ) -> None:
        """Trigger what is a part of a command on a reservation."""
        self._trigger(
            event_class,
            now,
            origin,
            reservation_id=reservation_id,
            part=part.number,
            parts=part.of,
            allocations=part.allocations,
            **facts,
        )

    def _apply(self, event: Event) -> None:
        self.figures = fold_figures(self.figures, event)
        if isinstance(event, HoldEvent):
            before = self.holds.get(event.reservation_id)
            self._put_hold(before, fold_hold(before, event, self.sku, self.warehouse))
        elif isinstance(event, Returned) and event.reservation_id in self.holds:
            before = self.holds[event.reservation_id]
            self._put_hold(before, before.take_back(event.quantity, event.originator_version))

    def _put_hold(self, before: Hold | None, after: Hold) -> None:
        self._open.put(before, after)
        self.changed_holds[after.reservation_id] = after

    def _remember(self, event: Event) -> None:
        reservation_id = event.reservation_id if isinstance(event, _OF_A_RESERVATION) else None
        hold = self.holds.get(reservation_id) if reservation_id else None
        rank = self._open.ranks[reservation_id] if hold and reservation_id else None
        self._undo.append(
            Undo(self._version, self._created_on, self._modified_on, self.figures, reservation_id, hold, rank)
        )

    def accept(self, count: int | None = None) -> None:
        """The first ``count`` new events (None: all) are in the log: forget how to undo them."""
        del self.new_events[:count]
        del self._undo[:count]
        self.changed_holds.clear()

    def undo(self, count: int | None = None) -> None:
        """The last ``count`` new events (None: all) will not reach the log: go back to before them."""
        kept = 0 if count is None else len(self._undo) - count
        for undo in reversed(self._undo[kept:]):
            self._version, self.figures = undo.version, undo.figures
            self._created_on, self._modified_on = undo.created_on, undo.modified_on
            if undo.reservation_id:
                self._open.restore(undo.reservation_id, undo.hold, undo.rank)
        del self.new_events[kept:]
        del self._undo[kept:]
        self.changed_holds.clear()

    # Snapshots -----------------------------------------------------------------------------------

    def to_state(self) -> StockItemState:
        """Everything that a later :meth:`from_state` needs."""
        return StockItemState(self.figures, self._created_on, self._modified_on, self._open.oldest_first())

    @classmethod
    def from_state(cls, stream: str, version: int, state: StockItemState) -> Self:
        """The item of ``stream`` as it was at ``version``."""
        item = cls.unregistered(stream)
        item._version, item.figures = version, state.figures
        item._created_on, item._modified_on = state.created_on, state.modified_on
        item._set_open_holds(OpenHolds(state.holds))
        return item

    def _set_open_holds(self, holds: OpenHolds) -> None:
        self._open = holds
        self.holds = holds.by_reservation

    @classmethod
    def fold(cls, sku: str, warehouse: str, events: Sequence[Event]) -> Self:
        """The item after ``events``, the whole of its stream from version 1."""
        item = cls.unregistered(stock_stream(sku, warehouse))
        for event in events:
            item.evolve(event)
        item.accept()
        return item
