"""The books that the model keeps: what there is of an item, what is held for a reservation, and its status."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from domain.commands import CreateReservation

Place = tuple[str, str]
"""SKU and warehouse."""
Facts = dict[str, Any]


class Refused(Exception):
    def __init__(self, code: str, **facts: Any) -> None:
        super().__init__(code)
        self.code = code
        self.facts = facts


@dataclass
class Item:
    policy: Facts
    on_hand: int = 0
    damaged: int = 0
    quarantined: int = 0
    sold: int = 0
    returned: int = 0
    lost: int = 0
    last_restocked_at: datetime | None = None
    last_sold_at: datetime | None = None
    last_counted_at: datetime | None = None


@dataclass
class Held:
    """Units at one place for one reservation."""

    place: Place
    active: int
    committed: int = 0
    shipped: int = 0
    returned: int = 0
    released: int = 0
    expired: bool = False
    cancelled: bool = False
    committed_at: datetime | None = None
    shipped_at: datetime | None = None
    released_at: datetime | None = None
    release_reason: str | None = None

    @property
    def with_customer(self) -> int:
        return self.shipped - self.returned

    def release(self, quantity: int, reason: str, at: datetime | None) -> None:
        self.active -= quantity
        self.released += quantity
        self.released_at, self.release_reason = at, reason


@dataclass
class Booking:
    """A reservation."""

    command: CreateReservation
    lines: dict[tuple[str, str | None], int]
    held: list[Held]
    ends: datetime | None
    shortages: list[Facts]
    created_at: datetime

    @property
    def status(self) -> str:
        return status_of(self.held)

    @property
    def has_expired(self) -> bool:
        return any(held.expired for held in self.held)


def status_of(held: Sequence[Held]) -> str:
    """The first that fits, as the contract lists them."""
    active, committed, shipped = (sum(getattr(h, part) for h in held) for part in ("active", "committed", "shipped"))
    if active:
        return "PARTIALLY_COMMITTED" if committed else "ACTIVE"
    if committed:
        return "PARTIALLY_SHIPPED" if shipped else "COMMITTED"
    if shipped:
        return "SHIPPED" if any(h.with_customer for h in held) else "RETURNED"
    if any(h.expired for h in held):
        return "EXPIRED"
    return "CANCELLED" if any(h.cancelled for h in held) else "RELEASED"


def units_of(booking: Booking, lines: Iterable[Any] | None, part: str) -> list[tuple[Held, int]]:
    """Units of each allocation, in their order, that the command names; all of that part if it names none."""
    left = [int(getattr(held, part)) for held in booking.held]
    before = list(left)
    if lines is None:
        return [(held, units) for held, units in zip(booking.held, before, strict=True) if units]
    for line in lines:
        wanted = line.quantity
        for n, held in enumerate(booking.held):
            if held.place[0] == line.sku and line.warehouse in {None, held.place[1]}:
                units = min(wanted, left[n])
                left[n] -= units
                wanted -= units
        if wanted:
            raise Refused("quantity-out-of-range", sku=line.sku)
    taken = [(held, was - remains) for held, was, remains in zip(booking.held, before, left, strict=True)]
    return [(held, units) for held, units in taken if units]


def refuse_state(booking: Booking, *, lapsed: bool = False) -> None:
    """``lapsed``: the command named units that are no longer held because their time was over."""
    if booking.status == "EXPIRED" or lapsed:
        raise Refused("reservation-expired")
    raise Refused("reservation-not-active", state=booking.status)


def refuse_more_than(quantity: int, there: int) -> None:
    if quantity > there:
        raise Refused("quantity-out-of-range", requested=quantity, remaining=there)


def come_back(item: Item, quantity: int, condition: str) -> None:
    bucket = {"SELLABLE": "on_hand", "DAMAGED": "damaged", "QUARANTINE": "quarantined"}[condition]
    setattr(item, bucket, getattr(item, bucket) + quantity)
    item.returned += quantity


def latest(times: Iterable[datetime | None]) -> datetime | None:
    return max((time for time in times if time is not None), default=None)


def allocation(held: Held) -> Facts:
    return {
        "warehouse": held.place[1],
        "quantity": held.active + held.committed + held.shipped + held.released,
        "active": held.active,
        "committed": held.committed,
        "shipped": held.shipped,
        "returned": held.returned,
        "released": held.released,
        "status": status_of([held]),
    }
