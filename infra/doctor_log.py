"""What the log's database says of those who follow it: how far each is, and how long its next event has waited."""

import json
from datetime import datetime
from typing import NamedTuple

import psycopg
from psycopg.rows import TupleRow

from infra.doctor_findings import Finding, behind, duration
from infra.event_store.append_lock import SCHEMA

Connection = psycopg.Connection[TupleRow]

WAITING_S_MAX = 60.0
"""How long an event may wait for anybody who follows the log."""
UNTRIED_S_MAX = 60.0
"""How long after its time a waiting message may not have been tried."""


class Log(NamedTuple):
    """Where the log is."""

    url: str
    head: int
    epoch: int

    def ends_before(self, position: int) -> bool:
        """Whether the log does not reach ``position``, as one that was restored may not. Raises psycopg.Error."""
        if position <= self.head:
            return False
        with psycopg.connect(self.url, autocommit=True, connect_timeout=5) as connection:
            return position > _head(connection)  # it has grown since it was asked

    def waiting_s(self, position: int) -> float | None:
        """For how long the first event after ``position`` has been there; None if there is none that could tell.

        Raises psycopg.Error.
        """
        with psycopg.connect(self.url, autocommit=True, connect_timeout=5) as connection:
            row = connection.execute(
                f"""SELECT state, clock_timestamp() FROM {SCHEMA}.stored_events
                    WHERE notification_id > %s ORDER BY notification_id LIMIT 1""",  # noqa: S608 - a constant
                [position],
            ).fetchone()
        if row is None:
            return None
        try:
            happened_at = datetime.fromisoformat(json.loads(row[0])["timestamp"])
        except (ValueError, KeyError, TypeError):  # an event that nobody can read
            return None
        waited: float = (row[1] - happened_at).total_seconds()
        return max(0.0, waited)


def _head(connection: Connection) -> int:
    row = connection.execute(
        f"SELECT coalesce(max(notification_id), 0) FROM {SCHEMA}.stored_events"  # noqa: S608 - a constant
    ).fetchone()
    assert row is not None
    head: int = row[0]
    return head


def find_log(url: str) -> Log | None:
    """None if it could not be asked."""
    query = f"""SELECT (SELECT coalesce(max(notification_id), 0) FROM {SCHEMA}.stored_events), epoch
                FROM {SCHEMA}.log_epoch"""  # noqa: S608 - a constant
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
            row = connection.execute(query.encode()).fetchone()
    except psycopg.Error:
        return None
    return Log(url, *row) if row else None


def relay(connection: Connection, log: Log | None, topic: str) -> Finding:
    """How far the log is published to ``topic``."""
    row = connection.execute(
        f"SELECT position, epoch FROM {SCHEMA}.relay_checkpoints WHERE name = %s",  # noqa: S608 - a constant
        [topic],
    ).fetchone()
    if log is None:
        return Finding("relay", False, "where the log is could not be asked")
    position, epoch = row or (0, log.epoch)
    if epoch != log.epoch or log.ends_before(position):
        return Finding("relay", False, "the log was restored, and no relay has published of it since: does one run?")
    waiting_s = log.waiting_s(position)
    return Finding("relay", (waiting_s or 0) <= WAITING_S_MAX, behind(topic, log.head - position, waiting_s))


def waiting_messages(connection: Connection) -> Finding:
    """Messages that came before what they build on."""
    row = connection.execute(
        f"""SELECT count(*), extract(epoch FROM clock_timestamp() - min(since))::float8,
                   extract(epoch FROM clock_timestamp() - min(next_try))::float8
            FROM {SCHEMA}.waiting_messages"""  # noqa: S608 - a constant
    ).fetchone()
    assert row is not None
    count, oldest_s, untried_s = row
    if not count:
        return Finding("waiting messages", True, "none")
    seen = f"{count:,}, the oldest for {duration(oldest_s)}"
    if untried_s > UNTRIED_S_MAX:
        return Finding("waiting messages", False, f"{seen}; nobody tries them: does the intake run?")
    return Finding("waiting messages", True, seen)


def dead_messages(connection: Connection) -> Finding:
    """Messages that were given up."""
    rows = connection.execute(
        f"SELECT code, count(*) FROM {SCHEMA}.dead_messages GROUP BY code ORDER BY code"  # noqa: S608 - a constant
    ).fetchall()
    if not rows:
        return Finding("dead messages", True, "none")
    listed = ", ".join(f"{count:,} {code}" for code, count in rows)
    return Finding("dead messages", False, f"{listed}: see `stockhold dead-letters`")


def publisher(connection: Connection, log: Log | None, partitions: int) -> list[Finding]:
    """How far the public topics are; on the read model's database."""
    query = """SELECT (SELECT min(reconciled_position) FROM stockhold_public.partitions WHERE partitions = %(n)s),
                      (SELECT count(*) FROM stockhold_public.partitions WHERE partitions = %(n)s),
                      (SELECT count(*) FROM stockhold_public.dead_letters),
                      (SELECT log_epoch FROM stockhold_public.progress)"""
    row = connection.execute(query.encode(), {"n": partitions}).fetchone()
    assert row is not None
    position, known, dead, epoch = row
    letters = Finding("public dead letters", not dead, f"{dead:,} streams stand still" if dead else "none")
    if log is None:
        return [Finding("publisher", False, "where the log is could not be asked"), letters]
    if epoch not in {None, log.epoch}:
        return [Finding("publisher", False, "what is published is of the log before it was restored"), letters]
    position = position if known == partitions else 0
    waiting_s = log.waiting_s(position)
    seen = behind("the public topics", log.head - position, waiting_s)
    return [Finding("publisher", (waiting_s or 0) <= WAITING_S_MAX, seen), letters]
