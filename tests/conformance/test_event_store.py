"""What an executor may expect of an event store: in memory and on PostgreSQL, several writers on one log."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import astuple, replace

from domain.events import RequestedLine
from domain.hold import Hold
from domain.reservation import ReservationHeader
from domain.stock_item import StockItemState
from domain.values import HoldKind
from infra.event_store.port import (
    STALE_AFTER,
    Conflict,
    EventStore,
    Needs,
    Outcome,
    Refusal,
    Rejected,
    SnapshotRow,
    StoredRow,
    StoreError,
    Writes,
)
from infra.settings import WriteSettings
from tests.support_write_side import Database, MemoryDatabase, PostgresDatabase

A, B, C = "stock:A@W1", "stock:B@W1", "stock:C@W2"
AT = datetime(2026, 3, 1, 12, 0, 0, 123456, UTC)
CURRENT = StockItemState.STATE_VERSION

OpenStore = Callable[[], Awaitable[EventStore]]


@pytest.fixture(params=["memory", "postgres"])
def database(request: pytest.FixtureRequest) -> Database:
    if request.param == "memory":
        return MemoryDatabase()
    return PostgresDatabase(request.getfixturevalue("database_url"))


@pytest.fixture
async def open_store(database: Database) -> AsyncIterator[OpenStore]:
    opened: list[EventStore] = []

    async def open_one() -> EventStore:
        store = database.store(WriteSettings(lock_timeout_ms=30_000))
        await store.open()
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_store: OpenStore) -> EventStore:
    return await open_store()


@pytest.fixture
async def other(open_store: OpenStore) -> EventStore:
    return await open_store()


def rows(stream: str, *versions: int) -> list[StoredRow]:
    return [StoredRow(stream, version, "test.happened", b"\x00\xff%d" % version) for version in versions]


def outcome(key: str, scope: str = "me") -> Outcome:
    return Outcome(scope, key, bytes(range(16)), 409, b'{"code":"x"}')


def header(reservation_id: str, order_id: str = "o-1") -> ReservationHeader:
    return ReservationHeader(
        reservation_id, order_id, HoldKind.ORDER, None, (RequestedLine("A", 2, metadata={"a": [1]}),), (), AT, "me", "d"
    )


def hold(reservation_id: str, sku: str = "A", *, part: int = 1, active: int = 2) -> Hold:
    return Hold(reservation_id, "o-1", sku, "W1", 3, part, active=active, expires_at=AT)


async def append(store: EventStore, writes: Writes | None = None, **what: object) -> datetime:
    await store.lock_and_load(Needs(), 0)
    return await store.append(writes or Writes(AT, **what))  # type: ignore[arg-type]  # fields of Writes by name


async def held_up(work: Awaitable[object]) -> "asyncio.Future[object]":
    """Begun, and found waiting."""
    task = asyncio.ensure_future(work)
    await asyncio.wait([task], timeout=0.05)
    assert not task.done()
    return task


async def log_of(store: EventStore, *streams: str) -> list[StoredRow]:
    return (await store.read(Needs(cold=set(streams)), 0)).rows


class TestLoading:
    async def test_an_empty_store_has_nothing_but_the_time(self, store: EventStore) -> None:
        needs = Needs({A: 0}, {B}, {("me", "k")}, {"r1"}, {"A"})
        loaded = await store.read(needs, 0)
        assert abs(loaded.now - datetime.now(UTC)) < timedelta(seconds=10)
        assert loaded.now.utcoffset() == timedelta(0)
        assert (loaded.rows, loaded.outcomes, loaded.headers, loaded.holds) == ([], {}, {}, {})
        assert (loaded.places, loaded.warehouses) == ({"A": []}, [])

    async def test_of_what_is_cached_only_what_came_later(self, store: EventStore) -> None:
        await append(store, events=rows(A, 1, 2, 3) + rows(B, 1, 2))
        for load in (store.read, store.lock_and_load, store.load_more):
            loaded = await load(Needs(cached={A: 1, B: 2, C: 0}), 0)
            assert loaded.rows == rows(A, 2, 3)
        await store.abandon()

    async def test_of_what_is_cold_everything_in_order(self, store: EventStore) -> None:
        await append(store, events=rows(B, 1) + rows(A, 1, 2))
        await append(store, events=rows(A, *range(3, 12)))
        loaded = await store.read(Needs(cold={A, B, C}), 0)
        assert [row for row in loaded.rows if row.stream == A] == rows(A, *range(1, 12))
        assert [row for row in loaded.rows if row.stream == B] == rows(B, 1)
        assert len(loaded.rows) == 12

    async def test_a_snapshot_stands_for_what_came_before_it(self, store: EventStore) -> None:
        await append(store, events=rows(A, 1, 2, 3, 4, 5) + rows(B, 1))
        await store.write_snapshots([SnapshotRow(A, 3, CURRENT, b"state")])
        assert [row for row in await log_of(store, A, B) if row.stream == A] == [
            StoredRow(A, 3, "", b"state"),
            *rows(A, 4, 5),
        ]
        assert (await store.read(Needs(cached={A: 1}), 0)).rows == rows(A, 2, 3, 4, 5)

    async def test_a_snapshot_of_the_last_event_is_all(self, store: EventStore) -> None:
        await append(store, events=rows(A, 1, 2))
        await store.write_snapshots([SnapshotRow(A, 2, CURRENT, b"state")])
        assert await log_of(store, A) == [StoredRow(A, 2, "", b"state")]

    @pytest.mark.parametrize("state_version", [CURRENT - 1, CURRENT + 1])
    async def test_a_snapshot_of_another_state_version_is_ignored(self, store: EventStore, state_version: int) -> None:
        await append(store, events=rows(A, 1, 2))
        await store.write_snapshots([SnapshotRow(A, 2, state_version, b"state")])
        assert await log_of(store, A) == rows(A, 1, 2)

    async def test_an_older_snapshot_does_not_replace_a_newer(self, store: EventStore) -> None:
        await append(store, events=rows(A, 1, 2, 3))
        await store.write_snapshots([SnapshotRow(A, 2, CURRENT, b"two"), SnapshotRow(B, 1, CURRENT, b"one")])
        await store.write_snapshots([SnapshotRow(A, 1, CURRENT, b"one"), SnapshotRow(B, 1, CURRENT, b"uno")])
        await store.write_snapshots([])
        assert await log_of(store, A) == [StoredRow(A, 2, "", b"two"), *rows(A, 3)]
        await store.write_snapshots([SnapshotRow(A, 9, CURRENT - 1, b"old code")])
        assert await log_of(store, A) == [StoredRow(A, 2, "", b"two"), *rows(A, 3)]

    async def test_outcomes_are_found_under_their_scope_and_key(self, store: EventStore) -> None:
        kept = [outcome("k1"), outcome("k2"), outcome("k1", "you")]
        await append(store, outcomes=kept)
        asked = {("me", "k1"), ("you", "k2"), ("you", "k1"), ("me", "k3")}
        loaded = await store.lock_and_load(Needs(keys=asked), 0)
        assert loaded.outcomes == {("me", "k1"): kept[0], ("you", "k1"): kept[2]}
        await store.abandon()

    async def test_a_reservation_is_found_with_its_holds_in_their_order(self, store: EventStore) -> None:
        holds = [hold("r1", sku, part=part) for part, sku in enumerate("CAB", start=1)]
        await append(store, headers=[header("r1"), header("r2")], holds=[*reversed(holds), hold("r2")])
        loaded = await store.read(Needs(reservations={"r1", "r9"}), 0)
        assert loaded.headers == {"r1": header("r1")}
        assert loaded.holds == {"r1": holds}

    async def test_a_hold_is_replaced_by_what_became_of_it(self, store: EventStore) -> None:
        await append(store, headers=[header("r1")], holds=[hold("r1"), hold("r1", "B", part=2)])
        await append(store, events=rows(A, 1), holds=[hold("r1", active=0)])
        loaded = await store.read(Needs(reservations={"r1"}), 0)
        assert [h.active for h in loaded.holds["r1"]] == [0, 2]

    async def test_the_reservations_of_an_order_are_found_oldest_first(self, store: EventStore) -> None:
        old, new = header("r2"), replace(header("r1"), created_at=AT + timedelta(seconds=1))
        await append(
            store,
            headers=[new, old, header("r3", "o-2"), header("r4", "o-3")],
            holds=[hold("r1", "B", part=2), hold("r1"), hold("r2"), hold("r3"), hold("r4")],
        )
        for needs in (Needs(orders={"o-1", "o-2", "o-9"}), Needs(orders={"o-1", "o-2", "o-9"}, reservations={"r1"})):
            for load in (store.read, store.lock_and_load, store.load_more):
                loaded = await load(needs, 0)
                assert loaded.orders == {"o-1": ["r2", "r1"], "o-2": ["r3"], "o-9": []}
                assert loaded.headers.keys() == loaded.holds.keys() == {"r1", "r2", "r3"}
                assert loaded.holds["r1"] == [hold("r1"), hold("r1", "B", part=2)]
            await store.abandon()

    async def test_places_of_a_sku(self, store: EventStore) -> None:
        await append(store, events=rows(A, 1), items=[("A", "W1"), ("A", "W2"), ("B", "W1")])
        await append(store, events=rows(A, 2), items=[("A", "W1")])
        loaded = await store.read(Needs(skus={"A", "Z"}), 0)
        assert {sku: sorted(codes) for sku, codes in loaded.places.items()} == {"A": ["W1", "W2"], "Z": []}

    async def test_warehouses_that_have_changed_since(self, store: EventStore) -> None:
        await append(store, events=rows("warehouse:W1", 1) + rows("warehouse:W2", 1), warehouses=[("W1", 1), ("W2", 1)])
        first = (await store.read(Needs(), 0)).warehouses
        assert {(row.code, row.version) for row in first} == {("W1", 1), ("W2", 1)}
        known = first[-1].changed
        assert known == max(row.changed for row in first)
        assert (await store.read(Needs(), known)).warehouses == []
        await append(store, events=rows("warehouse:W1", 2), warehouses=[("W1", 2)])
        (changed,) = (await store.lock_and_load(Needs(), known)).warehouses
        assert (changed.code, changed.version) == ("W1", 2)
        assert changed.changed > known
        await store.abandon()

    async def test_text_is_kept_as_it_is(self, store: EventStore) -> None:
        odd = "stock:Ä%_'\"\\{}🧦@W1"
        await append(store, events=rows(odd, 1), outcomes=[outcome("k \\N ,{}")])
        assert await log_of(store, odd) == rows(odd, 1)
        asked = Needs(keys={("me", "k \\N ,{}")})
        assert len((await store.read(asked, 0)).outcomes) == 1

    async def test_much_at_once(self, store: EventStore) -> None:
        """More than a socket takes at a time, both ways."""
        large = [StoredRow(f"stock:S{n}@W1", 1, "test.happened", bytes(20_000)) for n in range(400)]
        await append(store, events=large)
        loaded = await store.read(Needs(cold={row.stream for row in large}), 0)
        assert sorted(loaded.rows, key=astuple) == sorted(large, key=astuple)


TAKEN = [
    ("version", {"events": rows(A, 2)}, True),
    ("first version", {"events": rows(A, 1)}, True),
    ("version behind others", {"events": rows(B, 1) + rows(A, 2)}, True),
    ("key", {"events": rows(B, 1), "outcomes": [outcome("taken")]}, False),
    ("reservation", {"events": rows(B, 1), "headers": [header("taken")], "holds": [hold("taken")]}, False),
]
taken = pytest.mark.parametrize(("what", "stale"), [case[1:] for case in TAKEN], ids=[case[0] for case in TAKEN])


class TestAppending:
    @pytest.fixture(autouse=True)
    async def something_is_there(self, store: EventStore) -> None:
        await append(
            store, events=rows(A, 1, 2), outcomes=[outcome("taken")], headers=[header("taken")], holds=[hold("taken")]
        )

    @taken
    async def test_what_somebody_else_has_taken_is_a_conflict(
        self, store: EventStore, other: EventStore, database: Database, what: dict[str, object], stale: bool
    ) -> None:
        before = _everything(database)
        also = {"refusals": [Refusal("op", "code", None, "me", b"{}")], "items": [("B", "W1")], "warehouses": []}
        await other.lock_and_load(Needs(), 0)
        with pytest.raises(Conflict) as raised:
            await other.append(Writes(AT, **(also | what)))  # type: ignore[arg-type]  # fields of Writes by name
        assert raised.value.stale == stale
        assert _everything(database) == before
        with pytest.raises(Conflict) as raised:
            await other.append_unseen(Writes(datetime.now(UTC), **(also | what)), 0)  # type: ignore[arg-type]  # as above
        assert raised.value.stale == stale
        assert _everything(database) == before
        # Its transaction is over: the lock is free, for others and for itself.
        await append(store, events=rows(A, 3))
        await append(other, events=rows(A, 4))

    async def test_rows_that_cannot_be_kept_are_rejected_whole(self, store: EventStore, database: Database) -> None:
        before = _everything(database)
        bad = Writes(AT, events=rows(B, 1), outcomes=[outcome("k\x00")])
        await store.lock_and_load(Needs(), 0)
        with pytest.raises(Rejected):
            await store.append(bad)
        bad.now = datetime.now(UTC)
        with pytest.raises(Rejected):
            await store.append_unseen(bad, 0)
        assert _everything(database) == before
        await append(store, events=rows(B, 1))

    async def test_what_was_abandoned_was_never_there(
        self, store: EventStore, other: EventStore, database: Database
    ) -> None:
        before = _everything(database)
        await store.lock_and_load(Needs(), 0)
        await store.abandon()
        await other.lock_and_load(Needs(), 0)
        await other.close()
        await append(store, events=rows(A, 3))
        assert _everything(database)["events"] == [*before["events"], *rows(A, 3)]

    async def test_the_log_is_in_the_order_of_the_commits(
        self, store: EventStore, other: EventStore, database: Database
    ) -> None:
        await append(other, events=rows(B, 1))
        await append(store, events=rows(C, 1) + rows(A, 3))
        await append(other, events=rows(B, 2))
        assert database.events() == [*rows(A, 1, 2), *rows(B, 1), *rows(C, 1), *rows(A, 3), *rows(B, 2)]

    async def test_a_refusal_is_kept_with_all_that_is_said_of_it(self, store: EventStore, database: Database) -> None:
        told = Refusal("op", "code", "o1", "me", b"{}", "command", "r1", "shop", "correlation", "cause")
        short = Refusal("op", "code", None, "me", b"{}")
        await append(store, refusals=[told, short])
        assert database.refusal_rows() == [told, short]

    async def test_the_answer_is_the_time(self, store: EventStore) -> None:
        loaded = await store.lock_and_load(Needs(), 0)
        first = await store.append(Writes(loaded.now, events=rows(B, 1)))
        second = await store.append_unseen(Writes(first, events=rows(B, 2)), 0)
        assert loaded.now <= first <= second <= (await store.read(Needs(), 0)).now


class TestTheLock:
    async def test_one_writer_at_a_time(self, store: EventStore, other: EventStore) -> None:
        await store.lock_and_load(Needs(), 0)
        waiting = await held_up(other.lock_and_load(Needs(cached={A: 0}), 0))
        await store.append(Writes(AT, events=rows(A, 1)))
        loaded = await waiting
        assert loaded.rows == rows(A, 1)  # type: ignore[attr-defined]  # a Loaded; it sees what it has waited for
        third = await held_up(store.append_unseen(Writes(datetime.now(UTC), events=rows(B, 1)), 0))
        await other.abandon()
        await third

    async def test_readers_do_not_wait(self, store: EventStore, other: EventStore) -> None:
        await store.lock_and_load(Needs(), 0)
        assert await asyncio.wait_for(log_of(other, A), 5) == []
        assert await asyncio.wait_for(log_of(store, A), 5) == []
        await other.write_snapshots([SnapshotRow(A, 1, CURRENT, b"state")])
        await store.abandon()

    async def test_a_writer_that_goes_away_lets_go_of_it(self, store: EventStore, other: EventStore) -> None:
        await store.lock_and_load(Needs(), 0)
        waiting = await held_up(other.lock_and_load(Needs(), 0))
        await store.close()
        await asyncio.wait_for(waiting, 10)
        await other.abandon()

    async def test_it_can_be_opened_again(self, store: EventStore) -> None:
        await store.lock_and_load(Needs(), 0)
        await store.open()
        await append(store, events=rows(A, 1))
        await store.close()
        await store.open()
        assert await log_of(store, A) == rows(A, 1)


class TestAppendingUnseen:
    async def now(self, store: EventStore) -> datetime:
        return (await store.read(Needs(), 0)).now

    async def test_what_was_read_must_be_as_it_was(self, store: EventStore, other: EventStore) -> None:
        await append(store, events=rows(A, 1))
        now = await self.now(store)
        await store.append_unseen(Writes(now, refusals=[Refusal("x", "y", None, "me", b"")], read={A: 1, B: 0}), 0)
        await append(other, events=rows(B, 1))
        for read in ({B: 0}, {A: 1, B: 0}, {A: 0}):
            with pytest.raises(Conflict) as raised:
                await store.append_unseen(Writes(await self.now(store), events=rows(C, 1), read=read), 0)
            assert raised.value.stale
        assert await log_of(store, C) == []
        await store.append_unseen(Writes(await self.now(store), events=rows(C, 1), read={A: 1, B: 1}), 0)

    async def test_so_must_the_warehouses(self, store: EventStore, other: EventStore) -> None:
        await append(other, events=rows("warehouse:W1", 1), warehouses=[("W1", 1)])
        with pytest.raises(Conflict) as raised:
            await store.append_unseen(Writes(await self.now(store), events=rows(A, 1)), 0)
        assert raised.value.stale
        known = (await store.read(Needs(), 0)).warehouses[-1].changed
        await store.append_unseen(Writes(await self.now(store), events=rows(A, 1)), known)

    async def test_so_must_the_reservations_of_orders(self, store: EventStore, other: EventStore) -> None:
        await append(other, headers=[header("r1")], holds=[hold("r1")])
        for orders in ({"o-1": 0}, {"o-1": 2}, {"o-1": 1, "o-2": 1}):
            with pytest.raises(Conflict) as raised:
                await store.append_unseen(Writes(await self.now(store), events=rows(A, 1), orders=orders), 0)
            assert not raised.value.stale
        assert await log_of(store, A) == []
        # What the batch itself adds does not count.
        made = Writes(
            await self.now(store),
            events=rows(A, 1),
            headers=[header("r2")],
            holds=[hold("r2")],
            orders={"o-1": 1, "o-2": 0},
        )
        await store.append_unseen(made, 0)

    async def test_and_the_decision_must_not_be_old(self, store: EventStore) -> None:
        late = await self.now(store) - STALE_AFTER * 2
        with pytest.raises(Conflict) as raised:
            await store.append_unseen(Writes(late, events=rows(A, 1)), 0)
        assert not raised.value.stale
        assert await log_of(store, A) == []

    async def test_a_decision_that_grew_old_waiting_for_the_lock_is_old(
        self, store: EventStore, other: EventStore
    ) -> None:
        await other.lock_and_load(Needs(), 0)
        late = asyncio.ensure_future(store.append_unseen(Writes(await self.now(store), events=rows(A, 1)), 0))
        await asyncio.wait([late], timeout=STALE_AFTER.total_seconds() * 1.5)
        await other.abandon()
        with pytest.raises(StoreError):
            await late
        assert await log_of(store, A) == []


def _everything(database: Database) -> dict[str, Any]:
    return {
        "events": database.events(),
        "outcomes": database.outcomes(),
        "holds": sorted(map(repr, database.holds())),
        "headers": database.headers(),
        "refusals": database.refusals(),
    }
