"""Several executors on one log: each has a memory of its own, and none decides on what is no longer true."""

import asyncio
from typing import Any

import pytest

from domain.commands import (
    AllocationOptions,
    CommitReservation,
    CountStock,
    PutWarehouse,
    ReleaseReservation,
    Restock,
    ShipReservation,
)
from domain.values import Strategy, WarehouseStatus
from infra.event_store.port import StoreUnavailable
from tests.support import eventually_async
from tests.support_audit import audit, check_index
from tests.support_write_side import SCOPE, Cluster, ask, code_of, gather_answers, order, post, said


class Neighbours:
    async def test_one_sells_out_another_restocks_the_first_accepts(self, cluster: Cluster) -> None:
        one, other = await cluster.executor(), await cluster.executor()
        await cluster.stock(one, ("A", "W1", 3))
        assert (await ask(one, order("r1", ("A", 3, "W1")))).status == 201
        assert (await ask(one, order("r2", ("A", 1, "W1")))).status == 409
        await ask(other, Restock(sku="A", warehouse="W1", quantity=5))
        assert (await ask(one, order("r3", ("A", 5, "W1")))).status == 201

    async def test_a_refusal_says_what_there_is_now(self, cluster: Cluster) -> None:
        one, other = await cluster.executor(), await cluster.executor()
        await cluster.stock(one, ("A", "W1", 3))
        await cluster.level(other, "A", "W1")
        await ask(one, Restock(sku="A", warehouse="W1", quantity=4))
        refused = await ask(other, order("r1", ("A", 8, "W1")))
        assert said(refused)["shortages"][0]["available"] == 7

    async def test_what_another_has_sold_is_not_sold_again(self, cluster: Cluster) -> None:
        one, other = await cluster.executor(), await cluster.executor()
        await cluster.stock(one, ("A", "W1", 3), ("B", "W1", 3))
        await cluster.level(other, "A", "W1")
        await ask(one, order("r1", ("A", 3, "W1")))
        assert code_of(await ask(other, order("r2", ("B", 1, "W1"), ("A", 1, "W1")))) == "insufficient-stock"
        await ask(one, ReleaseReservation(reservation_id="r1"))
        assert (await ask(other, order("r3", ("A", 3, "W1")))).status == 201

    async def test_a_reservation_made_elsewhere_is_found(self, cluster: Cluster) -> None:
        one, other = await cluster.executor(), await cluster.executor()
        await cluster.stock(one, ("A", "W1", 10), ("B", "W1", 10))
        await cluster.level(other, "A", "W1")
        await ask(one, order("r1", ("A", 2, "W1"), ("B", 1)))
        committed = await ask(other, CommitReservation(reservation_id="r1"))
        assert (committed.status, said(committed)["status"]) == (200, "COMMITTED")
        shipped = await ask(one, ShipReservation(reservation_id="r1"))
        assert (shipped.status, said(shipped)["status"]) == (200, "SHIPPED")

    async def test_a_reservation_made_elsewhere_after_we_looked_for_it_is_found(self, cluster: Cluster) -> None:
        """It was not there when it was looked for beside the lock; our memory of its item is from before it."""
        one, other = await cluster.executor(), await cluster.executor()
        await cluster.stock(one, ("A", "W1", 10))
        await cluster.level(other, "A", "W1")
        store = cluster.store_of(other)
        read, looked = store.hold_answers("read"), store.calls["read"]
        committed = post(other, CommitReservation(reservation_id="r1"))
        await eventually_async(lambda: store.calls["read"] > looked)
        await asyncio.sleep(0)
        await ask(one, order("r1", ("A", 2, "W1")))
        read.set()
        assert code_of(await asyncio.wait_for(committed, 20)) == "200"
        assert cluster.topics("stock:A@W1")[-1] == "committed"

    async def test_warehouses_changed_elsewhere_are_seen_at_once(self, cluster: Cluster) -> None:
        one, other = await cluster.executor(), await cluster.executor()
        await cluster.stock(one, ("A", "W1", 100), ("A", "W2", 100))
        named, anywhere = [("A", 1, "W1")], [("A", 1)]
        assert (await ask(other, order("r1", *named))).status == 201
        await ask(one, PutWarehouse(code="W1", status=WarehouseStatus.INACTIVE))
        assert code_of(await ask(other, order("r2", *named))) == "warehouse-inactive"
        assert _places(said(await ask(other, order("r3", *anywhere)))) == [("W2", 1)]
        await ask(one, PutWarehouse(code="W1", status=WarehouseStatus.ACTIVE))
        assert _places(said(await ask(other, order("r4", *anywhere)))) == [("W1", 1)]
        await ask(one, PutWarehouse(code="W2", priority=1))
        await ask(one, PutWarehouse(code="W1", priority=2))
        assert _places(said(await ask(other, order("r5", *anywhere)))) == [("W2", 1)]
        await ask(one, PutWarehouse(code="W3"))
        assert (await ask(other, Restock(sku="A", warehouse="W3", quantity=1))).status == 200

    async def test_a_change_of_our_own_to_a_warehouse_is_no_conflict(self, cluster: Cluster) -> None:
        one = await cluster.executor()
        await cluster.stock(one, ("A", "W1", 100))
        store = cluster.store_of(one)
        await ask(one, PutWarehouse(code="W1", priority=7))
        before = dict(store.calls)
        for n in range(3):
            assert (await ask(one, order(f"r{n}", ("A", 1, "W1")))).status == 201
        sent = {call: store.calls[call] - before.get(call, 0) for call in ("append", "append_unseen")}
        assert sent == ({"append": 1, "append_unseen": 2} if cluster.optimistic else {"append": 3, "append_unseen": 0})

    async def test_a_batch_that_was_decided_ahead_hears_of_a_warehouse_that_closed_meanwhile(
        self, cluster: Cluster
    ) -> None:
        """It was decided before, and sent after, the process had learned of the change in passing."""
        one, other = await cluster.executor(batch_limit=2, lock_first_batches=1), await cluster.executor()
        await cluster.stock(one, ("A", "W1", 100))
        for _ in range(3):  # the conflict over the warehouse that is new is past, the item in memory
            await cluster.level(one, "A", "W1")
        store = cluster.store_of(one)
        committed = store.hold_answers("append_unseen", "append")
        answers = [post(one, order(f"r{n}", ("A", 1, "W1"))) for n in range(4)]
        await eventually_async(lambda: cluster.topics("stock:A@W1").count("reserved") == 2)
        assert (await ask(other, PutWarehouse(code="W1", status=WarehouseStatus.INACTIVE))).status == 200
        cold = post(one, order("cold", ("X", 1)))
        await eventually_async(lambda: one._memory.warehouses["W1"].version == 2)
        committed.set()
        codes = [code_of(answer) for answer in await gather_answers([*answers, cold])]
        assert codes == ["201", "201", "warehouse-inactive", "warehouse-inactive", "unknown-stock-item"]

    async def test_a_change_of_our_own_that_was_seen_before_its_answer_was_lost_is_not_forgotten(
        self, cluster: Cluster
    ) -> None:
        one = await cluster.executor()
        await cluster.stock(one, ("A", "W1", 100))
        store = cluster.store_of(one)
        store.fail(StoreUnavailable("cut"), "append", applied=True)
        answered = store.hold_answers("append")
        put = post(one, PutWarehouse(code="W1", status=WarehouseStatus.INACTIVE))
        await eventually_async(lambda: len(cluster.events("warehouse:W1")) == 2)
        cold = post(one, order("cold", ("X", 1)))
        await eventually_async(
            lambda: len(one._ready) == 1, what="the other command looked for, and W1 seen in passing"
        )
        answered.set()
        assert [answer.status for answer in await gather_answers([put, cold])] == [200, 404]
        assert code_of(await ask(one, order("r1", ("A", 1, "W1")))) == "warehouse-inactive"
        assert (await ask(one, PutWarehouse(code="W1", status=WarehouseStatus.ACTIVE))).status == 200
        assert (await ask(one, order("r2", ("A", 1, "W1")))).status == 201

    async def test_a_put_that_changed_nothing_is_undone_though_a_neighbour_has_changed_the_warehouse_since(
        self, cluster: Cluster
    ) -> None:
        one, other = await cluster.executor(), await cluster.executor()
        await cluster.stock(one, ("A", "W1", 100))
        store = cluster.store_of(one)
        store.fail(StoreUnavailable("cut"), "append", applied=True)
        answered = store.hold_answers("append")
        put = post(one, PutWarehouse(code="W1", priority=1), "same")
        await eventually_async(lambda: (SCOPE, "same") in cluster.database.outcomes())
        assert (await ask(other, PutWarehouse(code="W1", status=WarehouseStatus.INACTIVE))).status == 200
        cold = post(one, order("cold", ("X", 1)))
        await eventually_async(lambda: one._memory.warehouses["W1"].version == 2)
        answered.set()
        assert [answer.status for answer in await gather_answers([put, cold])] == [200, 404]
        assert code_of(await ask(one, order("r1", ("A", 1, "W1")))) == "warehouse-inactive"

    async def test_a_new_place_of_a_sku_is_served_from_at_once(self, cluster: Cluster) -> None:
        one, other = await cluster.executor(), await cluster.executor()
        await cluster.stock(one, ("A", "W1", 1), ("X", "W2", 1))
        assert (await ask(other, order("r1", ("A", 1)))).status == 201
        await ask(one, Restock(sku="A", warehouse="W2", quantity=5))
        assert _places(said(await ask(other, order("r2", ("A", 5))))) == [("W2", 5)]

    async def test_a_place_that_was_learned_of_in_passing_is_looked_at_anew(self, cluster: Cluster) -> None:
        """The other knows the item at W2, but not that the SKU of a line without a warehouse is there too."""
        one, other = await cluster.executor(), await cluster.executor()
        await cluster.stock(one, ("A", "W1", 1), ("X", "W2", 1))
        assert code_of(await ask(other, order("r1", ("A", 9)))) == "insufficient-stock"
        await ask(one, Restock(sku="A", warehouse="W2", quantity=5))
        assert (await ask(other, order("r2", ("A", 1, "W2")))).status == 201
        await ask(one, order("r3", ("A", 4, "W2")))
        refused = await ask(other, order("r4", ("A", 4)))
        assert (code_of(refused), said(refused)["shortages"]) == (
            "insufficient-stock",
            [{"sku": "A", "requested": 4, "available": 1}],
        )
        await ask(one, Restock(sku="A", warehouse="W2", quantity=8))
        assert _places(said(await ask(other, order("r5", ("A", 9))))) == [("W1", 1), ("W2", 8)]

    async def test_one_of_commit_and_release_wins(self, cluster: Cluster) -> None:
        one, other = await cluster.executor(), await cluster.executor()
        await cluster.stock(one, ("A", "W1", 100))
        outcomes = set()
        for n in range(20):
            await ask(one, order(f"r{n}", ("A", 1, "W1")))
            await ask(other, order(f"r{n}", ("A", 1, "W1")))
            first, second = (one, other) if n % 2 else (other, one)
            paid, released = await gather_answers([
                post(first, CommitReservation(reservation_id=f"r{n}")),
                post(second, ReleaseReservation(reservation_id=f"r{n}")),
            ])  # fmt: skip
            assert {paid.status, released.status} == {200, 409}
            loser = released if paid.status == 200 else paid
            assert said(loser)["state"] == ("COMMITTED" if paid.status == 200 else "RELEASED")
            outcomes.add(paid.status)
        items = audit(cluster.database.events())
        assert items["stock:A@W1"].reserved == 0
        assert items["stock:A@W1"].committed == sum(hold.committed for hold in items["stock:A@W1"].holds.values())

    async def test_a_hundred_units_are_held_a_hundred_times_and_no_more(self, cluster: Cluster) -> None:
        executors = [await cluster.executor() for _ in range(4)]
        await cluster.stock(executors[0], ("A", "W1", 100))
        statuses: list[int] = []

        async def client(number: int) -> None:
            for attempt in range(4):
                executor = executors[(number + attempt) % 4]
                statuses.append((await ask(executor, order(f"r{number}-{attempt}", ("A", 1, "W1")))).status)

        await asyncio.gather(*(client(number) for number in range(64)))
        assert (statuses.count(201), statuses.count(409)) == (100, 156)
        items = audit(cluster.database.events())
        check_index(items, cluster.database.holds(), cluster.database.headers())
        assert items["stock:A@W1"].reserved == 100
        assert items["stock:A@W1"].promised == 100

    async def test_processes_that_write_the_same_items_all_get_on(self, cluster: Cluster) -> None:
        executors = [await cluster.executor(lock_first_batches=2) for _ in range(3)]
        await cluster.stock(executors[0], *((sku, code, 1_000) for sku in "ABC" for code in ("W1", "W2")))

        async def client(number: int) -> None:
            executor = executors[number % 3]
            for n in range(6):
                rid = f"r{number}-{n}"
                assert (await ask(executor, order(rid, ("ABC"[n % 3], 2), ("B", 1, "W2")))).status == 201
                assert (await ask(executors[n % 3], CommitReservation(reservation_id=rid))).status == 200
                if n % 2:
                    assert (await ask(executor, ShipReservation(reservation_id=rid))).status == 200

        await asyncio.gather(*(client(number) for number in range(18)))
        items = audit(cluster.database.events())
        check_index(items, cluster.database.holds(), cluster.database.headers())
        assert sum(item.promised for item in items.values()) == 18 * 6 * 3
        for stream, item in items.items():
            sku, code = stream.removeprefix("stock:").split("@")
            levels = [await cluster.level(executor, sku, code) for executor in executors]
            assert {(level["version"], level["committed"], level["on_hand"]) for level in levels} == {
                (item.version, item.committed, item.on_hand)
            }


class ColdMemory:
    @pytest.mark.parametrize(
        ("strategy", "places"),
        [
            (Strategy.PRIORITY, [("W1", 2), ("W2", 5), ("W3", 1)]),
            (Strategy.MOST_STOCK, [("W3", 7), ("W2", 1)]),
            (Strategy.FEWEST_SPLITS, [("W3", 7), ("W2", 1)]),
        ],
    )
    async def test_a_line_without_a_warehouse_finds_all_of_them(
        self, cluster: Cluster, strategy: Strategy, places: list[tuple[str, int]]
    ) -> None:
        await cluster.stock(await cluster.executor(), ("A", "W1", 2), ("A", "W2", 5), ("A", "W3", 7), ("B", "W4", 1))
        executor = await cluster.executor()
        held = await ask(executor, order("r1", ("A", 8), allocation=AllocationOptions(strategy=strategy)))
        assert _places(said(held)) == places

    async def test_everything_about_a_reservation_is_found(self, cluster: Cluster) -> None:
        first = await cluster.executor()
        await cluster.stock(first, ("A", "W1", 2), ("A", "W2", 5), ("B", "W2", 3))
        made = await ask(first, order("r1", ("A", 6), ("B", 1, "W2"), ttl_s=None))
        paid = await ask(await cluster.executor(), CommitReservation(reservation_id="r1"))
        shipped = await ask(await cluster.executor(), ShipReservation(reservation_id="r1"))
        again = await ask(await cluster.executor(), ShipReservation(reservation_id="r1"))
        assert [said(answer)["status"] for answer in (made, paid, shipped)] == ["ACTIVE", "COMMITTED", "SHIPPED"]
        assert said(again) == said(shipped)
        assert [line["quantity"] for line in said(made)["lines"]] == [6, 1]

    async def test_many_at_once(self, cluster: Cluster) -> None:
        first = await cluster.executor()
        await cluster.stock(first, *((f"S{n}", f"W{n % 3}", 10) for n in range(60)))
        executor = await cluster.executor()
        answers = await gather_answers(
            post(executor, order(f"r{n}", (f"S{n}", 1), (f"S{(n + 1) % 60}", 1, f"W{(n + 1) % 60 % 3}")))
            for n in range(60)
        )
        assert {answer.status for answer in answers} == {201}
        check_index(audit(cluster.database.events()), cluster.database.holds(), cluster.database.headers())

    async def test_small_memory_changes_no_outcome(self, cluster: Cluster) -> None:
        large = await cluster.executor()
        await cluster.stock(large, *((f"S{n}", "W1", 5) for n in range(12)))
        small = await cluster.executor(identity_map_items=2, known_reservations=2, snapshot_every=2)
        wanted = [[f"S{(n + k) % 12}" for k in range(4)] for n in range(18)]
        answers = await gather_answers(
            post(small, order(f"r{n}", *((sku, 1) for sku in skus))) for n, skus in enumerate(wanted)
        )
        held = [n for n, answer in enumerate(answers) if answer.status == 201]
        assert held == _served(wanted, units=5)
        for n in held:
            assert (await ask(small, CommitReservation(reservation_id=f"r{n}"))).status == 200
        counted = await ask(small, CountStock(sku="S0", warehouse="W1", counted=5))
        assert said(counted)["committed"] == sum("S0" in wanted[n] for n in held)
        items = audit(cluster.database.events())
        check_index(items, cluster.database.holds(), cluster.database.headers())
        assert sum(item.committed for item in items.values()) == 4 * len(held)


def _served(wanted: list[list[str]], units: int) -> list[int]:
    """Which of these orders, of one unit each, are served if each SKU has so many units."""
    left: dict[str, int] = {}
    served = []
    for number, skus in enumerate(wanted):
        if all(left.setdefault(sku, units) for sku in skus):
            served.append(number)
            for sku in skus:
                left[sku] -= 1
    return served


def _places(reservation: dict[str, Any]) -> list[tuple[str, int]]:
    return [(a["warehouse"], a["quantity"]) for line in reservation["lines"] for a in line["allocations"]]
