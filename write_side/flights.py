"""Batches that are decided on memory alone: while one commits, the next one is decided.

While PostgreSQL works on one batch, commands go on coming in and are decided at once, on top of what has
been decided before them, and are sent when it returns: Python and PostgreSQL work side by side instead of
waiting for each other, and batches are as large as the load makes them.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from infra.event_store.mapper import EventMapper
from infra.event_store.port import Writes
from write_side.deciding import Round, Work, decide
from write_side.decision import Decision, NotLoaded
from write_side.memory import Memory
from write_side.store_clock import StoreClock

IN_A_ROW_MAX: Final = 64
"""Batches that follow one another before memory is trimmed and the queue looked at anew."""


@dataclass(slots=True, eq=False)
class Flight:
    """A batch on its way."""

    decision: Decision
    warehouses_known: int
    """What the decision knew of warehouses: memory may have learned more before it is sent."""
    batch: list[Work] = field(default_factory=list)
    done: Round = field(default_factory=Round)
    writes: Writes | None = None

    def take(self, work: Work) -> None:
        """Decide one more command. Raises what :func:`decide` raises."""
        decide(work, self.decision, self.done)
        self.batch.append(work)

    def close(self) -> "Flight":
        """All is decided: what it appends. To be asked before the batch in front of it is accepted, for they share items."""
        self.writes = self.decision.writes()
        return self


class Flights:
    """One batch after another: the one that is committing is the caller's, the one that gathers meanwhile is kept here.

    ``ready`` is the executor's queue: what gathers is taken from its left, what must be decided again is put back there.
    """

    def __init__(
        self,
        memory: Memory,
        mapper: EventMapper,
        clock: StoreClock,
        ready: deque[Work],
        batch_limit: int,
    ) -> None:
        self._memory = memory
        self._mapper = mapper
        self._clock = clock
        self._ready = ready
        self._batch_limit = batch_limit
        self._gathering: Flight | None = None
        self._gathers = False
        """Whether a batch is committing that more may be decided behind."""
        self._gather_due = False
        self._left = 0

    def begin(self, batch: Iterable[Work]) -> Flight:
        """Decide the first one. Raises what deciding raises: then nothing has happened."""
        self._left = IN_A_ROW_MAX
        flight = self._new()
        try:
            for work in batch:
                flight.take(work)
            return flight.close()
        except BaseException:
            flight.decision.undo()
            raise

    def sent(self) -> None:
        """A batch is on its way to the log: the next one begins to gather."""
        self._left -= 1
        self._gathers = self._left > 0
        self._gather()

    def came_in(self) -> None:
        """There is a new command in the queue."""
        if self._gathers and not self._gather_due:
            self._gather_due = True  # once for all that come in during this turn of the event loop
            asyncio.get_running_loop().call_soon(self._gather)

    def landed(self) -> Flight | None:
        """The batch that was sent is in the log: the next one, if any has gathered."""
        self._gathers = False
        flight, self._gathering = self._gathering, None
        try:
            return flight.close() if flight is not None else None
        except Exception:  # noqa: BLE001 - as when it gathers
            self._undo(flight)
            return None

    def failed(self) -> None:
        """The batch that was sent is not in the log: what stands on it is undone, and in the queue as it was before."""
        self._gathers = False
        self._undo(self._gathering)

    def _new(self) -> Flight:
        decision = Decision(self._memory, self._mapper, self._clock.now(), None)
        return Flight(decision, self._memory.warehouses_changed)

    def _gather(self) -> None:
        """Decide what is in the queue, until something there must be decided under the lock."""
        self._gather_due = False
        ready = self._ready
        while ready and self._gathers:
            flight = self._gathering or self._new()
            if len(flight.batch) >= self._batch_limit:
                return
            if not ready[0].footprint.certain:  # whether memory has it all, deciding itself tells
                self._gathers = False
                return
            try:
                flight.take(ready[0])
            except NotLoaded:
                self._gathers = False
            except Exception:  # noqa: BLE001 - whatever it is will be met again when the batch is settled by itself
                self._gathers = False
                self._undo(flight)
            else:
                self._gathering = flight
                ready.popleft()

    def _undo(self, flight: Flight | None) -> None:
        self._gathering = None
        if flight is not None:
            flight.decision.undo()
            self._ready.extendleft(reversed(flight.batch))
