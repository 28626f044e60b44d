"""What the service promises, told as naively as it can be: a few dictionaries, and time.

The model knows units, promises and instants. It has no events, no versions, no batches, no memory to go stale and
no sweeper: a hold is gone at its instant. :meth:`Model.decide` answers a command as the HTTP contract says.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec
from msgspec import UNSET

from domain import commands as c
from tests.simulation.books import (
    Booking,
    Facts,
    Held,
    Item,
    Place,
    Refused,
    allocation,
    come_back,
    latest,
    refuse_more_than,
    refuse_state,
    units_of,
)

STATUS_OF = {
    "unknown-stock-item": 404,
    "unknown-reservation": 404,
    "unknown-warehouse": 404,
    "insufficient-stock": 409,
    "reservation-not-active": 409,
    "quantity-out-of-range": 409,
    "capacity-exceeded": 409,
    "warehouse-inactive": 409,
    "duplicate-reservation": 409,
    "reservation-expired": 410,
    "version-mismatch": 412,
}
DEFAULT_POLICY: Facts = {
    "safety_stock": 0,
    "low_stock_threshold": 10,
    "backorder_limit": 0,
    "hold_ttl_s": 900,
    "on_shortage": "keep",
    "max_stock_level": None,
}
LONGEST_TTL = timedelta(days=7)


@dataclass
class Model:
    now: datetime
    warehouses: dict[str, Facts] = field(default_factory=dict)
    items: dict[Place, Item] = field(default_factory=dict)
    bookings: dict[str, Booking] = field(default_factory=dict)
    """In the order in which they were made."""
    versions: dict[Place, int] = field(default_factory=dict)
    """Of the stock items, as somebody who has looked at the log says: the model itself does not know."""

    # Time ----------------------------------------------------------------------------------------

    def let_pass(self, time: timedelta) -> None:
        """Every hold whose instant comes is over."""
        self.now += time
        for booking in self.bookings.values():
            if booking.ends is not None and booking.ends <= self.now:
                for held in booking.held:
                    if held.active:
                        held.expired = True
                        held.release(held.active, "EXPIRED", booking.ends)

    def next_end(self) -> datetime | None:
        """When the next hold is over."""
        ends = [b.ends for b in self.bookings.values() if b.ends is not None and any(h.active for h in b.held)]
        return min(ends, default=None)

    # Sums ----------------------------------------------------------------------------------------

    def reserved(self, place: Place) -> int:
        return sum(held.active for b in self.bookings.values() for held in b.held if held.place == place)

    def committed(self, place: Place) -> int:
        return sum(held.committed for b in self.bookings.values() for held in b.held if held.place == place)

    def available(self, place: Place) -> int:
        """Below zero too."""
        item = self.items[place]
        return item.on_hand - self.reserved(place) - self.committed(place) - int(item.policy["safety_stock"])

    def short(self, place: Place) -> int:
        item = self.items[place]
        promised = self.reserved(place) + self.committed(place)
        return max(0, promised - item.on_hand - int(item.policy["backorder_limit"]))

    # Answers -------------------------------------------------------------------------------------

    def decide(self, command: c.Command, made: str | None) -> tuple[int, Facts]:
        """Status and what the answer must say; ``made`` is the id that a reservation was given."""
        try:
            return _DECIDE[type(command)](self, command, made)
        except Refused as refused:
            status = STATUS_OF[refused.code]
            return status, {"status": status, "code": refused.code} | refused.facts

    def level(self, place: Place) -> Facts:
        item, reserved, committed = self.items[place], self.reserved(place), self.committed(place)
        return {
            "sku": place[0],
            "warehouse": place[1],
            "on_hand": item.on_hand,
            "reserved": reserved,
            "committed": committed,
            "damaged": item.damaged,
            "quarantined": item.quarantined,
            "safety_stock": item.policy["safety_stock"],
            "available": max(0, self.available(place)),
            "total": item.on_hand + item.damaged + item.quarantined,
            "short": self.short(place),
            "backorder_limit": item.policy["backorder_limit"],
            "sold": item.sold,
            "returned": item.returned,
            "lost": item.lost,
            "status": self._stock_status(place),
            "last_restocked_at": item.last_restocked_at,
            "last_sold_at": item.last_sold_at,
            "last_counted_at": item.last_counted_at,
        }

    def _stock_status(self, place: Place) -> str:
        available, policy = self.available(place), self.items[place].policy
        if available > policy["low_stock_threshold"]:
            return "IN_STOCK"
        if available > 0:
            return "LOW_STOCK"
        return "BACKORDER" if available + policy["backorder_limit"] > 0 else "OUT_OF_STOCK"

    def reservation(self, reservation_id: str) -> Facts:
        booking = self.bookings[reservation_id]
        ended = [held for held in booking.held if held.released_at is not None]
        last = max(ended, key=lambda held: held.released_at or booking.created_at, default=None)
        return {
            "reservation_id": reservation_id,
            "order_id": booking.command.order_id,
            "kind": booking.command.kind,
            "status": booking.status,
            "created_at": booking.created_at,
            "expires_at": booking.ends if any(held.active for held in booking.held) else None,
            "committed_at": latest(held.committed_at for held in booking.held),
            "shipped_at": latest(held.shipped_at for held in booking.held),
            "released_at": last.released_at if last else None,
            "release_reason": last.release_reason if last else None,
            "lines": self._lines(booking),
            "shortages": booking.shortages,
        }

    def _lines(self, booking: Booking) -> list[Facts]:
        lines = []
        for (sku, code), quantity in booking.lines.items():
            here = [h for h in booking.held if h.place[0] == sku and (h.place in booking.lines) == (code is not None)]
            here = [h for h in here if code in {None, h.place[1]}]
            lines.append({"sku": sku, "quantity": quantity, "allocations": [allocation(held) for held in here]})
        return lines

    # Warehouses and stock ------------------------------------------------------------------------

    def _put_warehouse(self, command: c.PutWarehouse, _: str | None) -> tuple[int, Facts]:
        known = self.warehouses.get(command.code)
        if known is not None and command.only_create:
            raise Refused("version-mismatch")
        warehouse = known or {"priority": 100, "status": "ACTIVE", "policy": None}
        for name in warehouse:
            value = getattr(command, name)
            if value is not UNSET:
                warehouse[name] = msgspec.to_builtins(value)
        self.warehouses[command.code] = warehouse
        return (200 if known else 201), {"code": command.code, **warehouse}

    def _refuse_unknown_warehouse(self, code: str) -> Facts:
        if code not in self.warehouses:
            raise Refused("unknown-warehouse", warehouse=code)
        return self.warehouses[code]

    def _refuse_other_version(self, command: c.StockCommand) -> None:
        version = self.versions.get((command.sku, command.warehouse), 0)
        if command.expected_version not in {None, version}:
            raise Refused("version-mismatch", expected_version=command.expected_version, actual_version=version)

    def _restock(self, command: c.Restock, _: str | None) -> tuple[int, Facts]:
        warehouse = self._refuse_unknown_warehouse(command.warehouse)
        self._refuse_other_version(command)
        place = (command.sku, command.warehouse)
        item = self.items.get(place) or Item(DEFAULT_POLICY | (warehouse["policy"] or {}))
        maximum = item.policy["max_stock_level"]
        if maximum is not None and item.on_hand + command.quantity > maximum:
            raise Refused("capacity-exceeded", room=max(0, maximum - item.on_hand))
        self.items[place] = item
        item.on_hand += command.quantity
        item.last_restocked_at = self.now
        return 200, self.level(place)

    def _stock(self, command: c.StockCommand, _: str | None) -> tuple[int, Facts]:
        """Every other command on one item."""
        self._refuse_unknown_warehouse(command.warehouse)
        self._refuse_other_version(command)
        place = (command.sku, command.warehouse)
        if place not in self.items:
            raise Refused("unknown-stock-item", sku=command.sku, warehouse=command.warehouse)
        _ACT[type(command)](self, self.items[place], command)
        if self.items[place].policy["on_shortage"] == "release_newest_unpaid":
            self._break_promises(place)
        return 200, self.level(place)

    def _break_promises(self, place: Place) -> None:
        """The newest unpaid first, whole, until the item is no longer short."""
        held_here = [held for b in self.bookings.values() for held in b.held if held.place == place and held.active]
        while held_here and self.short(place):
            newest = held_here.pop()
            newest.release(newest.active, "SHORTAGE", self.now)

    def _adjust(self, item: Item, command: c.Adjust) -> None:
        refuse_more_than(-command.delta, item.on_hand)
        item.on_hand += command.delta
        if command.reason in {"LOST", "THEFT"}:
            item.lost += max(0, -command.delta)

    def _count(self, item: Item, command: c.CountStock) -> None:
        item.on_hand = command.counted
        item.last_counted_at = self.now

    def _damage(self, item: Item, command: c.Damage) -> None:
        refuse_more_than(command.quantity, item.on_hand)
        item.on_hand -= command.quantity
        item.damaged += command.quantity

    def _repair(self, item: Item, command: c.Repair) -> None:
        refuse_more_than(command.quantity, item.damaged)
        item.on_hand += command.quantity
        item.damaged -= command.quantity

    def _write_off(self, item: Item, command: c.WriteOff) -> None:
        refuse_more_than(command.quantity, item.damaged)
        item.damaged -= command.quantity

    def _take_back(self, item: Item, command: c.ReturnStock) -> None:
        come_back(item, command.quantity, command.condition)

    def _change_policy(self, item: Item, command: c.ChangePolicy) -> None:
        item.policy = item.policy | msgspec.to_builtins(command.patch)

    # Reservations --------------------------------------------------------------------------------

    def _create(self, command: c.CreateReservation, made: str | None) -> tuple[int, Facts]:
        known = self.bookings.get(command.reservation_id or "")
        if known is not None and command.reservation_id is not None:
            if known.status in {"RELEASED", "EXPIRED", "CANCELLED", "RETURNED"} or known.command != command:
                raise Refused("duplicate-reservation", state=known.status)
            return 200, self.reservation(command.reservation_id)
        lines: dict[tuple[str, str | None], int] = {}
        for line in command.lines:
            lines[line.sku, line.warehouse] = lines.get((line.sku, line.warehouse), 0) + line.quantity
        taken, shortages = self._allocate(command.allocation, lines)
        ttl_s = command.ttl_seconds
        if ttl_s is UNSET:
            ttl_s = min(self.items[place].policy["hold_ttl_s"] for place in taken)
        reservation_id = command.reservation_id or made
        assert reservation_id is not None, "it was refused, and there was enough"
        assert reservation_id not in self.bookings
        self.bookings[reservation_id] = Booking(
            command,
            lines,
            [Held(place, quantity) for place, quantity in taken.items()],
            None if ttl_s is None else self.now + timedelta(seconds=ttl_s),
            shortages,
            self.now,
        )
        return 201, self.reservation(reservation_id)

    def _allocate(
        self, options: c.AllocationOptions, lines: dict[tuple[str, str | None], int]
    ) -> tuple[dict[Place, int], list[Facts]]:
        """Units by place, in the order in which they were taken, and what there was not enough of."""
        taken: dict[Place, int] = {}
        shortages: list[Facts] = []

        def free(place: Place) -> int:
            return max(0, self._promisable(place) - taken.get(place, 0))

        for (sku, code), quantity in sorted(lines.items(), key=lambda line: line[0][1] is None):
            if code is not None:
                self._refuse_without_stock(sku, code)
            places = [(sku, code)] if code is not None else self._candidates(sku, options.strategy, free)
            if code is None and not options.allow_split:
                whole = [place for place in places if free(place) >= quantity]
                places = whole[:1] or sorted(places, key=free, reverse=True)[:1]
            possible = sum(free(place) for place in places)
            if possible < quantity:
                facts = {"sku": sku, "requested": quantity, "available": possible}
                shortages.append(facts | ({"warehouse": code} if code is not None else {}))
                if not options.allow_partial:
                    continue
            wanted = quantity
            for place in places:
                served = min(wanted, free(place))
                if served:
                    taken[place] = taken.get(place, 0) + served
                    wanted -= served
        if shortages and not (options.allow_partial and taken):
            raise Refused("insufficient-stock", shortages=shortages)
        return taken, shortages

    def _promisable(self, place: Place) -> int:
        return self.available(place) + int(self.items[place].policy["backorder_limit"])

    def _refuse_without_stock(self, sku: str, code: str) -> None:
        warehouse = self._refuse_unknown_warehouse(code)
        if (sku, code) not in self.items:
            raise Refused("unknown-stock-item", sku=sku, warehouse=code)
        if warehouse["status"] != "ACTIVE":
            raise Refused("warehouse-inactive", warehouse=code)

    def _candidates(self, sku: str, strategy: str, free: Callable[[Place], int]) -> list[Place]:
        places = [place for place in self.items if place[0] == sku]
        if not places:
            raise Refused("unknown-stock-item", sku=sku)

        def rank(place: Place) -> tuple[int, int, str]:
            priority = self.warehouses[place[1]]["priority"] if strategy == "priority" else 0
            return priority, -free(place), place[1]

        return sorted((place for place in places if self.warehouses[place[1]]["status"] == "ACTIVE"), key=rank)

    def _booking(self, reservation_id: str) -> Booking:
        if reservation_id not in self.bookings:
            raise Refused("unknown-reservation", reservation_id=reservation_id)
        return self.bookings[reservation_id]

    def _on_reservation(self, command: c.ReservationCommand, _: str | None) -> tuple[int, Facts]:
        """Commit, release, extend, ship, cancel: what they act on, what they do to it, and the contract's table."""
        booking = self._booking(command.reservation_id)
        lines = getattr(command, "lines", None)
        part, repeats = _ON[type(command)]
        whole = lines is None and isinstance(command, c.CommitReservation | c.ExtendReservation)
        if booking.has_expired and whole:
            raise Refused("reservation-expired")
        if not any(getattr(held, part) for held in booking.held):
            if lines is None and booking.status.replace("RETURNED", "SHIPPED").removeprefix("PARTIALLY_") in repeats:
                return 200, self.reservation(command.reservation_id)
            refuse_state(booking, lapsed=lines is not None and part == "active" and booking.has_expired)
        if isinstance(command, c.ExtendReservation):
            self._extend(booking, command)
        else:
            self._move(booking, command, units_of(booking, lines, part))
        return 200, self.reservation(command.reservation_id)

    def _extend(self, booking: Booking, command: c.ExtendReservation) -> None:
        start = self.now if command.ttl_seconds is not None else booking.ends or self.now
        ends = start + timedelta(seconds=command.ttl_seconds or command.add_seconds or 0)
        if ends - self.now > LONGEST_TTL:
            raise Refused("quantity-out-of-range")
        booking.ends = ends

    def _move(self, booking: Booking, command: c.ReservationCommand, taken: list[tuple[Held, int]]) -> None:
        if isinstance(command, c.ShipReservation):
            for held, quantity in taken:
                if quantity > self.items[held.place].on_hand:
                    raise Refused("insufficient-stock")
        for held, quantity in taken:
            match command:
                case c.CommitReservation():
                    held.active -= quantity
                    held.committed += quantity
                    held.committed_at = self.now
                case c.ReleaseReservation():
                    held.release(quantity, command.reason, self.now)
                case c.ShipReservation():
                    item = self.items[held.place]
                    item.on_hand -= quantity
                    item.sold += quantity
                    item.last_sold_at = held.shipped_at = self.now
                    held.committed -= quantity
                    held.shipped += quantity
                case c.CancelReservation():
                    held.cancelled = True
                    held.committed, held.active = held.committed - quantity, held.active + quantity
                    held.release(quantity, "ORDER_CANCELLED", self.now)

    def _return(self, command: c.ReturnReservation, _: str | None) -> tuple[int, Facts]:
        booking = self._booking(command.reservation_id)
        if not any(held.with_customer for held in booking.held):
            refuse_state(booking)
        units_of(booking, command.lines, "with_customer")
        for line in command.lines:
            place = (line.sku, line.warehouse)
            next(held for held in booking.held if held.place == place).returned += line.quantity
            come_back(self.items[place], line.quantity, line.condition)
        return 200, self.reservation(command.reservation_id)


_ON: dict[type[c.Command], tuple[str, set[str]]] = {
    c.CommitReservation: ("active", {"COMMITTED", "SHIPPED"}),
    c.ReleaseReservation: ("active", {"EXPIRED", "RELEASED", "CANCELLED"}),
    c.ExtendReservation: ("active", set()),
    c.ShipReservation: ("committed", {"SHIPPED"}),
    c.CancelReservation: ("committed", {"CANCELLED"}),
}
"""What a command acts on, and in which states one without lines is a repeat when there is nothing of that."""

_ACT: dict[type[c.Command], Callable[[Model, Item, Any], None]] = {
    c.Adjust: Model._adjust,
    c.CountStock: Model._count,
    c.Damage: Model._damage,
    c.Repair: Model._repair,
    c.WriteOff: Model._write_off,
    c.ReturnStock: Model._take_back,
    c.ChangePolicy: Model._change_policy,
}

_DECIDE: dict[type[c.Command], Callable[[Model, Any, str | None], tuple[int, Facts]]] = {
    c.PutWarehouse: Model._put_warehouse,
    c.Restock: Model._restock,
    **dict.fromkeys(_ACT, Model._stock),
    c.CreateReservation: Model._create,
    **dict.fromkeys(_ON, Model._on_reservation),
    c.ReturnReservation: Model._return,
}
