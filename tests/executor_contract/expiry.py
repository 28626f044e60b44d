"""A hold ends at its instant, swept or not; however many fall due, no customer's command pays for all of them."""

import asyncio

from domain.commands import (
    CommitReservation,
    ExpireHolds,
    ExtendReservation,
    ReleaseReservation,
    ShipReservation,
)
from tests.support_audit import audit, check_index
from tests.support_write_side import Cluster, ask, code_of, gather_answers, order, post, said


class Expiry:
    async def test_commit_after_expiry_is_refused_though_nobody_has_swept(self, cluster: Cluster) -> None:
        one, other = await cluster.executor(), await cluster.executor()
        await cluster.stock(one, ("A", "W1", 10))
        await ask(one, order("r1", ("A", 2, "W1"), ttl_s=10))
        await ask(one, order("r2", ("A", 2, "W1"), ttl_s=10))
        cluster.elapse(9)
        assert (await ask(other, ExtendReservation(reservation_id="r2", ttl_seconds=60))).status == 200
        cluster.elapse(1.5)
        log = cluster.database.events()
        for executor in (one, other):
            refused = await ask(executor, CommitReservation(reservation_id="r1"))
            assert (refused.status, code_of(refused)) == (410, "reservation-expired")
            assert (await ask(executor, ExtendReservation(reservation_id="r1", ttl_seconds=60))).status == 410
            released = await ask(executor, ReleaseReservation(reservation_id="r1"))
            assert (released.status, said(released)["status"]) == (200, "EXPIRED")
        assert cluster.database.events() == log
        assert (await ask(one, CommitReservation(reservation_id="r2"))).status == 200

    async def test_what_is_due_is_free_and_is_released_by_who_needs_it(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10))
        for n, ttl_s in enumerate((30, 10, 20)):
            await ask(executor, order(f"r{n}", ("A", 3, "W1"), ttl_s=ttl_s))
        cluster.elapse(31)
        level = await cluster.level(executor, "A", "W1")
        assert (level["reserved"], level["available"]) == (0, 10)
        assert (await ask(executor, order("new", ("A", 5, "W1")))).status == 201
        events = cluster.events("stock:A@W1")
        released = [event["reservation_id"] for event in events if event["topic"] == "stock-item.released"]
        assert released == ["r1", "r2"]  # the longest overdue first, and no more than were needed
        assert {event["origin"]["actor"] for event in events if event["topic"] == "stock-item.released"} == {
            "stockhold"
        }
        assert (await ask(executor, order("newer", ("A", 6, "W1")))).status == 409
        assert (await cluster.level(executor, "A", "W1"))["version"] == len(events)

    async def test_a_paid_part_does_not_expire(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10))
        await ask(executor, order("r1", ("A", 4, "W1"), ttl_s=10))
        await ask(executor, CommitReservation(reservation_id="r1"))
        cluster.elapse(60)
        assert (await ask(executor, ShipReservation(reservation_id="r1"))).status == 200

    async def test_time_goes_on_between_two_looks_at_the_stores_clock(self, cluster: Cluster) -> None:
        """A decision on memory alone is as old as its process's last look: too old, and it is taken again."""
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10))
        await ask(executor, order("r1", ("A", 10, "W1"), ttl_s=5))
        await asyncio.sleep(0.01)
        cluster.elapse(6)
        assert (await ask(executor, order("r2", ("A", 10, "W1")))).status == 201

    async def test_sweeping_releases_what_is_due_and_nothing_else(self, cluster: Cluster) -> None:
        one, other = await cluster.executor(), await cluster.executor()
        await cluster.stock(one, ("A", "W1", 100))
        await gather_answers(post(one, order(f"r{n}", ("A", 1, "W1"), ttl_s=10 + n)) for n in range(10))
        sweep = ExpireHolds(stream="stock:A@W1", limit=3)
        assert (await other.execute(sweep)).status == 204
        assert "released" not in cluster.topics("stock:A@W1")
        cluster.elapse(14.5)
        await gather_answers(
            post(executor, order(None, ("B", 1), order_id="what time is it")) for executor in (one, other)
        )
        for executor in (one, other, one, other):
            assert (await executor.execute(sweep)).status == 204
        events = [event for event in cluster.events("stock:A@W1") if event["topic"] == "stock-item.released"]
        assert [event["reservation_id"] for event in events] == [f"r{n}" for n in range(5)]
        assert {event["reason"] for event in events} == {"EXPIRED"}
        check_index(audit(cluster.database.events()), cluster.database.holds(), cluster.database.headers())
        assert {key for key in cluster.database.outcomes() if key[1] == ""} == set()

    async def test_what_a_neighbour_has_promised_is_swept_too(self, cluster: Cluster) -> None:
        """The sweeper's own process knows the item from before: it must not take its memory's word for "nothing due"."""
        one, sweeper = await cluster.executor(), await cluster.executor()
        await cluster.stock(one, ("A", "W1", 10))
        await cluster.level(sweeper, "A", "W1")
        await ask(one, order("r1", ("A", 1, "W1"), ttl_s=10))
        cluster.elapse(11)
        assert (await sweeper.execute(ExpireHolds(stream="stock:A@W1"))).status == 204
        assert cluster.topics("stock:A@W1")[-1] == "released"

    async def test_thousands_due_at_once_are_released_in_steps_before_the_command_that_needs_them(
        self, cluster: Cluster
    ) -> None:
        due = self.DUE
        one, other = await cluster.executor(), await cluster.executor()
        await cluster.stock(one, ("A", "W1", due), ("B", "W1", 5))
        held = await gather_answers(post(one, order(f"r{n}", ("A", 1, "W1"), ttl_s=60)) for n in range(due))
        assert {answer.status for answer in held} == {201}
        await cluster.level(other, "A", "W1")
        cluster.elapse(61)
        few, neighbour = await gather_answers([
            post(other, order("few", ("A", 3, "W1"))),
            post(other, order("neighbour", ("B", 1, "W1"))),
        ])  # fmt: skip
        assert (few.status, neighbour.status) == (201, 201)
        assert _released(cluster) == 3
        assert code_of(await ask(other, order("more-than-all", ("A", due - 2, "W1")))) == "insufficient-stock"
        assert _released(cluster) == 3
        many = await ask(other, order("many", ("A", due - 3, "W1")))
        assert many.status == 201
        assert _released(cluster) == due
        items = audit(cluster.database.events())
        check_index(items, cluster.database.holds(), cluster.database.headers())
        assert items["stock:A@W1"].reserved == due
        assert max(_releases_by_command(cluster)) <= 200
        assert (await cluster.level(one, "A", "W1"))["available"] == 0

    DUE = 450
    """More than two steps of 200; PostgreSQL is asked for ten thousand."""


def _released(cluster: Cluster) -> int:
    return cluster.topics("stock:A@W1").count("released")


def _releases_by_command(cluster: Cluster) -> list[int]:
    counts: dict[str, int] = {}
    for event in cluster.events("stock:A@W1"):
        if event["topic"] == "stock-item.released":
            command = event["origin"]["command_id"]
            counts[command] = counts.get(command, 0) + 1
    return list(counts.values())


class Clocks:
    async def test_no_event_is_before_the_last_of_its_item_when_the_stores_clock_is_set_back(
        self, cluster: Cluster
    ) -> None:
        one, other = await cluster.executor(), await cluster.executor()
        await cluster.stock(one, ("A", "W1", 10))
        await ask(one, order("r1", ("A", 1, "W1"), ttl_s=100))
        cluster.elapse(-3600)
        for executor in (one, other):
            held = await ask(executor, order(None, ("A", 1, "W1"), order_id="o", ttl_s=100))
            assert held.status == 201
        assert (await ask(other, CommitReservation(reservation_id="r1"))).status == 200
        audit(cluster.database.events())
        cluster.elapse(3600 + 101)
        assert (await cluster.level(one, "A", "W1"))["reserved"] == 0

    async def test_the_answer_has_the_time_of_its_event(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10))
        held = said(await ask(executor, order("r1", ("A", 1, "W1"), ttl_s=100)))
        event = cluster.events("stock:A@W1")[-1]
        assert held["created_at"] == event["timestamp"]
        assert held["expires_at"] == event["expires_at"]
        level = await cluster.level(executor, "A", "W1")
        assert (level["as_of"], level["last_movement_at"]) == (event["timestamp"], event["timestamp"])
