"""The world takes away what was promised: an item that is short breaks its newest unpaid promises if it was told to."""

from domain.commands import Adjust, CommitReservation, CountStock, Damage
from domain.policy import Policy
from domain.values import AdjustmentReason
from tests.support import eventually_async
from tests.support_audit import audit, check_index
from tests.support_write_side import Cluster, ask, gather_answers, order, post, said

BREAKING = Policy(on_shortage="release_newest_unpaid")


class Shortage:
    async def test_by_default_nothing_is_broken(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10))
        await gather_answers(post(executor, order(f"r{n}", ("A", 2, "W1"))) for n in range(5))
        counted = await ask(executor, CountStock(sku="A", warehouse="W1", counted=3))
        assert (said(counted)["short"], said(counted)["reserved"]) == (7, 10)

    async def test_the_newest_unpaid_promises_are_broken_in_the_same_decision(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10), policy=BREAKING)
        await gather_answers(post(executor, order(f"r{n}", ("A", 2, "W1"))) for n in range(5))
        await ask(executor, CommitReservation(reservation_id="r4"))
        damaged = said(await ask(executor, Damage(sku="A", warehouse="W1", quantity=3)))
        assert (damaged["short"], damaged["reserved"], damaged["committed"], damaged["on_hand"]) == (0, 4, 2, 7)
        events = [event for event in cluster.events("stock:A@W1") if event["topic"] == "stock-item.released"]
        assert [(event["reservation_id"], event["reason"]) for event in events] == [
            ("r3", "SHORTAGE"),
            ("r2", "SHORTAGE"),
        ]
        cause = cluster.events("stock:A@W1")[-3]
        assert {event["origin"]["causation_id"] for event in events} == {cause["origin"]["command_id"]}

    async def test_more_than_a_command_may_break_follow_in_commands_of_their_own(self, cluster: Cluster) -> None:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 450), policy=BREAKING)
        await gather_answers(post(executor, order(f"r{n}", ("A", 1, "W1"))) for n in range(450))
        lost = Adjust(sku="A", warehouse="W1", delta=-420, reason=AdjustmentReason.LOST)
        first = said(await ask(executor, lost))
        assert first["reserved"] == 250
        await eventually_async(lambda: cluster.topics("stock:A@W1").count("released") >= 420)
        level = await cluster.level(executor, "A", "W1")
        assert (level["reserved"], level["short"], level["available"]) == (30, 0, 0)
        items = audit(cluster.database.events())
        check_index(items, cluster.database.holds(), cluster.database.headers())
        held = [rid for rid, hold in items["stock:A@W1"].holds.items() if hold.active]
        assert sorted(held) == sorted(f"r{n}" for n in range(30))
        commands: dict[str, int] = {}
        for event in cluster.events("stock:A@W1"):
            if event["topic"] == "stock-item.released":
                commands[event["origin"]["command_id"]] = commands.get(event["origin"]["command_id"], 0) + 1
        assert list(commands.values()) == [200, 200, 20]
