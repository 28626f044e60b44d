"""Appends that fail, stores that go away, commands that nobody can decide: nothing is left, nobody else suffers."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import astuple

from domain.commands import (
    Command,
    CommitReservation,
    CreateReservation,
    ExtendReservation,
    Line,
    PutWarehouse,
    ReleaseReservation,
    Restock,
    ShipReservation,
)
from domain.policy import Policy
from domain.values import WarehouseStatus
from infra.event_store.port import Conflict, LockTimeout, Rejected, StoreError, StoreUnavailable
from infra.ids import new_id
from tests.support import eventually_async
from tests.support_audit import audit, check_index
from tests.support_write_side import Cluster, ask, code_of, gather_answers, order, post, said
from write_side.executor import CommandExecutor
from write_side.submission import Submission

SHORT = {"request_deadline_ms": 300}


def memory_of(executor: CommandExecutor) -> dict[str, Any]:
    """Every observable of what an executor remembers."""
    memory = executor._memory
    return {
        "items": {
            stream: (
                item.version,
                item.figures,
                dict(item.holds),
                [hold.reservation_id for hold in item.to_state().holds],
                item.created_on if item.version else None,
                item.modified_on,
                item.new_events,
                item.changed_holds,
                item.due_units(item.modified_on + timedelta(hours=1)),
                [hold.reservation_id for hold in item.due_holds(99, item.modified_on + timedelta(seconds=60))],
            )
            for stream, item in memory.items.items()
        },
        "warehouses": {
            code: (warehouse.version, warehouse.details, warehouse.new_events)
            for code, warehouse in memory.warehouses.items()
            if warehouse.version
        },
        "reservations": dict(memory.reservations),
        "unreadable": memory.unreadable,
    }


class Undo:
    @pytest.mark.parametrize("error", [StoreUnavailable("gone"), LockTimeout("not to be had")], ids=type)
    async def test_an_append_that_fails_leaves_nothing_in_memory(self, cluster: Cluster, error: StoreError) -> None:
        executor = await cluster.executor(**SHORT)
        await cluster.stock(executor, ("A", "W1", 20), ("B", "W1", 20), policy=Policy(hold_ttl_s=60))
        for rid in ("paid", "unpaid", "due"):
            await ask(executor, order(rid, ("A", 2, "W1"), ("B", 1, "W1"), ttl_s=10 if rid == "due" else 900))
        await ask(executor, CommitReservation(reservation_id="paid"))
        cluster.elapse(11)
        await cluster.level(executor, "A", "W1")
        await cluster.level(executor, "B", "W1")
        before, log = memory_of(executor), cluster.database.events()
        store = cluster.store_of(executor)
        store.fail(error, always=True)
        store.hold("open")
        answers = await gather_answers([
            post(executor, order("new", ("A", 18, "W1"), ("B", 1, "W1"))),
            post(executor, ShipReservation(reservation_id="paid")),
            post(executor, ReleaseReservation(reservation_id="unpaid")),
            post(executor, ExtendReservation(reservation_id="unpaid", ttl_seconds=5)),
            post(executor, Restock(sku="NEW", warehouse="W1", quantity=1)),
            post(executor, PutWarehouse(code="W1", priority=7)),
            post(executor, PutWarehouse(code="W2")),
            post(executor, order("lost", ("A", 1, "W1"))),
        ])  # fmt: skip
        assert {answer.status for answer in answers} == {503}
        after = memory_of(executor)
        after["items"].pop("stock:NEW@W1", None)  # looked for, and not there
        for part, facts in before.items():
            for name in facts:
                assert after[part][name] == facts[name], name
        assert after == before
        assert cluster.database.events() == log
        store.gates["open"].set()
        store.forgive()
        again = await ask(executor, order("new", ("A", 18, "W1"), ("B", 1, "W1")))
        assert code_of(again) == "insufficient-stock"
        assert (await ask(executor, order("new", ("A", 16, "W1"), ("B", 1, "W1")))).status == 201
        check_index(audit(cluster.database.events()), cluster.database.holds(), cluster.database.headers())

    async def test_a_log_that_was_restored_is_believed_and_not_memory(self, cluster: Cluster) -> None:
        """A failover that lost the last commits: what memory has seen is in no log any more."""
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10))
        restore = cluster.database.back_up()
        assert (await ask(executor, order("lost", ("A", 8, "W1")))).status == 201
        await ask(executor, PutWarehouse(code="W1", status=WarehouseStatus.INACTIVE))
        restore()
        cluster.store_of(executor).fail(StoreUnavailable("failed over"), "append_unseen", "lock_and_load")
        assert (await ask(executor, order("kept", ("A", 9, "W1")))).status == 201
        assert code_of(await ask(executor, CommitReservation(reservation_id="lost"))) == "unknown-reservation"
        assert cluster.topics("stock:A@W1") == ["registered", "restocked", "reserved"]
        check_index(audit(cluster.database.events()), cluster.database.holds(), cluster.database.headers())

    @pytest.mark.parametrize("stale", [False, True])
    async def test_a_conflict_is_decided_again(self, cluster: Cluster, *, stale: bool) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 2))
        cluster.store_of(executor).fail(Conflict("somebody was first", stale=stale))
        answers = await gather_answers([
            post(executor, order("r1", ("A", 2, "W1"))),
            post(executor, order("r2", ("A", 1, "W1"))),
        ])  # fmt: skip
        assert [answer.status for answer in answers] == [201, 409]
        check_index(audit(cluster.database.events()), cluster.database.holds(), cluster.database.headers())

    async def test_a_commit_of_which_nobody_knows_is_not_repeated(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10))
        for n in range(3):
            cluster.store_of(executor).fail(StoreUnavailable("cut"), "append", "append_unseen", applied=True)
            answers = await gather_answers([
                post(executor, order(f"r{n}", ("A", 2, "W1"))),
                post(executor, Restock(sku="A", warehouse="W1", quantity=1)),
                post(executor, order(f"too-much-{n}", ("A", 99, "W1"))),
            ])  # fmt: skip
            assert [answer.status for answer in answers] == [201, 200, 409]
            assert said(answers[1])["on_hand"] == 11 + n
        items = audit(cluster.database.events())
        check_index(items, cluster.database.holds(), cluster.database.headers())
        assert (items["stock:A@W1"].reserved, items["stock:A@W1"].on_hand) == (6, 13)
        assert len(cluster.database.refusals()) == 3


class Away:
    async def test_while_the_store_is_away_commands_wait_and_then_go_through(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10))
        store = cluster.store_of(executor)
        store.fail(StoreUnavailable("away"), *["lock_and_load", "append_unseen", "open", "open", "open"])
        answers = [post(executor, order(f"r{n}", ("A", 1, "W1"))) for n in range(4)]
        await eventually_async(lambda: not executor.ready)
        answers += [post(executor, order(f"r{n}", ("A", 1))) for n in range(4, 8)]
        assert [answer.status for answer in await gather_answers(answers)] == [201] * 8
        assert executor.ready
        assert audit(cluster.database.events())["stock:A@W1"].reserved == 8

    async def test_when_the_store_is_back_the_process_is_ready_though_nobody_has_asked_it_anything(
        self, cluster: Cluster
    ) -> None:
        """A balancer sends nothing to who is not ready: waiting for the next command would be for ever."""
        executor = await cluster.executor(**SHORT)
        await cluster.stock(executor, ("A", "W1", 10))
        store = cluster.store_of(executor)
        store.fail(StoreUnavailable("away"), "append", "append_unseen", "lock_and_load", "open", always=True)
        assert (await ask(executor, order("r1", ("A", 1, "W1")))).status == 503
        assert not executor.ready
        store.forgive()
        await eventually_async(lambda: executor.ready)

    async def test_a_process_that_commits_is_ready(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10))
        await cluster.level(executor, "A", "W1")
        store = cluster.store_of(executor)
        store.fail(StoreUnavailable("cut"))
        store.fail(Rejected("connected, but it could not look around"), "read")
        assert (await ask(executor, order("r1", ("A", 1, "W1")))).status == 201
        assert executor.ready
        assert not [fault for fault in store.faults if fault.method == "read"]

    async def test_at_its_deadline_a_command_is_answered_whatever_it_was_waiting_for(self, cluster: Cluster) -> None:
        executor = await cluster.executor(**SHORT)
        await cluster.stock(executor, ("A", "W1", 10))
        store = cluster.store_of(executor)
        log = cluster.database.events()
        gate = store.hold("lock_and_load", "append_unseen", "append", "read", "open")
        answers = [post(executor, order(f"warm-{n}", ("A", 1, "W1"))) for n in range(3)]
        answers += [post(executor, order("cold", ("A", 1))), post(executor, CommitReservation(reservation_id="cold"))]
        await eventually_async(lambda: store.calls["lock_and_load"] + store.calls["append_unseen"])
        answers.append(post(executor, order("later", ("A", 1, "W1"))))
        done = await asyncio.wait_for(asyncio.gather(*answers), 5)
        assert {code_of(answer) for answer in done} == {"unavailable"}
        assert cluster.database.events() == log
        gate.set()
        store.gates.clear()
        assert (await ask(executor, order("warm-0", ("A", 1, "W1")))).status == 201

    async def test_what_cannot_be_read_beside_the_lock_is_read_under_it(self, cluster: Cluster) -> None:
        first = await cluster.executor()
        await cluster.stock(first, ("A", "W1", 10), ("A", "W2", 10))
        await ask(first, order("r1", ("A", 2)))
        for error in (StoreUnavailable("cut"), Rejected("odd"), ValueError("odd"), LockTimeout("busy")):
            executor = await cluster.executor()
            store = cluster.store_of(executor)
            store.fail(error, "read")
            answers = await gather_answers([
                post(executor, order(type(error).__name__, ("A", 1))),
                post(executor, CommitReservation(reservation_id="r1")),
            ])  # fmt: skip
            assert [answer.status for answer in answers] == [201, 200]
            assert not store.faults
            assert (await ask(executor, order(None, ("A", 1, "W2"), order_id="o"))).status == 201

    async def test_a_read_beside_the_lock_that_hangs_holds_nobody_up_for_ever(self, cluster: Cluster) -> None:
        await cluster.stock(await cluster.executor(), ("A", "W1", 10))
        executor = await cluster.executor(**SHORT)
        store = cluster.store_of(executor)
        store.hold("read")
        cold = post(executor, order("cold", ("A", 1)))
        assert (await asyncio.wait_for(cold, 5)).status in {201, 503}
        store.gates.clear()
        assert (await ask(executor, order("next", ("A", 1)))).status == 201


POISON = "o-\x00"
UNKEEPABLE: list[Command] = [
    order("r-poison", ("A", 1, "W1"), order_id="o-\ud800"),
    order("r-poison\ud800", ("A", 1, "W1")),
    order("r-poison", ("A\ud800", 1)),
    order("r-poison", ("A\x00", 1)),
    order("r-poison\x00", ("A", 1)),
    CommitReservation(reservation_id="\x00"),
    CommitReservation(reservation_id="\ud800"),
    Restock(sku="A\x00", warehouse="W1", quantity=1),
    CreateReservation(order_id="o", lines=(Line("A", 10**30, "W1"),)),
]


class Poison:
    async def test_a_command_that_the_store_refuses_fails_alone(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 100))
        poisoned = order("r-poison", ("A", 1, "W1"), order_id=POISON)
        answers = await gather_answers([
            post(executor, order("r1", ("A", 1, "W1"))),
            post(executor, poisoned),
            post(executor, order("r2", ("A", 1, "W1"))),
            post(executor, order("r3", ("A", 999, "W1"))),
            post(executor, poisoned),
            post(executor, order("r4", ("A", 1))),
        ])  # fmt: skip
        codes = [code_of(answer) for answer in answers]
        assert codes == ["201", "internal", "201", "insufficient-stock", "internal", "201"]
        items = audit(cluster.database.events())
        check_index(items, cluster.database.holds(), cluster.database.headers())
        assert items["stock:A@W1"].reserved == 3
        assert (await ask(executor, order("r5", ("A", 97, "W1")))).status == 201

    @pytest.mark.parametrize(
        "poisoned", range(9), ids=["order", "id", "sku", "nul", "nul-id", "get", "got", "put", "n"]
    )
    async def test_so_does_one_that_cannot_even_be_looked_for(self, cluster: Cluster, poisoned: int) -> None:
        command = UNKEEPABLE[poisoned]  # by number: a report could not print them
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 100), ("B", "W1", 100))
        cold = await cluster.executor()
        for asked in (executor, cold):
            before = post(asked, order(None, ("A", 1, "W1"), order_id="before"))
            failed: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            _smuggle(asked, command, failed)
            after = post(asked, order(None, ("B", 1), order_id="after"))
            answers = await gather_answers([before, failed, after])
            assert (answers[0].status, answers[2].status) == (201, 201)
            assert answers[1].status in {500, 404, 409}
        items = audit(cluster.database.events())
        check_index(items, cluster.database.holds(), cluster.database.headers())
        assert items["stock:A@W1"].reserved == 2

    async def test_an_answer_that_cannot_be_delivered_is_its_own_callers_trouble(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 100))

        def broken(_: Any) -> None:
            raise RuntimeError("the caller has gone")

        executor.submit(_submission(order("r1", ("A", 1, "W1")), broken))
        assert (await ask(executor, order("r2", ("A", 1, "W1")))).status == 201
        assert cluster.database.headers() == {"r1", "r2"}


def _smuggle(executor: CommandExecutor, command: Any, answered: asyncio.Future[Any]) -> None:
    """Past the door, which would have refused it."""
    executor.submit(_submission(command, answered.set_result))


def _submission(command: Any, answer: Any) -> Any:
    return Submission(command, b"0123456789abcdef", new_id(), answer)


class UnreadableEvents:
    @pytest.mark.parametrize(
        ("topic", "state"),
        [("stock-item.teleported", b"{}"), ("stock-item.restocked", b"not json"), ("stock-item.restocked", b"{}")],
    )
    async def test_only_commands_on_that_item_fail(self, cluster: Cluster, topic: str, state: bytes) -> None:
        first = await cluster.executor()
        await cluster.stock(first, ("BAD", "W1", 10), ("GOOD", "W1", 10), ("GOOD", "W2", 10))
        await ask(first, Restock(sku="BAD", warehouse="W1", quantity=1))
        cluster.database.spoil("stock:BAD@W1", 3, topic, state)
        executor = await cluster.executor()
        for _ in range(2):
            answers = await gather_answers([
                post(executor, order(None, ("GOOD", 1, "W1"), order_id="o")),
                post(executor, order(None, ("BAD", 1, "W1"), order_id="o")),
                post(executor, order(None, ("GOOD", 1), ("BAD", 1), order_id="o")),
                post(executor, Restock(sku="BAD", warehouse="W1", quantity=1)),
                post(executor, order(None, ("GOOD", 1), order_id="o")),
            ])  # fmt: skip
            assert [code_of(answer) for answer in answers] == ["201", "internal", "internal", "internal", "201"]
        assert (await cluster.level(executor, "GOOD", "W1"))["reserved"] == 4
        internal = [key for key, outcome in cluster.database.outcomes().items() if outcome.status >= 500]
        assert internal == []

    async def test_once_it_can_be_read_the_item_is_back(self, cluster: Cluster) -> None:
        first = await cluster.executor()
        await cluster.stock(first, ("BAD", "W1", 10))
        row = cluster.database.events()[-1]
        assert row.stream == "stock:BAD@W1"
        cluster.database.spoil(row.stream, row.version, "stock-item.teleported", b"{}")
        executor = await cluster.executor()
        command = order("r1", ("BAD", 10, "W1"))
        assert code_of(await ask(executor, command, "k1")) == "internal"
        cluster.database.spoil(*astuple(row))
        assert (await ask(executor, command, "k1")).status == 201

    async def test_a_warehouse_that_cannot_be_read_takes_no_decisions(self, cluster: Cluster) -> None:
        first = await cluster.executor()
        await cluster.stock(first, ("A", "W1", 10), ("A", "W2", 10))
        await ask(first, PutWarehouse(code="W1", name="renamed"))
        cluster.database.spoil("warehouse:W1", 2, "warehouse.teleported", b"{}")
        executor = await cluster.executor()
        for _ in range(2):
            assert code_of(await ask(executor, order(None, ("A", 1, "W1"), order_id="o"))) == "internal"
            assert code_of(await ask(executor, order(None, ("A", 1, "W2"), order_id="o"))) == "201"
            assert code_of(await ask(executor, PutWarehouse(code="W1", name="renamed again"))) == "internal"
            assert (await ask(executor, PutWarehouse(code="W3", name="new"))).status in {200, 201}
