"""Batches: gathered while another commits, decided one after another, answered after the commit."""

import asyncio

import pytest
from msgspec.structs import replace

from domain.commands import CreateReservation, Line, Restock
from tests.support import eventually_async
from tests.support_audit import audit, check_index
from tests.support_write_side import Cluster, ask, code_of, gather_answers, order, post, said, submission_of
from write_side.submission import Answer, Overloaded


def anonymous(*, sku: str, quantity: int) -> CreateReservation:
    """An order that leaves it to the service to name the reservation."""
    return CreateReservation(order_id="o", lines=(Line(sku, quantity, "W1"),))


class Batches:
    async def test_who_comes_while_the_lock_is_waited_for_need_not_wait_for_it_again(self, cluster: Cluster) -> None:
        executor = await cluster.executor(optimistic=False)
        await cluster.stock(executor, ("A", "W1", 5), ("B", "W1", 5))
        await ask(executor, order("r0", ("A", 1, "W1")), "taken")
        store = cluster.store_of(executor)
        gate, before, locked = store.hold("lock_and_load"), store.commits, store.calls["lock_and_load"]
        first = post(executor, order("r1", ("A", 2, "W1")))
        await eventually_async(lambda: store.calls["lock_and_load"] > locked)
        late = [post(executor, anonymous(sku="A", quantity=n)) for n in (2, 1)]
        elsewhere = post(executor, anonymous(sku="B", quantity=1))
        gate.set()
        assert [answer.status for answer in await gather_answers([first, *late, elsewhere])] == [201, 201, 409, 201]
        assert store.commits - before == 2
        assert store.calls["lock_and_load"] - locked == 2

    async def test_a_key_that_is_taken_is_found_though_it_came_while_the_lock_was_waited_for(
        self, cluster: Cluster
    ) -> None:
        executor = await cluster.executor(optimistic=False)
        await cluster.stock(executor, ("A", "W1", 5))
        answered = await ask(executor, anonymous(sku="A", quantity=1), "taken")
        store = cluster.store_of(executor)
        gate, locked = store.hold("lock_and_load"), store.calls["lock_and_load"]
        first = post(executor, order("r1", ("A", 2, "W1")))
        await eventually_async(lambda: store.calls["lock_and_load"] > locked)
        again = post(executor, anonymous(sku="A", quantity=1), "taken")
        gate.set()
        new, repeated = await gather_answers([first, again])
        assert (new.status, repeated) == (201, replace(answered, replayed=True))
        assert cluster.topics("stock:A@W1").count("reserved") == 2

    async def test_a_reservation_that_exists_is_found_though_it_was_asked_for_while_the_lock_was_waited_for(
        self, cluster: Cluster
    ) -> None:
        executor, neighbour = await cluster.executor(optimistic=False), await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 5))
        assert (await ask(neighbour, order("r9", ("A", 4, "W1")))).status == 201
        store = cluster.store_of(executor)
        gate, locked = store.hold("lock_and_load"), store.calls["lock_and_load"]
        first = post(executor, order("r1", ("A", 1, "W1")))
        await eventually_async(lambda: store.calls["lock_and_load"] > locked)
        again = post(executor, order("r9", ("A", 4, "W1")))  # a refusal would be wrong: it has been held
        gate.set()
        assert [answer.status for answer in await gather_answers([first, again])] == [201, 200]

    async def test_commands_gather_while_a_batch_commits_and_then_commit_together(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 1_000))
        store = cluster.store_of(executor)
        gate = store.hold("append", "append_unseen")
        before = store.commits
        first = post(executor, order("r-first", ("A", 1, "W1")))
        await eventually_async(lambda: store.commits == before + 1)
        others = [post(executor, order(f"r{n}", ("A", 1, "W1"))) for n in range(200)]
        gate.set()
        answers = await gather_answers([first, *others])
        assert {answer.status for answer in answers} == {201}
        assert store.commits == before + 2
        assert (await cluster.level(executor, "A", "W1"))["reserved"] == 201

    async def test_nobody_is_answered_before_the_commit(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10))
        store = cluster.store_of(executor)
        gate = store.hold_answers("append", "append_unseen")
        before = len(cluster.database.events())
        answers = [post(executor, order("r1", ("A", 1, "W1"))), post(executor, order("r2", ("A", 99, "W1")))]
        await eventually_async(lambda: len(cluster.database.events()) > before)
        assert not any(answer.done() for answer in answers)
        gate.set()
        assert [answer.status for answer in await gather_answers(answers)] == [201, 409]

    async def test_a_batch_is_no_larger_than_its_limit(self, cluster: Cluster) -> None:
        executor = await cluster.executor(batch_limit=10)
        await cluster.stock(executor, ("A", "W1", 100))
        store = cluster.store_of(executor)
        before = store.commits
        answers = await gather_answers(post(executor, order(f"r{n}", ("A", 1, "W1"))) for n in range(35))
        assert [answer.status for answer in answers] == [201] * 35
        assert store.commits == before + 4

    async def test_lines_on_the_same_item_are_summed_before_anything_is_promised(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 6))
        refused = await ask(executor, order("r1", ("A", 3, "W1"), ("A", 4)))
        assert code_of(refused) == "insufficient-stock"
        assert "r1" not in cluster.database.headers()
        held = await ask(executor, order("r1", ("A", 1, "W1"), ("A", 3), ("A", 2, "W1")))
        assert held.status == 201
        assert [line["quantity"] for line in said(held)["lines"]] == [3, 3]
        assert cluster.topics("stock:A@W1") == ["registered", "restocked", "reserved"]
        assert (await cluster.level(executor, "A", "W1"))["reserved"] == 6

    async def test_a_refused_command_fails_alone(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10), ("B", "W1", 10))
        commands = [
            order("r1", ("A", 4, "W1")),
            order("r2", ("A", 7, "W1")),
            order("r3", ("A", 1, "W1"), ("C", 1, "W1")),
            order("r4", ("A", 1, "W9")),
            order("r5", ("B", 10, "W1"), ("A", 6, "W1")),
            order("r6", ("B", 1, "W1")),
        ]
        answers = await gather_answers(post(executor, command) for command in commands)
        assert [code_of(answer) for answer in answers] == [
            "201",
            "insufficient-stock",
            "unknown-stock-item",
            "unknown-warehouse",
            "201",
            "insufficient-stock",
        ]
        assert said(answers[1])["shortages"] == [{"sku": "A", "requested": 7, "available": 6, "warehouse": "W1"}]
        assert cluster.database.headers() == {"r1", "r5"}
        refused = [code for operation, code in cluster.database.refusals() if operation == "reservation.create"]
        assert sorted(refused) == sorted(code_of(answer) for answer in answers if answer.status != 201)

    async def test_a_command_sees_what_those_before_it_in_the_batch_have_done(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 1))
        answers = await gather_answers([
            post(executor, order("r1", ("A", 1, "W1"))),
            post(executor, order("r2", ("A", 1, "W1"))),
            post(executor, Restock(sku="A", warehouse="W1", quantity=1)),
            post(executor, order("r3", ("A", 1, "W1"))),
            post(executor, Restock(sku="NEW", warehouse="W1", quantity=2)),
            post(executor, order("r4", ("NEW", 2, "W1"))),
        ])  # fmt: skip
        assert [answer.status for answer in answers] == [201, 409, 200, 201, 200, 201]
        items = audit(cluster.database.events())
        check_index(items, cluster.database.holds(), cluster.database.headers())

    async def test_an_order_over_several_items_is_held_whole_or_not_at_all(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 5), ("B", "W1", 5), ("B", "W2", 5), ("C", "W2", 0))
        answers = await gather_answers([
            post(executor, order("r1", ("A", 5, "W1"), ("B", 9))),
            post(executor, order("r2", ("B", 1), ("A", 1))),
        ])  # fmt: skip
        assert [code_of(answer) for answer in answers] == ["201", "insufficient-stock"]
        allocated = [(a["warehouse"], a["quantity"]) for a in said(answers[0])["lines"][1]["allocations"]]
        assert allocated == [("W1", 5), ("W2", 4)]
        items = audit(cluster.database.events())
        check_index(items, cluster.database.holds(), cluster.database.headers())
        assert items["stock:B@W2"].reserved == 4


class FullQueue:
    async def test_past_its_limit_the_queue_admits_nothing(self, cluster: Cluster) -> None:
        executor = await cluster.executor(queue_limit=3)
        await cluster.stock(executor, ("A", "W1", 100))
        store = cluster.store_of(executor)
        gate = store.hold("append", "append_unseen")
        admitted = [post(executor, order(f"r{n}", ("A", 1, "W1"))) for n in range(3)]
        with pytest.raises(Overloaded):
            post(executor, order("r3", ("A", 1, "W1")))
        gate.set()
        assert {answer.status for answer in await gather_answers(admitted)} == {201}
        assert (await ask(executor, order("r4", ("A", 1, "W1")))).status == 201
        assert cluster.database.headers() == {"r0", "r1", "r2", "r4"}

    async def test_many_at_once_are_admitted_whole_or_not_at_all(self, cluster: Cluster) -> None:
        executor = await cluster.executor(queue_limit=4)
        await cluster.stock(executor, ("A", "W1", 100))
        store = cluster.store_of(executor)
        gate = store.hold("append", "append_unseen")
        answers: list[Answer] = []
        waiting = post(executor, order("r0", ("A", 1, "W1")))
        four = [submission_of(order(f"many-{n}", ("A", 1, "W1")), answer=answers.append) for n in range(4)]
        with pytest.raises(Overloaded):
            executor.submit_all(four)
        executor.submit_all(four[:3])
        with pytest.raises(Overloaded):
            executor.submit_all(four[3:])
        gate.set()
        await waiting
        await eventually_async(lambda: len(answers) == 3)
        executor.submit_all(four)
        await eventually_async(lambda: len(answers) == 7)
        assert cluster.database.headers() == {"r0", "many-0", "many-1", "many-2", "many-3"}


class Draining:
    async def test_everything_that_was_admitted_is_answered_before_the_end(self, cluster: Cluster) -> None:
        setting_up = await cluster.executor()
        await cluster.stock(setting_up, ("A", "W1", 1_000), ("COLD", "W1", 100))
        executor = await cluster.executor(batch_limit=7)
        gate = cluster.store_of(executor).hold("append", "append_unseen", "read")
        answers = [post(executor, order(f"r{n}", ("A", 1, "W1"))) for n in range(50)]
        answers += [post(executor, order(f"cold-{n}", ("COLD", 1))) for n in range(5)]
        draining = asyncio.ensure_future(cluster.drain(executor))
        await asyncio.wait([draining], timeout=0.05)
        assert not draining.done()
        gate.set()
        await asyncio.wait_for(draining, 20)
        assert [answer.result().status for answer in answers] == [201] * 55
        assert not executor.ready
        assert len(cluster.database.headers()) == 55

    async def test_an_executor_without_work_ends_at_once(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        assert executor.ready
        await asyncio.wait_for(cluster.drain(executor), 5)
        assert not executor.ready
