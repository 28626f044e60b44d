"""Where a command becomes durable: decided in batches, committed together, answered after the commit.

Commands from every door enter one bounded queue. While one batch commits the next one gathers; there is
no artificial delay. A batch is decided in one of two ways:

*under the lock* (the correctness baseline): lock and load in one round trip, decide, append and commit in
another. Nobody else can append in between, so there is nothing to conflict with;

*on memory alone*: decide on what memory holds, then lock, check, append and commit in one round trip. If
memory was stale the store refuses, memory takes the batch back, and the process stays under the lock for
some batches, because the next ones would probably meet the same neighbour.

The next batch on memory alone is decided while one commits (:mod:`write_side.flights`). In both ways a
refused command fails alone. An append that fails leaves nothing in memory. A connection
lost during the commit leaves the outcome unknown: the batch is decided again under the lock, where the
idempotency keys tell what had been applied.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress

from domain.commands import Command, ExpireHolds
from domain.hold import EXPIRY_ACTOR
from infra.event_store.mapper import EventMapper
from infra.event_store.port import (
    Conflict,
    EventStore,
    LockTimeout,
    Needs,
    SnapshotRow,
    StoreError,
    StoreUnavailable,
)
from infra.settings import WriteSettings
from write_side.deciding import INTERNAL, UNAVAILABLE, Round, Work, decide
from write_side.decision import Decision, NotLoaded
from write_side.flights import Flight, Flights
from write_side.handlers import HANDLERS
from write_side.loading import Loader
from write_side.memory import Memory
from write_side.metrics import BATCHES, COMMANDS, CONFLICTS, QUEUED
from write_side.store_clock import StoreClock
from write_side.submission import Answer, Overloaded, Submission

log = logging.getLogger(__name__)

_RECONNECT_PAUSE_S = 0.1
_RECONNECT_IDLE_S = 0.5
_LOADS_MAX = 6
"""How often a command may turn out to need more: its reservation, then its items, then what changed meanwhile."""

_PATIENCE_MIN_S = 1.0
"""What a trip to the store may always take, though a command in it has waited until its deadline."""

_LOAD_AHEAD_S = 2.0
"""How long loading ahead may take: the lock's own connection is the other way, so nobody waits a deadline for it."""


class CommandExecutor:
    """The one way from a command to the log in this process.

    Use: ``await start()``, then :meth:`submit`; ``await drain()`` answers what was admitted and stops.
    """

    def __init__(self, store: EventStore, settings: WriteSettings, mapper: EventMapper | None = None) -> None:
        self._store = store
        self._mapper = mapper or EventMapper()
        self._memory = Memory(
            self._mapper,
            items_limit=settings.identity_map_items,
            reservations_limit=settings.known_reservations,
            snapshot_every=settings.snapshot_every,
        )
        self._queue_limit = settings.queue_limit
        self._batch_limit = settings.batch_limit
        self._deadline_s = settings.request_deadline_ms / 1000
        self._lock_first_batches = settings.lock_first_batches
        self._optimistic = settings.optimistic
        self._locked_batches_left = 0
        self._ready: deque[Work] = deque()
        self._cold: list[Work] = []
        self._outbox: list[tuple[Work, Answer]] = []
        self._wake = asyncio.Event()
        self._wake_loader = asyncio.Event()
        self._idle = asyncio.Event()
        self._admitted = 0
        self._clock = StoreClock()
        self._loader = Loader(store, self._memory, self._clock)
        self._flights = Flights(self._memory, self._mapper, self._clock, self._ready, settings.batch_limit)
        self._tasks: list[asyncio.Task[None]] = []
        self._snapshots: set[asyncio.Task[None]] = set()
        self._connected = False

    # Doors ---------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether commands can be decided: the store is connected."""
        return self._connected and bool(self._tasks)

    async def start(self) -> None:
        """Connect to the store and begin to work. Raises StoreUnavailable."""
        await self._store.open()
        await self._look_around()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._work()), loop.create_task(self._load_cold())]

    async def drain(self) -> None:
        """Answer everything that was admitted, then stop."""
        while self._admitted:
            self._idle.clear()
            await self._idle.wait()
        tasks = [*self._tasks, *self._snapshots]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks = []
        await self._store.close()

    def submit(self, submission: Submission) -> None:
        """Admit a command. Raises Overloaded if the queue is full: then nothing was admitted."""
        if self._admitted >= self._queue_limit:
            raise Overloaded
        self._admit(submission)

    def submit_all(self, submissions: Sequence[Submission]) -> None:
        """Admit all of these commands or, if they do not fit into the queue, none. Raises Overloaded."""
        if self._admitted + len(submissions) > self._queue_limit:
            raise Overloaded
        for submission in submissions:
            self._admit(submission)

    async def execute(self, command: Command, *, key: str | None = None, actor: str = EXPIRY_ACTOR) -> Answer:
        """Submit a command and wait for its answer. Without a key nothing is recorded: it must bear repeating."""
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def answer(outcome: Answer) -> None:
            if not answered.done():
                answered.set_result(outcome)

        submission = Submission(command, b"", key or "", answer, actor=actor)
        if self._admitted >= self._queue_limit:
            raise Overloaded
        self._admit(submission, internal=key is None)
        return await answered

    def _admit(self, submission: Submission, *, internal: bool = False) -> None:
        handler = HANDLERS[type(submission.command)]
        work = Work(submission, handler, time.monotonic() + self._deadline_s, internal=internal)
        self._admitted += 1
        self._route(work)

    def _route(self, work: Work) -> None:
        """Into the queue if memory has what the command touches, else to the loader."""
        work.footprint = footprint = work.handler.footprint(work.submission.command, self._memory)
        if work.loads < _LOADS_MAX and self._loader.lacks(footprint):
            self._cold.append(work)
            self._wake_loader.set()
        else:
            self._ready.append(work)
            self._wake.set()
            self._flights.came_in()

    # Loading ahead -------------------------------------------------------------------------------

    async def _look_around(self) -> None:
        """Learn the time and every warehouse."""
        await self._loader.read(Needs())
        self._connected = True

    async def _load_cold(self) -> None:
        """Load what memory lacks beside the batch that is committing, so that no lock is held meanwhile."""
        while True:
            await self._wake_loader.wait()
            self._wake_loader.clear()
            works, self._cold = self._cold, []
            needs = Needs()
            for work in works:
                work.loads += 1
                self._loader.add_needs(needs, work, locked=False)
            try:
                async with asyncio.timeout(min(self._patience_s(works), _LOAD_AHEAD_S)):
                    await self._loader.read(needs)
            except Exception:  # one that cannot even be looked for must not stop this loop for all others
                log.warning("could not load ahead: the batch will load under the lock", exc_info=True)
                for work in works:
                    work.loads = _LOADS_MAX
            for work in works:
                self._route_loaded(work)

    def _route_loaded(self, work: Work) -> None:
        """What was asked for is in memory now, or does not exist; it may have shown that more is needed."""
        known_before = work.footprint.complete
        work.footprint = work.handler.footprint(work.submission.command, self._memory)
        if not known_before and not work.footprint.complete:
            work.loads = _LOADS_MAX  # there is no such reservation: the lock will have the last word
        self._route(work)

    # Batches -------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Take what has gathered, settle it, take again."""
        while True:
            if not self._ready:
                self._deliver()
                if not self._ready:
                    await self._rest()
                    continue
            batch = self._take_batch()
            try:
                await self._settle(batch)
            except Exception:
                log.exception("a batch could not be settled")
                self._answer_all(batch, INTERNAL)
            self._memory.trim()
            QUEUED.set(len(self._ready) + len(self._cold))

    async def _rest(self) -> None:
        """Until there is work. Who is not ready may never be sent any: meanwhile the store is looked for without."""
        self._wake.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), None if self._connected else _RECONNECT_IDLE_S)
            return
        await self._reconnect([])

    def _take_batch(self) -> list[Work]:
        return [self._ready.popleft() for _ in range(min(len(self._ready), self._batch_limit))]

    async def _settle(self, batch: list[Work]) -> None:
        """Bring every command of the batch to its answer: committed, refused, or unknown at its deadline."""
        unsure = False
        while batch := self._in_time(batch):
            guessing = not unsure and self._may_guess(batch)
            try:
                await (self._on_memory_alone(batch) if guessing else self._under_lock(batch))
            except Conflict as conflict:
                self._note_conflict(conflict)
                if not guessing:  # nobody else can have been first: it is a fault, and would be met again
                    await self._settle_apart(batch, conflict)
                    return
            except NotLoaded:
                pass
            except LockTimeout:
                log.warning("the append lock was not to be had in time")
            except (StoreUnavailable, TimeoutError) as error:
                log.warning("the event store does not answer: %s", str(error) or "not in time")
                await self._reconnect(batch)
            except Exception as error:  # noqa: BLE001 - the store rejects a row, or a decision has a fault
                if not guessing:  # else it was perhaps only memory that was wrong
                    await self._settle_apart(batch, error)
                    return
            else:
                return
            unsure = True

    async def _settle_apart(self, batch: Sequence[Work], error: Exception) -> None:
        """Find out which of these commands ``error`` comes from: the others go on."""
        if len(batch) == 1:
            log.error("a command could not be decided", exc_info=error)
            self._answer_all(batch, INTERNAL)
            return
        for work in batch:
            await self._settle([work])

    def _note_conflict(self, conflict: Conflict) -> None:
        CONFLICTS.inc()
        if conflict.stale:
            self._locked_batches_left = self._lock_first_batches

    def _patience_s(self, works: Iterable[Work]) -> float:
        """How long a trip for these may take: to the first deadline, but never so short that a sound one fails."""
        first = min((work.deadline for work in works), default=0.0)
        return max(first - time.monotonic(), min(_PATIENCE_MIN_S, self._deadline_s))

    def _in_time(self, batch: list[Work]) -> list[Work]:
        now = time.monotonic()
        late = [work for work in batch if work.deadline <= now]
        self._answer_all(late, UNAVAILABLE)
        return [work for work in batch if work.deadline > now] if late else batch

    def _answer_all(self, batch: Iterable[Work], answer: Answer) -> None:
        self._outbox += [(work, answer) for work in batch]

    def _may_guess(self, batch: Sequence[Work]) -> bool:
        if not self._optimistic:
            return False
        if self._locked_batches_left:
            self._locked_batches_left -= 1
            return False
        return all(self._loader.can_tell(work.footprint) for work in batch)

    async def _on_memory_alone(self, batch: list[Work]) -> None:
        """Decide and append ``batch``, then in one go the batches that gather meanwhile.

        ``batch`` is always the oldest that is not in the log yet: whoever catches an error knows what to decide again.
        """
        flights = self._flights
        flight: Flight | None = flights.begin(batch)
        while flight is not None:
            batch[:] = flight.batch
            try:
                if flight.writes:
                    sent = self._store.append_unseen(flight.writes, flight.warehouses_known)
                    self._deliver()
                    flights.sent()
                    async with asyncio.timeout(self._patience_s(batch)):
                        self._clock.heard(await sent)
                    self._connected = True
            except BaseException:
                flights.failed()
                flight.decision.undo()
                raise
            ahead = flights.landed()
            self._committed(flight.decision, flight.done, "memory")
            flight = ahead
        batch.clear()

    async def _under_lock(self, batch: list[Work]) -> None:
        async with asyncio.timeout(self._patience_s(batch)):
            decision, done = await self._decide_and_append(batch)
        self._committed(decision, done, "lock")

    async def _decide_and_append(self, batch: list[Work]) -> tuple[Decision, Round]:
        needs = Needs()
        for work in batch:
            if not work.footprint.complete:  # memory may have learned of it since
                work.footprint = work.handler.footprint(work.submission.command, self._memory)
            self._loader.add_needs(needs, work, locked=True)
        sent = self._store.lock_and_load(needs, self._memory.warehouses_changed)
        self._deliver()
        loaded = await sent
        self._connected = True
        decision = Decision(self._memory, self._mapper, loaded.now, loaded, (*needs.cached, *needs.cold))
        try:
            await self._loader.take_in(loaded, needs)
            self._join(batch, decision)
            done = await self._decide_loading(batch, decision)
            writes = decision.writes()
            if writes:
                self._clock.heard(await self._store.append(writes))
            else:
                await self._store.abandon()
        except BaseException as error:
            decision.undo()
            if not isinstance(error, StoreError | asyncio.CancelledError):  # the store ends what it fails itself
                await self._store.abandon()
            raise
        return decision, done

    def _join(self, batch: list[Work], decision: Decision) -> None:
        """Who came while we waited for the lock, and needs nothing but what was loaded under it, need not wait again.

        Their keys were not looked up; as on memory alone, one that is taken is refused by the log. A reservation or order
        that is named must have been looked up: a refusal could be wrong, and the log would not tell.
        """
        ready = self._ready
        while ready and len(batch) < self._batch_limit:
            footprint = ready[0].footprint
            named = footprint.reservation_id is not None or footprint.order_id is not None
            if named or not self._loader.can_tell(footprint):
                return
            if not all(map(decision.is_current, footprint.streams)):
                return
            batch.append(ready.popleft())

    def _committed(self, decision: Decision, done: Round, way: str) -> None:
        """The batch is in the log (or appended nothing): memory keeps it, the answers may go."""
        changed = decision.accept()
        if decision.changed_warehouses:  # only a look under the lock tells where in the order of changes ours came
            self._locked_batches_left = max(self._locked_batches_left, 1)
        BATCHES.labels(way).inc()
        self._outbox += done.answers
        for work in reversed(done.again):
            self._ready.appendleft(work)
        for stream in done.ahead:
            self._ready.appendleft(self._own_work(ExpireHolds(stream=stream)))
        for command in decision.follow_ups:
            self._ready.append(self._own_work(command))
        snapshots = self._memory.snapshots_due(changed)
        if snapshots:
            task = asyncio.get_running_loop().create_task(self._keep(snapshots))
            self._snapshots.add(task)
            task.add_done_callback(self._snapshot_written)

    async def _keep(self, snapshots: Sequence[SnapshotRow]) -> None:
        async with asyncio.timeout(self._deadline_s):  # a store that hangs must not collect them
            await self._store.write_snapshots(snapshots)

    def _snapshot_written(self, task: asyncio.Task[None]) -> None:
        self._snapshots.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.warning("a snapshot was not kept: the next load replays more", exc_info=task.exception())

    def _own_work(self, command: Command) -> Work:
        """A command that the service gives itself: nobody waits for its answer."""
        self._admitted += 1
        submission = Submission(command, b"", "", _nobody_waits, actor=EXPIRY_ACTOR)
        handler = HANDLERS[type(command)]
        return Work(
            submission,
            handler,
            time.monotonic() + self._deadline_s,
            handler.footprint(command, self._memory),
            internal=True,
        )

    # Deciding ------------------------------------------------------------------------------------

    async def _decide_loading(self, batch: Iterable[Work], decision: Decision) -> Round:
        """Decide under the lock; what a command turns out to need is loaded in the same transaction."""
        done = Round()
        for work in batch:
            for attempt in range(_LOADS_MAX):
                try:
                    decide(work, decision, done)
                    break
                except NotLoaded as missing:
                    if attempt == _LOADS_MAX - 1:
                        raise RuntimeError("a command needs more each time it is decided") from missing
                    await self._loader.load_missing(work, missing, decision)
        return done

    # Answering -----------------------------------------------------------------------------------

    def _deliver(self) -> None:
        """Tell the callers of what is settled. Called when the next batch has been sent: it waits for nobody."""
        outbox, self._outbox = self._outbox, []
        answered: dict[tuple[str, int], int] = {}
        for work, answer in outbox:
            self._admitted -= 1
            kind = (work.handler.operation, answer.status)
            answered[kind] = answered.get(kind, 0) + 1
            try:
                work.submission.answer(answer)
            except Exception:
                log.exception("an answer could not be delivered")
        for (operation, status), count in answered.items():
            COMMANDS.labels(operation, str(status)).inc(count)
        if not self._admitted:
            self._idle.set()

    async def _reconnect(self, batch: list[Work]) -> None:
        """Try once, no longer than the first of those that wait has time; who has none left is answered."""
        self._connected = False
        waiting = self._answer_late(batch)
        try:
            async with asyncio.timeout(self._patience_s(waiting)):
                await self._store.open()
                # Another server may answer now, or one that was restored: what memory has may not be in its log.
                self._memory.clear()
                await self._look_around()
        except (StoreError, TimeoutError) as error:
            log.warning("the event store is away: %s", str(error) or "no answer in time")
            await asyncio.sleep(_RECONNECT_PAUSE_S)
            self._answer_late(batch)

    def _answer_late(self, batch: list[Work]) -> list[Work]:
        """Answer now whoever is over the deadline, in this batch or behind it; all who still wait."""
        batch[:] = self._in_time(batch)
        waiting = self._in_time(list(self._ready))
        self._ready.clear()
        self._ready.extend(waiting)
        self._deliver()
        return [*batch, *self._ready]


def _nobody_waits(answer: Answer) -> None:
    """The answer to a command of the service's own."""
