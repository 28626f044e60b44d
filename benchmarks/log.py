"""The event log and the views, looked at from outside: how much is there, and how far the views are."""

import time
from typing import NamedTuple

import psycopg
from psycopg import sql

from benchmarks.errors import BenchFailedError

_COUNT = "SELECT count(*), coalesce(max(notification_id), 0) FROM stockhold.stored_events"
_SCHEMA = "SELECT schema_name FROM stockhold_views.pointer JOIN stockhold_views.generations USING (generation)"
_POSITION = "SELECT min(least(pg_position, redis_position)) FROM {}"
_PASSED_S_MAX, _POLL_S = 300.0, 0.1


class LogEnd(NamedTuple):
    """`events` in the log, the last one at position `head`."""

    events: int
    head: int


def log_end(event_store_url: str) -> LogEnd:
    with psycopg.connect(event_store_url) as connection:
        row = connection.execute(_COUNT).fetchone()
        return LogEnd(*row) if row else LogEnd(0, 0)


def views_position(connection: psycopg.Connection) -> int:
    """Up to where the views that are read have the log, in PostgreSQL and in Redis; -1 before there are any."""
    row = connection.execute(_SCHEMA).fetchone()
    if row is None:
        return -1
    row = connection.execute(sql.SQL(_POSITION).format(sql.Identifier(row[0], "cursors"))).fetchone()
    return int(row[0]) if row and row[0] is not None else -1


def wait_until_passed(read_model_url: str, head: int) -> None:
    """Until the views have passed that position. They write down where they are once a second.

    Raises BenchFailedError if they do not get there in five minutes.
    """
    deadline = time.monotonic() + _PASSED_S_MAX
    with psycopg.connect(read_model_url, autocommit=True) as connection:
        while (position := views_position(connection)) < head:
            if time.monotonic() > deadline:
                raise BenchFailedError(f"the views have come to {position:,} of {head:,} in {_PASSED_S_MAX:.0f} s")
            time.sleep(_POLL_S)
