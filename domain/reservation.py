"""A reservation: an order's hold over any number of lines, decided whole or not at all.

It is not a stream. Its header never changes; what became of it is in its holds, each folded by the
stock item that it is of. Every decision here first plans (all checks of all its lines), then
triggers, which cannot fail.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
from msgspec.structs import replace

from domain.allocation import Allocation, Stock
from domain.commands import (
    CancelReservation,
    CommitReservation,
    CreateReservation,
    ExtendReservation,
    Line,
    PartLine,
    ReleaseReservation,
    ReturnReservation,
    ShipReservation,
)
from domain.errors import (
    DuplicateReservation,
    QuantityOutOfRange,
    ReservationExpired,
    ReservationNotActive,
    Shortage,
)
from domain.events import Origin, RequestedLine, ReservationRequest
from domain.hold import EXPIRY_ACTOR, Hold, overall_status
from domain.parts import Part, parts_of
from domain.stock_item import StockItem
from domain.values import (
    MAX_HOLD_TTL_S,
    MAX_QUANTITY,
    Bucket,
    Condition,
    HoldKind,
    ReleaseReason,
    ReservationStatus,
)

MAX_RELEASES = 200
"""Due holds that one decision releases of one item; more are swept before it, in commands of their own."""


class ReservationHeader(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What is said of a reservation once, when it is made."""

    reservation_id: str
    order_id: str
    kind: HoldKind
    customer_ref: str | None
    lines: tuple[RequestedLine, ...]
    shortages: tuple[Shortage, ...]
    created_at: datetime
    created_by: str
    digest: str


@dataclass(frozen=True, slots=True)
class Reservation:
    """A reservation as a decision sees it: its holds in the order of their allocation, with their items."""

    header: ReservationHeader
    holds: list[Hold]
    items: dict[tuple[str, str], StockItem]

    @property
    def reservation_id(self) -> str:
        return self.header.reservation_id

    def item_of(self, hold: Hold) -> StockItem:
        return self.items[hold.sku, hold.warehouse]

    def status(self, now: datetime) -> ReservationStatus:
        """As it is shown: a due hold is expired, swept or not."""
        return overall_status(hold.as_seen(now) for hold in self.holds)

    def moment(self, now: datetime) -> datetime:
        """``now``, but never before the last event of any of its items."""
        return max([item.moment(now) for item in self.items.values()], default=now)


@dataclass(frozen=True, slots=True)
class Move:
    """Units of one hold that a command moves on."""

    hold: Hold
    quantity: int


# Creating --------------------------------------------------------------------------------------------


def merge_lines(lines: Sequence[Line]) -> tuple[RequestedLine, ...]:
    """Equal (SKU, warehouse) lines become one, in the place of the first; its metadata is the first that is given.

    Raises QuantityOutOfRange if together they ask for more than a quantity may be.
    """
    merged: dict[tuple[str, str | None], RequestedLine] = {}
    for line in lines:
        key = (line.sku, line.warehouse)
        before = merged.get(key)
        if before is None:
            merged[key] = RequestedLine(line.sku, line.quantity, line.warehouse, line.metadata)
        else:
            metadata = line.metadata if before.metadata is None else before.metadata
            quantity = before.quantity + line.quantity
            if quantity > MAX_QUANTITY:
                raise QuantityOutOfRange(f"units of {line.sku}", quantity, MAX_QUANTITY, sku=line.sku)
            merged[key] = replace(before, quantity=quantity, metadata=metadata)
    return tuple(merged.values())


def refuse_unless_repeat(existing: Reservation, digest: str, now: datetime) -> None:
    """A reservation id that is taken: the same request again while it lives is answered, all else refused."""
    status = existing.status(existing.moment(now))
    if status in _ENDED:
        raise DuplicateReservation(existing.reservation_id, status, "and has ended")
    if existing.header.digest != digest:
        raise DuplicateReservation(existing.reservation_id, status, "with another request")


_ENDED = {
    ReservationStatus.RELEASED,
    ReservationStatus.EXPIRED,
    ReservationStatus.CANCELLED,
    ReservationStatus.RETURNED,
}


def create(
    command: CreateReservation,
    reservation_id: str,
    digest: str,
    stock: Stock,
    origin: Origin,
    now: datetime,
    new_command_id: Callable[[], str],
) -> Reservation:
    """Hold stock for an order, over as many items as it takes, or refuse it whole.

    Raises what :meth:`Allocation.allocate` raises, and SweepNeeded.
    """
    lines = merge_lines(command.lines)
    allocation = Allocation(stock, command.allocation, now)
    allocation.allocate(lines)
    items = list(allocation.items.values())
    due = [item.due_for(allocation.taken[item.id], now, MAX_RELEASES) for item in items]
    request = ReservationRequest(
        lines, digest, command.customer_ref, tuple(allocation.shortages), tuple(allocation.choices)
    )
    expires_at = _expiry(command, items, now)
    parts = parts_of([(item.sku, item.warehouse, allocation.taken[item.id]) for item in items])
    for item, expired, part in zip(items, due, parts, strict=True):
        _expire(item, expired, origin, now, new_command_id)
        item.reserve(
            reservation_id,
            command.order_id,
            allocation.taken[item.id],
            expires_at,
            command.kind,
            origin,
            now,
            part,
            request if part.number == 1 else None,
        )
    header = ReservationHeader(
        reservation_id=reservation_id,
        order_id=command.order_id,
        kind=command.kind,
        customer_ref=command.customer_ref,
        lines=lines,
        shortages=request.shortages,
        created_at=items[0].modified_on,
        created_by=origin.actor,
        digest=digest,
    )
    holds = [item.holds[reservation_id] for item in items]
    return Reservation(header, holds, {(item.sku, item.warehouse): item for item in items})


def _expiry(command: CreateReservation, items: Sequence[StockItem], now: datetime) -> datetime | None:
    """One end for all holds: as asked for, else by the shortest TTL among the items' policies."""
    if command.ttl_seconds is None:
        return None
    ttl_s = command.ttl_seconds or min([item.figures.policy.hold_ttl_s for item in items])
    return max([item.moment(now) for item in items]) + timedelta(seconds=ttl_s)


# Expiring and relieving: the service's own -----------------------------------------------------------


def expire_due(item: StockItem, limit: int, origin: Origin, now: datetime) -> int:
    """Release what is due on ``item``, the longest overdue first; how many holds that were."""
    due = item.due_holds(limit, now)
    _release_all(item, due, ReleaseReason.EXPIRED, origin, now)
    return len(due)


def relieve_shortage(item: StockItem, limit: int, origin: Origin, now: datetime) -> int:
    """Release the newest unpaid holds of a short item if its policy says so; how many holds that were."""
    moment = item.at(now)
    if item.figures.policy.on_shortage == "keep" or not item.short:
        return 0
    newest = item.newest_unpaid(item.short, limit, moment)
    _release_all(item, newest, ReleaseReason.SHORTAGE, origin, now)
    return len(newest)


def _expire(
    item: StockItem, due: Sequence[Hold], origin: Origin, now: datetime, new_command_id: Callable[[], str]
) -> None:
    """Release due holds that a promise needs: a command of its own, caused by the one that needs it."""
    if due:
        own = Origin(
            command_id=new_command_id(),
            actor=EXPIRY_ACTOR,
            correlation_id=origin.correlation_id,
            causation_id=origin.command_id,
        )
        _release_all(item, due, ReleaseReason.EXPIRED, own, now)


def _release_all(item: StockItem, holds: Sequence[Hold], reason: ReleaseReason, origin: Origin, now: datetime) -> None:
    parts = parts_of([(item.sku, item.warehouse, hold.active) for hold in holds])
    for hold, part in zip(holds, parts, strict=True):
        item.release(hold.reservation_id, hold.active, Bucket.RESERVED, reason, origin, now, part)


# Moving on -------------------------------------------------------------------------------------------


def commit(reservation: Reservation, command: CommitReservation, origin: Origin, now: datetime) -> None:
    """The order has paid. Raises ReservationExpired, ReservationNotActive, QuantityOutOfRange."""
    if command.lines is None:
        _refuse_if_any_expired(reservation, now)
    moves = _moves(reservation, command.lines, _active, "committed", now)
    for move, part in _with_parts(moves):
        reservation.item_of(move.hold).commit(reservation.reservation_id, move.quantity, origin, now, part)


def release(reservation: Reservation, command: ReleaseReservation, origin: Origin, now: datetime) -> None:
    """The order will not pay. Raises ReservationExpired (named lines), ReservationNotActive, QuantityOutOfRange."""
    moves = _moves(reservation, command.lines, _active, "released", now)
    for move, part in _with_parts(moves):
        reservation.item_of(move.hold).release(
            reservation.reservation_id, move.quantity, Bucket.RESERVED, command.reason, origin, now, part
        )


def extend(reservation: Reservation, command: ExtendReservation, origin: Origin, now: datetime) -> None:
    """All active holds end later (or sooner). Raises ReservationExpired, ReservationNotActive, QuantityOutOfRange."""
    _refuse_if_any_expired(reservation, now)
    moves = _moves(reservation, None, _active, "extended", now)
    moment = reservation.moment(now)
    if command.ttl_seconds is not None:
        expires_at = moment + timedelta(seconds=command.ttl_seconds)
    else:
        present = max((move.hold.expires_at for move in moves if move.hold.expires_at), default=moment)
        expires_at = present + timedelta(seconds=command.add_seconds or 0)
    ttl_s = (expires_at - moment).total_seconds()
    if ttl_s > MAX_HOLD_TTL_S:
        raise QuantityOutOfRange("seconds to live", int(ttl_s), MAX_HOLD_TTL_S)
    for move, part in _with_parts(moves):
        reservation.item_of(move.hold).extend(reservation.reservation_id, expires_at, origin, now, part)


def ship(reservation: Reservation, command: ShipReservation, origin: Origin, now: datetime) -> None:
    """Paid units leave. Raises InsufficientStock (less is there), ReservationNotActive, QuantityOutOfRange …"""
    if command.lines is None:
        tracked = [(move, command.tracking) for move in _moves(reservation, None, _committed, "shipped", now)]
    else:
        tracked = _tracked_moves(reservation, command, now)
    leaving: dict[str, int] = {}
    for move, _ in tracked:
        item = reservation.item_of(move.hold)
        leaving[item.id] = leaving.get(item.id, 0) + move.quantity
        item.refuse_shipping(leaving[item.id])
    for (move, tracking), part in zip(tracked, _parts_of([move for move, _ in tracked]), strict=True):
        reservation.item_of(move.hold).ship(reservation.reservation_id, move.quantity, tracking, origin, now, part)


def _tracked_moves(reservation: Reservation, command: ShipReservation, now: datetime) -> list[tuple[Move, str | None]]:
    """One move per parcel: lines on the same hold stay apart, for each has its own tracking number."""
    assert command.lines is not None
    taken: dict[tuple[str, str], int] = {}
    tracked: list[tuple[Move, str | None]] = []
    _refuse_if_nothing(reservation, _committed, "shipped", now)
    for line in command.lines:
        moves = _take(reservation, line, _committed, taken)
        tracked += [(move, line.tracking or command.tracking) for move in moves]
    return tracked


def cancel(reservation: Reservation, command: CancelReservation, origin: Origin, now: datetime) -> None:
    """A paid order is cancelled before it ships. Raises ReservationNotActive, ReservationExpired, QuantityOutOfRange."""
    moves = _moves(reservation, command.lines, _committed, "cancelled", now)
    for move, part in _with_parts(moves):
        reservation.item_of(move.hold).release(
            reservation.reservation_id,
            move.quantity,
            Bucket.COMMITTED,
            ReleaseReason.ORDER_CANCELLED,
            origin,
            now,
            part,
        )


def take_back(reservation: Reservation, command: ReturnReservation, origin: Origin, now: datetime) -> None:
    """Shipped units come back. Raises ReservationNotActive, ReservationExpired, QuantityOutOfRange."""
    _refuse_if_nothing(reservation, _with_customer, "returned", now)
    taken: dict[tuple[str, str], int] = {}
    moves: list[tuple[Move, Condition]] = []
    for line in command.lines:
        part_line = PartLine(line.sku, line.quantity, line.warehouse)
        moves += [(move, line.condition) for move in _take(reservation, part_line, _with_customer, taken)]
    for place, quantity in taken.items():
        reservation.items[place].refuse_taking_back(quantity)
    holds: dict[tuple[str, str], Hold] = {}
    for (move, condition), part in zip(moves, _parts_of([move for move, _ in moves]), strict=True):
        place = (move.hold.sku, move.hold.warehouse)
        item = reservation.item_of(move.hold)
        hold = holds.get(place, move.hold)
        item.take_back(move.quantity, condition, origin, now, hold=hold, part=part)
        holds[place] = item.changed_holds[hold.reservation_id]


# What a command acts on ------------------------------------------------------------------------------


def _active(hold: Hold) -> int:
    return hold.active


def _committed(hold: Hold) -> int:
    return hold.committed


def _with_customer(hold: Hold) -> int:
    return hold.shipped - hold.returned


def _moves(
    reservation: Reservation,
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
    _refuse_if_nothing(reservation, part, wanted, now)
    taken: dict[tuple[str, str], int] = {}
    merged: dict[tuple[str, str], Move] = {}
    for line in lines:
        for move in _take(reservation, line, part, taken):
            place = (move.hold.sku, move.hold.warehouse)
            before = merged[place].quantity if place in merged else 0
            merged[place] = Move(move.hold, before + move.quantity)
    return list(merged.values())


def _take(
    reservation: Reservation,
    line: PartLine,
    part: Callable[[Hold], int],
    taken: dict[tuple[str, str], int],
) -> list[Move]:
    """Take a line's units from its allocations in their order. Raises QuantityOutOfRange."""
    moves, wanted, possible = [], line.quantity, 0
    for hold in reservation.holds:
        if hold.sku != line.sku or line.warehouse not in {None, hold.warehouse}:
            continue
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
        raise QuantityOutOfRange(f"{line.sku} of this reservation", line.quantity, possible, **facts)
    return moves


def _with_parts(moves: Sequence[Move]) -> Iterable[tuple[Move, Part]]:
    return zip(moves, _parts_of(moves), strict=True)


def _parts_of(moves: Sequence[Move]) -> list[Part]:
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

_READS_AS = {
    ReservationStatus.PARTIALLY_COMMITTED: ReservationStatus.COMMITTED,
    ReservationStatus.PARTIALLY_SHIPPED: ReservationStatus.SHIPPED,
}


def _refuse_if_any_expired(reservation: Reservation, now: datetime) -> None:
    """Commit of the whole and extend: not once any part has expired, swept or not."""
    moment = reservation.moment(now)
    if any(hold.expired or hold.is_due(moment) for hold in reservation.holds):
        raise ReservationExpired(reservation.reservation_id)


def _refuse_unless_done(reservation: Reservation, wanted: str, now: datetime) -> None:
    status = reservation.status(reservation.moment(now))
    if _READS_AS.get(status, status) not in _DONE[wanted]:
        _refuse_state(reservation, status, wanted)


def _refuse_if_nothing(reservation: Reservation, part: Callable[[Hold], int], wanted: str, now: datetime) -> None:
    """A command that names its lines is never a repeat: without anything to act on it is refused."""
    moment = reservation.moment(now)
    seen = [hold.as_seen(moment) for hold in reservation.holds]
    if not any(part(hold) for hold in seen):
        if part is _active and any(hold.expired for hold in seen):  # swept or not: what was active has expired
            raise ReservationExpired(reservation.reservation_id)
        _refuse_state(reservation, overall_status(seen), wanted)


def _refuse_state(reservation: Reservation, status: ReservationStatus, wanted: str) -> None:
    if status is ReservationStatus.EXPIRED:
        raise ReservationExpired(reservation.reservation_id)
    raise ReservationNotActive(reservation.reservation_id, status, wanted)
