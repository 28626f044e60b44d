"""Everything that the events of one stock item make, folded in memory: no store, no clock.

The follower begins from the rows that a batch names, the rebuild and an as-of read from nothing; both
get the same rows, movements and headers.
"""

from collections.abc import Iterable
from datetime import datetime

from msgspec.structs import replace

from domain.events import Event, PolicyChanged, Registered
from domain.hold import Hold
from domain.policy import Policy
from projections.views.errors import ImpossibleEvent
from projections.views.movements import Movement, movement_of
from projections.views.reservations import ReservationRow, due_at, fold_hold, hold_named_by, reservation_of
from projections.views.stock_levels import Level, fold_level


class ItemFold:
    """The state of one stock item at ``version``, and what its events changed since this began.

    ``level``: its row, ``None`` before it is registered. ``holds``: by reservation; all of them if the fold
    began at version 0, else those that were given. ``policy``: the policy in force, if an event said it, and
    ``policy_version`` that event's.
    ``reservations``: the headers that came by. ``touched``: reservations whose hold has changed.
    ``due_is_exact``: false after the hold that ended first went away; then ``level.next_due_at`` may be
    earlier than any hold's end until :meth:`settle` (all holds known) or the store makes it exact.
    """

    __slots__ = ("due_is_exact", "holds", "level", "policy", "policy_version", "reservations", "touched")

    def __init__(self, level: Level | None = None, holds: Iterable[Hold] = ()) -> None:
        self.level = level
        self.holds: dict[str, Hold] = {hold.reservation_id: hold for hold in holds}
        self.policy: Policy | None = None
        self.policy_version = 0
        self.reservations: list[ReservationRow] = []
        self.touched: set[str] = set()
        self.due_is_exact = True

    @property
    def version(self) -> int:
        return self.level.version if self.level is not None else 0

    def apply(self, event: Event) -> Movement | None:
        """Fold the next event in; the movement that it makes, if it makes one.

        Raises ImpossibleEvent, and then nothing has changed.
        """
        if event.originator_version != self.version + 1:
            raise ImpossibleEvent(f"{event.originator_id}: {event.originator_version} after {self.version}")
        before, level = self.level, fold_level(self.level, event)
        hold = None
        reservation_id = hold_named_by(event)
        if reservation_id is not None:
            held = self.holds.get(reservation_id)
            hold = fold_hold(held, event)
            level = self._with_next_due(level, held, hold)
            self.holds[reservation_id] = hold
            self.touched.add(reservation_id)
            if (header := reservation_of(event)) is not None:
                self.reservations.append(header)
        elif type(event) is Registered or type(event) is PolicyChanged:
            self.policy, self.policy_version = event.policy, event.originator_version
        self.level = level
        return movement_of(event, before, level, hold)

    def _with_next_due(self, level: Level, held: Hold | None, hold: Hold) -> Level:
        was, now = due_at(held), due_at(hold)
        if was == now:
            return level
        bound = level.next_due_at
        if now is not None and (bound is None or now <= bound):
            return replace(level, next_due_at=now)
        if was is not None and was == bound:
            self.due_is_exact = False
        return level

    def settle(self) -> None:
        """Make ``next_due_at`` exact; every hold of the item must be here."""
        if not self.due_is_exact and self.level is not None:
            self.level = replace(self.level, next_due_at=earliest_end(self.holds.values()))
            self.due_is_exact = True

    def due_units(self, now: datetime) -> int:
        """Reserved units whose holds have ended by ``now``; every active hold must be here."""
        return sum(hold.active for hold in self.holds.values() if hold.is_due(now))


def earliest_end(holds: Iterable[Hold]) -> datetime | None:
    """The earliest end of an active hold among ``holds``."""
    return min((end for hold in holds if (end := due_at(hold)) is not None), default=None)
