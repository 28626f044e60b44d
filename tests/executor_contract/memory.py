"""Snapshots: taken beside the commits, used when memory is cold, ignored when they are of another kind."""

import asyncio

import msgspec

from domain.commands import CommitReservation, ReleaseReservation, Restock
from domain.stock_item import StockItemState
from infra.event_store.port import SnapshotRow, StoreUnavailable
from tests.support import eventually_async
from tests.support_audit import audit, check_index
from tests.support_write_side import Cluster, ask, gather_answers, order, post

STREAM = "stock:A@W1"


class Snapshots:
    async def test_one_is_kept_every_so_many_events_and_spares_the_next_process_the_rest(
        self, cluster: Cluster
    ) -> None:
        executor = await cluster.executor(snapshot_every=10, batch_limit=3)
        await cluster.stock(executor, ("A", "W1", 100))
        await gather_answers(post(executor, order(f"r{n}", ("A", 1, "W1"))) for n in range(8))
        await ask(executor, CommitReservation(reservation_id="r3"))
        await gather_answers(post(executor, Restock(sku="A", warehouse="W1", quantity=1)) for _ in range(37))
        await eventually_async(lambda: cluster.database.snapshots().get(STREAM, 0) >= 40)
        version = cluster.database.snapshots()[STREAM]
        here = await cluster.level(executor, "A", "W1")

        cold = await cluster.executor(snapshot_every=10)
        store = cluster.store_of(cold)
        loaded_before = store.rows_loaded
        there = await cluster.level(cold, "A", "W1")
        assert store.rows_loaded - loaded_before == 1 + here["version"] - version
        assert there == here
        assert (await ask(cold, ReleaseReservation(reservation_id="r4"))).status == 200
        assert (await ask(cold, CommitReservation(reservation_id="r5"))).status == 200
        check_index(audit(cluster.database.events()), cluster.database.holds(), cluster.database.headers())

    async def test_none_is_taken_before_it_is_worth_it(self, cluster: Cluster) -> None:
        executor = await cluster.executor(snapshot_every=10)
        await cluster.stock(executor, ("A", "W1", 100), ("B", "W1", 100))
        for n in range(7):
            await ask(executor, order(f"r{n}", ("A", 1, "W1")))
        assert STREAM not in cluster.database.snapshots()
        for n in range(7, 11):
            await ask(executor, order(f"r{n}", ("A", 1, "W1")))
        await eventually_async(lambda: STREAM in cluster.database.snapshots())
        assert cluster.database.snapshots().keys() == {STREAM}
        assert cluster.database.snapshots()[STREAM] == 10

    async def test_one_of_another_state_version_is_ignored(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 100))
        store = cluster.store_of(executor)
        for state_version in (StockItemState.STATE_VERSION - 1, StockItemState.STATE_VERSION + 1):
            await store.write_snapshots([SnapshotRow(STREAM, 1, state_version, b"of another time")])
            cold = await cluster.executor()
            assert await cluster.level(cold, "A", "W1") == await cluster.level(executor, "A", "W1")

    async def test_one_that_cannot_be_read_makes_the_item_unreadable_and_no_other(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 100), ("B", "W1", 100))
        await cluster.store_of(executor).write_snapshots(
            [SnapshotRow(STREAM, 1, StockItemState.STATE_VERSION, b"not json")]
        )
        cold = await cluster.executor()
        bad, good = await gather_answers([
            post(cold, order("r1", ("A", 1, "W1"))),
            post(cold, order("r2", ("B", 1, "W1"))),
        ])  # fmt: skip
        assert (bad.status, good.status) == (500, 201)

    async def test_an_older_one_never_replaces_a_newer(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 100))
        store = cluster.store_of(executor)
        item = executor._memory.items.get(STREAM)
        assert item is not None
        state = msgspec.json.encode(item.to_state())
        for version in (7, 5, 9, 8):
            await store.write_snapshots([SnapshotRow(STREAM, version, StockItemState.STATE_VERSION, state)])
        assert cluster.database.snapshots() == {STREAM: 9}

    async def test_one_that_is_not_kept_harms_nobody(self, cluster: Cluster) -> None:
        executor = await cluster.executor(snapshot_every=2)
        await cluster.stock(executor, ("A", "W1", 100))
        store = cluster.store_of(executor)
        store.fail(StoreUnavailable("cut"), "write_snapshots")
        for _ in range(9):
            assert (await ask(executor, Restock(sku="A", warehouse="W1", quantity=1))).status == 200
        await eventually_async(lambda: cluster.database.snapshots().get(STREAM, 0) >= 8)
        assert not store.faults

    async def test_one_that_hangs_does_not_keep_the_process_from_ending(self, cluster: Cluster) -> None:
        executor = await cluster.executor(snapshot_every=2)
        await cluster.stock(executor, ("A", "W1", 100))
        store = cluster.store_of(executor)
        store.hold("write_snapshots")
        assert (await ask(executor, order("r1", ("A", 1, "W1")))).status == 201
        await eventually_async(lambda: store.calls["write_snapshots"])
        await asyncio.wait_for(cluster.drain(executor), 5)
