"""What customers, warehouse staff and payment providers may ask, at random but about things that exist."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import strategies as st
from msgspec import UNSET

from domain import commands as c
from domain.policy import Policy, PolicyPatch
from domain.values import AdjustmentReason, Condition, HoldKind, ReleaseReason, Strategy, WarehouseStatus
from tests.simulation.books import Booking
from tests.simulation.model import Model
from tests.simulation.worlds import World

T = TypeVar("T")

SKUS = ("A", "B")
CODES = ("W1", "W2", "W3")
UNITS = st.integers(1, 9)
TICKS = st.integers(1, 6)
SOMETIMES = st.sampled_from([True, False, False, False])


@dataclass
class Wishes:
    """Draws commands. Most of them make sense; of each kind some do not."""

    data: st.DataObject
    model: Model
    world: World

    def of(self, strategy: st.SearchStrategy[T]) -> T:
        return self.data.draw(strategy)

    def any(self) -> c.Command:
        """A command of any kind."""
        return self.of(st.sampled_from(KINDS))(self)

    # Warehouses and stock

    def put_warehouse(self) -> c.Command:
        code = self.of(st.sampled_from(CODES))
        policy = Policy(
            hold_ttl_s=self.world.ttl_s(self.of(TICKS)), max_stock_level=self.of(st.sampled_from([None, 90]))
        )
        policies = [UNSET, None, policy]
        if not self.world.exact:  # the default's TTL is none of this world's
            policies = [UNSET, policy] if code in self.model.warehouses else [policy]
        return c.PutWarehouse(
            code=code,
            priority=self.of(st.one_of(st.just(UNSET), st.integers(1, 3))),
            status=self.of(st.sampled_from([WarehouseStatus.ACTIVE, WarehouseStatus.ACTIVE, *WarehouseStatus])),
            policy=self.of(st.sampled_from(policies)),
            only_create=self.of(SOMETIMES),
        )

    def place(self) -> dict[str, Any]:
        known = sorted(self.model.items)
        if known and not self.of(SOMETIMES):
            sku, code = self.of(st.sampled_from(known))
        else:
            sku, code = self.of(st.sampled_from(SKUS)), self.of(st.sampled_from([*CODES, "W9"]))
        return {"sku": sku, "warehouse": code}

    def restock(self) -> c.Command:
        sku, code = self.of(st.sampled_from(SKUS)), self.of(st.sampled_from([*CODES, "W1", "W2", "W9"]))
        return c.Restock(sku=sku, warehouse=code, quantity=self.of(st.integers(1, 30)))

    def correct(self) -> c.Command:
        """The world has the last word."""
        place, quantity, kind = self.place(), self.of(UNITS), self.of(st.integers(0, 5))
        if kind == 0:
            delta, reason = self.of(st.integers(-9, 5)), self.of(st.sampled_from(AdjustmentReason))
            return c.Adjust(**place, delta=delta, reason=reason)
        if kind == 1:
            return c.CountStock(**place, counted=self.of(st.integers(0, 12)))
        if kind == 2:
            condition = self.of(st.sampled_from(Condition))
            return c.ReturnStock(**place, quantity=quantity, condition=condition)
        return (c.Damage, c.Repair, c.WriteOff)[kind - 3](**place, quantity=quantity)

    def fall_short(self) -> c.Command:
        """A count finds a little less than what has been promised."""
        sku, code = place = self.of(st.sampled_from(sorted(self.model.items)))
        promised = self.model.reserved(place) + self.model.committed(place)
        there = promised - int(self.model.items[place].policy["backorder_limit"]) - self.of(st.integers(1, 3))
        return c.CountStock(sku=sku, warehouse=code, counted=max(0, there))

    def guarded(self) -> c.Command:
        """Compare-and-set against the present version, or another."""
        place = self.place()
        version = self.model.versions.get((place["sku"], place["warehouse"]), 0)
        expected = version if not self.of(SOMETIMES) else self.of(st.integers(0, 5))
        return c.Restock(**place, quantity=self.of(UNITS), expected_version=expected)

    def change_policy(self) -> c.Command:
        patch: dict[str, Any] = self.of(
            st.fixed_dictionaries(
                {},
                optional={
                    "safety_stock": st.integers(0, 4),
                    "backorder_limit": st.integers(0, 6),
                    "low_stock_threshold": st.integers(0, 20),
                    "hold_ttl_s": TICKS.map(self.world.ttl_s),
                    "on_shortage": st.sampled_from(["keep", "release_newest_unpaid", "release_newest_unpaid"]),
                    "max_stock_level": st.sampled_from([None, 60]),
                },
            )
        )
        return c.ChangePolicy(**self.place(), patch=PolicyPatch(**patch))

    # Reservations

    def create(self) -> c.Command:
        reservation_id = self.of(st.sampled_from([None, "new", "new", "known"]))
        if reservation_id == "new":
            reservation_id = f"r{len(self.model.bookings)}"
        elif reservation_id == "known":
            if self.model.bookings and not self.of(SOMETIMES):  # the same request again
                return self.of(st.sampled_from([booking.command for booking in self.model.bookings.values()]))
            reservation_id = f"r{max(0, len(self.model.bookings) - 1)}"
        kind = self.of(st.sampled_from(HoldKind))
        endless = [None] if kind is HoldKind.MANUAL else []
        return c.CreateReservation(
            order_id="order",
            reservation_id=reservation_id,
            kind=kind,
            lines=tuple(self.of(st.lists(self._lines(), min_size=1, max_size=4))),
            ttl_seconds=self.of(st.sampled_from([UNSET, *endless, self.world.ttl_s(self.of(TICKS))])),
            allocation=self._allocation(),
        )

    @staticmethod
    def _lines() -> st.SearchStrategy[c.Line]:
        code = st.sampled_from([None, None, *CODES, "W1", "W2"])
        return st.builds(c.Line, sku=st.sampled_from(SKUS), quantity=st.integers(1, 6), warehouse=code)

    def _allocation(self) -> c.AllocationOptions:
        return c.AllocationOptions(
            strategy=self.of(st.sampled_from([Strategy.PRIORITY, Strategy.MOST_STOCK])),
            allow_split=not self.of(SOMETIMES),
            allow_partial=self.of(SOMETIMES),
        )

    def reservation(self, part: str) -> str:
        """One of them, as a rule one that has units in this part."""
        bookings = self.model.bookings
        fitting = [rid for rid, b in bookings.items() if any(getattr(held, part) for held in b.held)]
        if fitting and not self.of(SOMETIMES):
            return self.of(st.sampled_from(fitting))
        return self.of(st.sampled_from([*bookings, *bookings, "nobody"]))

    def _part_lines(self, reservation_id: str) -> tuple[c.PartLine, ...] | None:
        booking = self.model.bookings.get(reservation_id)
        if booking is None or self.of(st.booleans()):
            return None
        return tuple(self._part_line(booking) for _ in range(self.of(st.integers(1, 2))))

    def _part_line(self, booking: Booking) -> c.PartLine:
        sku, code = self.of(st.sampled_from([held.place for held in booking.held]))
        return c.PartLine(sku, self.of(st.integers(1, 4)), self.of(st.sampled_from([None, code])))

    def commit(self) -> c.Command:
        reservation_id = self.reservation("active")
        return c.CommitReservation(reservation_id=reservation_id, lines=self._part_lines(reservation_id))

    def release(self) -> c.Command:
        reservation_id = self.reservation("active")
        reason = self.of(st.sampled_from([ReleaseReason.CANCELLED, ReleaseReason.PAYMENT_FAILED]))
        lines = self._part_lines(reservation_id)
        return c.ReleaseReservation(reservation_id=reservation_id, reason=reason, lines=lines)

    def extend(self) -> c.Command:
        reservation_id, ticks = self.reservation("active"), self.of(TICKS)
        if self.of(SOMETIMES):
            booking = self.model.bookings.get(reservation_id)
            usual = 100 * ticks if booking is not None and booking.ends is not None else self.world.ttl_s(ticks)
            add_s = 604_800 if self.of(SOMETIMES) else usual
            return c.ExtendReservation(reservation_id=reservation_id, add_seconds=add_s)
        return c.ExtendReservation(reservation_id=reservation_id, ttl_seconds=self.world.ttl_s(ticks))

    def ship(self) -> c.Command:
        reservation_id = self.reservation("committed")
        lines = self._part_lines(reservation_id)
        parcels = None
        if lines is not None:
            parcels = tuple(c.ShipLine(line.sku, line.quantity, line.warehouse, "parcel") for line in lines)
        return c.ShipReservation(reservation_id=reservation_id, lines=parcels)

    def cancel(self) -> c.Command:
        reservation_id = self.reservation("committed")
        return c.CancelReservation(reservation_id=reservation_id, lines=self._part_lines(reservation_id))

    def bring_back(self) -> c.Command:
        reservation_id = self.reservation("with_customer")
        booking = self.model.bookings.get(reservation_id)
        places = [held.place for held in booking.held] if booking else [("A", "W1")]
        line = st.builds(
            lambda place, quantity, condition: c.ReturnLine(place[0], place[1], quantity, condition),
            st.sampled_from(places),
            st.integers(1, 3),
            st.sampled_from(Condition),
        )
        return c.ReturnReservation(
            reservation_id=reservation_id, lines=tuple(self.of(st.lists(line, min_size=1, max_size=2)))
        )


KINDS: list[Callable[[Wishes], c.Command]] = [
    Wishes.put_warehouse,
    Wishes.restock,
    Wishes.correct,
    Wishes.change_policy,
    Wishes.create,
    Wishes.create,
    Wishes.create,
    Wishes.commit,
    Wishes.commit,
    Wishes.release,
    Wishes.extend,
    Wishes.ship,
    Wishes.cancel,
    Wishes.bring_back,
]
"""Those that may be sent at the same time: what a guarded one says depends on who was first."""
