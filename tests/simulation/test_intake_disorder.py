"""An order's messages in any order, any number of times, in any batches, at any of two processes: the same end."""

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.support_audit import audit, check_index
from tests.support_intake import Desk, about, placed
from tests.support_write_side import Cluster, MemoryDatabase
from write_side.intake.memory_store import MemoryIntakeStore

SKUS = ("A", "B")


def back(quantity: int) -> dict[str, Any]:
    return {"lines": [{"sku": "A", "warehouse": "W1", "quantity": quantity, "condition": "SELLABLE"}]}


def parcel(sku: str, quantity: int) -> dict[str, Any]:
    return {"lines": [{"sku": sku, "quantity": quantity}]}


# Lives of which each message can be applied whatever comes first: what it builds on is missing until then.
LIVES: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "placed": (),
    "not paid": (("payment.failed", {}),),
    "cancelled": (("order.cancelled", {}),),
    "paid": (("payment.authorized", {}),),
    "shipped": (("payment.authorized", {}), ("order.shipped", {"tracking": "T"})),
    "shipped by the warehouse": (("payment.authorized", {}), ("warehouse.shipped", {})),
    "in parcels": (
        ("payment.authorized", {}),
        ("order.shipped", parcel("A", 1)),
        ("order.shipped", parcel("A", 2)),
        ("warehouse.shipped", parcel("B", 1)),
    ),
    "returned": (("payment.authorized", {}), ("order.shipped", {}), ("order.returned", back(3))),
    "returned piece by piece": (
        ("payment.authorized", {}),
        ("order.shipped", {}),
        ("order.returned", back(2)),
        ("order.returned", back(1)),
    ),
    "returned after parcels": (
        ("payment.authorized", {}),
        ("order.shipped", parcel("A", 2)),
        ("order.shipped", parcel("A", 1)),
        ("order.returned", back(3)),
    ),
}


def messages_of(order_id: str, life: str) -> list[dict[str, Any]]:
    events = [placed(order_id, ("A", 3), ("B", 1)), *(about(topic, order_id, **data) for topic, data in LIVES[life])]
    return [event | {"id": f"{order_id}-{number}"} for number, event in enumerate(events)]


class World:
    def __init__(self) -> None:
        self.cluster = Cluster(MemoryDatabase(), optimistic=True)
        self.store = MemoryIntakeStore(retry_s=0.0)
        self.desks: list[Desk] = []

    async def open(self) -> None:
        executor = await self.cluster.executor()
        await self.cluster.stock(executor, *((sku, "W1", 50) for sku in SKUS))
        self.desks = [Desk(await self.cluster.executor(), self.store) for _ in range(2)]

    def state(self) -> tuple[Any, ...]:
        """Of every hold and every item, what does not depend on when things happened."""
        holds = sorted(
            (hold.reservation_id, hold.sku, hold.active, hold.committed, hold.shipped, hold.returned, hold.released)
            for hold in self.cluster.database.holds()
        )
        items = audit(self.cluster.database.events())
        check_index(items, self.cluster.database.holds(), self.cluster.database.headers())
        figures = [(stream, item.on_hand, item.reserved, item.committed) for stream, item in sorted(items.items())]
        return holds, figures


async def after(batches: list[list[tuple[int, dict[str, Any]]]]) -> tuple[Any, ...]:
    """The end of it: each batch is a list of (desk, message); what goes to different desks happens side by side."""
    world = World()
    await world.open()
    try:
        for batch in batches:
            by_desk: dict[int, list[dict[str, Any]]] = {}
            for desk, event in batch:
                by_desk.setdefault(desk, []).append(event)
            await asyncio.gather(*(world.desks[desk].hand(*events) for desk, events in by_desk.items()))
        assert not world.store.rows, "something waits in vain"
        assert not any(desk.shelf.published for desk in world.desks)
        return world.state()
    finally:
        await world.cluster.close()


@st.composite
def disorders(draw: st.DrawFn) -> tuple[dict[str, str], list[list[tuple[int, dict[str, Any]]]]]:
    lives = {f"o{n}": draw(st.sampled_from(sorted(LIVES))) for n in range(draw(st.integers(1, 3)))}
    events = [event for order_id, life in lives.items() for event in messages_of(order_id, life)]
    repeats = draw(st.lists(st.sampled_from(events), max_size=4))
    shuffled = draw(st.permutations([*events, *repeats]))
    batches: list[list[tuple[int, dict[str, Any]]]] = [[]]
    for event in shuffled:
        if draw(st.booleans()):
            batches.append([])
        batches[-1].append((draw(st.integers(0, 1)), event))
    return lives, batches


@given(disorders())
def test_any_order_comes_to_the_same_end(
    disorder: tuple[dict[str, str], list[list[tuple[int, dict[str, Any]]]]],
) -> None:
    lives, batches = disorder
    right = [[(0, event)] for order_id, life in lives.items() for event in messages_of(order_id, life)]

    async def both() -> None:
        assert await after(batches) == await after(right)

    asyncio.run(both())
