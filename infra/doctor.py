"""What is reachable, what lags, what is stuck: one look at everything that a stack depends on.

Only reads. Every finding names its check, says whether it is well, and what was seen.
"""

from collections.abc import Callable
from typing import NamedTuple

import psycopg
import redis
from psycopg.rows import TupleRow

from infra.event_store.append_lock import SCHEMA, append_lock_key
from infra.migrations.runner import EVENT_STORE, READ_MODEL, load

POSTGRES_MIN, POSTGRES_MAX = 15, 18
REDIS_MIN, VALKEY_MIN = 7, 8
LAG_MAX = 10_000
"""Positions that the views may be behind the log before that is a finding."""
OVERDUE_S_MAX = 5.0
"""How long a hold may be due without being swept."""

Connection = psycopg.Connection[TupleRow]


class Finding(NamedTuple):
    check: str
    well: bool
    seen: str


def examine(event_store_url: str, read_model_url: str, redis_url: str) -> list[Finding]:
    """All checks; those of a server that is away are one finding."""
    findings = _on_postgres("event store", event_store_url, _EVENT_STORE_CHECKS)
    log = _log(event_store_url)
    findings += _on_postgres("read model", read_model_url, [*_READ_MODEL_CHECKS, lambda c: _views(c, log)])
    return findings + _cache(redis_url)


def _on_postgres(name: str, url: str, checks: list[Callable[[Connection], Finding]]) -> list[Finding]:
    try:
        connection = psycopg.connect(url, autocommit=True, connect_timeout=5)
    except psycopg.Error as error:
        return [Finding(name, False, str(error).strip())]
    with connection:
        findings = [Finding(f"{name} reachable", True, _version(connection))]
        for check in checks:
            try:
                findings.append(check(connection))
            except psycopg.Error as error:  # a table is missing: the others can still be looked at
                findings.append(Finding(name, False, str(error).strip()))
        return findings


def _value(connection: Connection, query: str, *params: object) -> object:
    row = connection.execute(query.encode(), params).fetchone()
    return row[0] if row else None


def _version(connection: Connection) -> str:
    return f"PostgreSQL {connection.info.server_version // 10_000}"


def _supported(connection: Connection) -> Finding:
    major = connection.info.server_version // 10_000
    return Finding("PostgreSQL version", POSTGRES_MIN <= major <= POSTGRES_MAX, str(major))


def _durable(connection: Connection) -> Finding:
    off = [name for name in ("fsync", "synchronous_commit") if _value(connection, f"SHOW {name}") == "off"]
    return Finding("durability", not off, f"{', '.join(off)} off: what is answered may be lost" if off else "on")


def _migrated(schema: str, wanted: int) -> Callable[[Connection], Finding]:
    def check(connection: Connection) -> Finding:
        try:
            applied = _value(connection, f"SELECT count(*) FROM {schema}.migrations")  # noqa: S608 - a constant
        except psycopg.errors.UndefinedTable:
            applied = 0
        return Finding(f"migrations of {schema}", applied == wanted, f"{applied} of {wanted} applied")

    return check


def _append_lock(connection: Connection) -> Finding:
    key = append_lock_key()
    row = connection.execute(
        """SELECT a.pid, extract(epoch FROM clock_timestamp() - a.xact_start)::float8
           FROM pg_locks l JOIN pg_stat_activity a USING (pid)
           WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
             AND (l.classid::bigint << 32 | l.objid::bigint) = %s""",
        (key,),
    ).fetchone()
    if row is None or row[1] is None or row[1] < 1:
        return Finding("append lock", True, "free" if row is None else "in use")
    return Finding("append lock", False, f"backend {row[0]} has held it for {row[1]:.1f} s")


def _overdue(connection: Connection) -> Finding:
    row = connection.execute(
        f"""SELECT count(*), extract(epoch FROM clock_timestamp() - min(expires_at))::float8
            FROM {SCHEMA}.holds WHERE active > 0 AND expires_at <= now()"""  # noqa: S608 - a constant
    ).fetchone()
    assert row is not None
    count, oldest_s = row
    well = not count or oldest_s < OVERDUE_S_MAX
    return Finding("sweeper", well, f"{count} holds due, the oldest for {oldest_s:.1f} s" if count else "nothing due")


class Log(NamedTuple):
    head: int
    epoch: int


def _log(url: str) -> Log | None:
    """Where the log is; None if it could not be asked."""
    query = f"""SELECT (SELECT coalesce(max(notification_id), 0) FROM {SCHEMA}.stored_events), epoch
                FROM {SCHEMA}.log_epoch"""  # noqa: S608 - a constant
    try:
        with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
            row = connection.execute(query.encode()).fetchone()
    except psycopg.Error:
        return None
    return Log(*row) if row else None


def _views(connection: Connection, log: Log | None) -> Finding:
    row = connection.execute(
        """SELECT g.schema_name, g.log_epoch
           FROM stockhold_views.pointer p JOIN stockhold_views.generations g USING (generation)"""
    ).fetchone()
    if row is None:
        return Finding("views", False, "there is no generation yet: the projector makes the first one")
    name, epoch = row
    schema = psycopg.sql.Identifier(name)
    counted = connection.execute(
        psycopg.sql.SQL(
            """SELECT (SELECT coalesce(max(pg_position), 0) FROM {0}.cursors),
                      (SELECT count(*) FROM {0}.stock_levels WHERE stale)"""
        ).format(schema)
    ).fetchone()
    assert counted is not None
    position, stale = counted
    if log is None:
        return Finding("views", False, f"{name} is at {position:,}; where the log is could not be asked")
    if epoch != log.epoch or position > log.head:
        return Finding("views", False, f"{name} was built before the log was restored: run `stockhold rebuild`")
    behind = log.head - position
    seen = f"{name} is {behind:,} positions behind the log, {stale} items are stale"
    return Finding("views", behind <= LAG_MAX and not stale, seen)


def _cache(url: str) -> list[Finding]:
    try:
        with redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5) as client:
            facts = client.info("server")
            try:
                policy = client.config_get("maxmemory-policy")["maxmemory-policy"]
            except redis.ResponseError:  # CONFIG is not for every user; INFO says it too
                policy = client.info("memory").get("maxmemory_policy", "unknown")
            valkey = facts.get("valkey_version")
            version = str(valkey or facts["redis_version"])
            well = int(version.split(".", maxsplit=1)[0]) >= (VALKEY_MIN if valkey else REDIS_MIN)
            return [
                Finding("cache reachable", well, f"{'Valkey' if valkey else 'Redis'} {version}"),
                Finding("cache keeps its keys", policy == "noeviction", f"maxmemory-policy {policy}"),
            ]
    except (redis.RedisError, ValueError) as error:
        return [Finding("cache", False, f"{error}: PostgreSQL answers in its place")]


_EVENT_STORE_CHECKS = [
    _supported,
    _durable,
    _migrated(SCHEMA, len(load(EVENT_STORE.folder))),
    _append_lock,
    _overdue,
]
_READ_MODEL_CHECKS = [_migrated("stockhold_views", len(load(READ_MODEL.folder)))]
