"""What a batch of log rows makes public: pure, from the states that it names to the messages and the states after.

As with the views, transport may repeat, reorder and lose: an older version is skipped, the next one applied, and a gap is
reported, to be healed from the log before anything later of its stream is said.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from domain.events import Event
from domain.hold import Hold
from infra.event_store.log_reader import LogRow
from infra.event_store.mapper import UnreadableEvent
from projections.batches import Arrival, DeadLetter, dead_letter
from projections.public.cloud_events import Envelopes, PublicMessage
from projections.public.messages import messages_of
from projections.public.stream_fold import StreamFold
from projections.views.errors import ImpossibleEvent
from projections.views.reservations import hold_named_by
from projections.views.stock_levels import Level

STOCK_PREFIX = "stock:"
"""Streams of which something is told; a warehouse's own events are nobody else's business."""

Arrivals = Mapping[str, Sequence[Arrival]]


class Gaps(Enum):
    """What to do about a version that is missing before the one that came."""

    REPORT = auto()
    """Nothing yet: it is to be healed."""
    DROP = auto()
    """The log does not have it (yet): what came is no event of this log, or will come again."""
    PARK = auto()
    """What came is all that the log has: it will never be filled."""


@dataclass(slots=True)
class Known:
    """What is known of the streams that a batch names. ``parked``: those that stand still."""

    levels: dict[str, Level] = field(default_factory=dict)
    holds: dict[str, list[Hold]] = field(default_factory=dict)
    parked: set[str] = field(default_factory=set)


class ChangedStream(NamedTuple):
    """A stream after a batch that had something new of it. ``holds``: see :class:`StreamFold`."""

    stream: str
    before: int
    level: Level
    holds: Mapping[str, Hold | None]


@dataclass(slots=True)
class PublicOutcome:
    """What a batch does. ``messages`` are in the order of the log. Nothing of a stream in ``gaps`` is among them."""

    messages: list[PublicMessage] = field(default_factory=list)
    changed: list[ChangedStream] = field(default_factory=list)
    parked: list[DeadLetter] = field(default_factory=list)
    unparked: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    applied: int = 0
    skipped: int = 0


def holds_named(arrivals: Arrivals) -> list[tuple[str, str]]:
    """The holds that the events touch: (stream, reservation)."""
    return [
        (stream, reservation_id)
        for stream, stream_arrivals in arrivals.items()
        for reservation_id in {hold_named_by(each.event) for each in stream_arrivals if isinstance(each.event, Event)}
        if reservation_id is not None
    ]


def fold_public(
    arrivals: Arrivals,
    known: Known,
    envelopes: Envelopes,
    *,
    retried: Collection[str] = (),
    gaps: Gaps = Gaps.REPORT,
) -> PublicOutcome:
    """What ``arrivals`` (of stock items alone) make public. A stream in ``retried`` is applied although it is parked."""
    outcome = PublicOutcome()
    told: list[tuple[int, list[PublicMessage]]] = []
    for stream, stream_arrivals in arrivals.items():
        was_parked = stream in known.parked
        if was_parked and stream not in retried:
            outcome.skipped += len(stream_arrivals)
            continue
        batch = _StreamBatch(
            StreamFold(known.levels.get(stream), known.holds.get(stream, ())), outcome, envelopes, gaps
        )
        stands_still = batch.apply_all(stream_arrivals)
        if was_parked and not stands_still:
            outcome.unparked.append(stream)
        if stream not in outcome.gaps:
            told += batch.told
            batch.settle(stream)
    outcome.messages = [message for _, messages in sorted(told, key=_position) for message in messages]
    return outcome


def _position(told: tuple[int, list[PublicMessage]]) -> int:
    return told[0]


class _StreamBatch:
    """The events of one stream in a batch, one after the other."""

    def __init__(self, fold: StreamFold, outcome: PublicOutcome, envelopes: Envelopes, gaps: Gaps) -> None:
        self._fold = fold
        self._before = fold.version
        self._outcome = outcome
        self._envelopes = envelopes
        self._gaps = gaps
        self.told: list[tuple[int, list[PublicMessage]]] = []

    def apply_all(self, arrivals: Iterable[Arrival]) -> bool:
        """Whether the stream now stands still."""
        for row, event in arrivals:
            if row.version <= self._fold.version:
                self._outcome.skipped += 1
                continue
            if row.version > self._fold.version + 1:
                return self._meet_gap(row)
            try:
                if isinstance(event, UnreadableEvent):
                    raise event
                step = self._fold.apply(event)
            except (ImpossibleEvent, UnreadableEvent) as error:
                self._outcome.parked.append(dead_letter(row, str(error)))
                return True
            self.told.append((row.position, messages_of(step, self._envelopes)))
            self._outcome.applied += 1
        return False

    def _meet_gap(self, row: LogRow) -> bool:
        if self._gaps is Gaps.REPORT:
            self._outcome.gaps.append(row.stream)
        elif self._gaps is Gaps.PARK:
            error = f"the log has nothing between version {self._fold.version} and {row.version}"
            self._outcome.parked.append(dead_letter(row, error))
        return self._gaps is Gaps.PARK

    def settle(self, stream: str) -> None:
        """Note the state after, if it is another."""
        level = self._fold.level
        if level is not None and level.version > self._before:
            self._outcome.changed.append(ChangedStream(stream, self._before, level, self._fold.changed))
