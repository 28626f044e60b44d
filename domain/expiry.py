"""Which holds of a stock item are due: in expiry order, with a running sum, in O(log n) a change."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from heapq import heapify, heappop, heappush
from itertools import islice

from domain.hold import Hold

_SLACK = 64
"""Outdated heap entries that are tolerated before the heap is made anew."""
_NOTHING = (datetime.min.replace(tzinfo=UTC), "")


class ExpiryQueue:
    """The active holds of one item that will end, and those that have.

    A hold that is committed, released or extended leaves its old entry in the heap; it is recognised
    as outdated when it comes up, or dropped when such entries outnumber the holds. Time mostly goes
    forward; where it does not (the clock was set back, or an undo took the item's last event away),
    what is no longer due is upcoming again.
    """

    __slots__ = ("_due", "_heap", "_in_order", "_last_due", "due_units")

    def __init__(self) -> None:
        self._heap: list[tuple[datetime, str]] = []
        self._due: dict[str, datetime] = {}
        self._last_due = _NOTHING
        self._in_order = True
        self.due_units = 0

    def changed(self, before: Hold | None, after: Hold, holds: Mapping[str, Hold]) -> None:
        """Take note that ``before`` became ``after`` (``holds`` are the item's open holds by reservation)."""
        reservation_id = after.reservation_id
        if reservation_id in self._due and before is not None:
            self.due_units += after.active - before.active
            if not after.active or after.expires_at != before.expires_at:
                self.due_units -= after.active
                del self._due[reservation_id]
        if after.active and after.expires_at and (before is None or before.expires_at != after.expires_at):
            self.enqueue(after, holds)

    def enqueue(self, hold: Hold, holds: Mapping[str, Hold]) -> None:
        """Enter a hold that ends. A second entry of the same hold does no harm."""
        assert hold.expires_at is not None
        heappush(self._heap, (hold.expires_at, hold.reservation_id))
        if len(self._heap) > 2 * len(holds) + _SLACK:
            self._heap = [
                (h.expires_at, h.reservation_id)
                for h in holds.values()
                if h.active and h.expires_at and h.reservation_id not in self._due
            ]
            heapify(self._heap)

    def advance(self, now: datetime, holds: Mapping[str, Hold]) -> None:
        """Move what has ended by ``now`` from upcoming to due."""
        if self._due and now < self._last_due[0]:
            self._step_back(now, holds)
        heap = self._heap
        while heap and heap[0][0] <= now:
            entry = heappop(heap)
            expires_at, reservation_id = entry
            hold = holds.get(reservation_id)
            if hold and hold.active and hold.expires_at == expires_at and reservation_id not in self._due:
                self._in_order = self._in_order and (entry > self._last_due or not self._due)
                self._last_due = entry if not self._due else max(entry, self._last_due)
                self._due[reservation_id] = expires_at
                self.due_units += hold.active

    def _step_back(self, now: datetime, holds: Mapping[str, Hold]) -> None:
        for reservation_id, expires_at in list(self._due.items()):
            if expires_at > now:
                del self._due[reservation_id]
                self.due_units -= holds[reservation_id].active
                heappush(self._heap, (expires_at, reservation_id))
        self._last_due = max(((at, reservation_id) for reservation_id, at in self._due.items()), default=_NOTHING)

    def due(self, limit: int) -> Iterator[str]:
        """Reservations with a due hold here, the longest overdue first, at most ``limit``."""
        if not self._in_order:  # a release was undone: what it had released is due again, after younger ones
            self._due = dict(sorted(self._due.items(), key=lambda entry: (entry[1], entry[0])))
            self._in_order = True
        return islice(self._due, limit)

    @property
    def due_count(self) -> int:
        return len(self._due)
