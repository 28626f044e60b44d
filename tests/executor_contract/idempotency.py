"""The same key twice, at the same time, in another process, after a crash, with another body; the same reservation."""

import asyncio

import pytest

from domain.commands import (
    Adjust,
    Command,
    CommitReservation,
    PutWarehouse,
    ReleaseReservation,
    Restock,
    ShipReservation,
)
from domain.values import AdjustmentReason
from tests.support import eventually_async
from tests.support_audit import audit, check_index
from tests.support_write_side import Cluster, ask, code_of, gather_answers, order, post, said


class Keys:
    async def test_a_repeat_is_answered_as_the_first_was_and_changes_nothing(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10))
        first = await ask(executor, order("r1", ("A", 3, "W1")), "k1")
        await ask(executor, CommitReservation(reservation_id="r1"), "k2")
        log = cluster.database.events()
        again = await ask(executor, order("r1", ("A", 3, "W1")), "k1")
        assert (again.status, again.body) == (first.status, first.body)
        assert (first.replayed, again.replayed) == (False, True)
        assert cluster.database.events() == log

    async def test_what_counts_again_without_a_key_counts_once_with_one(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 0))
        restock = Restock(sku="A", warehouse="W1", quantity=5)
        answers = [await ask(executor, restock, "delivery-1") for _ in range(3)]
        assert [answer.replayed for answer in answers] == [False, True, True]
        assert [said(answer)["on_hand"] for answer in answers] == [5, 5, 5]
        assert said(await ask(executor, restock, "delivery-2"))["on_hand"] == 10

    async def test_twice_in_one_batch(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10))
        command = order(None, ("A", 3, "W1"), order_id="o-1")
        answers = await gather_answers(post(executor, command, "k1") for _ in range(4))
        assert {answer.body for answer in answers} == {answers[0].body}
        assert [answer.replayed for answer in answers] == [False, True, True, True]
        assert (await cluster.level(executor, "A", "W1"))["reserved"] == 3

    async def test_twice_in_two_processes_one_after_the_other(self, cluster: Cluster) -> None:
        one, other = await cluster.executor(), await cluster.executor()
        await cluster.stock(one, ("A", "W1", 10))
        await cluster.level(other, "A", "W1")
        command = order(None, ("A", 3, "W1"), order_id="o-1")
        first, again = await ask(one, command, "k1"), await ask(other, command, "k1")
        assert (again.status, again.body, again.replayed) == (first.status, first.body, True)
        assert (await cluster.level(one, "A", "W1"))["reserved"] == 3

    async def test_twice_in_two_processes_at_the_same_time(self, cluster: Cluster) -> None:
        executors = [await cluster.executor() for _ in range(3)]
        await cluster.stock(executors[0], ("A", "W1", 1_000))
        for executor in executors:
            await cluster.level(executor, "A", "W1")
        for n in range(20):
            command = order(None, ("A", 3, "W1"), order_id=f"o-{n}")
            answers = await gather_answers(post(executor, command, f"k{n}") for executor in executors)
            assert {(answer.status, answer.body) for answer in answers} == {(201, answers[0].body)}
            assert sorted(answer.replayed for answer in answers) == [False, True, True]
        assert (await cluster.level(executors[0], "A", "W1"))["reserved"] == 60

    async def test_after_a_crash_between_the_commit_and_the_answer(self, cluster: Cluster) -> None:
        doomed = await cluster.executor()
        await cluster.stock(doomed, ("A", "W1", 10))
        cluster.store_of(doomed).hold_answers("append", "append_unseen")
        log = len(cluster.database.events())
        answer = post(doomed, order(None, ("A", 3, "W1"), order_id="o-1"), "k1")
        await eventually_async(lambda: len(cluster.database.events()) > log)
        await cluster.crash(doomed)
        assert not answer.done()
        executor = await cluster.executor()
        again = await ask(executor, order(None, ("A", 3, "W1"), order_id="o-1"), "k1")
        assert (again.status, again.replayed) == (201, True)
        assert (await cluster.level(executor, "A", "W1"))["reserved"] == 3

    async def test_after_a_crash_before_the_commit_nothing_is_left_and_the_repeat_counts(
        self, cluster: Cluster
    ) -> None:
        doomed = await cluster.executor()
        await cluster.stock(doomed, ("A", "W1", 10))
        store = cluster.store_of(doomed)
        store.hold("append", "append_unseen")
        log, sent = cluster.database.events(), store.commits
        answer = post(doomed, order(None, ("A", 3, "W1"), order_id="o-1"), "k1")
        await eventually_async(lambda: store.commits > sent)
        await cluster.crash(doomed)
        assert not answer.done()
        assert cluster.database.events() == log
        executor = await cluster.executor()
        again = await ask(executor, order(None, ("A", 3, "W1"), order_id="o-1"), "k1")
        assert (again.status, again.replayed) == (201, False)

    async def test_with_another_request_it_is_refused(self, cluster: Cluster) -> None:
        one, other = await cluster.executor(), await cluster.executor()
        await cluster.stock(one, ("A", "W1", 100))
        first, reused = await gather_answers([
            post(one, order("r1", ("A", 3, "W1")), "k1"),
            post(one, order("r2", ("A", 4, "W1")), "k1"),
        ])  # fmt: skip
        assert (first.status, reused.status, code_of(reused)) == (201, 409, "idempotency-key-reused")
        for executor in (one, other):
            for command in (order("r1", ("A", 4, "W1")), CommitReservation(reservation_id="r1")):
                assert code_of(await ask(executor, command, "k1")) == "idempotency-key-reused"
        again = await ask(other, order("r1", ("A", 3, "W1")), "k1")
        assert (again.body, again.replayed) == (first.body, True)
        assert cluster.database.headers() == {"r1"}

    async def test_a_refusal_stays_refused_under_its_key(self, cluster: Cluster) -> None:
        one, other = await cluster.executor(), await cluster.executor()
        await cluster.stock(one, ("A", "W1", 1))
        refused = await ask(one, order("r1", ("A", 3, "W1")), "k1")
        await ask(one, Restock(sku="A", warehouse="W1", quantity=9))
        for executor in (one, other):
            again = await ask(executor, order("r1", ("A", 3, "W1")), "k1")
            assert (again.status, again.body, again.replayed) == (409, refused.body, True)
        assert (await ask(other, order("r1", ("A", 3, "W1")), "k2")).status == 201
        assert cluster.database.refusals() == [("reservation.create", "insufficient-stock")]

    @pytest.mark.parametrize(
        ("command", "code"),
        [
            (CommitReservation(reservation_id="nobody"), "unknown-reservation"),
            (order("r1", ("UNKNOWN", 1, "W1")), "unknown-stock-item"),
            (order("r1", ("UNKNOWN", 1)), "unknown-stock-item"),
            (order("r1", ("A", 1, "W9")), "unknown-warehouse"),
            (Restock(sku="A", warehouse="W9", quantity=1), "unknown-warehouse"),
            (Restock(sku="A", warehouse="W1", quantity=1, expected_version=7), "version-mismatch"),
            (
                Adjust(sku="B", warehouse="W1", delta=1, reason=AdjustmentReason.FOUND),
                "unknown-stock-item",
            ),
            (PutWarehouse(code="W1", only_create=True), "version-mismatch"),
        ],
        ids=lambda value: value if isinstance(value, str) else type(value).__name__,
    )
    async def test_every_refusal_is_recorded(self, cluster: Cluster, command: Command, code: str) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 1))
        refused = await ask(executor, command, "k1")
        assert code_of(refused) == code
        recorded = cluster.database.outcomes()["anonymous", "k1"]
        assert (recorded.status, recorded.body) == (refused.status, refused.body)
        again = await ask(executor, command, "k1")
        assert (again.body, again.replayed) == (refused.body, True)

    async def test_a_key_is_a_callers_own(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10))
        restock = Restock(sku="A", warehouse="W1", quantity=1)
        answers = await gather_answers(post(executor, restock, "k1", scope=scope) for scope in ("x", "y", "x"))
        assert [(said(answer)["on_hand"], answer.replayed) for answer in answers] == [
            (11, False),
            (12, False),
            (11, True),
        ]

    async def test_a_repeat_of_something_done_keeps_its_first_answer_and_a_new_key_sees_the_present(
        self, cluster: Cluster
    ) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10))
        await ask(executor, order("r1", ("A", 3, "W1")))
        committed = await ask(executor, CommitReservation(reservation_id="r1"), "pay")
        await ask(executor, ShipReservation(reservation_id="r1"))
        log = cluster.database.events()
        again = await ask(executor, CommitReservation(reservation_id="r1"), "pay")
        assert (again.body, said(again)["status"]) == (committed.body, "COMMITTED")
        no_op = await ask(executor, CommitReservation(reservation_id="r1"))
        assert (no_op.status, no_op.replayed, said(no_op)["status"]) == (200, False, "SHIPPED")
        assert cluster.database.events() == log


class ReservationIds:
    async def test_the_same_request_again_is_the_same_reservation(self, cluster: Cluster) -> None:
        one, other = await cluster.executor(), await cluster.executor()
        await cluster.stock(one, ("A", "W1", 10))
        first = await ask(one, order("r1", ("A", 3, "W1")))
        for executor in (one, other, one):
            again = await ask(executor, order("r1", ("A", 3, "W1")))
            assert (again.status, again.replayed) == (200, False)
            assert said(again) == said(first)
        await ask(other, CommitReservation(reservation_id="r1"))
        assert said(await ask(one, order("r1", ("A", 3, "W1"))))["status"] == "COMMITTED"
        assert cluster.topics("stock:A@W1") == ["registered", "restocked", "reserved", "committed"]

    async def test_with_other_lines_it_is_a_duplicate(self, cluster: Cluster) -> None:
        one, other = await cluster.executor(), await cluster.executor()
        await cluster.stock(one, ("A", "W1", 10), ("B", "W1", 10))
        await ask(one, order("r1", ("A", 3, "W1")))
        for executor in (one, other):
            for lines in ([("A", 4, "W1")], [("A", 3)], [("B", 3, "W1")], [("A", 3, "W1"), ("B", 1)]):
                refused = await ask(executor, order("r1", *lines))
                assert (code_of(refused), said(refused)["state"]) == ("duplicate-reservation", "ACTIVE")
        assert (await cluster.level(one, "B", "W1"))["version"] == 2

    async def test_after_it_ended_it_is_a_duplicate(self, cluster: Cluster) -> None:
        one, other = await cluster.executor(), await cluster.executor()
        await cluster.stock(one, ("A", "W1", 10))
        await gather_answers([
            post(one, order("released", ("A", 1, "W1"))),
            post(one, order("expired", ("A", 1, "W1"), ttl_s=10)),
        ])  # fmt: skip
        await ask(one, ReleaseReservation(reservation_id="released"))
        cluster.elapse(11)
        for executor in (one, other):
            for rid, ttl_s in (("released", 900), ("expired", 10)):
                refused = await ask(executor, order(rid, ("A", 1, "W1"), ttl_s=ttl_s))
                assert (code_of(refused), said(refused)["state"]) == ("duplicate-reservation", rid.upper())

    async def test_a_refused_one_may_be_tried_again(self, cluster: Cluster) -> None:
        one, other = await cluster.executor(), await cluster.executor()
        await cluster.stock(one, ("A", "W1", 1))
        assert (await ask(one, order("r1", ("A", 3, "W1")))).status == 409
        await ask(other, Restock(sku="A", warehouse="W1", quantity=9))
        assert (await ask(one, order("r1", ("A", 4, "W1")))).status == 201

    async def test_twice_in_one_batch(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10), ("B", "W1", 10))
        answers = await gather_answers([
            post(executor, order("r1", ("A", 3, "W1"))),
            post(executor, order("r1", ("A", 3, "W1"))),
            post(executor, order("r1", ("A", 4, "W1"))),
            post(executor, order("r1", ("B", 1, "W1"))),
        ])  # fmt: skip
        codes = [code_of(answer) for answer in answers]
        assert codes == ["201", "200", "duplicate-reservation", "duplicate-reservation"]
        assert said(answers[0]) == said(answers[1])
        assert (await cluster.level(executor, "A", "W1"))["reserved"] == 3

    async def test_again_while_the_first_commits(self, cluster: Cluster) -> None:
        """The second is routed when nobody knows of the first, and decided when memory has its hold."""
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10))
        store = cluster.store_of(executor)
        gate = store.hold("append", "append_unseen")
        sent = store.commits
        first = post(executor, order("r1", ("A", 3, "W1")))
        await eventually_async(lambda: store.commits > sent)
        again = post(executor, order("r1", ("A", 3, "W1")))
        other = post(executor, order("r1", ("A", 4, "W1")))
        gate.set()
        answers = await gather_answers([first, again, other])
        assert [code_of(answer) for answer in answers] == ["201", "200", "duplicate-reservation"]

    async def test_in_two_processes_at_the_same_time(self, cluster: Cluster) -> None:
        executors = [await cluster.executor() for _ in range(3)]
        await cluster.stock(executors[0], ("A", "W1", 100), ("B", "W1", 100))
        for executor in executors:
            await asyncio.gather(cluster.level(executor, "A", "W1"), cluster.level(executor, "B", "W1"))
        for n in range(15):
            same = order(f"r{n}", ("A", 1, "W1"))
            answers = await gather_answers(
                post(executor, command)
                for executor, command in zip(executors, (same, same, order(f"r{n}", ("B", 1, "W1"))), strict=True)
            )
            codes = sorted(code_of(answer) for answer in answers)
            assert codes in (["200", "201", "duplicate-reservation"], ["201", *["duplicate-reservation"] * 2])
        items = audit(cluster.database.events())
        check_index(items, cluster.database.holds(), cluster.database.headers())
        assert items["stock:A@W1"].reserved + items["stock:B@W1"].reserved == 15
