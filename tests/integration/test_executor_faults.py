"""PostgreSQL cut off, stopped, killed and busy while executors write: applied once or not at all, answered in time."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import psycopg
import pytest

from domain.commands import Adjust, Restock
from domain.values import AdjustmentReason
from infra.event_store.append_lock import append_lock_key
from infra.event_store.port import Needs
from infra.settings import WriteSettings
from tests.support import eventually_async
from tests.support_audit import audit, check_index
from tests.support_proxy import Cut, Proxy, proxy_to
from tests.support_write_side import Cluster, PostgresDatabase, ask, code_of, gather_answers, order, post, said
from write_side.executor import CommandExecutor

QUICK = {"request_deadline_ms": 800, "lock_timeout_ms": 100}

both_ways = pytest.mark.parametrize("optimistic", [False, True], ids=["lock-first", "optimistic"])


@pytest.fixture
async def proxy(module_database_url: str) -> AsyncIterator[Proxy]:
    async with proxy_to(module_database_url) as opened:
        yield opened


@pytest.fixture
def database(module_database_url: str) -> Iterator[PostgresDatabase]:
    opened = PostgresDatabase(module_database_url)
    yield opened
    opened.empty()


@pytest.fixture
async def cluster(database: PostgresDatabase, proxy: Proxy, *, optimistic: bool) -> AsyncIterator[Cluster]:
    """Its executors reach the database through the proxy."""
    opened = Cluster(PostgresDatabase(database.url, proxy.url), optimistic=optimistic)
    yield opened
    proxy.go_on()
    await opened.close()


def check(cluster: Cluster) -> dict[str, int]:
    """Nothing is wrong with the log and the index; units held by item."""
    items = audit(cluster.database.events())
    check_index(items, cluster.database.holds(), cluster.database.headers())
    return {stream: item.reserved for stream, item in items.items()}


@contextmanager
def append_lock(database: PostgresDatabase) -> Iterator[None]:
    """Somebody else holds the append lock."""
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [append_lock_key()])
        yield


def writers(database: PostgresDatabase) -> list[int]:
    rows = database.rows(
        "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'stockhold-%%er' AND datname = current_database()"
    )
    return [row[0] for row in rows]


@both_ways
class TestCutConnections:
    @pytest.mark.parametrize("cut", list(Cut), ids=lambda cut: cut.name.lower())
    async def test_in_the_middle_of_a_commit(self, cluster: Cluster, proxy: Proxy, cut: Cut) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 100))
        found = Adjust(sku="A", warehouse="W1", delta=1, reason=AdjustmentReason.FOUND)
        for n in range(6):
            proxy.cut_next_commit(cut)
            commands = [order(f"r{n}", ("A", 2, "W1")), order(f"x{n}", ("A", 999, "W1")), found]
            keys = [f"hold-{n}", f"refused-{n}", f"found-{n}"]
            answers = await gather_answers(
                post(executor, command, key) for command, key in zip(commands, keys, strict=True)
            )
            assert proxy.cuts == n + 1
            assert [answer.status for answer in answers] == [201, 409, 200]
            assert said(answers[2])["on_hand"] == 101 + n
            again = [await ask(executor, command, key) for command, key in zip(commands, keys, strict=True)]
            assert [(a.status, a.body) for a in again] == [(a.status, a.body) for a in answers]
        assert check(cluster) == {"stock:A@W1": 12}
        assert len(cluster.database.refusals()) == 6
        assert executor.ready

    async def test_a_client_that_repeats_after_the_deadline_is_answered_by_another_process(
        self, cluster: Cluster, proxy: Proxy
    ) -> None:
        first = await cluster.executor(**QUICK)
        await cluster.stock(first, ("A", "W1", 100))
        proxy.cut_next_commit(Cut.AFTER)
        cluster.store_of(first).hold("open")
        command = order(None, ("A", 2, "W1"), order_id="o-1")
        unknown = await ask(first, command, "k1")
        assert code_of(unknown) == "unavailable"
        other = await cluster.executor()
        again = await ask(other, command, "k1")
        assert (again.status, again.replayed) == (201, True)
        assert check(cluster) == {"stock:A@W1": 2}

    async def test_again_and_again_under_load(self, cluster: Cluster, proxy: Proxy) -> None:
        executors = [await cluster.executor() for _ in range(2)]
        await cluster.stock(executors[0], ("A", "W1", 10_000), ("B", "W1", 10_000))
        cutting = asyncio.get_running_loop().create_future()

        async def vandal() -> None:
            for _ in range(25):
                proxy.cut_all()
                await asyncio.wait([cutting], timeout=0.05)

        async def client(number: int) -> None:
            for n in range(15):
                command = order(f"r{number}-{n}", ("AB"[n % 2], 1, "W1"), ("AB"[number % 2], 1))
                assert (await ask(executors[(number + n) % 2], command)).status in {200, 201}

        vandalism = asyncio.ensure_future(vandal())
        await asyncio.gather(*(client(number) for number in range(8)))
        cutting.set_result(None)
        await vandalism
        assert sum(check(cluster).values()) == 8 * 15 * 2

    async def test_backends_that_are_ended_one_by_one(self, cluster: Cluster, database: PostgresDatabase) -> None:
        executor = await cluster.executor(snapshot_every=2)
        await cluster.stock(executor, ("A", "W1", 100), ("B", "W1", 100), ("C", "W1", 100))
        for n in range(6):
            for pid in writers(database)[:1] if n % 2 else writers(database)[1:]:
                database.rows("SELECT pg_terminate_backend(%s)", pid)
            cold = [post(executor, order(f"cold-{n}-{k}", ("ABC"[k], 1))) for k in range(3)]
            warm = [post(executor, order(f"warm-{n}-{k}", ("ABC"[k], 1, "W1"))) for k in range(3)]
            assert {answer.status for answer in await gather_answers([*cold, *warm])} == {201}
        assert sum(check(cluster).values()) == 36

    async def test_a_backend_that_is_ended_while_it_waits_for_the_lock(
        self, cluster: Cluster, database: PostgresDatabase
    ) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 100))
        with append_lock(database):
            answer = post(executor, order("r1", ("A", 1, "W1")))
            waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()"
            (pid,) = (await eventually_async(lambda: database.rows(waiting)))[0]
            database.rows("SELECT pg_terminate_backend(%s)", pid)
            await eventually_async(lambda: database.rows(waiting) and database.rows(waiting)[0][0] != pid)
        assert (await answer).status == 201
        assert check(cluster) == {"stock:A@W1": 1}


@both_ways
class TestHungStores:
    async def test_when_nothing_comes_through_any_more(self, cluster: Cluster, proxy: Proxy) -> None:
        executor = await cluster.executor(**QUICK)
        await cluster.stock(executor, ("A", "W1", 100))
        log = cluster.database.events()
        proxy.stop()
        loop = asyncio.get_running_loop()
        started = loop.time()
        answers = [post(executor, order(f"warm-{n}", ("A", 1, "W1"))) for n in range(3)]
        answers += [post(executor, order("cold", ("A", 1)))]
        done = await gather_answers(answers)
        assert {code_of(answer) for answer in done} == {"unavailable"}
        assert loop.time() - started < 3
        late = await ask(executor, order("late", ("A", 1, "W1")))
        assert code_of(late) == "unavailable"
        assert loop.time() - started < 6
        assert not executor.ready
        proxy.go_on()
        proxy.cut_all()  # what was stopped on its way never arrives
        await eventually_async(lambda: _goes_through(executor))
        assert cluster.database.events()[: len(log)] == log
        check(cluster)

    async def test_when_the_backends_stand_still(self, cluster: Cluster, database: PostgresDatabase) -> None:
        executor = await cluster.executor(**QUICK)
        await cluster.stock(executor, ("A", "W1", 100))
        stopped = writers(database)
        try:
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            unknown = await ask(executor, order("r1", ("A", 1, "W1")), "k1")
            assert code_of(unknown) == "unavailable"
            assert (await ask(executor, order("r2", ("A", 1, "W1")))).status == 201
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        await eventually_async(lambda: not set(stopped) & set(writers(database)))
        # The old backend may have found the commit in its socket when it went on, or nothing at all.
        again = await ask(executor, order("r1", ("A", 1, "W1")), "k1")
        assert again.status == 201
        assert check(cluster) == {"stock:A@W1": 2}


async def _goes_through(executor: CommandExecutor) -> bool:
    return (await ask(executor, order(None, ("A", 1, "W1"), order_id="probe"))).status == 201


@both_ways
class TestBusyLock:
    async def test_at_the_deadline_the_answer_is_unavailable_and_nothing_is_appended(
        self, cluster: Cluster, database: PostgresDatabase
    ) -> None:
        executor = await cluster.executor(**QUICK)
        await cluster.stock(executor, ("A", "W1", 100))
        log = cluster.database.events()
        with append_lock(database):
            answers = await gather_answers([
                post(executor, order("r1", ("A", 1, "W1"))),
                post(executor, Restock(sku="A", warehouse="W1", quantity=1)),
                post(executor, order("r2", ("A", 1))),
            ])  # fmt: skip
            assert {code_of(answer) for answer in answers} == {"unavailable"}
            assert executor.ready
        assert cluster.database.events() == log
        assert (await ask(executor, order("r1", ("A", 1, "W1")))).status == 201
        assert check(cluster) == {"stock:A@W1": 1}

    async def test_a_lock_that_comes_free_in_time_delays_and_refuses_nobody(
        self, cluster: Cluster, database: PostgresDatabase
    ) -> None:
        executor = await cluster.executor(lock_timeout_ms=50)
        await cluster.stock(executor, ("A", "W1", 100))
        store = cluster.store_of(executor)
        with append_lock(database):
            tried = store.calls["lock_and_load"]
            answers = [post(executor, order(f"r{n}", ("A", 1, "W1"))) for n in range(3)]
            await eventually_async(lambda: store.calls["lock_and_load"] > tried + 2)
            answers += [post(executor, order(f"cold-{n}", ("A", 1))) for n in range(3)]
        assert {answer.status for answer in await gather_answers(answers)} == {201}
        assert check(cluster) == {"stock:A@W1": 6}

    async def test_a_writer_that_says_nothing_with_the_lock_in_its_hands_is_ended(
        self, cluster: Cluster, database: PostgresDatabase
    ) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 100))
        hung = database.store(WriteSettings(idle_in_transaction_timeout_ms=200))
        await hung.open()
        try:
            await hung.lock_and_load(Needs(), 0)
            answer = await asyncio.wait_for(post(executor, order("r1", ("A", 1, "W1"))), 10)
            assert answer.status == 201
        finally:
            await hung.close()


@pytest.mark.parametrize("optimistic", [True])
class TestServersOfAnotherMind:
    async def test_their_default_isolation_does_not_matter(
        self, cluster: Cluster, database: PostgresDatabase, optimistic: bool
    ) -> None:
        """With a snapshot from before the lock, a refusal on stale memory would go unnoticed."""
        name = database.rows("SELECT current_database()")[0][0]
        database.run(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
        try:
            # Whoever has waited too long gives up its place in the queue, and here the first must stay the first.
            one, other = [await cluster.executor(lock_first_batches=1, lock_timeout_ms=30_000) for _ in range(2)]
            await cluster.stock(one, ("A", "W1", 1))
            for n in range(4):
                for executor in (one, one, other, other):  # both know the present, and decide on memory again
                    available = (await cluster.level(executor, "A", "W1"))["available"]
                with append_lock(database):
                    restock = post(one, Restock(sku="A", warehouse="W1", quantity=10))
                    await eventually_async(lambda: len(_waiting(database)) == 1)
                    wanted = post(other, order(f"r{n}", ("A", available + 1, "W1")))
                    await eventually_async(lambda: len(_waiting(database)) == 2)
                assert (await restock).status == 200
                assert (await wanted).status == 201, n
        finally:
            database.run(f"ALTER DATABASE {name} RESET default_transaction_isolation")


def _waiting(database: PostgresDatabase) -> list[tuple[object, ...]]:
    return database.rows("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
