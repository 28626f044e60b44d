"""Executors on one log, in memory or in PostgreSQL, and everything that a test wants to do to them.

A :class:`Cluster` stands for a database with its processes: each executor that it opens has a store and a
memory of its own. Its stores can be held up, made to fail before or after they have done their work, and
their clocks run ahead by :meth:`Cluster.elapse`.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

import msgspec
import psycopg
from psycopg import sql

from domain.commands import Adjust, Command, CreateReservation, Line, PutWarehouse, Restock
from domain.hold import Hold
from domain.policy import Policy
from domain.values import AdjustmentReason, HoldKind
from infra.event_store.memory import MemoryEventStore, MemoryLog
from infra.event_store.port import (
    EventStore,
    Loaded,
    Needs,
    Outcome,
    Refusal,
    SnapshotRow,
    StoredRow,
    StoreUnavailable,
    Writes,
)
from infra.event_store.postgres import PostgresEventStore
from infra.ids import new_id
from infra.settings import WriteSettings
from write_side.executor import CommandExecutor
from write_side.handlers import HANDLERS
from write_side.submission import Answer, Submission, request_digest

T = TypeVar("T")

SCOPE = "anonymous"


def submission_of(
    command: Command, key: str | None = None, *, scope: str = SCOPE, answer: Callable[[Answer], None]
) -> Submission:
    """As a door makes it: the digest says what was asked."""
    digest = request_digest(HANDLERS[type(command)].operation, command)
    return Submission(command, digest, key or new_id(), answer, scope=scope)


def post(
    executor: CommandExecutor, command: Command, key: str | None = None, *, scope: str = SCOPE
) -> asyncio.Future[Answer]:
    """Submit and do not wait: several of these before the next await come into one batch."""
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    executor.submit(submission_of(command, key, scope=scope, answer=answered.set_result))
    return answered


async def ask(executor: CommandExecutor, command: Command, key: str | None = None, *, scope: str = SCOPE) -> Answer:
    return await asyncio.wait_for(post(executor, command, key, scope=scope), 30)


async def ask_again_later(
    executor: CommandExecutor, command: Command, key: str, *, wants_document: bool = True
) -> Answer:
    """As a message asks: a refusal does not stand."""
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    submission = submission_of(command, key, answer=answered.set_result)
    submission.refusal_stands, submission.wants_document = False, wants_document
    executor.submit(submission)
    return await asyncio.wait_for(answered, 30)


def said(answer: Answer) -> dict[str, Any]:
    """The document of an answer."""
    document: dict[str, Any] = msgspec.json.decode(answer.body)
    return document


def code_of(answer: Answer) -> str:
    """Of a problem; of anything else its status."""
    return str(said(answer).get("code", answer.status))


def order(rid: str | None, *lines: tuple[Any, ...], ttl_s: int | None = 900, **fields: Any) -> CreateReservation:
    """`order("r1", ("A", 3), ("B", 1, "W1"))`; `ttl_s=None`: for ever."""
    kind = HoldKind.ORDER if ttl_s else HoldKind.MANUAL
    return CreateReservation(
        order_id=fields.pop("order_id", f"order-{rid}"),
        reservation_id=rid,
        kind=kind,
        ttl_seconds=ttl_s,
        lines=tuple(Line(*line) for line in lines),
        **fields,
    )


# Stores ----------------------------------------------------------------------------------------------


class LogClock:
    """Real time, running ahead by what a test has let pass."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass
class Fault:
    """The next call of `method` raises `error`: before it has done anything, or after all of it (`applied`)."""

    method: str
    error: BaseException
    applied: bool = False
    always: bool = False


@dataclass
class Interposed:
    """A store as its executor sees it, with a test in between."""

    inner: EventStore
    ahead: Callable[[], timedelta] = timedelta
    calls: Counter[str] = field(default_factory=Counter)
    rows_loaded: int = 0
    lost: bool = False
    faults: deque[Fault] = field(default_factory=deque)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    """Calls of these methods wait for the event before anything is sent."""
    after: dict[str, asyncio.Event] = field(default_factory=dict)
    """Calls of these methods have done their work, and their answer waits for the event."""

    def hold(self, *methods: str) -> asyncio.Event:
        gate = asyncio.Event()
        self.gates |= dict.fromkeys(methods, gate)
        return gate

    def hold_answers(self, *methods: str) -> asyncio.Event:
        gate = asyncio.Event()
        self.after |= dict.fromkeys(methods, gate)
        return gate

    def fail(self, error: BaseException, *methods: str, applied: bool = False, always: bool = False) -> None:
        """The next call of each of `methods` (else: whatever appends) fails; `always`: every one until forgiven."""
        self.faults += [Fault(method, error, applied, always) for method in methods or ("append", "append_unseen")]

    def forgive(self) -> None:
        self.faults.clear()

    async def _pass(self, method: str, call: Callable[[], Awaitable[T]]) -> T:
        self.calls[method] += 1
        if method in self.gates:
            await self.gates[method].wait()
        fault = next((fault for fault in self.faults if fault.method == method), None)
        if fault is not None and not fault.always:
            self.faults.remove(fault)
        if self.lost and method != "open":
            raise StoreUnavailable("not connected")
        if fault is not None and not fault.applied:
            await self._fail(method, fault.error)
        result = await call()
        self.lost = False
        if method in self.after:
            await self.after[method].wait()
        if fault is not None:
            await self._fail("", fault.error)
        return result

    async def _fail(self, method: str, error: BaseException) -> None:
        """As a store does that has lost its connection, or has been refused."""
        if isinstance(error, StoreUnavailable):
            self.lost = True
            await self.inner.close()
        elif method == "append":
            await self.inner.abandon()
        raise error

    async def _load(self, method: str, call: Callable[[], Awaitable[Loaded]]) -> Loaded:
        loaded = await self._pass(method, call)
        loaded.now += self.ahead()
        self.rows_loaded += len(loaded.rows)
        return loaded

    async def open(self) -> None:
        await self._pass("open", self.inner.open)

    async def close(self) -> None:
        await self.inner.close()

    def read(self, needs: Needs, warehouses_after: int) -> Awaitable[Loaded]:
        return self._load("read", lambda: self.inner.read(needs, warehouses_after))

    def lock_and_load(self, needs: Needs, warehouses_after: int) -> Awaitable[Loaded]:
        return self._load("lock_and_load", lambda: self.inner.lock_and_load(needs, warehouses_after))

    def load_more(self, needs: Needs, warehouses_after: int) -> Awaitable[Loaded]:
        return self._load("load_more", lambda: self.inner.load_more(needs, warehouses_after))

    async def append(self, writes: Writes) -> datetime:
        return await self._pass("append", lambda: self.inner.append(writes)) + self.ahead()

    async def append_unseen(self, writes: Writes, warehouses_after: int) -> datetime:
        writes.now -= self.ahead()  # how old a decision is, is measured by the store's own clock
        return (
            await self._pass("append_unseen", lambda: self.inner.append_unseen(writes, warehouses_after)) + self.ahead()
        )

    async def abandon(self) -> None:
        await self.inner.abandon()

    async def write_snapshots(self, snapshots: Sequence[SnapshotRow]) -> None:
        await self._pass("write_snapshots", lambda: self.inner.write_snapshots(snapshots))

    @property
    def commits(self) -> int:
        """Transactions that were sent."""
        return self.calls["append"] + self.calls["append_unseen"]


class Database(Protocol):
    """What a cluster's log is kept in, as a test looks at it from outside."""

    def store(self, settings: WriteSettings) -> EventStore: ...

    def events(self) -> list[StoredRow]: ...

    def outcomes(self) -> dict[tuple[str, str], Outcome]: ...

    def holds(self) -> list[Hold]: ...

    def headers(self) -> set[str]: ...

    def refusals(self) -> list[tuple[str, str]]: ...

    def refusal_rows(self) -> list[Refusal]: ...

    def snapshots(self) -> dict[str, int]: ...

    def back_up(self) -> Callable[[], None]:
        """Keep everything as it is now; what is returned restores it, without anybody being told."""

    def spoil(self, stream: str, version: int, topic: str, state: bytes) -> None: ...


class MemoryDatabase:
    """A log in memory. Its clock is the cluster's."""

    def __init__(self) -> None:
        self.log = MemoryLog(LogClock().now)

    def store(self, settings: WriteSettings) -> EventStore:
        return MemoryEventStore(self.log)

    def events(self) -> list[StoredRow]:
        return list(self.log.events)

    def outcomes(self) -> dict[tuple[str, str], Outcome]:
        return dict(self.log.outcomes)

    def holds(self) -> list[Hold]:
        return [hold for by_place in self.log.holds.values() for hold in by_place.values()]

    def headers(self) -> set[str]:
        return set(self.log.headers)

    def refusals(self) -> list[tuple[str, str]]:
        return [(refusal.operation, refusal.code) for refusal in self.log.refusals]

    def refusal_rows(self) -> list[Refusal]:
        return list(self.log.refusals)

    def snapshots(self) -> dict[str, int]:
        return {stream: row.version for stream, row in self.log.snapshots.items()}

    def back_up(self) -> Callable[[], None]:
        saved = {
            name: deepcopy(value) for name, value in vars(self.log).items() if isinstance(value, list | dict | int)
        }
        return lambda: vars(self.log).update(saved)

    def spoil(self, stream: str, version: int, topic: str, state: bytes) -> None:
        row = StoredRow(stream, version, topic, state)
        kept = self.log.streams[stream][version - 1]
        self.log.streams[stream][version - 1] = row
        self.log.events[self.log.events.index(kept)] = row


_TABLES = ("stored_events", "snapshots", "idempotency", "reservations", "holds", "items", "warehouses", "refusals")


class PostgresDatabase:
    """A migrated database of PostgreSQL."""

    def __init__(self, url: str, writers_url: str = "") -> None:
        """`writers_url`: where the stores connect, if that is not where the test looks (a proxy)."""
        self.url = url
        self._writers_url = writers_url or url

    def store(self, settings: WriteSettings) -> EventStore:
        return PostgresEventStore(
            self._writers_url,
            lock_timeout_ms=settings.lock_timeout_ms,
            idle_in_transaction_timeout_ms=settings.idle_in_transaction_timeout_ms,
            connect_timeout_s=5,
        )

    def rows(self, statement: str, *params: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, options="-c search_path=stockhold") as connection:
            return connection.execute(statement.encode(), params).fetchall()

    def run(self, statement: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def empty(self) -> None:
        """As it was made: quicker than making another."""
        with psycopg.connect(self.url, options="-c search_path=stockhold") as connection:
            connection.execute(f"TRUNCATE {', '.join(_TABLES)} RESTART IDENTITY".encode())

    def events(self) -> list[StoredRow]:
        rows = self.rows(
            "SELECT originator_id, originator_version, topic, state FROM stored_events ORDER BY notification_id"
        )
        return [StoredRow(*row) for row in rows]

    def outcomes(self) -> dict[tuple[str, str], Outcome]:
        rows = self.rows("SELECT scope, key, digest, status, body FROM idempotency")
        return {(row[0], row[1]): Outcome(*row) for row in rows}

    def holds(self) -> list[Hold]:
        return [msgspec.json.decode(row[0], type=Hold) for row in self.rows("SELECT state FROM holds")]

    def headers(self) -> set[str]:
        return {row[0] for row in self.rows("SELECT reservation_id FROM reservations")}

    def refusals(self) -> list[tuple[str, str]]:
        return [(row[0], row[1]) for row in self.rows("SELECT operation, code FROM refusals ORDER BY refusal_id")]

    def refusal_rows(self) -> list[Refusal]:
        columns = ", ".join(Refusal._fields)
        return [Refusal(*row) for row in self.rows(f"SELECT {columns} FROM refusals ORDER BY refusal_id")]

    def snapshots(self) -> dict[str, int]:
        return {row[0]: row[1] for row in self.rows("SELECT originator_id, originator_version FROM snapshots")}

    def back_up(self) -> Callable[[], None]:
        saved = {name: self.rows(f"SELECT * FROM {name}") for name in _TABLES}

        def restore() -> None:
            with psycopg.connect(self.url, options="-c search_path=stockhold") as connection:
                connection.execute(f"TRUNCATE {', '.join(_TABLES)}".encode())
                for name, rows in saved.items():
                    for row in rows:
                        values = sql.SQL(", ").join(sql.Placeholder() * len(row))
                        insert = sql.SQL("INSERT INTO {} VALUES ({})").format(sql.Identifier(name), values)
                        connection.execute(insert, row)

        return restore

    def spoil(self, stream: str, version: int, topic: str, state: bytes) -> None:
        with psycopg.connect(self.url, options="-c search_path=stockhold") as connection:
            connection.execute(
                "UPDATE stored_events SET topic = %s, state = %s WHERE originator_id = %s AND originator_version = %s",
                (topic, state, stream, version),
            )


# Clusters --------------------------------------------------------------------------------------------


class Cluster:
    """A log and the executors that write it. Made by a fixture, which closes it."""

    def __init__(self, database: Database, *, optimistic: bool) -> None:
        self.database = database
        self.clock = LogClock()
        self.optimistic = optimistic
        self.stores: dict[int, Interposed] = {}
        self._open: list[CommandExecutor] = []

    def elapse(self, seconds: float) -> None:
        """Let time pass for everybody who asks a store."""
        self.clock.ahead += timedelta(seconds=seconds)

    def build(self, **settings: Any) -> CommandExecutor:
        """An executor that is not started. `settings` are fields of WriteSettings."""
        merged = WriteSettings(**({"optimistic": self.optimistic, "request_deadline_ms": 20_000} | settings))
        store = Interposed(self.database.store(merged), lambda: self.clock.ahead)
        executor = CommandExecutor(store, merged)
        self.stores[id(executor)] = store
        self._open.append(executor)
        return executor

    async def executor(self, **settings: Any) -> CommandExecutor:
        """A process: started, with an empty memory. It is drained by :meth:`close`."""
        executor = self.build(**settings)
        await executor.start()
        return executor

    def store_of(self, executor: CommandExecutor) -> Interposed:
        return self.stores[id(executor)]

    async def crash(self, executor: CommandExecutor) -> None:
        """The process is gone, whatever it was doing; a transaction under way is rolled back by the server."""
        self._open.remove(executor)
        for task in (*executor._tasks, *executor._snapshots):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self.store_of(executor).close()

    async def drain(self, executor: CommandExecutor) -> None:
        self._open.remove(executor)
        await executor.drain()

    async def close(self) -> None:
        while self._open:
            executor = self._open[-1]
            store = self.store_of(executor)
            for gate in (*store.gates.values(), *store.after.values()):
                gate.set()
            store.forgive()
            await asyncio.wait_for(self.drain(executor), 30)

    # Setting up

    async def stock(
        self, executor: CommandExecutor, *places: tuple[str, str, int], policy: Policy | None = None
    ) -> None:
        """Warehouses (of priority 1, 2 … in their order) and stock in them: (sku, warehouse, quantity)."""
        for number, code in enumerate(dict.fromkeys(code for _, code, _ in places), start=1):
            answer = await ask(executor, PutWarehouse(code=code, priority=number, policy=policy))
            assert answer.status in {200, 201}, answer
        answers = [post(executor, Restock(sku=sku, warehouse=code, quantity=n)) for sku, code, n in places if n]
        for answered in answers:
            assert (await answered).status == 200, answered

    async def lose(self, executor: CommandExecutor, sku: str, warehouse: str, quantity: int) -> None:
        """The world takes away what may have been promised."""
        adjust = Adjust(sku=sku, warehouse=warehouse, delta=-quantity, reason=AdjustmentReason.LOST)
        assert (await ask(executor, adjust)).status == 200

    # Looking

    def events(self, stream: str | None = None) -> list[dict[str, Any]]:
        """The log, each event as its JSON with `topic`."""
        return [
            {"topic": row.topic, **msgspec.json.decode(row.state)}
            for row in self.database.events()
            if stream is None or row.stream == stream
        ]

    def topics(self, stream: str) -> list[str]:
        return [event["topic"].partition(".")[2] for event in self.events(stream)]

    async def level(self, executor: CommandExecutor, sku: str, warehouse: str) -> dict[str, Any]:
        """As an executor sees it: the answer to a command that changes nothing."""
        return said(await ask(executor, nothing(sku, warehouse)))


def nothing(sku: str, warehouse: str) -> Command:
    """A command that is answered with the level and appends no event."""
    return Adjust(sku=sku, warehouse=warehouse, delta=0, reason=AdjustmentReason.CORRECTION)


async def gather_answers(answers: Iterable[asyncio.Future[Answer]]) -> list[Answer]:
    return await asyncio.wait_for(asyncio.gather(*answers), 30)
