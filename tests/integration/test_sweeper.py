"""The sweeper releases what is due within its second, in transactions that hurt nobody, whoever else dies or is stuck."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from typing import Any

import msgspec
import psycopg
import pytest

from domain.commands import CommitReservation
from infra.bootstrap import create_executor
from infra.event_store.append_lock import SCHEMA, append_lock_key
from infra.settings import Settings
from tests.support import eventually_async
from tests.support_audit import audit, check_index
from tests.support_write_side import Cluster, PostgresDatabase, ask, gather_answers, order, post
from write_side.executor import CommandExecutor
from write_side.sweeper import Sweeper

LEADER = """
    SELECT a.pid FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted AND a.application_name = 'stockhold-sweeper'
      AND a.datname = current_database()
"""


@pytest.fixture
def database(module_database_url: str) -> Iterator[PostgresDatabase]:
    database = PostgresDatabase(module_database_url)
    yield database
    database.empty()


@pytest.fixture
async def shop(database: PostgresDatabase) -> AsyncIterator[CommandExecutor]:
    """A process in which customers order; it knows nothing of the sweepers."""
    cluster = Cluster(database, optimistic=True)
    executor = await cluster.executor()
    yield executor
    await cluster.close()


@pytest.fixture
async def yesterday(database: PostgresDatabase) -> AsyncIterator[Cluster]:
    """What is held here has been due since yesterday, by the clock of the database."""
    cluster = Cluster(database, optimistic=True)
    cluster.elapse(-86_400)
    yield cluster
    await cluster.close()


def settings_for(database: PostgresDatabase, **tunables: Any) -> Settings:
    return Settings(event_store_url=database.url, **tunables)


@asynccontextmanager
async def sweeper_on(database: PostgresDatabase, **tunables: Any) -> AsyncIterator[Sweeper]:
    """A sweeper with an executor of its own, not running yet."""
    settings = settings_for(database, **tunables)
    executor = create_executor(settings)
    await executor.start()
    try:
        yield Sweeper(executor, settings, settings)
    finally:
        await executor.drain()


@asynccontextmanager
async def sweeping(database: PostgresDatabase, **tunables: Any) -> AsyncIterator[None]:
    """A sweeper at work, or standing in for the one that leads."""
    async with sweeper_on(database, **tunables) as sweeper:
        ready = asyncio.Event()
        task = asyncio.ensure_future(sweeper.run(ready.set))
        try:
            await asyncio.wait_for(ready.wait(), 10)
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def releases(database: PostgresDatabase) -> list[dict[str, Any]]:
    """Events in which a hold was released, each with its stream."""
    return [
        {"stream": row.stream} | msgspec.json.decode(row.state)
        for row in database.events()
        if row.topic == "stock-item.released"
    ]


def still_held(database: PostgresDatabase) -> int:
    return int(database.rows("SELECT count(*) FROM holds WHERE active > 0")[0][0])


def leader(database: PostgresDatabase) -> int:
    """Server process of the connection that leads; 0 if nobody does."""
    rows = database.rows(LEADER)
    assert len(rows) <= 1, "two lead at once"
    return int(rows[0][0]) if rows else 0


async def another_leader(database: PostgresDatabase, gone: int) -> int:
    return await eventually_async(lambda: (now := leader(database)) != gone and now)


async def hold_yesterday(cluster: Cluster, *places: tuple[str, str, int]) -> None:
    """(sku, warehouse, holds of one unit each): all due by now."""
    executor = await cluster.executor()
    await cluster.stock(executor, *places)
    answers = await gather_answers(
        post(executor, order(f"{sku}-{code}-{n}", (sku, 1, code), ttl_s=900))
        for sku, code, count in places
        for n in range(count)
    )
    assert {answer.status for answer in answers} == {201}


class TestInTime:
    async def test_a_hold_is_released_within_a_second_of_its_end(
        self, database: PostgresDatabase, shop: CommandExecutor
    ) -> None:
        cluster = Cluster(database, optimistic=True)
        await cluster.stock(shop, ("A", "W1", 10), ("B", "W1", 10))
        async with sweeping(database):
            await eventually_async(lambda: leader(database) > 0)
            for n, ttl_s in enumerate((1, 2, 900)):
                assert (await ask(shop, order(f"r{n}", ("A", 1, "W1"), ("B", 1), ttl_s=ttl_s))).status == 201
            await ask(shop, order("paid", ("A", 1, "W1"), ttl_s=1))
            await ask(shop, CommitReservation(reservation_id="paid"))
            await eventually_async(lambda: len(releases(database)) == 4)
        ends = {hold.reservation_id: hold.expires_at for hold in database.holds()}
        for event in releases(database):
            assert event["reservation_id"] in {"r0", "r1"}
            assert event["reason"] == "EXPIRED"
            assert event["origin"]["actor"] == "stockhold"
            end = ends[event["reservation_id"]]
            assert end is not None
            late_s = (datetime.fromisoformat(event["timestamp"]) - end).total_seconds()
            assert 0 <= late_s < 1

    async def test_what_fell_due_while_nobody_swept_is_released_at_once(
        self, database: PostgresDatabase, yesterday: Cluster
    ) -> None:
        await hold_yesterday(yesterday, ("A", "W1", 3))
        async with sweeping(database):
            await eventually_async(lambda: still_held(database) == 0, 3)


class TestBacklog:
    ITEMS = 25

    async def test_a_thousand_holds_of_many_items_are_released_in_transactions_of_two_hundred_at_most(
        self, database: PostgresDatabase, yesterday: Cluster
    ) -> None:
        places = [(f"S{n}", f"W{n % 3}", 10 + 5 * (n % 13)) for n in range(self.ITEMS)]
        held = sum(count for _, _, count in places)
        assert held >= 900
        await hold_yesterday(yesterday, *places, ("BIG", "W0", 1_000 - held))
        async with sweeping(database):
            await eventually_async(lambda: still_held(database) == 0, 30)
        events = releases(database)
        assert len(events) == 1_000
        assert {event["reason"] for event in events} == {"EXPIRED"}
        per_transaction = database.rows(
            "SELECT xmin::text, count(*) FROM stored_events WHERE topic = 'stock-item.released' GROUP BY 1"
        )
        assert max(count for _, count in per_transaction) <= 200
        check_index(audit(database.events()), database.holds(), database.headers())
        assert database.outcomes().keys().isdisjoint({("anonymous", ""), ("stockhold", "")})

    async def test_sweeping_once_takes_all_that_is_due_whoever_leads(
        self, database: PostgresDatabase, yesterday: Cluster, shop: CommandExecutor
    ) -> None:
        await hold_yesterday(yesterday, ("A", "W1", 30), ("B", "W1", 25))
        await yesterday.stock(shop, ("C", "W1", 5))
        await ask(shop, order("alive", ("C", 1, "W1")))
        with leading(database):
            async with sweeper_on(database, sweep_batch=10) as sweeper:
                assert await sweeper.sweep_all() == 55
                assert await sweeper.sweep_all() == 0
        assert [hold.reservation_id for hold in database.holds() if hold.active] == ["alive"]
        check_index(audit(database.events()), database.holds(), database.headers())


@contextmanager
def leading(database: PostgresDatabase) -> Iterator[None]:
    """Somebody leads, and does nothing."""
    with psycopg.connect(database.url, application_name="stockhold-sweeper") as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (append_lock_key(f"{SCHEMA}.sweeper"),))
        yield


class TestLeaders:
    async def test_one_leads_and_when_its_connection_is_cut_the_sweeping_goes_on(
        self, database: PostgresDatabase, yesterday: Cluster
    ) -> None:
        async with sweeping(database), sweeping(database):
            first = await eventually_async(lambda: leader(database))
            for n in range(3):
                await hold_yesterday(yesterday, (f"S{n}", "W1", 2))
                await eventually_async(lambda: still_held(database) == 0)
                assert leader(database) == first
                database.rows("SELECT pg_terminate_backend(%s)", first)
                first = await another_leader(database, first)
        assert len(releases(database)) == 6
        check_index(audit(database.events()), database.holds(), database.headers())

    async def test_when_the_leaders_process_is_killed_the_other_takes_over(
        self, database: PostgresDatabase, yesterday: Cluster
    ) -> None:
        with sweeper_process(database) as one:
            first = await eventually_async(lambda: leader(database))
            with sweeper_process(database):
                await hold_yesterday(yesterday, ("A", "W1", 2))
                await eventually_async(lambda: still_held(database) == 0)
                assert leader(database) == first
                one.kill()
                await hold_yesterday(yesterday, ("B", "W1", 2))
                await eventually_async(lambda: still_held(database) == 0)
                assert leader(database) not in {0, first}


@contextmanager
def sweeper_process(database: PostgresDatabase) -> Iterator[subprocess.Popen[bytes]]:
    """A sweeper as the supervisor starts it; the block begins when it is ready."""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "infra.cli.main", "process", "sweeper"],
        env={**os.environ, "STOCKHOLD_EVENT_STORE_URL": database.url, "STOCKHOLD_READY_FD": str(writing)},
        pass_fds=[writing],
    )
    os.close(writing)
    try:
        assert os.read(reading, 100) == b"ready\n"
        yield process
    finally:
        os.close(reading)
        process.kill()
        process.wait(10)


class TestStuck:
    """An item whose stream nobody can read."""

    @staticmethod
    def spoil(database: PostgresDatabase, stream: str) -> None:
        database.spoil(stream, 2, "stock-item.never-heard-of", b"{}")

    async def test_it_does_not_stop_the_others(
        self, database: PostgresDatabase, yesterday: Cluster, shop: CommandExecutor
    ) -> None:
        await hold_yesterday(yesterday, ("POISON", "W1", 7), ("B", "W1", 6))
        self.spoil(database, "stock:POISON@W1")
        async with sweeping(database, sweep_batch=5):
            await eventually_async(lambda: still_held(database) == 7)
            await ask(shop, order("later", ("B", 1, "W1"), ttl_s=1))
            await eventually_async(lambda: len(releases(database)) == 7)
        assert {event["stream"] for event in releases(database)} == {"stock:B@W1"}

    async def test_sweeping_once_passes_it_by(self, database: PostgresDatabase, yesterday: Cluster) -> None:
        await hold_yesterday(yesterday, ("POISON", "W1", 7), ("A", "W1", 6))
        self.spoil(database, "stock:POISON@W1")
        async with sweeper_on(database, sweep_batch=5) as sweeper:
            assert await sweeper.sweep_all() == 6
        assert {hold.sku for hold in database.holds() if hold.active} == {"POISON"}


class TestPurging:
    OLD = 2_500

    async def test_old_records_go_in_small_batches_until_none_is_left(self, database: PostgresDatabase) -> None:
        with psycopg.connect(database.url, autocommit=True, options="-c search_path=stockhold") as connection:
            connection.execute(
                "INSERT INTO idempotency SELECT 'anonymous', 'old-' || n, '', 200, '', now() - interval '3 days 1 second'"
                " FROM generate_series(1, %s) AS n",
                (self.OLD,),
            )
            connection.execute(
                "INSERT INTO idempotency SELECT 'anonymous', 'new-' || n, '', 200, '', now() - interval '2 days 23 hours'"
                " FROM generate_series(1, 10) AS n"
            )
            connection.execute(COUNT_DELETES)
            try:
                async with sweeping(database, idempotency_days=3, purge_batch=1_000):
                    await eventually_async(lambda: len(database.outcomes()) == 10)
                counts = [row[0] for row in connection.execute("SELECT units FROM deletes").fetchall()]
            finally:
                connection.execute("DROP TABLE deletes; DROP FUNCTION count_deletes CASCADE")
        assert {key for _, key in database.outcomes()} == {f"new-{n}" for n in range(1, 11)}
        assert sorted(count for count in counts if count) == [500, 1_000, 1_000]

    async def test_old_refusals_go_too(self, database: PostgresDatabase) -> None:
        with psycopg.connect(database.url, autocommit=True, options="-c search_path=stockhold") as connection:
            connection.execute(
                "INSERT INTO refusals (at, operation, code, actor, problem)"
                " SELECT now() - n * interval '1 day', 'op', 'code-' || n, 'me', '' FROM generate_series(1, 9) AS n"
            )
        async with sweeping(database, refusal_days=3, purge_batch=2):
            await eventually_async(lambda: len(database.refusals()) == 2)
        assert database.refusals() == [("op", "code-1"), ("op", "code-2")]


COUNT_DELETES = """
    CREATE TABLE deletes (units bigint);
    CREATE FUNCTION count_deletes() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO deletes SELECT count(*) FROM gone;
        RETURN NULL;
    END $$;
    CREATE TRIGGER counted AFTER DELETE ON idempotency
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION count_deletes();
"""
