"""Which holds of a stock item are due: in expiry order, with a running sum, in O(log n) a change."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from heapq import heapify, heappop, heappush
from itertools import islice

from domain.hold import Hold

_SLACK = 64
"""Outdated heap entries that are tolerated before the heap is made anew."""


class ExpiryQueue:
    """The active holds of one item that will end, and those that have.

    A hold that is committed, released or extended leaves its old entry in the heap; it is recognised
    as outdated when it comes up, or dropped when such entries outnumber the holds. Time only goes
    forward here: once due, a hold stays due until it changes.
    """

    __slots__ = ("_due", "_heap", "due_units")

    def __init__(self) -> None:
        self._heap: list[tuple[datetime, str]] = []
        self._due: dict[str, datetime] = {}
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
            self._heap = [(h.expires_at, h.reservation_id) for h in holds.values() if h.active and h.expires_at]
            heapify(self._heap)

    def advance(self, now: datetime, holds: Mapping[str, Hold]) -> None:
        """Move what has ended by ``now`` from upcoming to due."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            expires_at, reservation_id = heappop(heap)
            hold = holds.get(reservation_id)
            if hold and hold.active and hold.expires_at == expires_at and reservation_id not in self._due:
                self._due[reservation_id] = expires_at
                self.due_units += hold.active

    def due(self, limit: int) -> Iterator[str]:
        """Reservations with a due hold here, the longest overdue first, at most ``limit``."""
        return islice(self._due, limit)

    @property
    def due_count(self) -> int:
        return len(self._due)
