"""A reservation: an order's hold over any number of lines, decided whole or not at all.

It is not a stream. Its header never changes; what became of it is in its holds, each folded by the
stock item that it is of. Every decision here first plans (all checks of all its lines), then
triggers, which cannot fail.
"""

from collections.abc import Callable, Iterable, Sequence
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
    Shortage,
)
from domain.events import Origin, RequestedLine, ReservationRequest
from domain.hold import EXPIRY_ACTOR, Hold, overall_status
from domain.moves import (
    Move,
    active,
    committed,
    moves_of,
    parts_of_moves,
    refuse_if_any_expired,
    refuse_if_nothing,
    take,
    with_customer,
    with_parts,
)
from domain.parts import parts_of
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

_SECOND = timedelta(seconds=1)

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


class Reservation(msgspec.Struct, frozen=True):
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


# Creating --------------------------------------------------------------------------------------------


def merge_lines(lines: Sequence[Line]) -> tuple[RequestedLine, ...]:
    """Equal (SKU, warehouse) lines become one, in the place of the first; its metadata is the first that is given.

    Raises QuantityOutOfRange if together they ask for more than a quantity may be.
    """
    if len(lines) == 1:
        (line,) = lines
        return (RequestedLine(line.sku, line.quantity, line.warehouse, line.metadata),)
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
    planned, moves = [], []
    for item, quantity in zip(allocation.items.values(), allocation.taken.values(), strict=True):
        planned.append((item, quantity, item.due_for(quantity, now, MAX_RELEASES)))
        moves.append((item.sku, item.warehouse, quantity))
    request = ReservationRequest(
        lines, digest, command.customer_ref, tuple(allocation.shortages), tuple(allocation.choices)
    )
    expires_at = _expiry(command, allocation.items.values(), now)
    holds, items = [], {}
    for (item, quantity, expired), part in zip(planned, parts_of(moves), strict=True):
        _expire(item, expired, origin, now, new_command_id)
        item.reserve(
            reservation_id,
            command.order_id,
            quantity,
            expires_at,
            command.kind,
            origin,
            now,
            part,
            request if part.number == 1 else None,
        )
        holds.append(item.holds[reservation_id])
        items[item.sku, item.warehouse] = item
    header = ReservationHeader(
        reservation_id=reservation_id,
        order_id=command.order_id,
        kind=command.kind,
        customer_ref=command.customer_ref,
        lines=lines,
        shortages=request.shortages,
        created_at=planned[0][0].modified_on,
        created_by=origin.actor,
        digest=digest,
    )
    return Reservation(header, holds, items)


def _expiry(command: CreateReservation, items: Iterable[StockItem], now: datetime) -> datetime | None:
    """One end for all holds: as asked for, else by the shortest TTL among the items' policies."""
    if command.ttl_seconds is None:
        return None
    ttl_s = command.ttl_seconds or min([item.figures.policy.hold_ttl_s for item in items])
    for item in items:
        now = item.moment(now)  # the latest of them
    return now + ttl_s * _SECOND


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

Act = Callable[[Origin], None]
"""A command's events, all checks done: triggers them. None where there is nothing left to do."""


def commit(reservation: Reservation, command: CommitReservation, origin: Origin, now: datetime) -> None:
    """The order has paid. Raises ReservationExpired, ReservationNotActive, QuantityOutOfRange."""
    _perform(plan_commit(reservation, command, now), origin)


def plan_commit(reservation: Reservation, command: CommitReservation, now: datetime) -> Act | None:
    if command.lines is None:
        refuse_if_any_expired(reservation, now)
    moves = moves_of(reservation, command.lines, active, "committed", now)

    def act(origin: Origin) -> None:
        for move, part in with_parts(moves):
            reservation.item_of(move.hold).commit(reservation.reservation_id, move.quantity, origin, now, part)

    return act if moves else None


def release(reservation: Reservation, command: ReleaseReservation, origin: Origin, now: datetime) -> None:
    """The order will not pay. Raises ReservationExpired (named lines), ReservationNotActive, QuantityOutOfRange."""
    _perform(plan_release(reservation, command, now), origin)


def plan_release(reservation: Reservation, command: ReleaseReservation, now: datetime) -> Act | None:
    moves = moves_of(reservation, command.lines, active, "released", now)
    return _releasing(reservation, moves, Bucket.RESERVED, command.reason, now)


def cancel(reservation: Reservation, command: CancelReservation, origin: Origin, now: datetime) -> None:
    """A paid order is cancelled before it ships. Raises ReservationNotActive, ReservationExpired, QuantityOutOfRange."""
    _perform(plan_cancel(reservation, command, now), origin)


def plan_cancel(reservation: Reservation, command: CancelReservation, now: datetime) -> Act | None:
    moves = moves_of(reservation, command.lines, committed, "cancelled", now)
    return _releasing(reservation, moves, Bucket.COMMITTED, ReleaseReason.ORDER_CANCELLED, now)


def _releasing(
    reservation: Reservation, moves: Sequence[Move], bucket: Bucket, reason: ReleaseReason, now: datetime
) -> Act | None:
    def act(origin: Origin) -> None:
        for move, part in with_parts(moves):
            item = reservation.item_of(move.hold)
            item.release(reservation.reservation_id, move.quantity, bucket, reason, origin, now, part)

    return act if moves else None


def extend(reservation: Reservation, command: ExtendReservation, origin: Origin, now: datetime) -> None:
    """All active holds end later (or sooner). Raises ReservationExpired, ReservationNotActive, QuantityOutOfRange."""
    refuse_if_any_expired(reservation, now)
    moves = moves_of(reservation, None, active, "extended", now)
    moment = reservation.moment(now)
    if command.ttl_seconds is not None:
        expires_at = moment + timedelta(seconds=command.ttl_seconds)
    else:
        present = max((move.hold.expires_at for move in moves if move.hold.expires_at), default=moment)
        expires_at = present + timedelta(seconds=command.add_seconds or 0)
    ttl_s = (expires_at - moment).total_seconds()
    if ttl_s > MAX_HOLD_TTL_S:
        raise QuantityOutOfRange("seconds to live", int(ttl_s), MAX_HOLD_TTL_S)
    for move, part in with_parts(moves):
        reservation.item_of(move.hold).extend(reservation.reservation_id, expires_at, origin, now, part)


def ship(reservation: Reservation, command: ShipReservation, origin: Origin, now: datetime) -> None:
    """Paid units leave. Raises InsufficientStock (less is there), ReservationNotActive, QuantityOutOfRange …"""
    _perform(plan_ship(reservation, command, now, {}), origin)


def plan_ship(reservation: Reservation, command: ShipReservation, now: datetime, leaving: dict[str, int]) -> Act | None:
    """``leaving``: units that leave each stock item, by stream, with what was planned before; added to."""
    if command.lines is None:
        tracked = [(move, command.tracking) for move in moves_of(reservation, None, committed, "shipped", now)]
    else:
        tracked = _tracked_moves(reservation, command, now)
    for move, _ in tracked:
        item = reservation.item_of(move.hold)
        leaving[item.id] = leaving.get(item.id, 0) + move.quantity
        item.refuse_shipping(leaving[item.id])

    def act(origin: Origin) -> None:
        for (move, tracking), part in zip(tracked, parts_of_moves([move for move, _ in tracked]), strict=True):
            reservation.item_of(move.hold).ship(reservation.reservation_id, move.quantity, tracking, origin, now, part)

    return act if tracked else None


def _tracked_moves(reservation: Reservation, command: ShipReservation, now: datetime) -> list[tuple[Move, str | None]]:
    """One move per parcel: lines on the same hold stay apart, for each has its own tracking number."""
    assert command.lines is not None
    taken: dict[tuple[str, str], int] = {}
    tracked: list[tuple[Move, str | None]] = []
    refuse_if_nothing(reservation, committed, "shipped", now)
    for line in command.lines:
        moves = take(reservation, line, committed, taken)
        tracked += [(move, line.tracking or command.tracking) for move in moves]
    return tracked


def take_back(reservation: Reservation, command: ReturnReservation, origin: Origin, now: datetime) -> None:
    """Shipped units come back. Raises ReservationNotActive, ReservationExpired, QuantityOutOfRange."""
    _perform(plan_take_back(reservation, command, now, {}), origin)


def plan_take_back(reservation: Reservation, command: ReturnReservation, now: datetime, coming: dict[str, int]) -> Act:
    """``coming``: units that come back to each stock item, by stream, with what was planned before; added to."""
    refuse_if_nothing(reservation, with_customer, "returned", now)
    taken: dict[tuple[str, str], int] = {}
    moves: list[tuple[Move, Condition]] = []
    for line in command.lines:
        part_line = PartLine(line.sku, line.quantity, line.warehouse)
        moves += [(move, line.condition) for move in take(reservation, part_line, with_customer, taken)]
    for place, quantity in taken.items():
        item = reservation.items[place]
        coming[item.id] = coming.get(item.id, 0) + quantity
        item.refuse_taking_back(coming[item.id])

    def act(origin: Origin) -> None:
        holds: dict[tuple[str, str], Hold] = {}
        for (move, condition), part in zip(moves, parts_of_moves([move for move, _ in moves]), strict=True):
            place = (move.hold.sku, move.hold.warehouse)
            item = reservation.item_of(move.hold)
            hold = holds.get(place, move.hold)
            item.take_back(move.quantity, condition, origin, now, hold=hold, part=part)
            holds[place] = item.changed_holds[hold.reservation_id]

    return act


def _perform(act: Act | None, origin: Origin) -> None:
    if act is not None:
        act(origin)
