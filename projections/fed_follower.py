"""A follower that is given its rows instead of reading them: by Kafka, which may repeat, reorder and lose them.

Where it is it learns from the log alone: once a second it compares what the log has with what the views have. Whatever
the feed has not brought within ``reconcile_lag_s`` is read from the log itself, as the direct follower would.
"""

import logging
import time
from collections.abc import Iterable
from typing import Final

from infra.event_store.log_reader import LogRow
from infra.kafka.event_batches import EventBatch
from projections.follower import RECONCILED_POSITIONS, Follower
from projections.redis_views import Push

logger = logging.getLogger(__name__)

BACKLOG_LOOK_S: Final = 5.0
"""How often to look what the views lack while the feed has much to bring: nothing is read from the log then anyway."""


class FedFollower(Follower):
    """The one writer of a share of a generation; ``feed_is_behind`` says that the feed has much to bring yet."""

    feed_is_behind = False
    from_log = 0
    """Events of the share that were read from the log, because the feed had not brought them in time."""
    _looked_s = float("-inf")

    async def take(self, batches: Iterable[EventBatch]) -> None:
        """Apply what the feed brought."""
        rows: list[LogRow] = []
        too_large: dict[str, int] = {}
        for batch in batches:
            for row in batch.rows:
                if row.state is None:
                    too_large[row.stream] = max(row.version, too_large.get(row.stream, 0))
                elif self._share.has_stream(row.stream):
                    rows.append(LogRow(row.position, row.stream, row.version, row.topic, row.state))
        if rows:
            await self.apply(rows)
        for stream, version in too_large.items():
            await self.heal(stream, upto=version)

    async def reconcile(self, settled: int) -> bool:
        """Look what the views lack of the log; read it from there if it is not later than ``settled``.

        True if there is more to do.
        """
        now_s = time.monotonic()
        if self.feed_is_behind and now_s - self._looked_s < BACKLOG_LOOK_S:
            return False
        self._looked_s = now_s
        start = self.cursor.reconciled_position
        upto = min(self.head, start + RECONCILED_POSITIONS)
        # As long as the feed has much to bring, what is missing is not lost: it would be written twice.
        trusted = start if self.feed_is_behind else min(settled, upto)
        lacking = await self._behind(start, upto) if upto > start else []
        if lacking and trusted < upto:
            upto = trusted
            lacking = await self._behind(start, upto) if upto > start else []
        if lacking:
            logger.warning("the feed has not brought everything", extra={"streams": len(lacking), "upto": upto})
            self._metrics.healed.inc(len(lacking))
            await self._read(start, upto)
        if upto > start:
            position = max(upto, self.cursor.pg_position)
            self.cursor = self.cursor._replace(reconciled_position=upto, pg_position=position)
            self._cache.offer(Push((), (), position, self.cursor.pg_revision))
        return trusted == upto < min(settled, self.head)

    async def _read(self, start: int, upto: int) -> None:
        while start < upto:
            found = [row for row in await self._log.read_after(start, self._options.batch) if row.position <= upto]
            if not found:
                return
            rows = [row for row in found if self._share.has_stream(row.stream)]
            self.from_log += len(rows)
            if rows:
                await self.apply(rows)
            start = found[-1].position
