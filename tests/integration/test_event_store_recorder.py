"""The library's door and the executor's hot path: one table, one lock, and neither repeats what may have happened."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import pytest
from eventsourcing.persistence import IntegrityError, OperationalError, ProgrammingError, StoredEvent

from domain.events import Origin, Restocked
from infra.event_store.mapper import EventMapper
from infra.event_store.port import LockTimeout, Needs
from infra.event_store.recorder import StockholdRecorder, connect_datastore
from infra.settings import WriteSettings
from tests.support import eventually_async
from tests.support_write_side import Cluster, PostgresDatabase, ask, order

STREAM = "stock:A@W1"
NOTE = StoredEvent("test:note", 1, "test.happened", b"{}")


@pytest.fixture
async def cluster(database_url: str) -> AsyncIterator[Cluster]:
    opened = Cluster(PostgresDatabase(database_url), optimistic=True)
    yield opened
    await opened.close()


@pytest.fixture
def recorder(database_url: str) -> Iterator[StockholdRecorder]:
    with closing(connect_datastore(database_url, lock_timeout_s=1, pool_size=2)) as datastore:
        yield StockholdRecorder(datastore)


async def test_each_reads_what_the_other_has_written(cluster: Cluster, recorder: StockholdRecorder) -> None:
    executor = await cluster.executor()
    await cluster.stock(executor, ("A", "W1", 3))
    stored = recorder.select_events(STREAM)
    assert [event.topic for event in stored] == ["stock-item.registered", "stock-item.restocked"]
    mapper = EventMapper()
    assert mapper.to_event(stored[1]).quantity == 3
    imported = Restocked(
        originator_id=STREAM,
        originator_version=3,
        timestamp=datetime.now(UTC) + timedelta(milliseconds=1),
        origin=Origin("import-1", "importer", "import-1"),
        quantity=5,
    )
    assert recorder.insert_events([mapper.to_stored_event(imported)])
    assert (await ask(executor, order("r1", ("A", 8, "W1")))).status == 201
    with pytest.raises(IntegrityError):
        recorder.insert_events([StoredEvent(STREAM, 4, "test.happened", b"{}")])


async def test_both_hold_the_same_lock(cluster: Cluster, recorder: StockholdRecorder, database_url: str) -> None:
    store = PostgresDatabase(database_url).store(WriteSettings(lock_timeout_ms=100))
    await store.open()
    try:
        await store.lock_and_load(Needs(), 0)
        started = time.monotonic()
        with pytest.raises(OperationalError):
            await asyncio.to_thread(recorder.insert_events, [NOTE])
        assert time.monotonic() - started < 3  # one second, once
        await store.abandon()
        assert await asyncio.to_thread(recorder.insert_events, [NOTE])

        with recorder.datastore.transaction(commit=False) as cursor:
            recorder._lock_table(cursor)
            with pytest.raises(LockTimeout):
                await store.lock_and_load(Needs(), 0)
        await store.lock_and_load(Needs(), 0)
    finally:
        await store.close()


async def test_an_insert_whose_connection_is_lost_is_not_repeated(
    cluster: Cluster, recorder: StockholdRecorder, database_url: str
) -> None:
    database = PostgresDatabase(database_url)
    store = database.store(WriteSettings())
    await store.open()
    try:
        await store.lock_and_load(Needs(), 0)
        with closing(connect_datastore(database_url, lock_timeout_s=30)) as patient:
            inserting = asyncio.ensure_future(asyncio.to_thread(StockholdRecorder(patient).insert_events, [NOTE]))
            waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()"
            (pid,) = (await eventually_async(lambda: database.rows(waiting)))[0]
            database.rows("SELECT pg_terminate_backend(%s)", pid)
            with pytest.raises(OperationalError):
                await inserting
            await store.abandon()
            assert recorder.select_events(NOTE.originator_id) == []
    finally:
        await store.close()


def test_it_makes_nothing(empty_database_url: str, database_url: str) -> None:
    with closing(connect_datastore(database_url)) as datastore:
        before = PostgresDatabase(database_url).rows("SELECT count(*) FROM pg_class")
        StockholdRecorder(datastore).create_table()
        assert PostgresDatabase(database_url).rows("SELECT count(*) FROM pg_class") == before
    with closing(connect_datastore(empty_database_url)) as datastore:
        StockholdRecorder(datastore).create_table()
    assert PostgresDatabase(empty_database_url).rows("SELECT count(*) FROM pg_namespace WHERE nspname='stockhold'") == [
        (0,)
    ]


def test_it_refuses_the_mode_that_inserts_without_the_lock(database_url: str) -> None:
    with closing(connect_datastore(database_url)) as datastore:
        datastore.enable_db_functions = True
        with pytest.raises(ProgrammingError):
            StockholdRecorder(datastore)
