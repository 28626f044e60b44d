"""What the doctor says of those who follow the log: relay, publisher, intake, views and their runners; and of the brokers."""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from infra.doctor import examine
from infra.doctor_findings import Finding, duration
from infra.doctor_kafka import Group, KafkaPlace, look_at_kafka
from infra.doctor_log import find_log
from infra.kafka.admin import ensure_topics
from infra.kafka.clients import consumer, producer, running
from infra.kafka.topics import Topics
from infra.migrations.runner import PUBLIC, migrate
from infra.redis import connect_redis
from projections import versions
from projections.inspection import inspect_generations
from projections.lane import Servers
from projections.projector import run_projector
from projections.rebuild import rebuild
from tests.support import STOCKHOLD
from tests.support_domain import registered, restocked
from tests.support_views import LogWriter

PREFIX = "doctor."
NOWHERE = KafkaPlace("127.0.0.1:1", Topics(PREFIX, 4))


def finding(findings: list[Finding], check: str) -> Finding:
    return next(found for found in findings if found.check == check)


@pytest.fixture
def log(database_url: str) -> LogWriter:
    return LogWriter(database_url)


@pytest.fixture
async def at(database_url: str, redis_url: str) -> AsyncIterator[Servers]:
    async with connect_redis(redis_url) as redis:
        yield Servers(database_url, database_url, redis)


def execute(url: str, statement: str, *params: object) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode(), params)


def ago(**past: float) -> datetime:
    return datetime.now(UTC) - timedelta(**past)


def test_durations_read_well() -> None:
    assert [duration(seconds) for seconds in (0.04, 59.94, 60, 3_723)] == ["0.0 s", "59.9 s", "0:01:00", "1:02:03"]


async def test_how_old_what_the_views_lack_is(log: LogWriter, at: Servers, redis_url: str) -> None:
    log.happened("A", "W1", registered())
    await rebuild(at, jobs=1)
    log.happened("A", "W1", restocked(1), at=ago(seconds=10))
    log.happened("A", "W1", restocked(1), at=ago(seconds=1))
    lag = finding(examine(at.event_store_url, at.read_model_url, redis_url), "views")
    assert lag.well
    assert "2 positions behind the log, the oldest event waits for 1" in lag.seen
    execute(at.read_model_url, "UPDATE stockhold_views_g1.cursors SET pg_position = 0")
    assert not finding(examine(at.event_store_url, at.read_model_url, redis_url), "views").well


def test_the_relay_and_the_publisher_are_seen_where_there_is_kafka(
    log: LogWriter, database_url: str, redis_url: str
) -> None:
    def seen(check: str) -> Finding:
        return finding(examine(database_url, database_url, redis_url, NOWHERE), check)

    migrate(database_url, PUBLIC)
    assert seen("relay").well
    assert seen("publisher").well
    log.happened("A", "W1", registered(), at=ago(minutes=5))
    topic = NOWHERE.topics.stock_events
    assert seen("relay") == Finding(
        "relay", False, f"{topic}: 1 positions behind the log, the oldest event waits for 0:05:00"
    )
    assert not seen("publisher").well
    execute(database_url, "INSERT INTO stockhold.relay_checkpoints VALUES (%s, 1, 1)", topic)
    execute(
        database_url,
        "INSERT INTO stockhold_public.partitions SELECT 4, partition, 1 FROM generate_series(0, 3) partition",
    )
    assert seen("relay") == Finding("relay", True, f"{topic}: nothing is missing")
    assert seen("publisher") == Finding("publisher", True, "the public topics: nothing is missing")
    execute(database_url, "INSERT INTO stockhold_public.dead_letters (stream, version, error) VALUES ('s', 1, 'e')")
    assert not seen("public dead letters").well
    execute(database_url, "UPDATE stockhold.relay_checkpoints SET position = 9")
    execute(database_url, "UPDATE stockhold_public.progress SET log_epoch = 9")
    assert "restored" in seen("relay").seen
    assert "restored" in seen("publisher").seen
    assert [found.check for found in examine(database_url, database_url, redis_url) if "publ" in found.check] == []


async def test_what_came_while_the_doctor_looked_is_no_sign_of_a_restored_log(
    log: LogWriter, at: Servers, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = find_log(at.event_store_url)
    monkeypatch.setattr("infra.doctor.find_log", lambda _: before)
    migrate(at.read_model_url, PUBLIC)
    log.happened("A", "W1", registered(), at=ago(seconds=1))
    await rebuild(at, jobs=1)
    topic = NOWHERE.topics.stock_events
    execute(at.event_store_url, "INSERT INTO stockhold.relay_checkpoints VALUES (%s, 1, 1)", topic)
    found = await asyncio.to_thread(examine, at.event_store_url, at.read_model_url, redis_url, NOWHERE)
    assert finding(found, "relay") == Finding("relay", True, f"{topic}: nothing is missing")
    assert finding(found, "views").well
    assert finding(found, "publisher").well
    execute(at.event_store_url, "DELETE FROM stockhold.stored_events")
    found = await asyncio.to_thread(examine, at.event_store_url, at.read_model_url, redis_url, NOWHERE)
    assert "restored" in finding(found, "relay").seen
    assert "restored" in finding(found, "views").seen


def test_messages_that_wait_and_messages_that_were_given_up(database_url: str, redis_url: str) -> None:
    def seen(check: str) -> Finding:
        return finding(examine(database_url, database_url, redis_url), check)

    assert seen("waiting messages") == Finding("waiting messages", True, "none")
    assert seen("dead messages") == Finding("dead messages", True, "none")
    execute(
        database_url,
        """INSERT INTO stockhold.waiting_messages
               (source, id, topic, message_partition, message_offset, body, digest, code, detail, since, next_try)
           VALUES ('shop', '1', 'order.shipped', 0, 0, '', '', 'unknown-reservation', '', %s, %s)""",
        ago(hours=1),
        ago(seconds=1),
    )
    waiting = seen("waiting messages")
    assert (waiting.well, waiting.seen) == (True, "1, the oldest for 1:00:00")
    execute(database_url, "UPDATE stockhold.waiting_messages SET next_try = %s", ago(minutes=2))
    assert not seen("waiting messages").well
    execute(
        database_url,
        """INSERT INTO stockhold.dead_messages
               (message_id, topic, message_partition, message_offset, size, code, detail)
           VALUES ('1', 'order.placed', 0, 0, 7, 'malformed', '')""",
    )
    assert seen("dead messages") == Finding("dead messages", False, "1 malformed: see `stockhold dead-letters`")


async def test_who_keeps_which_generation_is_told(at: Servers) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(versions, "FOLD_VERSION", 7)
        await rebuild(at, jobs=1)
    _, (other,) = await inspect_generations(at.read_model_url)
    assert not other.well
    assert "fold 7" in other.seen
    assert "run `stockhold rebuild`" in other.seen
    await rebuild(at, jobs=1)
    stop, ready = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(run_projector(at, stop, ready.set))
    try:
        await ready.wait()
        found, (old, new) = await inspect_generations(at.read_model_url)
        assert [each.number for each in found] == [1, 2]
        shape = f"shape {versions.SHAPE_VERSION}"
        assert old == Finding(
            "generation 1",
            True,
            f"not read, fold 7, {shape}, nobody keeps it up to date at this moment, 0 dead letters",
        )
        assert new == Finding("generation 2", True, f"read, fold 1, {shape}, kept up to date, 0 dead letters")
    finally:
        stop.set()
        await task


async def test_without_a_database_there_is_nothing_to_say_of_generations(empty_database_url: str) -> None:
    assert await inspect_generations(empty_database_url) == ([], [])
    assert await inspect_generations("postgresql://nobody@127.0.0.1:1/none") == ([], [])


def test_brokers_that_are_away_are_one_finding() -> None:
    (away,) = look_at_kafka(NOWHERE)
    assert (away.check, away.well) == ("broker", False)
    assert "127.0.0.1:1" in away.seen


@pytest.mark.kafka
def test_topics_and_groups_are_looked_at(kafka: str, kafka_prefix: str) -> None:
    topics = Topics(kafka_prefix, 2)
    group = Group(f"{kafka_prefix}group", [topics.stock_events])
    place = KafkaPlace(kafka, topics, [group])
    broker, missing, empty = look_at_kafka(place)
    assert broker.well
    assert not missing.well
    assert f"{topics.stock_events} is missing" in missing.seen
    assert (empty.well, empty.seen) == (True, "0 messages to read, 0 members")

    asyncio.run(_publish(kafka, topics))
    _, made, behind = look_at_kafka(place)
    assert made.well
    assert (behind.well, behind.seen) == (False, "3 messages to read, 0 members")
    assert look_at_kafka(KafkaPlace(kafka, topics, [group._replace(from_oldest=False)]))[2].well
    assert "has 2 partitions, not 3" in look_at_kafka(KafkaPlace(kafka, Topics(kafka_prefix, 3)))[1].seen

    async def read() -> Finding:
        async with running(lambda: consumer(kafka, group.name, "test"), kafka) as reader:
            reader.subscribe([topics.stock_events])
            for _ in range(2):
                await reader.getone()
            await reader.commit()
            return (await asyncio.to_thread(look_at_kafka, place))[2]

    assert asyncio.run(read()) == Finding(f"group {group.name}", True, "1 messages to read, 1 members")


async def _publish(servers: str, topics: Topics) -> None:
    await ensure_topics(servers, topics.specs(), 1)
    async with running(lambda: producer(servers, "test"), servers) as sender:
        for number in range(3):
            await sender.send_and_wait(topics.stock_events, b"%d" % number, partition=number % 2)


@pytest.mark.kafka
def test_the_command_looks_at_everything(kafka: str, kafka_prefix: str, database_url: str, redis_url: str) -> None:
    env = {
        **os.environ,
        "STOCKHOLD_EVENT_STORE_URL": database_url,
        "STOCKHOLD_REDIS_URL": redis_url,
        "STOCKHOLD_KAFKA_SERVERS": kafka,
        "STOCKHOLD_KAFKA_PREFIX": kafka_prefix,
    }
    ran = subprocess.run(
        [*STOCKHOLD, "doctor", "--json"], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    checks = {found["check"]: found["well"] for found in json.loads(ran.stdout.splitlines()[-1])["findings"]}
    assert ran.returncode == 1
    assert checks["broker"]
    assert not checks["topics"]
    assert {"relay", "publisher", "waiting messages", "dead messages", f"group {kafka_prefix}stockhold.intake"} <= set(
        checks
    )
