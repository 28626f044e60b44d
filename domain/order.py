"""Commands on an order: every reservation that was made for it, all or nothing.

A reservation that was released or cancelled is passed over as long as there is another one. One that has
expired is not, when the order pays: half of what was paid for would be missing. Each reservation's part
of the command has a command id of its own, so that it reads like a command on that reservation.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from msgspec.structs import replace

from domain.commands import (
    CancelOrder,
    CancelReservation,
    CommitOrder,
    CommitReservation,
    ReleaseOrder,
    ReleaseReservation,
    ReturnLine,
    ReturnOrder,
    ReturnReservation,
    ShipLine,
    ShipOrder,
    ShipReservation,
)
from domain.events import Origin
from domain.hold import Hold
from domain.moves import committed, with_customer
from domain.reservation import (
    Act,
    Reservation,
    plan_cancel,
    plan_commit,
    plan_release,
    plan_ship,
    plan_take_back,
)
from domain.values import ReleaseReason, ReservationStatus

_WITHDRAWN = frozenset({ReservationStatus.RELEASED, ReservationStatus.CANCELLED})
_ENDED = _WITHDRAWN | {ReservationStatus.EXPIRED}

L = TypeVar("L", ShipLine, ReturnLine)

Plan = Callable[[Sequence[Reservation], Any, datetime], list[Act]]
"""All checks that one command makes of all reservations (oldest first, at least one); what is to be done. Raises what a reservation refuses."""


def perform(acts: Iterable[Act], origin: Origin, new_command_id: Callable[[], str]) -> None:
    """Trigger what was planned: nothing of it can fail."""
    for number, act in enumerate(acts):
        act(replace(origin, command_id=new_command_id()) if number else origin)


def commit(reservations: Sequence[Reservation], command: CommitOrder, now: datetime) -> list[Act]:
    """The order has paid."""
    del command
    return _planned(
        plan_commit(each, CommitReservation(reservation_id=each.reservation_id), now)
        for each in _standing(reservations, _WITHDRAWN, now)
    )


def release(reservations: Sequence[Reservation], command: ReleaseOrder, now: datetime) -> list[Act]:
    """The order will not pay."""
    del command
    return _planned(
        plan_release(each, _release(each, ReleaseReason.PAYMENT_FAILED), now)
        for each in _standing(reservations, _ENDED, now)
    )


def cancel(reservations: Sequence[Reservation], command: CancelOrder, now: datetime) -> list[Act]:
    """The order is off: what is held is released, what is committed comes back. Not what has left."""
    del command
    acts: list[Act | None] = []
    for each in _standing(reservations, _ENDED, now):
        moment = each.moment(now)
        seen = [hold.as_seen(moment) for hold in each.holds]
        if any(hold.active for hold in seen):
            acts.append(plan_release(each, _release(each, ReleaseReason.ORDER_CANCELLED), now))
        if any(hold.committed for hold in seen):
            acts.append(plan_cancel(each, CancelReservation(reservation_id=each.reservation_id), now))
        elif not any(hold.active for hold in seen) and each.status(moment) not in _ENDED:
            plan_cancel(each, CancelReservation(reservation_id=each.reservation_id), now)  # raises: it has left
    return _planned(acts)


def ship(reservations: Sequence[Reservation], command: ShipOrder, now: datetime) -> list[Act]:
    """Paid units leave; lines are taken from the reservations in their order."""
    standing = _standing(reservations, _ENDED, now)
    leaving: dict[str, int] = {}
    if command.lines is None:
        return _planned(plan_ship(each, _ship(each, command, None), now, leaving) for each in standing)
    shared = _share_out(command.lines, standing, committed)
    return _planned(plan_ship(each, _ship(each, command, lines), now, leaving) for each, lines in shared)


def take_back(reservations: Sequence[Reservation], command: ReturnOrder, now: datetime) -> list[Act]:
    """Shipped units come back, to the reservations in their order."""
    coming: dict[str, int] = {}
    shared = _share_out(command.lines, _standing(reservations, _ENDED, now), with_customer)
    return _planned(
        plan_take_back(each, ReturnReservation(reservation_id=each.reservation_id, lines=lines), now, coming)
        for each, lines in shared
    )


def _planned(acts: Iterable[Act | None]) -> list[Act]:
    return [act for act in acts if act is not None]


def _release(reservation: Reservation, reason: ReleaseReason) -> ReleaseReservation:
    return ReleaseReservation(reservation_id=reservation.reservation_id, reason=reason)


def _ship(reservation: Reservation, command: ShipOrder, lines: tuple[ShipLine, ...] | None) -> ShipReservation:
    return ShipReservation(reservation_id=reservation.reservation_id, tracking=command.tracking, lines=lines)


def _standing(
    reservations: Sequence[Reservation], ended: frozenset[ReservationStatus], now: datetime
) -> Sequence[Reservation]:
    """Those that a command is about; if all have ended, all: the refusal, or the repeat, is theirs."""
    if len(reservations) == 1:
        return reservations
    return [each for each in reservations if each.status(each.moment(now)) not in ended] or reservations


def _share_out(
    lines: tuple[L, ...], reservations: Sequence[Reservation], part: Callable[[Hold], int]
) -> list[tuple[Reservation, tuple[L, ...]]]:
    """Which reservation each line's units are taken from; what none has is left to one that will refuse it."""
    if len(reservations) == 1:
        return [(reservations[0], lines)]
    shares: dict[str, list[L]] = {}
    taken: dict[tuple[str, str, str], int] = {}
    for line in lines:
        wanted = line.quantity
        for each in reservations:
            given = _take(each, line, wanted, part, taken)
            if given:
                shares.setdefault(each.reservation_id, []).append(replace(line, quantity=given))
                wanted -= given
        if wanted:
            refusing = next((each for each in reservations if _may_get(each, line)), reservations[-1])
            shares.setdefault(refusing.reservation_id, []).append(replace(line, quantity=wanted))
    return [(each, tuple(shares[each.reservation_id])) for each in reservations if each.reservation_id in shares]


def _take(
    reservation: Reservation,
    line: ShipLine | ReturnLine,
    wanted: int,
    part: Callable[[Hold], int],
    taken: dict[tuple[str, str, str], int],
) -> int:
    given = 0
    for hold in reservation.holds:
        if _is_named(hold, line):
            key = (hold.reservation_id, hold.sku, hold.warehouse)
            quantity = min(wanted - given, part(hold) - taken.get(key, 0))
            taken[key] = taken.get(key, 0) + quantity
            given += quantity
    return given


def _may_get(reservation: Reservation, line: ShipLine | ReturnLine) -> bool:
    """Whether what must happen before it may still bring the reservation units of this line."""
    return any(hold.is_open and _is_named(hold, line) for hold in reservation.holds)


def _is_named(hold: Hold, line: ShipLine | ReturnLine) -> bool:
    return hold.sku == line.sku and line.warehouse in {None, hold.warehouse}
