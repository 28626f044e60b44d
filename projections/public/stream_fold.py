"""The state of one stock item as its public messages need it: the same level, and the holds that are open."""

from collections.abc import Iterable
from typing import NamedTuple

from domain.events import Event, Returned
from domain.hold import Hold
from domain.values import split_stock_stream
from projections.views.errors import ImpossibleEvent
from projections.views.movements import Movement, movement_of
from projections.views.reservations import fold_hold, hold_named_by
from projections.views.stock_levels import Level, fold_level


class Step(NamedTuple):
    """One event, and what it did. ``hold``: the one that it touched, as it was after; of a new one as it began."""

    event: Event
    before: Level | None
    after: Level
    hold: Hold | None
    movement: Movement | None


class StreamFold:
    """A stock item at ``version``. A hold is forgotten once nothing of it is held or paid: a return names its order itself.

    ``changed``: the holds that are other than when this began, ``None`` for one that is closed.
    """

    __slots__ = ("_holds", "changed", "level")

    def __init__(self, level: Level | None = None, holds: Iterable[Hold] = ()) -> None:
        self.level = level
        self._holds: dict[str, Hold] = {hold.reservation_id: hold for hold in holds}
        self.changed: dict[str, Hold | None] = {}

    @property
    def version(self) -> int:
        return self.level.version if self.level is not None else 0

    @property
    def holds(self) -> list[Hold]:
        """Those that are open, as far as they were given or made."""
        return list(self._holds.values())

    def apply(self, event: Event) -> Step:
        """Fold the next event in. Raises ImpossibleEvent, and then nothing has changed."""
        if event.originator_version != self.version + 1:
            raise ImpossibleEvent(f"{event.originator_id}: {event.originator_version} after {self.version}")
        before, after = self.level, fold_level(self.level, event)
        hold = self._hold_after(event)
        self.level = after
        if hold is not None and type(event) is not Returned:
            self._keep(hold)
        return Step(event, before, after, hold, movement_of(event, before, after, hold))

    def _hold_after(self, event: Event) -> Hold | None:
        reservation_id = hold_named_by(event)
        if reservation_id is None:
            return None
        if type(event) is Returned:
            sku, warehouse = split_stock_stream(event.originator_id)
            return Hold(reservation_id, event.order_id or "", sku, warehouse, event.originator_version)
        return fold_hold(self._holds.get(reservation_id), event)

    def _keep(self, hold: Hold) -> None:
        if hold.is_open:
            self._holds[hold.reservation_id] = self.changed[hold.reservation_id] = hold
        else:
            self._holds.pop(hold.reservation_id, None)
            self.changed[hold.reservation_id] = None
