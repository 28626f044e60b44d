"""The log and the write side's index as they lie in Postgres, read in chunks of streams.

Each chunk is one transaction with one snapshot, so that the index in it is the index of exactly the
events in it, on a live stack too.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, NamedTuple, Self

import psycopg
from psycopg import IsolationLevel

from infra.event_store.append_lock import SCHEMA

FETCHED_ROWS: Final = 2_000
"""Rows of a server-side cursor that come in one round trip."""

# One probe of the index for each stream, however many events it has.
_STREAMS = """
    WITH RECURSIVE streams (id) AS (
        (SELECT originator_id FROM stored_events WHERE originator_id > %s ORDER BY originator_id LIMIT 1)
        UNION ALL
        SELECT (SELECT originator_id FROM stored_events WHERE originator_id > streams.id
                ORDER BY originator_id LIMIT 1)
        FROM streams WHERE streams.id IS NOT NULL
    )
    SELECT id FROM streams WHERE id IS NOT NULL LIMIT %s
"""
_EVENTS = """
    SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events
    WHERE originator_id >= %s AND originator_id <= %s ORDER BY originator_id, originator_version
"""
_PARTS = """
    SELECT topic, state FROM stored_events
    WHERE notification_id <= %s AND position('"parts":'::bytea IN state) > 0 ORDER BY notification_id
"""
_HOLDS = """
    SELECT h.reservation_id, h.sku, h.warehouse, h.active, h.expires_at, h.state
    FROM unnest(%s::text[], %s::text[], %s::text[]) AS k (reservation_id, sku, warehouse)
    JOIN holds h ON h.reservation_id = k.reservation_id AND h.sku = k.sku AND h.warehouse = k.warehouse
"""
_HEADERS = "SELECT reservation_id, order_id, state FROM reservations WHERE reservation_id = ANY(%s)"
_ITEMS = """
    SELECT i.sku, i.warehouse FROM unnest(%s::text[], %s::text[]) AS k (sku, warehouse)
    JOIN items i ON i.sku = k.sku AND i.warehouse = k.warehouse
"""
_WAREHOUSES = "SELECT code, version FROM warehouses WHERE code = ANY(%s)"
_SNAPSHOTS = """
    SELECT originator_id, originator_version, state FROM snapshots
    WHERE originator_id = ANY(%s) AND state_version = %s
"""
# One statement, hence one snapshot: what is in the index and what is in the log grow together.
_COUNTS = """
    SELECT (SELECT count(*) FROM holds), logged.reserved,
           (SELECT count(*) FROM reservations), (SELECT count(DISTINCT reservation_id) FROM holds),
           (SELECT count(*) FROM items), logged.registered,
           (SELECT count(*) FROM warehouses), logged.created
    FROM (
        SELECT count(*) FILTER (WHERE topic = 'stock-item.reserved') AS reserved,
               count(*) FILTER (WHERE topic = 'stock-item.registered') AS registered,
               count(*) FILTER (WHERE topic = 'warehouse.created') AS created
        FROM stored_events
    ) AS logged
"""
_UNCOUNTED: Final = (
    ("holds", "Reserved events"),
    ("reservations", "reservations with holds"),
    ("items", "Registered events"),
    ("warehouses", "WarehouseCreated events"),
)
_ENDS_APART = """
    SELECT reservation_id FROM holds WHERE active > 0
    GROUP BY reservation_id HAVING count(DISTINCT coalesce(expires_at, '-infinity')) > 1 LIMIT %s
"""
_UNKNOWN = """
    SELECT id FROM unnest(%s::text[]) AS k (id)
    WHERE NOT EXISTS (SELECT FROM stored_events e WHERE e.originator_id = k.id AND e.originator_version = 1)
"""


class LogEvent(NamedTuple):
    position: int
    stream: str
    version: int
    topic: str
    state: bytes


class IndexHold(NamedTuple):
    """A row of the write side's ``holds``."""

    reservation_id: str
    sku: str
    warehouse: str
    active: int
    expires_at: datetime | None
    state: bytes


def connect(url: str, schema: str) -> psycopg.Connection[Any]:
    """A connection whose transactions see one snapshot each. Raises psycopg.OperationalError."""
    connection = psycopg.connect(
        url,
        connect_timeout=10,
        # Cursors are read to their end, so plans may be made for that.
        options=f"-c search_path={schema} -c timezone=UTC -c cursor_tuple_fraction=1 -c application_name=stockhold-verify",
    )
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    return connection


def cursor_rows(connection: psycopg.Connection[Any], name: str, query: str, params: Sequence[Any]) -> Iterator[Any]:
    """The rows of ``query``, a page at a time; its transaction must stay open until the last one."""
    with connection.cursor(name, binary=True) as cursor:
        cursor.execute(query, params)
        while rows := cursor.fetchmany(FETCHED_ROWS):
            yield from rows


class LogChunk:
    """Some streams, within one snapshot."""

    def __init__(self, connection: psycopg.Connection[Any], streams: Sequence[str]) -> None:
        self._connection = connection
        self._streams = streams

    def events(self) -> Iterator[LogEvent]:
        """Their events, stream by stream, each in order. (Streams that began meanwhile may be between them.)"""
        params = (self._streams[0], self._streams[-1])
        return map(LogEvent._make, cursor_rows(self._connection, "events", _EVENTS, params))

    def snapshots(self, state_version: int) -> dict[str, tuple[int, bytes]]:
        """The aggregates' snapshots, by stream: (version, state)."""
        return {row[0]: (row[1], row[2]) for row in self._rows(_SNAPSHOTS, list(self._streams), state_version)}

    def items(self, places: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Which of these (SKU, warehouse) the index knows."""
        return {(row[0], row[1]) for row in self._rows(_ITEMS, *_unzipped(places, 2))}

    def warehouses(self, codes: Sequence[str]) -> dict[str, int]:
        """The versions of these warehouses that the index has, by code."""
        return {row[0]: row[1] for row in self._rows(_WAREHOUSES, list(codes))}

    def holds(self, keys: Sequence[tuple[str, str, str]]) -> list[IndexHold]:
        """The index rows of these (reservation, SKU, warehouse)."""
        return [IndexHold._make(row) for row in self._rows(_HOLDS, *_unzipped(keys, 3))]

    def headers(self, reservation_ids: Sequence[str]) -> dict[str, tuple[str, bytes]]:
        """The index rows of these reservations: (order, state)."""
        return {row[0]: (row[1], row[2]) for row in self._rows(_HEADERS, list(reservation_ids))}

    def _rows(self, query: str, *params: Any) -> list[Any]:
        with self._connection.cursor(binary=True) as cursor:
            return cursor.execute(query, params).fetchall()


class LogSource:
    """One connection to the event store."""

    def __init__(self, url: str) -> None:
        self._connection = connect(url, SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def head(self) -> int:
        """The position of the last event; 0: there is none."""
        return int(self._one("SELECT coalesce(max(notification_id), 0) FROM stored_events")[0])

    def count(self) -> int:
        """How many events there are."""
        return int(self._one("SELECT count(*) FROM stored_events")[0])

    def streams(self, after: str, limit: int) -> list[str]:
        """The next ``limit`` streams after ``after``, in byte order."""
        with self._connection.transaction():
            return [row[0] for row in self._connection.execute(_STREAMS, [after, limit])]

    @contextmanager
    def chunk(self, streams: Sequence[str]) -> Iterator[LogChunk]:
        """These neighbouring streams, in a transaction of their own."""
        with self._connection.transaction():
            yield LogChunk(self._connection, streams)

    def parts(self, head: int) -> Iterator[tuple[str, bytes]]:
        """(topic, state) of the events that are parts of larger commands, in the log's order up to ``head``."""
        with self._connection.transaction():
            yield from cursor_rows(self._connection, "parts", _PARTS, [head])

    def uncounted(self) -> Iterator[tuple[str, str]]:
        """Tables of the index that have more or fewer rows than the log asks for: (table, what)."""
        counts = self._one(_COUNTS)
        for (table, of), found, expected in zip(_UNCOUNTED, counts[::2], counts[1::2], strict=True):
            if found != expected:
                yield table, f"{found} rows, {expected} {of}"

    def ends_apart(self, limit: int) -> list[str]:
        """Reservations whose active holds do not all end at one time."""
        with self._connection.transaction():
            return [row[0] for row in self._connection.execute(_ENDS_APART, [limit])]

    def unknown(self, streams: Iterable[str]) -> list[str]:
        """Which of these streams the log does not have."""
        with self._connection.transaction():
            return [row[0] for row in self._connection.execute(_UNKNOWN, [list(streams)])]

    def _one(self, query: str) -> tuple[Any, ...]:
        with self._connection.transaction():
            row: tuple[Any, ...] | None = self._connection.execute(query).fetchone()
        assert row is not None
        return row


def _unzipped(keys: Sequence[tuple[str, ...]], width: int) -> list[list[str]]:
    return [[key[i] for key in keys] for i in range(width)]
