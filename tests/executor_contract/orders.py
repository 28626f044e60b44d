"""Commands on an order: every reservation of it, all or nothing, wherever those were made."""

import pytest

from domain.commands import (
    CancelOrder,
    CommitOrder,
    CommitReservation,
    OrderCommand,
    ReleaseOrder,
    ReleaseReservation,
    ReturnLine,
    ReturnOrder,
    ShipLine,
    ShipOrder,
    ShipReservation,
)
from domain.values import Condition
from infra.event_store.port import StoreUnavailable
from tests.support_audit import audit, check_index
from tests.support_write_side import Cluster, ask, ask_again_later, code_of, gather_answers, order, post, said


class Orders:
    async def test_the_life_of_an_order_of_one_reservation(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10), ("B", "W1", 10))
        await ask(executor, order("o1", ("A", 3, "W1"), ("B", 1), order_id="o1"))
        assert (await ask(executor, CommitOrder(order_id="o1"))).status == 200
        assert (await cluster.level(executor, "A", "W1"))["committed"] == 3
        assert (await ask(executor, ShipOrder(order_id="o1", tracking="T"))).status == 200
        back = ReturnOrder(order_id="o1", lines=(ReturnLine("A", "W1", 2, Condition.SELLABLE),))
        assert said(await ask(executor, back)) == {"order_id": "o1", "reservations": ["o1"]}
        assert (await cluster.level(executor, "A", "W1"))["on_hand"] == 9
        assert cluster.topics("stock:A@W1")[2:] == ["reserved", "committed", "shipped", "returned"]
        check_index(audit(cluster.database.events()), cluster.database.holds(), cluster.database.headers())

    @pytest.mark.parametrize("command", [CommitOrder, ReleaseOrder, CancelOrder])
    async def test_a_repeat_under_another_key_is_answered_and_appends_nothing(
        self, cluster: Cluster, command: type[OrderCommand]
    ) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10))
        await ask(executor, order("r1", ("A", 3, "W1"), order_id="o1"))
        assert (await ask(executor, command(order_id="o1"))).status == 200
        log = cluster.database.events()
        assert (await ask(executor, command(order_id="o1"))).status == 200
        assert cluster.database.events() == log

    async def test_every_reservation_of_it_and_no_other(self, cluster: Cluster) -> None:
        one, other = await cluster.executor(), await cluster.executor()
        await cluster.stock(one, ("A", "W1", 10))
        await ask(one, order("r1", ("A", 1, "W1"), order_id="o1"))
        await ask(one, order("r2", ("A", 2, "W1"), order_id="o2"))
        await ask(other, order("r3", ("A", 3, "W1"), order_id="o1"))
        # This process made one of the two, and cannot know of the other by itself.
        answer = await ask(one, CommitOrder(order_id="o1"))
        assert said(answer)["reservations"] == ["r1", "r3"]
        level = await cluster.level(one, "A", "W1")
        assert (level["committed"], level["reserved"]) == (4, 2)
        committed = [event for event in cluster.events("stock:A@W1") if event["topic"].endswith("committed")]
        assert len({event["origin"]["command_id"] for event in committed}) == 2
        assert [len(event["allocations"]) for event in committed] == [1, 1]
        check_index(audit(cluster.database.events()), cluster.database.holds(), cluster.database.headers())

    async def test_all_or_nothing(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10), ("B", "W1", 10))
        await ask(executor, order("r1", ("A", 1, "W1"), order_id="o1"))
        await ask(executor, order("r2", ("B", 2, "W1"), order_id="o1"))
        await ask(executor, CommitReservation(reservation_id="r1"))
        log = cluster.database.events()
        refused = await ask(executor, ShipOrder(order_id="o1"))
        assert (code_of(refused), said(refused)["reservation_id"]) == ("reservation-not-active", "r2")
        assert cluster.database.events() == log
        await ask(executor, CommitOrder(order_id="o1"))
        assert (await ask(executor, ShipOrder(order_id="o1"))).status == 200
        assert (await cluster.level(executor, "B", "W1"))["sold"] == 2

    async def test_more_leaves_than_is_there_only_when_two_are_added_up(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 4))
        await ask(executor, order("r1", ("A", 2, "W1"), order_id="o1"))
        await ask(executor, order("r2", ("A", 2, "W1"), order_id="o1"))
        await ask(executor, CommitOrder(order_id="o1"))
        await cluster.lose(executor, "A", "W1", 1)
        assert code_of(await ask(executor, ShipOrder(order_id="o1"))) == "insufficient-stock"
        assert (await cluster.level(executor, "A", "W1"))["sold"] == 0

    async def test_lines_are_taken_from_the_reservations_in_their_order(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10), ("A", "W2", 10))
        await ask(executor, order("r1", ("A", 2, "W1"), order_id="o1"))
        await ask(executor, order("r2", ("A", 3, "W1"), ("A", 1, "W2"), order_id="o1"))
        await ask(executor, CommitOrder(order_id="o1"))
        await ask(executor, ShipOrder(order_id="o1", lines=(ShipLine("A", 4),)))
        shipped = {(hold.reservation_id, hold.warehouse): hold.shipped for hold in cluster.database.holds()}
        assert shipped == {("r1", "W1"): 2, ("r2", "W1"): 2, ("r2", "W2"): 0}
        too_much = await ask(executor, ShipOrder(order_id="o1", lines=(ShipLine("A", 3),)))
        assert code_of(too_much) == "quantity-out-of-range"
        back = ReturnOrder(order_id="o1", lines=(ReturnLine("A", "W1", 3, Condition.DAMAGED),))
        assert (await ask(executor, back)).status == 200
        assert (await cluster.level(executor, "A", "W1"))["damaged"] == 3
        check_index(audit(cluster.database.events()), cluster.database.holds(), cluster.database.headers())

    async def test_what_was_given_up_before_is_passed_over(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10))
        await ask(executor, order("r1", ("A", 1, "W1"), order_id="o1"))
        await ask(executor, ReleaseReservation(reservation_id="r1"))
        assert code_of(await ask(executor, CommitOrder(order_id="o1"))) == "reservation-not-active"
        await ask(executor, order("r2", ("A", 2, "W1"), order_id="o1"))
        assert (await ask(executor, CommitOrder(order_id="o1"))).status == 200
        assert (await ask(executor, ShipOrder(order_id="o1"))).status == 200
        assert (await cluster.level(executor, "A", "W1"))["sold"] == 2

    async def test_an_expired_part_of_it_forbids_that_the_rest_is_paid(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10))
        await ask(executor, order("r1", ("A", 1, "W1"), order_id="o1", ttl_s=10))
        await ask(executor, order("r2", ("A", 2, "W1"), order_id="o1", ttl_s=1000))
        cluster.elapse(20)
        assert code_of(await ask(executor, CommitOrder(order_id="o1"))) == "reservation-expired"
        assert (await ask(executor, CancelOrder(order_id="o1"))).status == 200

    async def test_cancelled_what_is_held_is_released_and_what_is_paid_comes_back(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10), ("B", "W1", 10))
        await ask(executor, order("r1", ("A", 1, "W1"), order_id="o1"))
        await ask(executor, order("r2", ("A", 2, "W1"), ("B", 5, "W1"), order_id="o1"))
        await ask(executor, CommitReservation(reservation_id="r2"))
        assert (await ask(executor, CancelOrder(order_id="o1"))).status == 200
        released = [event for event in cluster.events() if event["topic"].endswith("released")]
        assert [(event["reservation_id"], event["bucket"], event["reason"]) for event in released] == [
            ("r1", "RESERVED", "ORDER_CANCELLED"),
            ("r2", "COMMITTED", "ORDER_CANCELLED"),
            ("r2", "COMMITTED", "ORDER_CANCELLED"),
        ]
        level = await cluster.level(executor, "A", "W1")
        assert (level["available"], level["reserved"], level["committed"]) == (10, 0, 0)

    async def test_what_has_left_cannot_be_cancelled(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10))
        await ask(executor, order("r1", ("A", 1, "W1"), order_id="o1"))
        await ask(executor, CommitOrder(order_id="o1"))
        await ask(executor, ShipReservation(reservation_id="r1"))
        await ask(executor, order("r2", ("A", 1, "W1"), order_id="o1"))
        assert code_of(await ask(executor, CancelOrder(order_id="o1"))) == "reservation-not-active"
        assert (await cluster.level(executor, "A", "W1"))["reserved"] == 1

    async def test_made_and_paid_in_one_batch(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10))
        answers = await gather_answers([
            post(executor, order("o1", ("A", 1, "W1"), order_id="o1")),
            post(executor, CommitOrder(order_id="o1")),
            post(executor, order("o1b", ("A", 1, "W1"), order_id="o1")),
            post(executor, ShipReservation(reservation_id="o1")),
        ])  # fmt: skip
        # A command that must be looked up may come behind one that need not.
        assert answers[0].status == answers[2].status == 201
        assert (await ask(executor, CommitOrder(order_id="o1"))).status == 200
        assert (await cluster.level(executor, "A", "W1"))["committed"] in {1, 2}
        check_index(audit(cluster.database.events()), cluster.database.holds(), cluster.database.headers())

    async def test_in_another_process_after_a_crash(self, cluster: Cluster) -> None:
        one = await cluster.executor()
        await cluster.stock(one, ("A", "W1", 10))
        await ask(one, order("r1", ("A", 1, "W1"), order_id="o1"))
        await cluster.crash(one)
        other = await cluster.executor()
        assert (await ask(other, CommitOrder(order_id="o1"), "k")).status == 200
        again = await ask(await cluster.executor(), CommitOrder(order_id="o1"), "k")
        assert (again.status, again.replayed) == (200, True)

    async def test_a_reservation_made_elsewhere_while_we_guess(self, cluster: Cluster) -> None:
        """The guess that an order has one reservation is refused by the log, which then knows better."""
        one, other = await cluster.executor(), await cluster.executor()
        await cluster.stock(one, ("A", "W1", 10), ("B", "W1", 10))
        await cluster.level(other, "B", "W1")
        for n in range(5):
            await ask(one, order(f"a{n}", ("A", 1, "W1"), order_id=f"o{n}"))
            await ask(other, order(f"b{n}", ("B", 1, "W1"), order_id=f"o{n}"))
            assert said(await ask(one, CommitOrder(order_id=f"o{n}")))["reservations"] == [f"a{n}", f"b{n}"]
        assert (await cluster.level(one, "B", "W1"))["committed"] == 5


class Premature:
    """Refusals that do not stand: what is missing may still come."""

    async def test_nothing_is_recorded_and_the_same_key_may_be_tried_again(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10))
        for command in (CommitOrder(order_id="o1"), ShipOrder(order_id="o1")):
            refused = await ask_again_later(executor, command, type(command).__name__)
            assert (refused.status, refused.premature, refused.replayed) == (404, True, False)
        await ask(executor, order("r1", ("A", 1, "W1"), order_id="o1"))
        early = await ask_again_later(executor, ShipOrder(order_id="o1"), "ShipOrder")
        assert (code_of(early), early.premature) == ("reservation-not-active", True)
        assert cluster.database.refusals() == []
        for command in (CommitOrder(order_id="o1"), ShipOrder(order_id="o1")):
            done = await ask_again_later(executor, command, type(command).__name__)
            assert (done.status, done.replayed) == (200, False)
            assert (await ask_again_later(executor, command, type(command).__name__)).replayed

    async def test_what_can_never_be_right_is_refused_for_good_and_may_be_replayed_all_the_same(
        self, cluster: Cluster
    ) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10))
        await ask(executor, order("r1", ("A", 1, "W1"), order_id="o1"))
        await ask(executor, ReleaseOrder(order_id="o1"))
        for command in (CommitOrder(order_id="o1"), ShipOrder(order_id="o1")):
            refused = await ask_again_later(executor, command, "k")
            assert (refused.status, refused.premature, refused.replayed) == (409, False, False)
        assert cluster.database.refusals() == [
            ("order.commit", "reservation-not-active"),
            ("order.ship", "reservation-not-active"),
        ]

    async def test_memory_that_is_behind_does_not_refuse(self, cluster: Cluster) -> None:
        one, other = await cluster.executor(), await cluster.executor()
        await cluster.stock(one, ("A", "W1", 10))
        await ask(one, order("r1", ("A", 1, "W1"), order_id="o1"))
        await ask(other, CommitOrder(order_id="o1"))
        assert (await ask_again_later(one, ShipOrder(order_id="o1"), "k")).status == 200

    async def test_less_is_there_than_was_sold_until_more_is_counted(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 4))
        await ask(executor, order("r1", ("A", 4, "W1"), order_id="o1"))
        await ask(executor, CommitOrder(order_id="o1"))
        await cluster.lose(executor, "A", "W1", 1)
        early = await ask_again_later(executor, ShipOrder(order_id="o1"), "k")
        assert (code_of(early), early.premature) == ("insufficient-stock", True)
        await cluster.stock(executor, ("A", "W1", 1))
        assert (await ask_again_later(executor, ShipOrder(order_id="o1"), "k")).status == 200

    async def test_an_unknown_commit_is_not_repeated(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10))
        await ask(executor, order("r1", ("A", 1, "W1"), order_id="o1"))
        cluster.store_of(executor).fail(StoreUnavailable("cut"), "append", "append_unseen", applied=True)
        assert (await ask_again_later(executor, CommitOrder(order_id="o1"), "k")).status == 200
        assert cluster.topics("stock:A@W1").count("committed") == 1

    async def test_a_document_that_nobody_reads_is_not_made(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10))
        made = await ask_again_later(executor, order("r1", ("A", 1, "W1")), "k1", wants_document=False)
        assert (made.status, made.body) == (201, b"null")
        again = await ask_again_later(executor, order("r1", ("A", 1, "W1")), "k1", wants_document=False)
        assert (again.status, again.body, again.replayed) == (201, b"null", True)
        refused = await ask_again_later(executor, order("r2", ("A", 99, "W1")), "k2", wants_document=False)
        assert code_of(refused) == "insufficient-stock"
        # Its neighbours in a batch have theirs, and so has whoever asks for the same under a key of their own.
        assert said(await ask(executor, order("r1", ("A", 1, "W1"))))["status"] == "ACTIVE"
