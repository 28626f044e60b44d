"""The open holds of one stock item: oldest first, by when they end, and back again by undo."""

from collections.abc import Iterable
from datetime import datetime

from msgspec.structs import replace

from domain.expiry import ExpiryQueue
from domain.hold import Hold


class OpenHolds:
    """Holds with active or committed units, by reservation.

    ``ranks`` say how old each is: a dict keeps the order of its keys, but a hold that was closed by an
    event that is then undone comes back as its last.
    """

    __slots__ = ("_last_rank", "by_reservation", "expiry", "ranks")

    def __init__(self, holds: Iterable[Hold] = ()) -> None:
        self.by_reservation: dict[str, Hold] = {}
        self.ranks: dict[str, int] = {}
        self.expiry = ExpiryQueue()
        self._last_rank = 0
        for hold in holds:
            self.put(None, hold)

    def put(self, before: Hold | None, after: Hold) -> None:
        """``before`` (None: a new hold) became ``after``, which may have closed it."""
        reservation_id = after.reservation_id
        if not after.is_open:
            self.by_reservation.pop(reservation_id, None)
            self.ranks.pop(reservation_id, None)
        else:
            self.by_reservation[reservation_id] = after
            if before is None:
                self._last_rank += 1
                self.ranks[reservation_id] = self._last_rank
        self.expiry.changed(before, after, self.by_reservation)

    def restore(self, reservation_id: str, hold: Hold | None, rank: int | None) -> None:
        """Undo: the hold is again what it was, ``None`` if there was none (or none that was open)."""
        present = self.by_reservation.pop(reservation_id, None)
        if present is not None:
            del self.ranks[reservation_id]
            self.expiry.changed(present, replace(present, active=0), self.by_reservation)
        if hold is not None and rank is not None:
            self.by_reservation[reservation_id] = hold
            self.ranks[reservation_id] = rank
            self.expiry.changed(None, hold, self.by_reservation)

    def oldest_first(self) -> list[Hold]:
        return sorted(self.by_reservation.values(), key=lambda hold: self.ranks[hold.reservation_id])

    def newest_unpaid(self, units: int, limit: int, now: datetime) -> list[Hold]:
        """The newest active holds that together make up ``units``, at most ``limit`` of them.

        Not those that are due: their units are free already.
        """
        found: list[Hold] = []
        for hold in reversed(self.oldest_first()):
            if units <= 0 or len(found) == limit:
                break
            if hold.active and not hold.is_due(now):
                found.append(hold)
                units -= hold.active
        return found
