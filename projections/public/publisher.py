"""From rows of the log to acknowledged messages: each batch is told first, and then remembered as told.

Whatever dies in between is told again with the same ids. A ``Publisher`` is driven step by step, whatever brings it the rows;
:mod:`projections.public.runner` drives it for good.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from infra.event_store.log_reader import LogReader, LogRow
from infra.event_store.mapper import EventMapper, UnreadableEvent
from infra.kafka.event_batches import MessageRow, UnreadableMessage, decode_batch
from infra.kafka.partitions import partition_of
from projections.batches import Arrival, arrivals_of, dead_letter, decoded
from projections.public import metrics
from projections.public.batches import (
    STOCK_PREFIX,
    Arrivals,
    Gaps,
    Known,
    PublicOutcome,
    fold_public,
    holds_named,
)
from projections.public.cloud_events import Envelopes, PublicMessage
from projections.public.messages import rejection_of
from projections.public.refusals import RefusalReader
from projections.public.store import Overtaken, PublicStore, StateRefused
from projections.public.stream_fold import StreamFold
from projections.views.errors import ImpossibleEvent

logger = logging.getLogger(__name__)

HEAL_ROWS: Final = 2_000
"""Events of one stream that are healed in one batch."""
RECONCILED_POSITIONS: Final = 20_000
"""Positions of the log that one look of the reconciliation compares."""
NOTED_STREAMS: Final = 100_000
REFUSALS: Final = 500
"""Refusals that are published together."""
_VERSION_MAX: Final = 2**63 - 1


class MessageRefused(Exception):
    """The brokers do not take a message, whoever sends it and when: it is larger than they allow."""


class OtherLog(Exception):
    """The log is not the one that was published so far: it has been restored, and versions mean something else now."""


_REFUSED: Final = (MessageRefused, StateRefused)


class Sink(Protocol):
    """Where public messages go."""

    async def publish(self, messages: Sequence[PublicMessage]) -> None:
        """Return when all are acknowledged. In order for each topic and key. Raises MessageRefused."""


@dataclass(frozen=True, kw_only=True)
class PublisherOptions:
    """Every ``reconcile_s`` what was told is compared with the log as it was ``reconcile_lag_s`` ago."""

    reconcile_s: float = 1.0
    reconcile_lag_s: float = 2.0


class Publisher:
    """What one process does for the partitions that it owns. Whatever it raises ends its term; nothing is lost by that.

    ``epoch``: the log's, which must be that of the states. ``partitions``: how many the internal topic has.
    """

    def __init__(
        self,
        log: LogReader,
        refusals: RefusalReader,
        store: PublicStore,
        sink: Sink,
        envelopes: Envelopes,
        *,
        epoch: int,
        partitions: int,
        options: PublisherOptions = PublisherOptions(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._refusals = refusals
        self._store = store
        self._sink = sink
        self._envelopes = envelopes
        self._epoch = epoch
        self._partitions = partitions
        self._options = options
        self._clock = clock
        self._mapper = EventMapper()
        self._heads: deque[tuple[float, int]] = deque()
        self._tended_s = float("-inf")
        self._told: dict[str, int] = {}
        self._newest: datetime | None = None
        self._come = 0
        self._reconciled: dict[int, int] = {}
        self._owned: frozenset[int] = frozenset()
        self.feed_is_behind = False
        """While more messages wait than can be taken at once, nothing is lost yet, and nothing is reconciled."""
        self.batches = 0
        """Batches published since it was made: however long a round takes, it gets on."""
        self.head = 0
        """The end of the log when it was last looked at."""
        self.from_log = 0
        """Streams that the reconciliation has found behind so far: what Kafka should have brought and did not."""

    # What comes ----------------------------------------------------------------------------------------

    async def own(self, partitions: frozenset[int]) -> None:
        """From now on these partitions are this process's."""
        stored = await self._store.reconciled(self._partitions)
        self._reconciled = {partition: stored.get(partition, 0) for partition in partitions}
        self._owned = partitions

    async def deliver(self, messages: Iterable[bytes | None]) -> None:
        """Publish what these messages of the internal topic say; once this returns they may be acknowledged.

        Raises OtherLog.
        """
        rows: list[LogRow] = []
        lacking: dict[str, int] = {}
        for message in messages:
            for row in self._rows_of(message):
                if row.state is None:  # too large for a message: the log has it
                    lacking[row.stream] = max(row.version, lacking.get(row.stream, 0))
                else:
                    rows.append(LogRow(row.position, row.stream, row.version, row.topic, row.state))
        await self.apply(rows)
        for stream, version in lacking.items():
            await self.heal(stream, upto=version)

    def _rows_of(self, message: bytes | None) -> list[MessageRow]:
        """The rows of stock items in a message; none in one that says nothing to us."""
        try:
            batch = decode_batch(message)
        except UnreadableMessage as error:
            # Nothing is lost: what it should have said is in the log, and the reconciliation finds it.
            logger.warning("a message of the internal topic says nothing", extra={"error": str(error)})
            metrics.UNREADABLE.inc()
            return []
        if batch.epoch > self._epoch:
            raise OtherLog("the log has been restored since this began to publish")
        if batch.epoch < self._epoch:
            return []
        self._come = max(self._come, batch.last)
        return [row for row in batch.rows if row.stream.startswith(STOCK_PREFIX) and _is_plausible(row)]

    async def apply(self, rows: Iterable[LogRow]) -> None:
        """Publish what ``rows`` say, in whatever order and however often they come."""
        arrivals = arrivals_of((row for row in rows if row.stream.startswith(STOCK_PREFIX)), self._mapper)
        if not arrivals:
            return
        try:
            await self._apply_healed(arrivals)
        except _REFUSED as error:
            logger.warning("something was refused: finding out what", extra={"error": str(error)})
            await self._apply_apart(arrivals)

    async def heal(self, stream: str, *, upto: int | None = None, retry: bool = False) -> None:
        """Publish of ``stream`` what the log has and nobody was told (to version ``upto``, or all there is).

        A parked one stays as it is unless ``retry``: then it is tried again from where it stands.
        """
        while True:
            marks = await self._store.versions([stream])
            if stream in marks.parked and not retry:
                return
            rows = await self._log.read_stream(stream, marks.versions.get(stream, 0), upto, HEAL_ROWS)
            if not rows and not retry:
                return
            arrivals: Arrivals = arrivals_of(rows, self._mapper) or {stream: []}
            retried = (stream,) if retry else ()
            try:
                await self._apply(arrivals, retried=retried, gaps=Gaps.PARK)
            except _REFUSED:
                await self._apply_apart(arrivals, retried=retried)
            if len(rows) < HEAL_ROWS:
                return
            retry = False  # parked once more, it stays so; else it goes on

    # What is done beside ---------------------------------------------------------------------------------

    async def tend(self) -> None:
        """What is done once a second: reconcile, and retry what somebody wants retried."""
        now_s = self._clock()
        if now_s - self._tended_s < self._options.reconcile_s or not self._owned:
            return
        self._tended_s = now_s
        await self._store.tend(self._partitions, self._owned)
        for stream in await self._store.retries():
            if partition_of(stream, self._partitions) in self._owned:
                await self.heal(stream, retry=True)
        metrics.STALE.set(await self._store.parked_count())
        self.head = await self._log.head()
        self._tell_lag()
        self._heads.append((now_s, self.head))
        settled = 0
        while self._heads and self._heads[0][0] <= now_s - self._options.reconcile_lag_s:
            settled = self._heads.popleft()[1]
        if not self.feed_is_behind and await self.reconcile(settled):
            self._tended_s = float("-inf")

    @property
    def position(self) -> int:
        """Up to where the log has been published, as far as this process can tell."""
        return max([self._come, *self._reconciled.values()])

    async def is_needed(self, within_s: float) -> bool:
        """Whether, for so long, nobody has been at some of the partitions, although this process owns none."""
        return not await self._store.is_tended(self._partitions, within_s)

    async def publish_refusals(self) -> bool:
        """Publish what was refused since the last time, if that is this process's to do; true if there may be more.

        One process does it: whoever owns partition 0.
        """
        if 0 not in self._owned:
            return False
        progress = await self._store.progress(self._epoch)
        refused, upto = await self._refusals.read_after(progress.refusal_id, REFUSALS)
        if upto == progress.refusal_id:
            return False
        messages = [rejection_of(refusal, self._envelopes) for refusal in refused]
        await self._sink.publish(messages)
        await self._store.move_refusals(upto)
        _count(messages)
        return True

    async def reconcile(self, settled: int) -> bool:
        """Compare what was told with the log up to ``settled`` and heal what is behind; true if there is more to do.

        A stream's last event, if it is lost on its way, shows no gap: this finds it.
        """
        begin = min(self._reconciled.values(), default=settled)
        upto = min(settled, begin + RECONCILED_POSITIONS)
        if upto <= begin:
            return False
        latest = await self._log.latest_versions(begin, upto)
        # What this process has told itself needs no look into the tables: that is nearly everything.
        unsure = {
            stream: version
            for stream, version in latest.items()
            if stream.startswith(STOCK_PREFIX)
            and partition_of(stream, self._partitions) in self._owned
            and self._told.get(stream, 0) < version
        }
        if unsure:
            marks = await self._store.versions(unsure)
            for stream, version in unsure.items():
                if marks.versions.get(stream, 0) < version and stream not in marks.parked:
                    logger.warning("a stream was behind its log", extra={"stream": stream, "version": version})
                    metrics.HEALED.inc()
                    self.from_log += 1
                    await self.heal(stream)
        self._reconciled = {partition: max(upto, at) for partition, at in self._reconciled.items()}
        await self._store.move_reconciled(self._partitions, self._owned, upto)
        return upto < settled

    def _tell_lag(self) -> None:
        behind = max(0, self.head - self.position)
        metrics.LAG_EVENTS.set(behind)
        newest = self._newest if behind else None
        metrics.LAG_SECONDS.set((datetime.now(UTC) - newest).total_seconds() if newest is not None else 0)

    # One batch ---------------------------------------------------------------------------------------------

    async def _apply_healed(self, arrivals: Arrivals) -> None:
        """Apply, healing gaps first. What the log does not have is no event of it, and is dropped."""
        gaps = await self._apply(arrivals, gaps=Gaps.REPORT)
        for stream in gaps:
            upto = arrivals[stream][-1].row.version
            logger.info("healing a gap", extra={"stream": stream, "upto": upto})
            metrics.HEALED.inc()
            await self.heal(stream, upto=upto)

    async def _apply(
        self, arrivals: Arrivals, *, retried: Collection[str] = (), gaps: Gaps = Gaps.DROP
    ) -> Sequence[str]:
        """Publish, and then remember, what is new; streams with a gap are left out and returned."""
        while True:
            started_s = self._clock()
            known = await self._known(arrivals, retried)
            outcome = fold_public(arrivals, known, self._envelopes, retried=retried, gaps=gaps)
            await self._sink.publish(outcome.messages)
            acknowledged = datetime.now(UTC)
            try:
                await self._store.commit(outcome)
            except Overtaken:
                continue  # what is new to the other one, too, is told twice
            self._note(outcome, acknowledged, self._clock() - started_s)
            return outcome.gaps

    async def _known(self, arrivals: Arrivals, retried: Collection[str]) -> Known:
        while True:
            known, outdated = await self._store.load(list(arrivals), holds_named(arrivals))
            outdated = {each: at for each, at in outdated.items() if each not in known.parked or each in retried}
            if not outdated:
                return known
            for stream, version in outdated.items():
                await self._refold(stream, version)

    async def _refold(self, stream: str, version: int) -> None:
        """Make the state of ``stream`` anew by the present fold; what it says has been told."""
        fold = StreamFold()
        while fold.version < version:
            rows = await self._log.read_stream(stream, fold.version, version, HEAL_ROWS)
            if not rows:
                raise OtherLog(f"{stream} was published up to version {version}, and the log ends before")
            for row in rows:
                event = decoded(row, self._mapper)
                try:
                    if isinstance(event, UnreadableEvent):
                        raise event
                    fold.apply(event)
                except (ImpossibleEvent, UnreadableEvent) as error:
                    await self._store.commit(PublicOutcome(parked=[dead_letter(row, str(error))]))
                    return
        assert fold.level is not None
        try:
            await self._store.refold(stream, fold.level, fold.holds)
        except Overtaken:
            return  # the other one has made it anew

    def _note(self, outcome: PublicOutcome, acknowledged: datetime, seconds: float) -> None:
        if len(self._told) > NOTED_STREAMS:
            self._told.clear()
        for changed in outcome.changed:
            self._told[changed.stream] = changed.level.version
            self._newest = max(changed.level.as_of, self._newest or changed.level.as_of)
            metrics.DELAY_SECONDS.observe(max(0.0, (acknowledged - changed.level.as_of).total_seconds()))
        self.batches += 1
        metrics.EVENTS.inc(outcome.applied)
        metrics.SKIPPED.inc(outcome.skipped)
        metrics.PARKED.inc(len(outcome.parked))
        metrics.BATCH_SECONDS.observe(seconds)
        _count(outcome.messages)
        for letter in outcome.parked:
            logger.error(
                "nothing more is published of a stream: an event of it cannot be",
                extra={"stream": letter.stream, "version": letter.version, "error": letter.error},
            )

    async def _apply_apart(self, arrivals: Arrivals, *, retried: Collection[str] = ()) -> None:
        """Apply each stream by itself, so that the one of which something is refused comes to stand still, alone."""
        for stream, stream_arrivals in arrivals.items():
            try:
                await self._apply_one(stream, stream_arrivals, retried)
            except _REFUSED:
                await self._apply_singly(stream, stream_arrivals, retried)

    async def _apply_singly(self, stream: str, arrivals: Sequence[Arrival], retried: Collection[str]) -> None:
        for arrival in arrivals:
            try:
                await self._apply_one(stream, [arrival], retried)
            except _REFUSED as error:
                refused = Arrival(arrival.row, UnreadableEvent(f"it is refused: {error}"))
                await self._apply({stream: [refused]}, retried=retried)
                return

    async def _apply_one(self, stream: str, arrivals: Sequence[Arrival], retried: Collection[str]) -> None:
        if retried:
            await self._apply({stream: arrivals}, retried=retried)
        else:
            await self._apply_healed({stream: arrivals})


def _is_plausible(row: MessageRow) -> bool:
    """Whether the database could even be asked about it: anybody may write to a topic."""
    return "\x00" not in row.stream and 0 < row.version <= _VERSION_MAX


def _count(messages: Sequence[PublicMessage]) -> None:
    topics: Mapping[str, int] = {
        topic: sum(message.topic == topic for message in messages) for topic in {message.topic for message in messages}
    }
    for topic, count in topics.items():
        metrics.MESSAGES.labels(topic).inc(count)
