"""Many clients, several processes, one log: what they want at the same time, and what each of them gets.

The stack has four processes behind the command API's one address, and no sweeper: what has expired must be free, and
seen to be free, by itself. The last test starts a sweeper beside it.
"""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from infra.embedded.folder import DataFolder
from infra.event_store.append_lock import append_lock_key
from tests.command_api import Reply
from tests.end_to_end.ledger import assert_clean, query, read_log, replay
from tests.end_to_end.load import Door, Unanswered, connected, doors_to_each, seed, versions_of
from tests.support import Up, eventually, eventually_async, stockhold_up

PROCESSES = 4
IDLE_IN_TRANSACTION_MS = 2_000


@pytest.fixture(scope="module")
def up(module_data_dir: Path) -> Iterator[Up]:
    words = ("--command-processes", str(PROCESSES), "--without", "sweeper")
    environment = {"STOCKHOLD_IDLE_IN_TRANSACTION_TIMEOUT_MS": str(IDLE_IN_TRANSACTION_MS)}
    with stockhold_up(module_data_dir, *words, environment=environment) as running:
        asyncio.run(_build(running))
        yield running


async def _build(up: Up) -> None:
    async with connected(up.facts["command_url"]) as door:
        for code in ("W1", "W2"):
            assert (await door.put(f"/v1/warehouses/{code}", {})).status == 201


def command_pids(up: Up, folder: Path) -> list[int]:
    """Of the processes that serve now: a killed one has another id than at the start."""
    facts = DataFolder(folder).read_running()
    assert facts is not None
    processes: Any = facts["processes"]
    return [one["pid"] for one in processes if one["name"].startswith("command-api")]


async def stock(door: Door, sku: str, units: int, warehouse: str = "W1") -> int:
    """The item's version with `units` more."""
    reply = await door.post(f"/v1/stock/{sku}/{warehouse}/restock", {"quantity": units})
    assert reply.status == 200, reply.raw
    return int(reply.json["version"])


def order(sku: str, quantity: int = 1, *, warehouse: str | None = "W1", **more: Any) -> dict[str, Any]:
    line = {"sku": sku, "quantity": quantity} | ({"warehouse": warehouse} if warehouse else {})
    return {"order_id": f"o-{sku}", "lines": [line], **more}


# Too many customers ----------------------------------------------------------------------------------


async def test_sixty_four_clients_get_a_hundred_units_and_not_one_more(up: Up) -> None:
    url = up.facts["command_url"]
    async with AsyncExitStack() as opened:
        doors = [await opened.enter_async_context(connected(url)) for _ in range(64)]
        await stock(doors[0], "TICKET", 100)
        pids = [up.pid_of(f"command-api-{number}") for number in range(1, PROCESSES + 1)]
        # One door to each process at least, so that all four decide; who else serves whom is the kernel's choice.
        doors[:PROCESSES] = await opened.enter_async_context(doors_to_each(url, pids))

        async def buy(door: Door) -> list[Reply]:
            return [await door.post("/v1/reservations", order("TICKET", ttl_seconds=900)) for _ in range(5)]

        replies = [reply for some in await asyncio.gather(*map(buy, doors)) for reply in some]
    assert Counter(reply.status for reply in replies) == {201: 100, 409: 220}
    assert {reply.code for reply in replies if reply.status == 409} == {"insufficient-stock"}
    events = read_log(up.facts["event_store_url"], "stock:TICKET@W1")
    assert replay(events)["TICKET@W1"].reserved == 100
    async with connected(up.facts["read_url"]) as window:
        seen = await window.get(f"/v1/availability/TICKET?min_version=W1:{len(events)}")
        assert (seen.json["available"], seen.json["warehouses"][0]["reserved"]) == (0, 100)
        for version in range(2, len(events) + 1, 20):
            past = await window.get(f"/v1/stock/TICKET/W1/as-of?version={version}")
            assert (past.json["reserved"], past.json["available"]) == (version - 2, 100 - (version - 2))


async def test_the_sum_holds_at_every_version_whatever_they_do(up: Up) -> None:
    """Orders of one item or two, held, paid, sent, given back and expiring under the hands of 32 clients."""
    first_seed = seed()
    async with AsyncExitStack() as opened:
        doors = [await opened.enter_async_context(connected(up.facts["command_url"])) for _ in range(32)]
        for sku in ("HOT-1", "HOT-2"):
            for code in ("W1", "W2"):
                await stock(doors[0], sku, 40, code)
        end_s = time.monotonic() + 3

        statuses: Counter[int] = Counter()

        async def shop(door: Door, draw: random.Random) -> None:
            while time.monotonic() < end_s:
                for method, target, body in await _wishes(door, draw):
                    statuses[(await door.ask(method, target, body)).status] += 1

        draws = [random.Random(first_seed + number) for number in range(len(doors))]
        await asyncio.gather(*map(shop, doors, draws))
    assert not {status for status in statuses if status >= 500}, statuses
    assert statuses[200] > 100, statuses
    replay(read_log(up.facts["event_store_url"]))


async def _wishes(door: Door, draw: random.Random) -> list[tuple[str, str, Any]]:
    if draw.random() < 0.05:
        return [("POST", f"/v1/stock/HOT-{draw.randint(1, 2)}/W{draw.randint(1, 2)}/restock", {"quantity": 2})]
    lines = [
        {"sku": sku, "quantity": draw.randint(1, 4)} | draw.choice([{}, {"warehouse": "W1"}, {"warehouse": "W2"}])
        for sku in draw.sample(["HOT-1", "HOT-2"], draw.randint(1, 2))
    ]
    made = await door.post("/v1/reservations", {"order_id": "o", "ttl_seconds": 1, "lines": lines})
    if made.status != 201:
        return []
    target = f"/v1/reservations/{made.json['reservation_id']}"
    steps = draw.choice([(), ("commit", "ship"), ("commit", "cancel"), ("release",), ("extend", "release")])
    return [("POST", f"{target}/{step}", {"ttl_seconds": 1} if step == "extend" else None) for step in steps]


async def test_one_process_sells_out_another_restocks_and_the_first_accepts(up: Up, module_data_dir: Path) -> None:
    async with doors_to_each(up.facts["command_url"], command_pids(up, module_data_dir)[:2]) as doors:
        for turn in range(4):
            here, there = doors[turn % 2], doors[1 - turn % 2]
            await _forget_conflicts(here)  # so that it trusts its memory, which is wrong soon
            sku = f"PINGPONG-{turn}"
            await stock(here, sku, 1)
            assert (await here.post("/v1/reservations", order(sku))).status == 201
            assert (await here.post("/v1/reservations", order(sku))).code == "insufficient-stock"
            await stock(there, sku, 1)
            assert (await here.post("/v1/reservations", order(sku))).status == 201, turn
            # And the other way round: what the other has sold is sold.
            assert (await there.post("/v1/reservations", order(sku))).code == "insufficient-stock", turn


async def test_what_one_process_changes_of_a_warehouse_the_others_know(up: Up, module_data_dir: Path) -> None:
    async with doors_to_each(up.facts["command_url"], command_pids(up, module_data_dir)[:2]) as doors:
        here, there = doors
        await stock(here, "PLACES", 5)
        anywhere = order("PLACES", 2, warehouse=None)
        assert (await there.post("/v1/reservations", anywhere)).status == 201
        for status in ("INACTIVE", "ACTIVE", "MAINTENANCE", "ACTIVE"):
            assert (await here.put("/v1/warehouses/W1", {"status": status})).status == 200
            code = None if status == "ACTIVE" else "warehouse-inactive"
            reply = await there.post("/v1/reservations", order("PLACES"))
            assert (reply.status, None if code is None else reply.code) == (
                (201, None) if code is None else (409, code)
            )
            here, there = there, here
        # One more than W1 has; then a place that the other process opens for this item is found.
        assert (await there.post("/v1/reservations", anywhere)).code == "insufficient-stock"
        await stock(here, "PLACES", 5, "W2")
        found = await there.post("/v1/reservations", anywhere)
        assert sum(part["quantity"] for part in found.json["lines"][0]["allocations"]) == 2


async def test_commit_and_release_race_and_one_of_them_wins(up: Up, module_data_dir: Path) -> None:
    async with doors_to_each(up.facts["command_url"], command_pids(up, module_data_dir)[:2]) as (here, there):
        await stock(here, "RACE", 100)
        won: Counter[str] = Counter()
        for number in range(30):
            name = f"race-{number}"
            assert (await here.post("/v1/reservations", order("RACE", reservation_id=name))).status == 201
            target = f"/v1/reservations/{name}"
            committed, released = await asyncio.gather(
                here.post(f"{target}/commit"), there.post(f"{target}/release", {"reason": "PAYMENT_FAILED"})
            )
            assert sorted((committed.status, released.status)) == [200, 409], (committed.raw, released.raw)
            winner, loser = (committed, released) if committed.status == 200 else (released, committed)
            assert (loser.code, loser.json["state"]) == ("reservation-not-active", winner.json["status"])
            won[winner.json["status"]] += 1
    sums = replay(read_log(up.facts["event_store_url"], "stock:RACE@W1"))["RACE@W1"]
    assert (sums.reserved, sums.committed) == (0, won["COMMITTED"])


# The same again --------------------------------------------------------------------------------------


async def test_one_key_at_two_processes_at_the_same_time_counts_once(up: Up, module_data_dir: Path) -> None:
    async with AsyncExitStack() as opened:
        url = up.facts["command_url"]
        doors = await opened.enter_async_context(doors_to_each(url, command_pids(up, module_data_dir)))
        # And more than one at the same process.
        doors += [await opened.enter_async_context(connected(url)) for _ in range(4)]
        await stock(doors[0], "TWICE", 1_000)
        for number in range(20):
            key = f"twice-{number}"
            replies = await asyncio.gather(*(door.post("/v1/reservations", order("TWICE"), key=key) for door in doors))
            assert {(reply.status, reply.body) for reply in replies} == {(201, replies[0].body)}
            assert sum("idempotency-replayed" not in reply.headers for reply in replies) == 1
            adding = [door.post("/v1/stock/TWICE/W1/restock", {"quantity": 1}, key=f"add-{key}") for door in doors]
            assert len({reply.body for reply in await asyncio.gather(*adding)}) == 1
    sums = replay(read_log(up.facts["event_store_url"], "stock:TWICE@W1"))["TWICE@W1"]
    assert (sums.on_hand, sums.reserved) == (1_020, 20)


async def test_one_key_for_another_request_is_refused_at_every_process(up: Up, module_data_dir: Path) -> None:
    async with doors_to_each(up.facts["command_url"], command_pids(up, module_data_dir)) as doors:
        await stock(doors[0], "OTHER", 10)
        assert (await doors[0].post("/v1/reservations", order("OTHER"), key="other")).status == 201
        for door in doors:
            assert (
                await door.post("/v1/reservations", order("OTHER", 2), key="other")
            ).code == "idempotency-key-reused"
            moved = await door.post("/v1/stock/OTHER/W1/restock", {"quantity": 1}, key="other")
            assert moved.code == "idempotency-key-reused"
        # Both at once, each with a body of its own: one is the key's, the other is refused.
        replies = await asyncio.gather(
            *(door.post("/v1/reservations", order("OTHER", n), key="raced") for n, door in enumerate(doors[:2], 1))
        )
        assert sorted(reply.status for reply in replies) == [201, 409]
    assert len(read_log(up.facts["event_store_url"], "stock:OTHER@W1")) == 4


async def test_one_reservation_id_is_one_reservation(up: Up, module_data_dir: Path) -> None:
    async with doors_to_each(up.facts["command_url"], command_pids(up, module_data_dir)) as doors:
        await stock(doors[0], "NAMED", 100)
        for number in range(10):
            wanted = order("NAMED", reservation_id=f"named-{number}")
            replies = await asyncio.gather(*(door.post("/v1/reservations", wanted) for door in doors))
            assert sorted(reply.status for reply in replies) == [200, 200, 200, 201]
            assert len({reply.body for reply in replies}) == 1
        for door in doors:
            refused = await door.post("/v1/reservations", order("NAMED", 2, reservation_id="named-0"))
            assert (refused.code, refused.json["state"]) == ("duplicate-reservation", "ACTIVE")
        assert (await doors[1].post("/v1/reservations/named-0/release")).status == 200
        for door in doors:
            refused = await door.post("/v1/reservations", order("NAMED", reservation_id="named-0"))
            assert (refused.code, refused.json["state"]) == ("duplicate-reservation", "RELEASED")
    assert replay(read_log(up.facts["event_store_url"], "stock:NAMED@W1"))["NAMED@W1"].reserved == 9


async def test_a_crash_after_the_commit_and_before_the_answer(up: Up, module_data_dir: Path) -> None:
    """The process stands still before it can answer, the commit happens, then it is killed: the key knows."""
    url = up.facts["event_store_url"]
    async with AsyncExitStack() as opened:
        doomed, other, *_ = await opened.enter_async_context(
            doors_to_each(up.facts["command_url"], command_pids(up, module_data_dir))
        )
        pid = doomed.served_by(command_pids(up, module_data_dir))
        assert pid is not None
        await stock(doomed, "CRASH", 10)
        await _forget_conflicts(doomed)
        with psycopg.connect(url) as connection:  # whose transaction holds the append lock
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (append_lock_key(),))
            asking = asyncio.create_task(doomed.post("/v1/reservations", order("CRASH"), key="crash"))
            await eventually_async(_someone_waits_for_the_lock(url))
            os.kill(pid, signal.SIGSTOP)
        await eventually_async(lambda: len(read_log(url, "stock:CRASH@W1")) == 3)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(Unanswered):
            await asking
        again = await other.post("/v1/reservations", order("CRASH"), key="crash")
        assert (again.status, again.headers["idempotency-replayed"]) == (201, "true")
        assert len(read_log(url, "stock:CRASH@W1")) == 3
        assert (await other.post("/v1/reservations", order("CRASH", 2), key="crash")).code == "idempotency-key-reused"
    eventually(lambda: pid not in command_pids(up, module_data_dir), 30)


async def test_a_writer_that_hangs_under_the_lock_holds_the_others_up_for_as_long_as_it_may(
    up: Up, module_data_dir: Path
) -> None:
    url = up.facts["event_store_url"]
    pids = command_pids(up, module_data_dir)
    async with doors_to_each(up.facts["command_url"], pids) as (hanging, other, *_):
        pid = hanging.served_by(pids)
        assert pid is not None
        await stock(hanging, "HANG", 10)
        try:
            with psycopg.connect(url) as connection:
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (append_lock_key(),))
                # An order that may be served from anywhere is decided under the lock, always.
                asking = asyncio.create_task(
                    hanging.post("/v1/reservations", order("HANG", warehouse=None), key="hang")
                )
                await eventually_async(_someone_waits_for_the_lock(url))
                os.kill(pid, signal.SIGSTOP)
            started_s = time.monotonic()
            assert (await other.post("/v1/reservations", order("HANG"))).status == 201
            assert time.monotonic() - started_s > 0.5 * IDLE_IN_TRANSACTION_MS / 1_000, "nobody was in its way"
        finally:
            os.kill(pid, signal.SIGCONT)
        # Back again, it finds its transaction gone, and decides anew.
        assert (await asking).status == 201
    assert replay(read_log(url, "stock:HANG@W1"))["HANG@W1"].reserved == 2


def _someone_waits_for_the_lock(url: str) -> Callable[[], object]:
    return lambda: query(url, "SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'advisory'")


async def _forget_conflicts(door: Door) -> None:
    """After a conflict a process decides under the lock for 200 batches; then it appends in one round trip again."""
    for _ in range(201):
        assert (await door.post("/v1/reservations/no-such/release")).status == 404


# Time ------------------------------------------------------------------------------------------------


async def test_a_hold_ends_at_its_instant_though_nobody_sweeps(up: Up) -> None:
    async with connected(up.facts["command_url"]) as door, connected(up.facts["read_url"]) as window:
        await stock(door, "LATE", 5)
        made = await door.post("/v1/reservations", order("LATE", 5, reservation_id="late", ttl_seconds=1))
        fresh = f"min_version=LATE@W1:{versions_of(made.json)['LATE@W1']}"
        held = await window.get(f"/v1/reservations/late?{fresh}")
        assert (held.status, held.json["status"], held.json["expires_at"]) == (200, "ACTIVE", made.json["expires_at"])
        assert (await door.post("/v1/reservations", order("LATE"))).code == "insufficient-stock"

        await eventually_async(_overdue(up, made.json["expires_at"]))
        assert (await door.post("/v1/reservations/late/commit")).code == "reservation-expired"
        assert (await door.post("/v1/reservations/late/extend", {"ttl_seconds": 60})).code == "reservation-expired"
        assert (await door.post("/v1/reservations/late/release")).json["status"] == "EXPIRED"
        assert [event.topic for event in read_log(up.facts["event_store_url"], "stock:LATE@W1")][2:] == [
            "stock-item.reserved"
        ]
        seen = await window.get("/v1/availability/LATE?quantity=5")
        assert (seen.json["available"], seen.json["can_fulfil"], seen.json["source"]) == (5, True, "redis")
        level = await window.get("/v1/stock/LATE/W1")
        assert (level.json["reserved"], level.json["available"]) == (0, 5)
        shown = await window.get("/v1/reservations/late")
        assert (shown.json["status"], shown.json["expires_at"]) == ("EXPIRED", None)
        assert (shown.json["release_reason"], shown.json["released_at"]) == ("EXPIRED", made.json["expires_at"])
        assert (await door.post("/v1/reservations", order("LATE", 5))).status == 201


def _overdue(up: Up, instant: str) -> Callable[[], object]:
    return lambda: query(up.facts["event_store_url"], "SELECT 1 WHERE clock_timestamp() > %s::timestamptz", instant)


HOLDS = 10_000


async def _hold_all(up: Up, lead_s: float) -> None:
    """HOLDS holds of a unit each, by the batch door, that end within the same second."""
    end_s = time.monotonic() + lead_s
    async with AsyncExitStack() as opened:
        doors = [await opened.enter_async_context(connected(up.facts["command_url"])) for _ in range(2)]
        await stock(doors[0], "FLASH", HOLDS)

        async def fill(door: Door, first: int) -> None:
            for start in range(first, HOLDS, 2_000):
                ttl_s = max(1, round(end_s - time.monotonic()))
                orders = [order("FLASH", reservation_id=f"f-{start + n}", ttl_seconds=ttl_s) for n in range(1_000)]
                reply = await door.post("/v1/reservations:batch", {"reservations": orders})
                assert Counter(result["status"] for result in reply.json["results"]) == {201: 1_000}

        await asyncio.gather(*(fill(door, 1_000 * number) for number, door in enumerate(doors)))


async def test_ten_thousand_holds_due_at_once_keep_nobody_waiting(up: Up, data_dir: Path) -> None:
    url = up.facts["event_store_url"]
    await _hold_all(up, lead_s=5)
    async with connected(up.facts["command_url"]) as door, connected(up.facts["read_url"]) as window:
        await eventually_async(_all_due(url), 20)
        # A few of them are released for it, no more.
        assert (await door.post("/v1/reservations", order("FLASH"))).status == 201
        assert (await window.get("/v1/availability/FLASH")).json["available"] >= HOLDS - 1
        served = 1
        with _a_sweeper_for(up, data_dir):
            # More than one decision may release, while the sweeper is at the same item.
            large = await door.post("/v1/reservations", order("FLASH", 3_000, ttl_seconds=900))
            assert large.status == 201, large.raw
            async with asyncio.timeout(40):
                while query(url, _UNSWEPT) != [(0,)]:
                    assert (await door.post("/v1/reservations", order("FLASH"))).status == 201
                    served += 1
        await _check_all_released_once(up, window, served + 3_000)


_UNSWEPT = "SELECT count(*) FROM holds WHERE sku = 'FLASH' AND active > 0 AND expires_at < now()"


def _all_due(url: str) -> Callable[[], object]:
    return lambda: query(url, "SELECT 1 WHERE (SELECT max(expires_at) FROM holds WHERE sku = 'FLASH') < now()")


def _a_sweeper_for(up: Up, folder: Path) -> AbstractContextManager[Up]:
    """A stack of nothing but a sweeper, on the servers of the other one."""
    names = ("event_store_url", "read_model_url", "redis_url")
    others = [word for role in ("command-api", "projector", "read-api") for word in ("--without", role)]
    return stockhold_up(folder, *others, environment={f"STOCKHOLD_{name.upper()}": up.facts[name] for name in names})


async def _check_all_released_once(up: Up, window: Door, reserved: int) -> None:
    events = read_log(up.facts["event_store_url"], "stock:FLASH@W1")
    released = Counter(
        event.facts["reservation_id"]
        for event in events
        if event.topic == "stock-item.released" and event.facts["reason"] == "EXPIRED"
    )
    assert released == Counter(f"f-{number}" for number in range(HOLDS))
    sums = replay(events)["FLASH@W1"]
    assert (sums.on_hand, sums.reserved) == (HOLDS, reserved)

    async def seen() -> bool:
        level = await window.get(f"/v1/stock/FLASH/W1?min_version=W1:{len(events)}")
        return level.status == 200 and level.json["reserved"] == reserved

    await eventually_async(seen)


def test_after_all_that_the_views_are_the_log(up: Up) -> None:
    assert_clean(up)
