"""What a batch of log rows does to the views: pure, from the rows that it names to the rows that it leaves.

Transport may repeat, reorder and lose. Against each stream's watermark the next version is applied, an
older one is skipped, and a gap is reported, to be healed from the log before anything is written.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from msgspec.structs import replace

from domain.events import Event, WarehouseEvent
from domain.hold import Hold
from domain.policy import Policy
from domain.values import split_stock_stream
from infra.event_store.log_reader import LogRow
from infra.event_store.mapper import EventMapper, UnreadableEvent
from projections.item_fold import ItemFold
from projections.views.errors import ImpossibleEvent
from projections.views.movements import Movement
from projections.views.reservations import ReservationRow, hold_named_by
from projections.views.stock_levels import Level
from projections.views.warehouses import WarehouseRow, code_of, fold_warehouse, is_warehouse_stream

_STOCK_PREFIX: Final = "stock:"

Item = tuple[str, str]
"""(sku, warehouse)"""


class Arrival(NamedTuple):
    """A log row as it came, decoded; ``event`` is the reason if it could not be."""

    row: LogRow
    event: Event | UnreadableEvent


Arrivals = Mapping[str, Sequence[Arrival]]
"""By stream, in the order of their versions."""


class DeadLetter(NamedTuple):
    """A stream that stands still at ``version``, which could not be read or folded."""

    stream: str
    version: int
    position: int | None
    topic: str | None
    error: str


def dead_letter(row: LogRow, error: str) -> DeadLetter:
    """``row`` is the next of its stream, and cannot be applied."""
    # An error may quote what made it one, and PostgreSQL takes no NUL and no lone surrogate.
    storable = error.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
    return DeadLetter(row.stream, row.version, row.position, row.topic, storable)


@dataclass(slots=True)
class Named:
    """The rows that a batch names. Items in key order, in which their watermarks are locked."""

    streams: list[str]
    items: list[Item]
    codes: list[str]
    holds: list[tuple[str, str, str]]
    """(reservation_id, sku, warehouse)"""


@dataclass(slots=True)
class Found:
    """What of it there is. ``parked``: streams that stand still."""

    levels: dict[Item, Level] = field(default_factory=dict)
    holds: dict[Item, list[Hold]] = field(default_factory=dict)
    warehouses: dict[str, WarehouseRow] = field(default_factory=dict)
    parked: set[str] = field(default_factory=set)


class ChangedItem(NamedTuple):
    """A stock item named by a batch, after it: what its level row says now, and what led there.

    ``before``: the watermark before; equal to the level's version if nothing of it was new. ``held``: the
    touched holds as they were, ``holds`` as they are. ``due_is_exact``, ``policy``: see ItemFold.
    """

    level: Level
    before: int
    due_is_exact: bool
    write: bool
    held: Mapping[str, Hold]
    holds: Mapping[str, Hold]
    policy: Policy | None
    policy_version: int


class ChangedWarehouse(NamedTuple):
    row: WarehouseRow
    stale: bool
    write: bool


@dataclass(slots=True)
class Outcome:
    """What a batch does. Nothing of it may be written while there are ``gaps``: streams to be healed first."""

    items: list[ChangedItem] = field(default_factory=list)
    warehouses: list[ChangedWarehouse] = field(default_factory=list)
    movements: list[Movement] = field(default_factory=list)
    reservations: list[ReservationRow] = field(default_factory=list)
    parked: list[DeadLetter] = field(default_factory=list)
    unparked: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    applied: int = 0
    skipped: int = 0
    park_gaps: bool = False

    def park(self, row: LogRow, error: str) -> None:
        """Park the stream of ``row``, which is the next of it and cannot be applied."""
        self.parked.append(dead_letter(row, error))

    def meet_gap(self, row: LogRow, have: int) -> bool:
        """``row`` comes after ``have`` with something missing between; true if its stream now stands still."""
        if self.park_gaps:
            self.park(row, f"the log has nothing between version {have} and {row.version}")
        else:
            self.gaps.append(row.stream)
        return self.park_gaps


def arrivals_of(rows: Iterable[LogRow], mapper: EventMapper) -> dict[str, list[Arrival]]:
    """``rows`` decoded, by stream and in the order of their versions, each version once."""
    streams: dict[str, dict[int, Arrival]] = {}
    for row in rows:
        versions = streams.setdefault(row.stream, {})
        if row.version not in versions:
            versions[row.version] = Arrival(row, decoded(row, mapper))
    return {stream: [versions[version] for version in sorted(versions)] for stream, versions in streams.items()}


def decoded(row: LogRow, mapper: EventMapper) -> Event | UnreadableEvent:
    """The event of ``row``, or why there is none."""
    try:
        event: Event = mapper.decode(row.topic, row.state)
    except UnreadableEvent as error:
        return error
    if (event.originator_id, event.originator_version) != (row.stream, row.version):
        return UnreadableEvent(f"holds {event.originator_id} at {event.originator_version} instead")
    return event


def named_by(arrivals: Arrivals) -> Named:
    """The rows that the events of ``arrivals`` read or write."""
    named = Named(list(arrivals), [], [], [])
    for stream, stream_arrivals in arrivals.items():
        if is_warehouse_stream(stream):
            named.codes.append(code_of(stream))
        elif stream.startswith(_STOCK_PREFIX):
            item = split_stock_stream(stream)
            named.items.append(item)
            reservations = {hold_named_by(a.event) for a in stream_arrivals if isinstance(a.event, Event)}
            named.holds.extend((reservation, *item) for reservation in reservations if reservation is not None)
    named.items.sort()
    return named


def fold_batch(arrivals: Arrivals, found: Found, retried: Collection[str] = (), *, park_gaps: bool = False) -> Outcome:
    """What ``arrivals`` do to the rows that were found.

    A stream in ``retried`` is applied although it is parked, and parked no more if all of it could be.
    ``park_gaps``: the rows are all that the log has, so a gap will never be filled.
    """
    outcome = Outcome(park_gaps=park_gaps)
    for stream, stream_arrivals in arrivals.items():
        retry = stream in retried
        if is_warehouse_stream(stream):
            _fold_warehouse(stream, stream_arrivals, found, outcome, retry)
        elif stream.startswith(_STOCK_PREFIX):
            _fold_item(stream, stream_arrivals, found, outcome, retry)
        elif stream_arrivals and (stream not in found.parked or retry):
            outcome.park(stream_arrivals[0].row, "no view knows what this stream is")
    return outcome


def _fold_item(stream: str, arrivals: Sequence[Arrival], found: Found, outcome: Outcome, retry: bool) -> None:
    item = split_stock_stream(stream)
    before = found.levels.get(item)
    was_parked = stream in found.parked
    # Holds without a level are left over from a row that somebody removed: the log says it all again.
    held = {hold.reservation_id: hold for hold in found.holds.get(item, ())} if before is not None else {}
    fold = ItemFold(before, held.values())
    stands_still = was_parked and not retry
    if not stands_still:
        stands_still = _apply_all(fold, arrivals, outcome)
    else:
        outcome.skipped += len(arrivals)
    if was_parked and not stands_still:
        outcome.unparked.append(stream)
    level = fold.level
    if level is None:
        return
    if level.stale is not stands_still:
        fold.level = level = replace(level, stale=stands_still)
    outcome.reservations += fold.reservations
    outcome.items.append(
        ChangedItem(
            level=level,
            before=before.version if before is not None else 0,
            due_is_exact=fold.due_is_exact,
            write=level is not before,
            held={name: held[name] for name in fold.touched if name in held},
            holds={name: fold.holds[name] for name in fold.touched},
            policy=fold.policy,
            policy_version=fold.policy_version,
        )
    )


def _apply_all(fold: ItemFold, arrivals: Sequence[Arrival], outcome: Outcome) -> bool:
    """Apply what is next to ``fold``; true if the stream now stands still."""
    for row, event in arrivals:
        if row.version <= fold.version:
            outcome.skipped += 1
            continue
        if row.version > fold.version + 1:
            return outcome.meet_gap(row, fold.version)
        if isinstance(event, UnreadableEvent):
            outcome.park(row, str(event))
            return True
        try:
            movement = fold.apply(event)
        except ImpossibleEvent as error:
            outcome.park(row, str(error))
            return True
        outcome.applied += 1
        if movement is not None:
            outcome.movements.append(movement)
    return False


def _fold_warehouse(stream: str, arrivals: Sequence[Arrival], found: Found, outcome: Outcome, retry: bool) -> None:
    before = found.warehouses.get(code_of(stream))
    after = before
    was_parked = stream in found.parked
    stands_still = was_parked and not retry
    for row, event in () if stands_still else arrivals:
        version = after.version if after is not None else 0
        if row.version <= version:
            outcome.skipped += 1
            continue
        if row.version > version + 1:
            stands_still = outcome.meet_gap(row, version)
            break
        try:
            after = fold_warehouse_arrival(after, event)
        except (ImpossibleEvent, UnreadableEvent) as error:
            outcome.park(row, str(error))
            stands_still = True
            break
        outcome.applied += 1
    if was_parked and not stands_still:
        outcome.unparked.append(stream)
    if after is not None:
        write = after is not before or was_parked is not stands_still
        outcome.warehouses.append(ChangedWarehouse(after, stands_still, write))


def fold_warehouse_arrival(before: WarehouseRow | None, event: Event | UnreadableEvent) -> WarehouseRow:
    """The warehouse after an event as it came. Raises UnreadableEvent, ImpossibleEvent."""
    if isinstance(event, UnreadableEvent):
        raise event
    if not isinstance(event, WarehouseEvent):
        raise ImpossibleEvent(f"{event.TOPIC} is not of a warehouse")
    return fold_warehouse(before, event)
