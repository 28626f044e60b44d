"""The doctor sees what is wrong, each on the real thing."""

from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from psycopg import sql

from infra.doctor import examine
from infra.doctor_findings import Finding
from infra.event_store.append_lock import append_lock_key

NOWHERE_PG = "postgresql://nobody@127.0.0.1:1/none"
NOWHERE_REDIS = "redis://127.0.0.1:1/0"


def finding(findings: list[Finding], check: str) -> Finding:
    return next(found for found in findings if found.check == check)


@pytest.fixture
def connection(database_url: str):
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def test_a_migrated_stack_without_views_is_well_but_for_the_views(database_url: str, redis_url: str) -> None:
    findings = examine(database_url, database_url, redis_url)
    unwell = {found.check for found in findings if not found.well}
    # The test servers' durability is off for speed, which is itself something a doctor must see.
    assert unwell == {"durability", "views"}


def test_servers_that_are_away_are_findings_and_not_failures() -> None:
    findings = examine(NOWHERE_PG, NOWHERE_PG, NOWHERE_REDIS)
    assert [found.check for found in findings if not found.well] == ["event store", "read model", "cache"]


def test_a_database_without_migrations_is_seen(empty_database_url: str, redis_url: str) -> None:
    findings = examine(empty_database_url, empty_database_url, redis_url)
    assert not finding(findings, "migrations of stockhold").well
    assert finding(findings, "durability").seen  # what is missing does not hide the rest


def test_an_overdue_hold_is_seen(database_url: str, redis_url: str, connection: psycopg.Connection) -> None:
    assert finding(examine(database_url, database_url, redis_url), "sweeper").well
    connection.execute(
        "INSERT INTO stockhold.holds VALUES ('r', 'A', 'W', 1, clock_timestamp() - interval '1 minute', '{}')"
    )
    swept = finding(examine(database_url, database_url, redis_url), "sweeper")
    assert not swept.well
    assert swept.seen.startswith("1 holds due")


def test_who_sits_on_the_append_lock_is_named(
    database_url: str, redis_url: str, connection: psycopg.Connection
) -> None:
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (append_lock_key(),))
        assert finding(examine(database_url, database_url, redis_url), "append lock").seen == "in use"


def test_a_stale_item_and_a_lagging_view_are_seen(
    database_url: str, redis_url: str, connection: psycopg.Connection
) -> None:
    schema = sql.Identifier("views_of_the_test")
    connection.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
    connection.execute(sql.SQL("CREATE TABLE {}.cursors (pg_position bigint)").format(schema))
    connection.execute(sql.SQL("CREATE TABLE {}.stock_levels (stale boolean)").format(schema))
    connection.execute(
        "INSERT INTO stockhold_views.generations VALUES (1, 'live', 'views_of_the_test', 'g1', 1, 1, now())"
    )
    connection.execute("INSERT INTO stockhold_views.pointer VALUES (true, 1, now())")
    assert finding(examine(database_url, database_url, redis_url), "views").well
    connection.execute(sql.SQL("INSERT INTO {}.stock_levels VALUES (true)").format(schema))
    assert "1 items are stale" in finding(examine(database_url, database_url, redis_url), "views").seen
    connection.execute(sql.SQL("DELETE FROM {}.stock_levels").format(schema))
    connection.execute("INSERT INTO stockhold.stored_events VALUES ('stock:A@W', 1, 't', '', 20000)")
    lagging = finding(examine(database_url, database_url, redis_url), "views")
    assert not lagging.well
    assert "20,000 positions behind" in lagging.seen
    connection.execute("UPDATE stockhold_views.generations SET log_epoch = 0")
    restored = finding(examine(database_url, database_url, redis_url), "views")
    assert not restored.well
    assert "run `stockhold rebuild`" in restored.seen


def test_views_that_are_ahead_of_a_restored_log_are_seen(
    database_url: str, redis_url: str, connection: psycopg.Connection
) -> None:
    connection.execute("CREATE SCHEMA ahead; CREATE TABLE ahead.cursors AS SELECT 7::bigint AS pg_position")
    connection.execute("CREATE TABLE ahead.stock_levels (stale boolean)")
    connection.execute("INSERT INTO stockhold_views.generations VALUES (1, 'live', 'ahead', 'g1', 1, 1, now())")
    connection.execute("INSERT INTO stockhold_views.pointer VALUES (true, 1, now())")
    assert "was restored" in finding(examine(database_url, database_url, redis_url), "views").seen


def test_a_user_of_the_cache_who_may_not_ask_for_its_settings(database_url: str, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.execute_command("ACL", "SETUSER", "plain", "on", ">secret", "~*", "+@all", "-config")
        try:
            place = urlsplit(redis_url)
            plain = place._replace(netloc=f"plain:secret@{place.hostname}:{place.port}").geturl()
            kept = finding(examine(database_url, database_url, plain), "cache keeps its keys")
        finally:
            client.execute_command("ACL", "DELUSER", "plain")
    assert kept.seen.startswith("maxmemory-policy ")
