"""What a command on a reservation acts on: the units of its holds, or the refusal that the contract's table names."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from domain.commands import PartLine
from domain.errors import QuantityOutOfRange, ReservationExpired, ReservationNotActive
from domain.hold import Hold, overall_status
from domain.parts import Part, parts_of
from domain.values import ReservationStatus

if TYPE_CHECKING:  # which imports this module
    from domain.reservation import Reservation


@dataclass(frozen=True, slots=True)
class Move:
    """Units of one hold that a command moves on."""

    hold: Hold
    quantity: int


def active(hold: Hold) -> int:
    return hold.active


def committed(hold: Hold) -> int:
    return hold.committed


def with_customer(hold: Hold) -> int:
    """Units of the hold that were shipped and have not come back."""
    return hold.shipped - hold.returned


_COMING: dict[Callable[[Hold], int], Callable[[Hold], int]] = {
    committed: active,
    with_customer: lambda hold: hold.active + hold.committed,
}
"""Units that may yet come to the part that a command acts on, if what must happen before it is still on its way."""


def moves_of(
    reservation: "Reservation",
    lines: Iterable[PartLine] | None,
    part: Callable[[Hold], int],
    wanted: str,
    now: datetime,
) -> list[Move]:
    """What the command moves; empty if it is a repeat that has nothing left to do."""
    if lines is None:
        seen = [hold.as_seen(reservation.moment(now)) for hold in reservation.holds]
        moves = [Move(hold, part(hold)) for hold in seen if part(hold)]
        if not moves:
            _refuse_unless_done(reservation, wanted, now)
        return moves
    refuse_if_nothing(reservation, part, wanted, now)
    taken: dict[tuple[str, str], int] = {}
    merged: dict[tuple[str, str], Move] = {}
    for line in lines:
        for move in take(reservation, line, part, taken):
            place = (move.hold.sku, move.hold.warehouse)
            before = merged[place].quantity if place in merged else 0
            merged[place] = Move(move.hold, before + move.quantity)
    return list(merged.values())


def take(
    reservation: "Reservation",
    line: PartLine,
    part: Callable[[Hold], int],
    taken: dict[tuple[str, str], int],
) -> list[Move]:
    """Take a line's units from its allocations in their order. Raises QuantityOutOfRange."""
    moves, wanted, possible, coming = [], line.quantity, 0, 0
    for hold in reservation.holds:
        if hold.sku != line.sku or line.warehouse not in {None, hold.warehouse}:
            continue
        coming += _COMING[part](hold) if part in _COMING else 0
        place = (hold.sku, hold.warehouse)
        left = part(hold) - taken.get(place, 0)
        possible += left
        quantity = min(wanted, left)
        if quantity:
            taken[place] = taken.get(place, 0) + quantity
            moves.append(Move(hold, quantity))
            wanted -= quantity
    if wanted:
        facts = {"sku": line.sku} | ({"warehouse": line.warehouse} if line.warehouse else {})
        refusal = QuantityOutOfRange(f"{line.sku} of this reservation", line.quantity, possible, **facts)
        refusal.premature = possible + coming >= line.quantity
        raise refusal
    return moves


def with_parts(moves: Sequence[Move]) -> Iterable[tuple[Move, Part]]:
    return zip(moves, parts_of_moves(moves), strict=True)


def parts_of_moves(moves: Sequence[Move]) -> list[Part]:
    return parts_of([(move.hold.sku, move.hold.warehouse, move.quantity) for move in moves])


# The contract's table --------------------------------------------------------------------------------

_DONE: dict[str, set[ReservationStatus]] = {
    "committed": {ReservationStatus.COMMITTED, ReservationStatus.SHIPPED, ReservationStatus.RETURNED},
    "released": {ReservationStatus.EXPIRED, ReservationStatus.RELEASED, ReservationStatus.CANCELLED},
    "extended": set(),
    "shipped": {ReservationStatus.SHIPPED, ReservationStatus.RETURNED},
    "cancelled": {ReservationStatus.CANCELLED},
    "returned": set(),
}
"""In which states a command that finds nothing to do is a repeat, answered and not refused."""

_OPEN = {ReservationStatus.ACTIVE, ReservationStatus.PARTIALLY_COMMITTED}
_REACHED_FROM: dict[str, set[ReservationStatus]] = {
    "shipped": _OPEN,
    "cancelled": _OPEN,
    "returned": _OPEN | {ReservationStatus.COMMITTED, ReservationStatus.PARTIALLY_SHIPPED},
}
"""From which states what is refused now may be right later, when what must happen before it has happened."""

_READS_AS = {
    ReservationStatus.PARTIALLY_COMMITTED: ReservationStatus.COMMITTED,
    ReservationStatus.PARTIALLY_SHIPPED: ReservationStatus.SHIPPED,
}


def refuse_if_any_expired(reservation: "Reservation", now: datetime) -> None:
    """Commit of the whole and extend: not once any part has expired, swept or not."""
    moment = reservation.moment(now)
    if any(hold.expired or hold.is_due(moment) for hold in reservation.holds):
        raise ReservationExpired(reservation.reservation_id)


def _refuse_unless_done(reservation: "Reservation", wanted: str, now: datetime) -> None:
    status = reservation.status(reservation.moment(now))
    if _READS_AS.get(status, status) not in _DONE[wanted]:
        _refuse_state(reservation, status, wanted)


def refuse_if_nothing(reservation: "Reservation", part: Callable[[Hold], int], wanted: str, now: datetime) -> None:
    """A command that names its lines is never a repeat: without anything to act on it is refused."""
    moment = reservation.moment(now)
    seen = [hold.as_seen(moment) for hold in reservation.holds]
    if not any(part(hold) for hold in seen):
        if part is active and any(hold.expired for hold in seen):  # swept or not: what was active has expired
            raise ReservationExpired(reservation.reservation_id)
        _refuse_state(reservation, overall_status(seen), wanted)


def _refuse_state(reservation: "Reservation", status: ReservationStatus, wanted: str) -> None:
    if status is ReservationStatus.EXPIRED:
        raise ReservationExpired(reservation.reservation_id)
    premature = status in _REACHED_FROM.get(wanted, ())
    raise ReservationNotActive(reservation.reservation_id, status, wanted, premature=premature)
