"""The intake's store in memory: the same promises as in PostgreSQL, for tests that ask for no server."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from write_side.intake.messages import Received
from write_side.intake.store import BACKOFF_MAX, DeadMessage, Figures, Name, Wait, Waiting


@dataclass
class _Row:
    received: Received
    digest: bytes
    order_id: str | None
    since: datetime
    next_try: datetime
    tries: int = 1


@dataclass
class MemoryIntakeStore:
    """``retry_s``, ``wait_s``: the pause before the second try; how long a message may wait."""

    retry_s: float = 5.0
    wait_s: float = 259_200.0
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    rows: dict[Name, _Row] = field(default_factory=dict)
    dead: dict[str, DeadMessage] = field(default_factory=dict)
    wanted: set[str] = field(default_factory=set)

    async def keep(self, waits: Sequence[Wait]) -> set[Name]:
        taken = set()
        for message, *_ in waits:
            now = self.clock()
            row = self.rows.setdefault(
                message.name,
                _Row(message.received, message.digest, message.order_id, now, now + timedelta(seconds=self.retry_s)),
            )
            if row.digest != message.digest:
                taken.add(message.name)
        return taken

    async def waiting_for(self, order_ids: Iterable[str]) -> list[Waiting]:
        wanted = set(order_ids)
        return [self._waiting(name, row) for name, row in self.rows.items() if row.order_id in wanted]

    async def settle(self, gone: Iterable[Name], given_up: Sequence[DeadMessage], revived: Iterable[str] = ()) -> None:
        for name in gone:
            self.rows.pop(name, None)
        for message_id in revived:
            self.dead.pop(message_id, None)
            self.wanted.discard(message_id)
        for message in given_up:
            self.dead[message.message_id] = message
            self.wanted.discard(message.message_id)

    async def lead(self) -> bool:
        return True

    async def due(self, limit: int) -> list[Waiting]:
        now = self.clock()
        due = sorted((row.next_try, name) for name, row in self.rows.items() if row.next_try <= now)[:limit]
        for _, name in due:
            row = self.rows[name]
            row.next_try = now + timedelta(seconds=self.retry_s * min(2**row.tries, BACKOFF_MAX))
            row.tries += 1
        return [self._waiting(name, self.rows[name]) for _, name in due]

    async def retried(self, limit: int) -> list[tuple[str, Received]]:
        wanted = sorted(self.wanted & self.dead.keys())[:limit]
        return [(message_id, self.dead[message_id].received) for message_id in wanted]

    async def figures(self) -> Figures:
        ages = [(self.clock() - row.since).total_seconds() for row in self.rows.values()]
        return Figures(len(ages), max(ages, default=0.0), len(self.dead))

    async def close(self) -> None:
        """There is nothing to let go of."""

    def _waiting(self, name: Name, row: _Row) -> Waiting:
        overdue = self.clock() - row.since >= timedelta(seconds=self.wait_s)
        return Waiting(row.received, name, row.since, overdue)
