"""What is reachable, what lags, what is stuck: one look at everything that a stack depends on.

Only reads. Every finding names its check, says whether it is well, and what was seen.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import psycopg
import redis
from psycopg.rows import TupleRow

from infra.doctor_findings import Finding, behind
from infra.doctor_log import WAITING_S_MAX, Log, dead_messages, find_log, publisher, relay, waiting_messages
from infra.event_store.append_lock import SCHEMA, append_lock_key
from infra.migrations.runner import EVENT_STORE, PUBLIC, READ_MODEL, load

if TYPE_CHECKING:  # loads Kafka's client, which not every stack has use for
    from infra.doctor_kafka import KafkaPlace

POSTGRES_MIN, POSTGRES_MAX = 15, 18
REDIS_MIN, VALKEY_MIN = 7, 8
LAG_MAX = 10_000
"""Positions that the views may be behind the log before that is a finding."""
OVERDUE_S_MAX = 5.0
"""How long a hold may be due without being swept."""

Connection = psycopg.Connection[TupleRow]


Check = Callable[[Connection], Finding | Sequence[Finding]]


def examine(
    event_store_url: str, read_model_url: str, redis_url: str, kafka: "KafkaPlace | None" = None
) -> list[Finding]:
    """All checks; those of a server that is away are one finding. Without ``kafka`` there is none to be looked at."""
    log = find_log(event_store_url)
    on_log, on_views = list(_EVENT_STORE_CHECKS), [*_READ_MODEL_CHECKS, lambda c: _views(c, log)]
    if kafka is not None:
        on_log.append(lambda c: relay(c, log, kafka.topics.stock_events))
        on_views.append(_migrated(PUBLIC.schema, len(load(PUBLIC.folder))))
        on_views.append(lambda c: publisher(c, log, kafka.topics.partitions))
    findings = _on_postgres("event store", event_store_url, on_log)
    findings += _on_postgres("read model", read_model_url, on_views)
    findings += _cache(redis_url)
    if kafka is not None:
        from infra.doctor_kafka import look_at_kafka

        findings += look_at_kafka(kafka)
    return findings


def _on_postgres(name: str, url: str, checks: Sequence[Check]) -> list[Finding]:
    try:
        connection = psycopg.connect(url, autocommit=True, connect_timeout=5)
    except psycopg.Error as error:
        return [Finding(name, False, str(error).strip())]
    with connection:
        findings = [Finding(f"{name} reachable", True, _version(connection))]
        for check in checks:
            try:
                found = check(connection)
                findings += [found] if isinstance(found, Finding) else found
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
            """SELECT (SELECT coalesce(min(pg_position), 0) FROM {0}.cursors),
                      (SELECT count(*) FROM {0}.stock_levels WHERE stale)"""
        ).format(schema)
    ).fetchone()
    assert counted is not None
    position, stale = counted
    if log is None:
        return Finding("views", False, f"{name} is at {position:,}; where the log is could not be asked")
    if epoch != log.epoch or log.ends_before(position):
        return Finding("views", False, f"{name} was built before the log was restored: run `stockhold rebuild`")
    positions = log.head - position
    waiting_s = log.waiting_s(position)
    well = positions <= LAG_MAX and (waiting_s or 0) <= WAITING_S_MAX and not stale
    return Finding("views", well, f"{behind(name, positions, waiting_s)}; {stale} items are stale")


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


_EVENT_STORE_CHECKS: list[Check] = [
    _supported,
    _durable,
    _migrated(SCHEMA, len(load(EVENT_STORE.folder))),
    _append_lock,
    _overdue,
    waiting_messages,
    dead_messages,
]
_READ_MODEL_CHECKS: list[Check] = [_migrated("stockhold_views", len(load(READ_MODEL.folder)))]
