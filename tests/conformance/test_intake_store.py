"""What the intake may expect of its store: in memory and on PostgreSQL."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from tests.support import eventually_async
from tests.support_intake import about, received
from write_side.intake.memory_store import MemoryIntakeStore
from write_side.intake.messages import Message, Received, read
from write_side.intake.postgres_store import PostgresIntakeStore, dead_messages
from write_side.intake.store import IntakeStore, Wait, dead

Make = Callable[..., IntakeStore]


@pytest.fixture(params=["memory", "postgres"])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """Makes stores on one database; in memory one is all."""
    async with AsyncExitStack() as opened:
        if request.param == "memory":
            yield MemoryIntakeStore
            return
        url = request.getfixturevalue("database_url")

        def connected(*, retry_s: float = 5.0, wait_s: float = 60.0) -> IntakeStore:
            store = PostgresIntakeStore(url, retry_s=retry_s, wait_s=wait_s)
            opened.push_async_callback(store.close)
            return store

        yield connected


def message(number: int, order_id: str = "o1", topic: str = "order.shipped", **data: str) -> Message:
    event = about(topic, order_id, **data) | {"id": f"m{number}"}
    return read(received(topic, event, offset=number, partition=3, key=b"k"))


def wait(number: int, order_id: str = "o1", **data: str) -> Wait:
    return Wait(message(number, order_id, **data), "unknown-reservation", "there is none")


async def names(store: IntakeStore, *order_ids: str) -> list[str]:
    return [row.name[1] for row in await store.waiting_for(order_ids)]


async def test_what_waits_is_found_by_its_order_as_it_came(make: Make) -> None:
    store = make()
    kept = wait(1)
    assert await store.keep([kept]) == set()
    assert await store.keep([wait(2), wait(3, "o2"), wait(4, "o3")]) == set()
    assert await names(store, "o1", "o2", "o9") == ["m1", "m2", "m3"]
    (row,) = await store.waiting_for(["o3"])
    assert row.received == message(4, "o3").received._replace(value=row.received.value)
    assert read(row.received).digest == message(4, "o3").digest
    assert not row.overdue
    assert abs(datetime.now(UTC) - row.since) < timedelta(seconds=30)


async def test_the_same_again_waits_once_and_another_of_its_name_is_not_kept(make: Make) -> None:
    store = make()
    await store.keep([wait(1)])
    (before,) = await store.waiting_for(["o1"])
    assert await store.keep([wait(1)]) == set()
    assert await store.keep([wait(1, "o2"), wait(2)]) == {("/shop", "m1")}
    assert await names(store, "o1", "o2") == ["m1", "m2"]
    assert (await store.waiting_for(["o1"]))[0].since == before.since


async def test_what_is_gone_waits_no_more(make: Make) -> None:
    store = make()
    await store.keep([wait(1), wait(2)])
    await store.settle([("/shop", "m1"), ("/shop", "m9")], [])
    assert await names(store, "o1") == ["m2"]
    figures = await store.figures()
    assert (figures.waiting, figures.dead) == (1, 0)
    assert 0 <= figures.oldest_s < 30


async def test_it_is_due_after_its_pause_and_later_each_time(make: Make) -> None:
    store = make(retry_s=0.1)
    await store.keep([wait(1)])

    async def due() -> list[str]:
        return [row.name[1] for row in await store.due(10)]

    assert await due() == []
    assert await eventually_async(due) == ["m1"]
    assert await due() == []
    began = datetime.now(UTC)
    assert await eventually_async(due) == ["m1"]
    assert datetime.now(UTC) - began >= timedelta(seconds=0.1)
    assert await names(store, "o1") == ["m1"]


async def test_at_most_so_many_are_due_at_once(make: Make) -> None:
    store = make(retry_s=0.0)
    await store.keep([wait(n) for n in range(5)])
    assert len(await store.due(3)) == 3


async def test_it_is_overdue_when_it_has_waited_as_long_as_it_may(make: Make) -> None:
    store = make(wait_s=0.05)
    await store.keep([wait(1)])

    async def overdue() -> bool:
        return (await store.waiting_for(["o1"]))[0].overdue

    await eventually_async(overdue)


async def test_one_process_looks_after_what_has_waited(make: Make) -> None:
    one, other = make(), make()
    assert await one.lead()
    assert await one.lead()
    if isinstance(one, MemoryIntakeStore):
        return
    assert not await other.lead()
    await one.close()
    await eventually_async(other.lead)
    assert not await one.lead()


async def test_what_is_given_up_no_longer_waits_and_is_wanted_again_when_somebody_says_so(
    make: Make, request: pytest.FixtureRequest
) -> None:
    store = make()
    await store.keep([wait(1)])
    given_up = dead(message(1).received, "reservation-not-active", "it is RELEASED", message(1))
    foreign = dead(Received("order.placed", 0, 7, None, b"\x00\xff"), "invalid-request", "a NUL: \x00 and \ud800")
    await store.settle([("/shop", "m1")], [given_up, foreign])
    assert await names(store, "o1") == []
    assert (await store.figures()).dead == 2
    assert await store.retried(10) == []
    if isinstance(store, MemoryIntakeStore):
        store.wanted = {given_up.message_id}
    else:
        url = request.getfixturevalue("database_url")
        with psycopg.connect(url, options="-c search_path=stockhold") as connection:
            connection.execute(
                "UPDATE dead_messages SET retry_requested = true WHERE message_id = %s", [given_up.message_id]
            )
        listed = {row.message_id: row for row in await dead_messages(url)}
        assert listed[foreign.message_id].detail == "a NUL: \N{REPLACEMENT CHARACTER} and ?"
        assert (listed[given_up.message_id].source, listed[given_up.message_id].order_id) == ("/shop", "o1")
    assert await store.retried(10) == [(given_up.message_id, given_up.received)]
    await store.settle([], [given_up])
    assert await store.retried(10) == []
    assert (await store.figures()).dead == 2
    await store.settle([], [], [given_up.message_id])
    assert (await store.figures()).dead == 1


async def test_what_has_no_body_is_not_wanted_again(database_url: str) -> None:
    store = PostgresIntakeStore(database_url, retry_s=5, wait_s=60)
    try:
        empty = dead(Received("order.placed", 0, 7, None, None), "invalid-request", "the message has no value")
        await store.settle([], [empty, dead(message(1).received, "x", "y", message(1))])
        with psycopg.connect(database_url, options="-c search_path=stockhold") as connection:
            connection.execute("UPDATE dead_messages SET retry_requested = true")
        assert [received.offset for _, received in await store.retried(10)] == [1]
        with psycopg.connect(database_url, options="-c search_path=stockhold") as connection:
            wanted = connection.execute("SELECT message_offset FROM dead_messages WHERE retry_requested").fetchall()
        assert wanted == [(1,)]
    finally:
        await store.close()


async def test_the_same_message_given_up_again_is_counted(database_url: str) -> None:
    store = PostgresIntakeStore(database_url, retry_s=5, wait_s=60)
    try:
        for offset in (1, 2):
            again = message(1).received._replace(offset=offset, value=b"always the same")
            await store.settle([], [dead(again, "invalid-request", "no JSON")])
        (listed,) = await dead_messages(database_url)
        assert (listed.times, listed.offset, listed.size) == (2, 2, 15)
    finally:
        await store.close()
