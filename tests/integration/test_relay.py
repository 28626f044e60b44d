"""The relay on a real broker: everything published, in order, whatever happens to it."""

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from domain.values import stock_stream
from infra.event_store.log_reader import LogReader
from infra.event_store.relay_checkpoints import Checkpoint, CheckpointMoved, RelayCheckpoints
from infra.kafka.partitions import partition_of
from infra.postgres import ConnectionLost
from tests.support import eventually_async
from tests.support_domain import registered, restocked
from tests.support_relay import (
    PARTITIONS,
    arrived,
    check_order,
    checkpoint,
    checkpoint_reaches,
    events_of,
    leading_backends,
    messages,
    options_for,
    relay_processes,
    relaying,
)
from tests.support_views import LogWriter
from write_side.relay import Relay, RelayOptions, adopt
from write_side.relay_metrics import LAG_EVENTS, LAG_SECONDS, watch_lag

pytestmark = pytest.mark.kafka

SKUS = "ABCDEFGH"


@pytest.fixture
def log(database_url: str) -> LogWriter:
    return LogWriter(database_url)


@pytest.fixture
def options(database_url: str, kafka: str, kafka_prefix: str) -> RelayOptions:
    return options_for(database_url, kafka, kafka_prefix)


@contextmanager
def appending(url: str, writers: int = 3) -> Iterator[None]:
    """Several writers append to items of their own, a few events at a time, for as long as the block lasts."""
    enough = threading.Event()

    def write(name: str) -> None:
        log = LogWriter(url)
        for sku in SKUS:
            log.happened(f"{name}{sku}", "W1", registered())
        number = 0
        while not enough.wait(0.005):  # leaves the others a share of the processors
            number += 1
            log.happened(f"{name}{SKUS[number % 8]}", "W1", *[restocked(1)] * (number % 5 + 1))

    threads = [threading.Thread(target=write, args=[f"w{n}"]) for n in range(writers)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        enough.set()
        for thread in threads:
            thread.join()


async def test_with_concurrent_writers_every_event_is_published_once_and_in_order(
    log: LogWriter, options: RelayOptions
) -> None:
    async with relaying(options):
        with appending(options.event_store_url):
            await eventually_async(lambda: len(log.rows()) > 500)
        assert await arrived(options, log.rows()) == 0


async def test_while_it_is_quiet_an_event_is_a_message(log: LogWriter, options: RelayOptions) -> None:
    async with relaying(options):
        for event in [registered(), *[restocked(1)] * 4]:
            log.happened("A", "W1", event)
            await checkpoint_reaches(options, log.rows()[-1].position)
    found = await messages(options)
    batches = found[partition_of(stock_stream("A", "W1"), PARTITIONS)]
    assert [[row.version for row in batch.rows] for batch in batches] == [[1], [2], [3], [4], [5]]
    assert [(batch.first, batch.last) for batch in batches] == [(row.position, row.position) for row in log.rows()]


async def test_a_notice_wakes_it(log: LogWriter, database_url: str, kafka: str, kafka_prefix: str) -> None:
    """And not the next look, which would be an hour away."""
    options = options_for(database_url, kafka, kafka_prefix, poll_s=3_600.0)
    async with relaying(options):
        for event in [registered(), restocked(1)]:
            log.happened("A", "W1", event)
            await checkpoint_reaches(options, log.rows()[-1].position)


async def test_it_finds_by_itself_what_no_notice_told(log: LogWriter, options: RelayOptions) -> None:
    async with relaying(options):
        await eventually_async(lambda: checkpoint(options) == Checkpoint(0, 1))
        with psycopg.connect(options.event_store_url, options="-c search_path=stockhold") as connection:
            connection.execute("INSERT INTO stored_events VALUES ('stock:A@W1', 1, 'stock-item.restocked', '{}')")
        await checkpoint_reaches(options, 1)


async def test_catching_up_it_sends_many_events_in_a_message(log: LogWriter, options: RelayOptions) -> None:
    for sku in SKUS:
        log.happened(sku, "W1", registered(), *[restocked(1)] * 799)
    async with relaying(options):
        assert await arrived(options, log.rows()) == 0
    found = await messages(options)
    sizes = [len(batch.rows) for batches in found.values() for batch in batches]
    assert max(sizes) == options.batch_events
    assert len(sizes) < sum(sizes) / 100


async def test_a_message_keeps_to_its_bounds(log: LogWriter, database_url: str, kafka: str, kafka_prefix: str) -> None:
    options = options_for(database_url, kafka, kafka_prefix, batch_events=7, batch_bytes=2_048)
    for sku in SKUS:
        log.happened(sku, "W1", registered(), *[restocked(1)] * 30)
    async with relaying(options):
        assert await arrived(options, log.rows()) == 0
    rows = [batch.rows for batches in (await messages(options)).values() for batch in batches]
    assert max(map(len, rows)) <= 7
    assert max(sum(len(row.state or b"") for row in batch) for batch in rows) <= 2_048


async def test_an_event_too_large_for_a_message_goes_without_its_state(log: LogWriter, options: RelayOptions) -> None:
    log.happened("A", "W1", registered(), restocked(1))
    log.append_poison(stock_stream("A", "W1"), state=b'{"note":"' + b"x" * 2_000_000 + b'"}')
    log.happened("A", "W1", restocked(2))
    async with relaying(options):
        await checkpoint_reaches(options, log.rows()[-1].position)
    arrived_rows = events_of(await messages(options))[partition_of(stock_stream("A", "W1"), PARTITIONS)]
    expected = [row if row.version != 3 else row._replace(state=None) for row in log.rows()]  # type: ignore[arg-type]
    assert [tuple(row) for row in arrived_rows] == [tuple(row) for row in expected]


async def test_it_goes_on_where_it_stopped(log: LogWriter, options: RelayOptions) -> None:
    log.happened("A", "W1", registered(), restocked(1))
    async with relaying(options):
        await checkpoint_reaches(options, log.rows()[-1].position)
    log.happened("A", "W1", restocked(2))
    async with relaying(options):
        assert await arrived(options, log.rows()) == 0


async def test_killed_under_load_and_started_again_nothing_is_lost_and_order_is_kept(
    log: LogWriter, options: RelayOptions, kafka_prefix: str
) -> None:
    with relay_processes(options, kafka_prefix) as processes, appending(options.event_store_url):
        for _ in range(2):
            relay = await processes.start()
            seen = log.rows()[-1].position
            await checkpoint_reaches(options, seen + 100)
            relay.kill()
        await processes.start()
        await checkpoint_reaches(options, log.rows()[-1].position)
    async with relaying(options):
        await arrived(options, log.rows())


async def test_broken_off_at_any_moment_it_goes_on_in_order(
    log: LogWriter, database_url: str, kafka: str, kafka_prefix: str
) -> None:
    options = options_for(database_url, kafka, kafka_prefix, batch_events=5)
    for sku in SKUS:
        log.happened(sku, "W1", registered(), *[restocked(1)] * 99)
    chance = random.Random(7)
    for _ in range(30):
        relay = Relay(options)
        run = asyncio.create_task(relay.run(asyncio.Event()))
        await eventually_async(lambda relay=relay: relay.leads)  # type: ignore[misc]  # bound to this one
        await asyncio.wait([run], timeout=chance.uniform(0, 0.05))
        run.cancel()
        await asyncio.wait([run])
    async with relaying(options):
        await arrived(options, log.rows())


async def test_of_two_one_leads_and_the_other_takes_over_in_seconds(
    log: LogWriter, options: RelayOptions, kafka_prefix: str
) -> None:
    log.happened("A", "W1", registered())
    with relay_processes(options, kafka_prefix) as processes:
        leader = await processes.start()
        await checkpoint_reaches(options, log.rows()[-1].position)
        await processes.start()
        assert len(leading_backends(options)) == 1
        leader.kill()
        log.happened("A", "W1", restocked(1))
        await checkpoint_reaches(options, log.rows()[-1].position, timeout_s=10)
        await arrived(options, log.rows())


async def test_one_that_stands_by_takes_over_from_one_that_stops(log: LogWriter, options: RelayOptions) -> None:
    async with relaying(options) as first:
        await eventually_async(lambda: first.relay.leads)
        async with relaying(options) as second:
            assert not second.relay.leads
            first.stop.set()
            await first.task
            await eventually_async(lambda: second.relay.leads)
            log.happened("A", "W1", registered())
            assert await arrived(options, log.rows()) == 0


async def test_every_connection_is_cut_again_and_again(log: LogWriter, options: RelayOptions) -> None:
    async with relaying(options):
        log.happened("A", "W1", registered())
        for _ in range(5):
            with psycopg.connect(options.event_store_url) as connection:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                )
            log.happened("A", "W1", restocked(1))
            await checkpoint_reaches(options, log.rows()[-1].position)
        await arrived(options, log.rows())


async def test_a_checkpoint_moved_back_ends_the_term_and_is_where_the_next_begins(
    log: LogWriter, options: RelayOptions
) -> None:
    log.happened("A", "W1", registered(), restocked(1), restocked(2))
    rows = log.rows()
    async with relaying(options):
        await checkpoint_reaches(options, rows[-1].position)
        with psycopg.connect(options.event_store_url) as connection:
            connection.execute("UPDATE stockhold.relay_checkpoints SET position = %s", [rows[0].position])
        await checkpoint_reaches(options, rows[-1].position)
        await eventually_async(lambda: published_twice(options, rows[1].position))
    assert await arrived(options, rows) == 2


async def published_twice(options: RelayOptions, position: int) -> bool:
    found = events_of(await messages(options))
    return sum(row.position == position for rows in found.values() for row in rows) == 2


async def test_only_who_knows_where_it_is_moves_the_checkpoint(database_url: str) -> None:
    zombie = await RelayCheckpoints.connect(database_url, "t", leader=True)
    successor = await RelayCheckpoints.connect(database_url, "t", leader=True)
    try:
        assert await zombie.try_lead()
        assert not await successor.try_lead()
        start = await zombie.load()
        assert start == Checkpoint(0, 1)
        await zombie.move(start, Checkpoint(5, 1))
        await zombie.confirm(Checkpoint(5, 1))
        await zombie.close()
        await eventually_async(successor.try_lead)  # once the server has noticed
        with pytest.raises(CheckpointMoved):
            await successor.move(start, Checkpoint(6, 1))
        with pytest.raises(CheckpointMoved):
            await successor.confirm(start)
        assert await successor.load() == Checkpoint(5, 1)
        with pytest.raises(ConnectionLost):
            await zombie.move(Checkpoint(5, 1), Checkpoint(7, 1))
        assert await successor.rewind(9, "c") == Checkpoint(5, 1)  # forward is not back
        assert await successor.rewind(2, "c") == Checkpoint(2, 1)
    finally:
        await successor.close()
        await zombie.close()


async def test_topics_have_checkpoints_and_leaders_of_their_own(database_url: str) -> None:
    one = await RelayCheckpoints.connect(database_url, "one.topic")
    other = await RelayCheckpoints.connect(database_url, "other.topic")
    try:
        assert await one.try_lead()
        assert await other.try_lead()
        await one.move(await one.load(), Checkpoint(5, 1))
        assert await other.load() == Checkpoint(0, 1)
    finally:
        await one.close()
        await other.close()


async def test_the_lag_is_told_in_positions_and_in_seconds(log: LogWriter, database_url: str) -> None:
    checkpoints = await RelayCheckpoints.connect(database_url, "t")
    try:
        assert await checkpoints.lag() is None
        start = await checkpoints.load()
        lag = await checkpoints.lag()
        assert lag is not None
        assert (lag.events, lag.seconds) == (0, 0.0)
        log.happened("A", "W1", registered(), restocked(1), restocked(2))
        rows = log.rows()
        lag = await checkpoints.lag()
        assert lag is not None
        assert lag.events == 3
        assert lag.seconds > 0
        await checkpoints.move(start, Checkpoint(rows[1].position, 1))
        log.append_poison("stock:B@W1", state=b"no JSON")
        lag = await checkpoints.lag()
        assert lag is not None
        assert lag.events == 2
        await checkpoints.move(Checkpoint(rows[1].position, 1), Checkpoint(rows[2].position, 1))
        lag = await checkpoints.lag()
        assert lag is not None
        assert (lag.events, lag.seconds) == (1, 0.0)  # such an event does not say when it was
    finally:
        await checkpoints.close()


async def test_whoever_stands_by_shows_the_lag_too(log: LogWriter, database_url: str) -> None:
    log.happened("A", "W1", registered(), restocked(1))
    watching = asyncio.create_task(watch_lag(database_url, "t", every_s=0.01))
    try:
        checkpoints = await RelayCheckpoints.connect(database_url, "t")
        start = await checkpoints.load()
        await eventually_async(lambda: LAG_EVENTS._value.get() == 2 and LAG_SECONDS._value.get() > 0)
        with psycopg.connect(database_url) as connection:  # it comes back
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        await checkpoints.close()
        checkpoints = await RelayCheckpoints.connect(database_url, "t")
        await checkpoints.move(start, Checkpoint(log.rows()[-1].position, 1))
        await eventually_async(lambda: LAG_EVENTS._value.get() == 0 and LAG_SECONDS._value.get() == 0)
        await checkpoints.close()
    finally:
        watching.cancel()
        await asyncio.wait([watching])


async def test_a_restored_log_is_published_on_under_its_new_epoch(
    log: LogWriter, options: RelayOptions, caplog: pytest.LogCaptureFixture
) -> None:
    log.happened("A", "W1", registered())
    async with relaying(options):
        await checkpoint_reaches(options, log.rows()[-1].position)
        with psycopg.connect(options.event_store_url) as connection:
            connection.execute("UPDATE stockhold.log_epoch SET epoch = 2")
        log.happened("A", "W1", restocked(1))
        await eventually_async(lambda: checkpoint(options) == Checkpoint(log.rows()[-1].position, 2))
    found = await messages(options)
    check_order(log.rows(), found)
    epochs = {row.version: batch.epoch for batches in found.values() for batch in batches for row in batch.rows}
    assert epochs == {1: 1, 2: 2}
    assert "the log has been restored" in caplog.text


async def test_a_checkpoint_beyond_the_logs_end_is_of_another_log(
    log: LogWriter, options: RelayOptions, caplog: pytest.LogCaptureFixture
) -> None:
    log.happened("A", "W1", registered(), restocked(1))
    async with relaying(options):
        await checkpoint_reaches(options, log.rows()[-1].position)
    with psycopg.connect(options.event_store_url, options="-c search_path=stockhold") as connection:
        connection.execute("UPDATE relay_checkpoints SET position = 1000")
    async with relaying(options):
        await eventually_async(lambda: checkpoint(options) == Checkpoint(log.rows()[-1].position, 1))
    assert await arrived(options, log.rows()) == 2
    assert "the log has been restored" in caplog.text


async def test_whoever_adopts_a_restored_log_second_is_told(log: LogWriter, database_url: str) -> None:
    checkpoints = await RelayCheckpoints.connect(database_url, "t")
    reader = await LogReader.connect(database_url)
    try:
        await checkpoints.load()
        with psycopg.connect(database_url) as connection:
            connection.execute("UPDATE stockhold.log_epoch SET epoch = 7")
        assert await adopt(checkpoints, reader) == Checkpoint(0, 7)
        with pytest.raises(CheckpointMoved):
            await checkpoints.move(Checkpoint(0, 1), Checkpoint(0, 7))
    finally:
        await checkpoints.close()
        await reader.close()


async def test_a_topic_with_other_partitions_is_not_published_to(
    log: LogWriter, options: RelayOptions, database_url: str, kafka: str, caplog: pytest.LogCaptureFixture
) -> None:
    log.happened("A", "W1", registered())
    async with relaying(options):
        await checkpoint_reaches(options, log.rows()[-1].position)
    wider = options_for(database_url, kafka, "", topic=options.topic._replace(partitions=PARTITIONS + 1))
    async with relaying(wider, wait=False) as running:
        await eventually_async(lambda: "partitions" in caplog.text)
        assert not running.ready.is_set()


async def test_without_tables_it_says_so_and_waits(
    empty_database_url: str, kafka: str, kafka_prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    from infra.migrations.runner import EVENT_STORE, migrate

    options = options_for(empty_database_url, kafka, kafka_prefix)
    async with relaying(options, wait=False) as running:
        await eventually_async(lambda: "the log is not published" in caplog.text)
        assert not running.ready.is_set()
        await asyncio.to_thread(migrate, empty_database_url, EVENT_STORE)
        await asyncio.wait_for(running.ready.wait(), 20)
