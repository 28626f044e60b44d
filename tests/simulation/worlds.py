"""Where a simulation runs: a log in memory at a time of our own, or PostgreSQL at its own time, which we run ahead of.

A world opens a cluster of executors (see tests/support_write_side.py), passes time, and tells what is in the log.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, Protocol

import msgspec
import psycopg
import pytest

from domain.hold import Hold
from infra.event_store.memory import MemoryLog
from infra.event_store.port import StoredRow
from tests.support_write_side import Cluster, MemoryDatabase, PostgresDatabase

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
Recorded = tuple[str, int, bytes]
"""Key, status and body of an outcome."""


class World(Protocol):
    """One log with everything around it. ``tolerance``: how far its time may be from the model's."""

    cluster: Cluster
    start: datetime
    tolerance: timedelta
    exact: bool
    """Whether time stands still between two commands, so that an instant can be hit."""

    def ttl_s(self, ticks: int) -> int:
        """Seconds that a hold may live."""

    def lapse_s(self, ticks: int) -> int:
        """Seconds that pass at once."""

    def elapse(self, by: timedelta, *, unnoticed: bool) -> None:
        """Let time pass; ``unnoticed``: only in the store, no process has felt it."""

    def rows(self, after: int) -> list[StoredRow]:
        """The log from its row number ``after`` on."""

    def recorded(self, after: int) -> list[Recorded]:
        """Outcomes in the order in which they were decided, from number ``after`` on."""

    def holds(self) -> dict[tuple[str, str, str], Hold]:
        """The index, by reservation, SKU and warehouse."""

    def headers(self) -> set[str]:
        """Reservations of which the index has the header."""

    def refused(self) -> int:
        """How many refusals were kept."""

    def close(self) -> None:
        """Leave nothing behind."""


class MemoryWorld:
    """Time stands still until it is told to pass, in the store and, unless nobody notices, in every process."""

    tolerance = timedelta()
    start = NOON
    exact = True

    def __init__(self, *, optimistic: bool) -> None:
        self._now = NOON
        self._felt_s = 0.0
        # A process guesses the store's time by its own monotonic clock.
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr("write_side.store_clock.time", SimpleNamespace(monotonic=lambda: self._felt_s))
        self._database = MemoryDatabase()
        self._log = self._database.log = MemoryLog(lambda: self._now)
        self.cluster = Cluster(self._database, optimistic=optimistic)

    def ttl_s(self, ticks: int) -> int:
        return 10 * ticks

    def lapse_s(self, ticks: int) -> int:
        return 4 * ticks

    def elapse(self, by: timedelta, *, unnoticed: bool) -> None:
        self._now += by
        if not unnoticed:
            self._felt_s += by.total_seconds()

    def rows(self, after: int) -> list[StoredRow]:
        return self._log.events[after:]

    def recorded(self, after: int) -> list[Recorded]:
        return [(o.key, o.status, o.body) for o in list(self._log.outcomes.values())[after:]]

    def holds(self) -> dict[tuple[str, str, str], Hold]:
        return {(h.reservation_id, h.sku, h.warehouse): h for h in self._database.holds()}

    def headers(self) -> set[str]:
        return self._database.headers()

    def refused(self) -> int:
        return len(self._log.refusals)

    def close(self) -> None:
        self._patch.undo()


class PostgresWorld:
    """PostgreSQL's clock goes on by itself. What passes at once is so long that the seconds between do not matter:
    jumps are whole hundreds of seconds, and every hold ends half-way between two of them.
    """

    tolerance = timedelta(seconds=45)
    exact = False

    def __init__(self, url: str, *, optimistic: bool) -> None:
        self._database = PostgresDatabase(url)
        self._connection = psycopg.connect(url, autocommit=True, options="-c search_path=stockhold")
        self.cluster = Cluster(self._database, optimistic=optimistic)
        self.start = datetime.now(UTC)
        self._started_s = time.monotonic()

    def ttl_s(self, ticks: int) -> int:
        return 100 * ticks - 50

    def lapse_s(self, ticks: int) -> int:
        return 100 * ticks

    def elapse(self, by: timedelta, *, unnoticed: bool) -> None:
        del unnoticed  # a process always finds out from the store
        self.cluster.elapse(by.total_seconds())

    def _all(self, statement: bytes, *params: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement, params).fetchall()

    def rows(self, after: int) -> list[StoredRow]:
        rows = self._all(
            b"SELECT originator_id, originator_version, topic, state FROM stored_events"
            b" ORDER BY notification_id OFFSET %s",
            after,
        )
        return [StoredRow(*row) for row in rows]

    def recorded(self, after: int) -> list[Recorded]:
        # Every writer gets its transaction id when it has the append lock, and writes its outcomes in one statement.
        rows = self._all(
            b"SELECT key, status, body FROM idempotency ORDER BY xmin::text::bigint, ctid OFFSET %s", after
        )
        return [(key, status, bytes(body)) for key, status, body in rows]

    def holds(self) -> dict[tuple[str, str, str], Hold]:
        holds = (msgspec.json.decode(state, type=Hold) for (state,) in self._all(b"SELECT state FROM holds"))
        return {(h.reservation_id, h.sku, h.warehouse): h for h in holds}

    def headers(self) -> set[str]:
        return {row[0] for row in self._all(b"SELECT reservation_id FROM reservations")}

    def refused(self) -> int:
        return int(self._all(b"SELECT count(*) FROM refusals")[0][0])

    def close(self) -> None:
        self._connection.close()
        self._database.empty()
        assert time.monotonic() - self._started_s < self.tolerance.total_seconds(), "too slow to be told from expiry"


Worlds = Callable[[bool], World]
"""Makes a world whose executors are optimistic, or not."""
