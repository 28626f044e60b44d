"""Reading the log by position and by stream, and being told when there is more of it."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from domain.values import stock_stream
from infra.event_store.append_lock import CHANNEL
from infra.event_store.log_reader import LogReader
from infra.notices import Bell
from infra.postgres import ConnectionLost, StatementFailed
from tests.support import eventually_async
from tests.support_domain import registered, restocked
from tests.support_views import LogWriter

A, B = stock_stream("A", "W1"), stock_stream("B", "W1")


@pytest.fixture
def log(database_url: str) -> LogWriter:
    return LogWriter(database_url)


@pytest.fixture
async def reader(database_url: str) -> AsyncIterator[LogReader]:
    reader = await LogReader.connect(database_url)
    yield reader
    await reader.close()


async def test_an_empty_log(reader: LogReader) -> None:
    assert await reader.head() == 0
    assert await reader.epoch() == 1
    assert await reader.read_after(0, 10) == []
    assert await reader.latest_versions(0, 100) == {}
    assert await reader.read_stream(A) == []


async def test_reading_by_position(log: LogWriter, reader: LogReader) -> None:
    log.happened("A", "W1", registered(), restocked(1))
    log.happened("B", "W1", registered())
    log.happened("A", "W1", restocked(2))
    rows = await reader.read_after(0, 10)
    assert rows == log.rows()
    assert [(row.stream, row.version) for row in rows] == [(A, 1), (A, 2), (B, 1), (A, 3)]
    assert await reader.head() == rows[-1].position
    assert await reader.read_after(rows[0].position, 2) == rows[1:3]
    assert await reader.latest_versions(0, rows[2].position) == {A: 2, B: 1}
    assert await reader.latest_versions(rows[1].position, rows[3].position) == {A: 3, B: 1}


async def test_reading_no_more_than_so_many_bytes(log: LogWriter, reader: LogReader) -> None:
    for size in (10, 10, 5_000, 10, 100_000, 10):
        log.append_poison(A, state=b"x" * size)
    rows = log.rows()
    assert await reader.read_bounded(0, 10, 200_000) == rows
    assert await reader.read_bounded(0, 4, 200_000) == rows[:4]
    assert await reader.read_bounded(0, 10, 5_020) == rows[:3]
    assert await reader.read_bounded(0, 10, 5_019) == rows[:2]
    # One that is larger than that comes alone: whoever reads on must get past it.
    assert await reader.read_bounded(rows[1].position, 10, 100) == rows[2:3]
    assert await reader.read_bounded(rows[3].position, 10, 1) == rows[4:5]
    assert await reader.read_bounded(rows[-1].position, 10, 100) == []


async def test_reading_a_stream(log: LogWriter, reader: LogReader) -> None:
    log.happened("A", "W1", registered(), restocked(1), restocked(2), restocked(3))
    log.happened("B", "W1", registered())
    assert [row.version for row in await reader.read_stream(A)] == [1, 2, 3, 4]
    assert [row.version for row in await reader.read_stream(A, 1)] == [2, 3, 4]
    assert [row.version for row in await reader.read_stream(A, 1, upto=3)] == [2, 3]
    assert [row.version for row in await reader.read_stream(A, 0, limit=2)] == [1, 2]


async def test_several_readers_of_one_connection_take_turns(log: LogWriter, reader: LogReader) -> None:
    log.happened("A", "W1", registered(), restocked(1))
    found = await asyncio.gather(*(reader.read_stream(A) for _ in range(20)), *(reader.head() for _ in range(20)))
    assert found == [log.rows()] * 20 + [log.rows()[-1].position] * 20


async def test_a_reader_that_gives_up_leaves_no_answer_for_the_next(log: LogWriter, reader: LogReader) -> None:
    log.happened("A", "W1", registered())
    asked = asyncio.create_task(reader.read_stream(A))
    await asyncio.sleep(0)  # it has asked, and not been answered
    asked.cancel()
    assert await reader.head() == log.rows()[-1].position
    with pytest.raises(asyncio.CancelledError):
        await asked


async def test_a_server_that_goes_away(reader: LogReader, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%log-reader'"
        )
    with pytest.raises(ConnectionLost):
        await eventually_async(reader.head, what="noticing")


async def test_a_database_without_a_log(empty_database_url: str) -> None:
    with pytest.raises(StatementFailed):
        await LogReader.connect(empty_database_url)


async def test_a_bell_rings_for_each_append(log: LogWriter, database_url: str) -> None:
    async with Bell(database_url, [CHANNEL]) as bell:
        assert await bell.wait(10)  # it listens from here on
        assert not await bell.wait(0.01)
        log.happened("A", "W1", registered())
        assert await bell.wait(10)
        bell.ring()
        assert await bell.wait(0)


async def test_a_bell_that_lost_its_connection_rings_once_it_has_another(log: LogWriter, database_url: str) -> None:
    async with Bell(database_url, [CHANNEL, "another"]) as bell:
        assert await bell.wait(10)
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        assert await bell.wait(10)  # something may have been missed
        log.happened("A", "W1", registered())
        assert await bell.wait(10)


async def test_a_bell_without_a_server_keeps_trying() -> None:
    async with Bell("postgresql://127.0.0.1:1/none", [CHANNEL]) as bell:
        assert not await bell.wait(0.05)
