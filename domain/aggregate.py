"""What both kinds of stream have in common: the next event, applied, pending, and undone if it must be."""

from datetime import UTC, datetime
from typing import Any, Self

from eventsourcing.domain import BaseAggregate, OriginatorIDError, OriginatorVersionError

from domain.events import Event, Origin

_NEVER = datetime.min.replace(tzinfo=UTC)
"""The time of the last event of a stream that has none."""


class Aggregate(BaseAggregate[str]):
    """An event-sourced object whose id is its stream's; version 0 before its first event.

    The library's ``trigger_event`` would read a clock where no time is given; here every event is told when
    it occurred. Pending events are kept with what undoes them, because an append may fail.
    """

    new_events: list[Event]

    @classmethod
    def empty(cls, stream: str) -> Self:
        """The aggregate of ``stream`` before its first event."""
        aggregate = cls.__new__(cls)
        aggregate.__base_init__(originator_id=stream, originator_version=0, timestamp=_NEVER)
        aggregate.new_events = []
        return aggregate

    def _trigger(self, event_class: type[Event], now: datetime, origin: Origin, **facts: Any) -> None:
        """Make the next event and apply it. It occurred at ``now``, but never before the stream's last event."""
        event = event_class(
            originator_id=self._id,
            originator_version=self._version + 1,
            timestamp=self.moment(now),
            origin=origin,
            **facts,
        )
        self._remember(event)
        self._fold(event)
        self.new_events.append(event)

    def moment(self, now: datetime) -> datetime:
        """When an event that is triggered at ``now`` occurs: never before the stream's last."""
        return max(now, self._modified_on)

    def evolve(self, event: Event) -> None:
        """Fold the next event of the stream in. Raises the library's errors if it is not the next, or another's."""
        if event.originator_id != self._id:
            raise OriginatorIDError(event.originator_id, self._id)
        if event.originator_version != self._version + 1:
            raise OriginatorVersionError(event.originator_version, self._version + 1)
        self._fold(event)

    def _fold(self, event: Event) -> None:
        if not self._version:
            self._created_on = event.timestamp
        self._version = event.originator_version
        self._modified_on = event.timestamp
        self._apply(event)

    def _apply(self, event: Event) -> None:
        """Change what the event changes."""
        raise NotImplementedError

    def _remember(self, event: Event) -> None:
        """Keep, in O(1), what undoes ``event``, which is about to be applied."""
        raise NotImplementedError

    def accept(self, count: int | None = None) -> None:
        """The first ``count`` new events (None: all) are in the log: forget how to undo them."""
        raise NotImplementedError

    def undo(self, count: int | None = None) -> None:
        """The last ``count`` new events (None: all) will not reach the log: be again what was before them."""
        raise NotImplementedError
