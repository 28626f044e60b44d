"""The direct follower: tails the log and keeps one generation of the views up to date, no broker needed.

A ``Follower`` is one term of leadership, from the moment that its connection holds the leader's lock until
that connection is lost; it can be driven step by step. :mod:`projections.projector` drives it for good.
"""

import logging
import time
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Final

from domain.events import Event
from domain.values import stock_stream
from infra.event_store.log_reader import LogReader, LogRow
from infra.event_store.mapper import EventMapper, UnreadableEvent
from projections import metrics
from projections.batches import Arrival, Arrivals, Outcome, arrivals_of, fold_batch
from projections.cache_pusher import CachePusher
from projections.postgres_views import PostgresViews, RowRefused
from projections.redis_views import Push, pushes_of
from projections.share import Share
from projections.statements import Cursor

logger = logging.getLogger(__name__)

HEAL_ROWS: Final = 2_000
"""Events of one stream that are healed in one transaction."""
NOTED_STREAMS: Final = 100_000
SAMPLED_STREAMS: Final = 20
"""Streams of one batch whose time until they are visible is measured."""
RECONCILED_POSITIONS: Final = 20_000
"""Positions that one look of the reconciliation compares."""


@dataclass(frozen=True, kw_only=True)
class FollowerOptions:
    """``batch``: events per transaction. ``poll_s``: how often to look when no notice comes. ``gather_s``: the least
    time between two batches that are not full: a batch of few events costs nearly as much as one of many.

    Every ``reconcile_s`` the watermarks are compared with the log as it was ``reconcile_lag_s`` ago.
    """

    batch: int = 1_000
    poll_s: float = 0.2
    gather_s: float = 0.02
    reconcile_s: float = 1.0
    reconcile_lag_s: float = 2.0
    refill_rows: int = 1_000


class Follower:
    """The one writer of a generation's tables. Whatever it raises ends its term; nothing is lost by that."""

    def __init__(
        self,
        log: LogReader,
        views: PostgresViews,
        cache: CachePusher,
        cursor: Cursor,
        *,
        options: FollowerOptions,
        share: Share = Share(),  # noqa: B008  (immutable)
        generation: str = "",
    ) -> None:
        self._log = log
        self._share = share
        self._views = views
        self._cache = cache
        self._options = options
        self._mapper = EventMapper()
        self._metrics = _Metrics(generation, share)
        self._heads: deque[tuple[float, int]] = deque()
        self._settled = 0
        self._tended_s = float("-inf")
        self._stored = cursor
        self._committed: dict[str, int] = {}
        self.cursor = cursor
        """Where this is; in the table what does not go with a batch follows once a second."""
        self.rounds = 0
        """How often it was tended: whoever drives it has come round."""
        self.head = cursor.pg_position
        """Where the log was at the last look, at most a second ago."""

    async def step(self) -> int:
        """Apply the next batch of the log; how many events it had."""
        rows = await self._log.read_after(self.cursor.pg_position, self._options.batch)
        if rows:
            await self.apply(rows, position=rows[-1].position)
        return len(rows)

    async def apply(self, rows: Iterable[LogRow], *, position: int | None = None) -> None:
        """Apply ``rows``, in whatever order and however often they come, and move the cursor to ``position``."""
        arrivals = arrivals_of(rows, self._mapper)
        try:
            await self._apply(arrivals, position, heal_gaps=True)
        except RowRefused as error:
            logger.warning("a row was refused: finding out whose", extra={"error": str(error)})
            await self._apply_apart(arrivals)
            await self._apply({}, position)

    async def heal(self, stream: str, *, upto: int | None = None, retry: bool = False) -> None:
        """Bring ``stream`` up to date (to version ``upto``, or whatever there is) from the log.

        A parked one stays as it is unless ``retry``: then it is tried again from where it stands.
        """
        while True:
            marks = await self._views.watermarks([stream])
            if stream in marks.parked and not retry:
                return
            have = marks.versions.get(stream, 0)
            rows = await self._log.read_stream(stream, have, upto, HEAL_ROWS)
            if not rows and not retry:
                return
            arrivals: Arrivals = arrivals_of(rows, self._mapper) or {stream: []}
            retried = (stream,) if retry else ()
            try:
                await self._apply(arrivals, None, retried=retried)
            except RowRefused:
                await self._apply_apart(arrivals, retried=retried)
            if len(rows) < HEAL_ROWS:
                return
            retry = False  # parked once more, it stays so; else it goes on

    async def tend(self) -> None:
        """What is done once a second beside following: reconcile, and retry what somebody wants retried."""
        self.rounds += 1
        now_s = time.monotonic()
        if now_s - self._tended_s < self._options.reconcile_s:
            return
        self._tended_s = now_s
        await self.retry_parked()
        head = await self._log.head()
        self._heads.append((now_s, head))
        while self._heads[0][0] <= now_s - self._options.reconcile_lag_s:
            self._settled = self._heads.popleft()[1]
        self.head = head
        if await self.reconcile(self._settled):
            self._tended_s = float("-inf")
        self._metrics.behind(head, self.cursor.pg_position, now_s)
        await self.remember()

    async def reconcile(self, settled: int) -> bool:
        """Compare watermarks with the log up to ``settled`` and heal what is behind; true if there is more to do.

        A stream's last event, if it is lost on its way, shows no gap: this finds it.
        """
        settled = min(settled, self.cursor.pg_position)
        upto = min(settled, self.cursor.reconciled_position + RECONCILED_POSITIONS)
        if upto <= self.cursor.reconciled_position:
            return False
        for stream in await self._behind(self.cursor.reconciled_position, upto):
            logger.warning("a stream was behind its log", extra={"stream": stream})
            self._metrics.healed.inc()
            await self.heal(stream)
        self.cursor = self.cursor._replace(reconciled_position=upto)
        return upto < settled

    async def _behind(self, after: int, upto: int) -> list[str]:
        """The streams of the share whose events at positions in (``after``, ``upto``] are not all in the views.

        But for those that stand still.
        """
        latest = await self._log.latest_versions(after, upto)
        # What this term has committed itself needs no look into the tables: that is nearly everything.
        unsure = {
            stream: version
            for stream, version in latest.items()
            if self._committed.get(stream, 0) < version and self._share.has_stream(stream)
        }
        if not unsure:
            return []
        marks = await self._views.watermarks(unsure)
        return [
            stream
            for stream, version in unsure.items()
            if marks.versions.get(stream, 0) < version and stream not in marks.parked
        ]

    async def retry_parked(self) -> None:
        """Try again the parked streams for which that was requested."""
        for stream in await self._views.retries():
            if self._share.has_stream(stream):
                await self.heal(stream, retry=True)
        self._metrics.stale.set(await self._views.dead_letter_count())

    async def remember(self) -> None:
        """Write down what changed in the cursor without a batch: how far Redis is, and the reconciliation."""
        position, revision = self._cache.acknowledged
        cursor = self.cursor._replace(redis_position=position, redis_revision=revision)
        if cursor != self._stored:
            await self._views.move(cursor)
        self.cursor = self._stored = cursor

    async def _apply(
        self,
        arrivals: Arrivals,
        position: int | None,
        *,
        retried: Collection[str] = (),
        heal_gaps: bool = False,
    ) -> None:
        started_s = time.monotonic()
        found = await self._views.begin(arrivals, self._stored)
        outcome = fold_batch(arrivals, found, retried, park_gaps=not heal_gaps)
        if outcome.gaps:
            await self._views.rollback()
            await self._heal_gaps(arrivals, outcome)
            await self._apply(arrivals, position, retried=retried)
            return
        cursor = self._next_cursor(position)
        exact = await self._views.commit(outcome, cursor)
        self.cursor = self._stored = cursor
        self._note(outcome)
        warehouses = [warehouse.row for warehouse in outcome.warehouses]
        self._cache.offer(Push(pushes_of(outcome.items, exact), warehouses, cursor.pg_position, cursor.pg_revision))
        self._metrics.applied(outcome, arrivals, time.monotonic() - started_s)

    def _note(self, outcome: Outcome) -> None:
        """Remember what is now in the tables."""
        if len(self._committed) > NOTED_STREAMS:
            self._committed.clear()
        for item in outcome.items:
            level = item.level
            self._committed[stock_stream(level.sku, level.warehouse)] = level.version

    def _next_cursor(self, position: int | None) -> Cursor:
        redis_position, redis_revision = self._cache.acknowledged
        return Cursor(
            pg_position=self.cursor.pg_position if position is None else position,
            # By the clock, because a revision must never come back: a server that crashes may forget its last
            # transactions, which Redis has seen.
            pg_revision=max(self.cursor.pg_revision + 1, time.time_ns() // 1_000),
            redis_position=redis_position,
            redis_revision=redis_revision,
            reconciled_position=self.cursor.reconciled_position,
        )

    async def _heal_gaps(self, arrivals: Arrivals, outcome: Outcome) -> None:
        for stream in outcome.gaps:
            upto = arrivals[stream][-1].row.version
            logger.info("healing a gap", extra={"stream": stream, "upto": upto})
            self._metrics.healed.inc()
            await self.heal(stream, upto=upto)

    async def _apply_apart(self, arrivals: Arrivals, *, retried: Collection[str] = ()) -> None:
        """Apply each stream by itself, so that the one whose row is refused comes to stand still, alone."""
        for stream, stream_arrivals in arrivals.items():
            try:
                await self._apply({stream: stream_arrivals}, None, retried=retried, heal_gaps=True)
            except RowRefused:
                await self._apply_singly(stream, stream_arrivals, retried)

    async def _apply_singly(self, stream: str, arrivals: Sequence[Arrival], retried: Collection[str]) -> None:
        for arrival in arrivals:
            try:
                await self._apply({stream: [arrival]}, None, retried=retried, heal_gaps=True)
            except RowRefused as error:
                refused = Arrival(arrival.row, UnreadableEvent(f"a row of it was refused: {error}"))
                await self._apply({stream: [refused]}, None, retried=retried)
                return


class _Metrics:
    """The follower's gauges and counters under its generation's label."""

    def __init__(self, generation: str, share: Share) -> None:
        self._whose = generation, share
        self.healed = metrics.HEALED.labels(generation)
        self.stale = metrics.STALE.labels(generation)
        self._batches = metrics.BATCHES.labels(generation)
        self._events = metrics.EVENTS.labels(generation)
        self._skipped = metrics.SKIPPED.labels(generation)
        self._parked = metrics.PARKED.labels(generation)
        self._seconds = metrics.BATCH_SECONDS.labels(generation)
        self._visible = metrics.COMMIT_TO_VISIBLE.labels(generation)
        self._waits_since: tuple[float, int] | None = None

    def behind(self, head: int, position: int, now_s: float) -> None:
        """The views are at ``position`` of a log that ends at ``head``."""
        if self._waits_since is None or position >= self._waits_since[1]:
            self._waits_since = (now_s, head) if position < head else None
        metrics.LAG_EVENTS.set(*self._whose, max(0, head - position))
        metrics.LAG_SECONDS.set(*self._whose, now_s - self._waits_since[0] if self._waits_since else 0)

    def applied(self, outcome: Outcome, arrivals: Arrivals, seconds: float) -> None:
        if outcome.applied:
            now = datetime.now(UTC)
            # Each costs as much as a fiftieth of its event: a few of a full batch tell as much as all.
            for stream_arrivals in islice(arrivals.values(), SAMPLED_STREAMS):
                event = stream_arrivals[-1].event if stream_arrivals else None
                if isinstance(event, Event):
                    self._visible.observe(max(0.0, (now - event.timestamp).total_seconds()))
        self._batches.inc()
        self._events.inc(outcome.applied)
        self._skipped.inc(outcome.skipped)
        self._parked.inc(len(outcome.parked))
        self._seconds.observe(seconds)
        for letter in outcome.parked:
            logger.error(
                "a stream stands still at an event that cannot be applied",
                extra={"stream": letter.stream, "version": letter.version, "error": letter.error},
            )
