"""What the views lose, and what readers see meanwhile: Redis emptied or away, a delivery lost, an event nobody can read."""

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from infra.embedded.folder import DataFolder
from infra.event_store.append_lock import CHANNEL, append_lock_key
from tests.end_to_end.ledger import assert_clean, query, stockhold
from tests.end_to_end.load import Books, Door, Shop, connected, seed
from tests.support import Up, eventually_async, stockhold_up

HEALED_S = 15.0
DEAD_LETTERS = "stockhold_views_g1.dead_letters"


@pytest.fixture(scope="module")
def up(module_data_dir: Path) -> Iterator[Up]:
    with stockhold_up(module_data_dir) as running:
        asyncio.run(_build(running))
        yield running


async def _build(up: Up) -> None:
    async with connected(up.facts["command_url"]) as door:
        for code in ("W1", "W2", "W3"):
            assert (await door.put(f"/v1/warehouses/{code}", {})).status == 201


@pytest.fixture
async def door(up: Up) -> AsyncIterator[Door]:
    async with connected(up.facts["command_url"]) as opened:
        yield opened


@pytest.fixture
async def window(up: Up) -> AsyncIterator[Door]:
    async with connected(up.facts["read_url"]) as opened:
        yield opened


def pid_now(folder: Path, name: str) -> int | None:
    facts = DataFolder(folder).read_running()
    processes: Any = facts["processes"] if facts is not None else []
    return next((one["pid"] for one in processes if one["name"] == name), None)


async def restock(door: Door, sku: str, warehouse: str, quantity: int) -> int:
    """The version after it."""
    reply = await door.post(f"/v1/stock/{sku}/{warehouse}/restock", {"quantity": quantity})
    assert reply.status == 200, reply.raw
    return int(reply.json["version"])


def seen(window: Door, sku: str, source: str, **on_hand: int) -> Callable[[], Awaitable[bool]]:
    """Whether the SKU's availability comes from `source` with these units by warehouse."""

    async def condition() -> bool:
        reply = await window.get(f"/v1/availability/{sku}")
        assert reply.status == 200, reply.raw
        levels = {level["warehouse"]: level["on_hand"] for level in reply.json["warehouses"]}
        assert (levels, reply.json["source"]) == (on_hand, source)
        return True

    return condition


# Redis -----------------------------------------------------------------------------------------------


async def test_emptied_and_then_one_event_no_sku_shows_a_part_of_its_warehouses(
    up: Up, door: Door, window: Door
) -> None:
    for number in range(200):
        for code in ("W1", "W2", "W3"):
            version = await restock(door, f"FLUSHED-{number}", code, 10)
    await eventually_async(seen(window, "FLUSHED-199", "redis", W1=10, W2=10, W3=10))
    with redis.Redis.from_url(up.facts["redis_url"]) as client:
        for turn in range(5):
            client.flushall()
            version = await restock(door, "FLUSHED-0", "W2", 1)
            sources: list[str] = []
            while sources[-5:] != ["redis"] * 5:
                query_string = f"sku=FLUSHED-0&sku=FLUSHED-199&min_version=FLUSHED-0@W2:{version}"
                reply = await window.get(f"/v1/availability?{query_string}")
                assert reply.status == 200, reply.raw
                first, last = reply.json["items"]
                assert [level["on_hand"] for level in first["warehouses"]] == [10, 11 + turn, 10]
                assert [level["on_hand"] for level in last["warehouses"]] == [10, 10, 10]
                sources.append(last["source"])
                assert len(sources) < 20_000, "Redis is not filled again"


async def test_away_postgres_answers_and_says_so_and_back_redis_does(
    door: Door, window: Door, module_data_dir: Path
) -> None:
    await restock(door, "AWAY", "W1", 5)
    await eventually_async(seen(window, "AWAY", "redis", W1=5))
    pid = pid_now(module_data_dir, "valkey")
    assert pid is not None
    # Stopped and not killed, so that it stays away for as long as this test wants.
    os.kill(pid, signal.SIGSTOP)
    try:
        await seen(window, "AWAY", "postgres", W1=5)()
        version = await restock(door, "AWAY", "W1", 2)
        fresh = await window.get(f"/v1/availability/AWAY?min_version=W1:{version}")
        assert (fresh.status, fresh.json["available"], fresh.json["source"]) == (200, 7, "postgres")
        assert (await window.get("/readyz")).status == 200, "the read API works without it"
    finally:
        os.kill(pid, signal.SIGKILL)
    await eventually_async(seen(window, "AWAY", "redis", W1=7), 30)
    assert pid_now(module_data_dir, "valkey") != pid


# A delivery that is lost -----------------------------------------------------------------------------


async def test_the_very_last_event_of_an_item_lost_on_its_way_is_found(
    up: Up, door: Door, window: Door, module_data_dir: Path
) -> None:
    """The projector is made to believe that it had seen the item's last event: nothing after it shows a gap."""
    url = up.facts["event_store_url"]
    await restock(door, "LOST", "W1", 5)
    await eventually_async(seen(window, "LOST", "redis", W1=5))
    pid = pid_now(module_data_dir, "projector")
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    version = await restock(door, "LOST", "W1", 3)
    query(
        url,
        """UPDATE stockhold_views_g1.cursors SET pg_position =
           (SELECT max(notification_id) FROM stored_events)""",
    )
    os.kill(pid, signal.SIGKILL)
    await eventually_async(lambda: pid_now(module_data_dir, "projector") not in {pid, None}, 30)
    await eventually_async(seen(window, "LOST", "redis", W1=8), HEALED_S)
    history = await window.get(f"/v1/stock/LOST/W1/history?min_version=W1:{version}")
    assert [one["version"] for one in history.json["items"]] == [3, 2]
    assert "a stream was behind its log" in up.errors()


# An event that nobody can read -----------------------------------------------------------------------


def append(url: str, stream: str, version: int, topic: str, state: str) -> None:
    """As a writer of another make would: under the append lock, with a notice."""
    with psycopg.connect(url, options="-c search_path=stockhold") as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (append_lock_key(),))
        connection.execute(
            "INSERT INTO stored_events (originator_id, originator_version, topic, state) VALUES (%s, %s, %s, %s)",
            (stream, version, topic, state.encode()),
        )
        connection.execute("SELECT pg_notify(%s, '')", (CHANNEL,))


async def test_a_poison_event_stops_its_item_and_nothing_else(up: Up, door: Door, window: Door) -> None:
    url = up.facts["event_store_url"]
    for code in ("W1", "W2"):
        version = await restock(door, "POISON", code, 5)
    await eventually_async(seen(window, "POISON", "redis", W1=5, W2=5))
    stream = "stock:POISON@W1"
    append(url, stream, version + 1, "stock-item.teleported", "{}")

    async def stale() -> bool:
        return (await window.get("/v1/stock/POISON/W1")).json.get("stale") is True

    await eventually_async(stale)
    level = await window.get("/v1/stock/POISON/W1")
    assert (level.json["on_hand"], level.json["version"]) == (5, version)
    for target in ("/v1/stock/POISON/W1?min_version=W1", "/v1/availability/POISON?min_version=W1"):
        for wanted in (version, version + 1):
            refused = await window.get(f"{target}:{wanted}")
            assert (refused.status, refused.code) == (503, "not-fresh-enough")
    # Nobody can decide about it either; the key stays free for the day when it is repaired.
    assert (await door.post("/v1/stock/POISON/W1/restock", {"quantity": 1}, key="poison")).status == 500
    # The rest goes on, the same SKU elsewhere too.
    later = await restock(door, "POISON", "W2", 2)
    assert (await window.get(f"/v1/stock/POISON/W2?min_version=W2:{later}")).json["on_hand"] == 7
    other = await restock(door, "HEALTHY", "W1", 1)
    assert (await window.get(f"/v1/stock/HEALTHY/W1?min_version=W1:{other}")).status == 200
    elsewhere = {"order_id": "o", "lines": [{"sku": "POISON", "warehouse": "W2", "quantity": 1}]}
    assert (await door.post("/v1/reservations", elsewhere)).status == 201

    assert parked(up) == [stream]
    assert retry(up) == (1, 0, [stream])
    correct(url, stream, version + 1, "stock-item.restocked", {"quantity": 1})
    assert retry(up) == (0, 1, [])
    await eventually_async(seen(window, "POISON", "redis", W1=6, W2=7), HEALED_S)
    level = await window.get(f"/v1/stock/POISON/W1?min_version=W1:{version + 1}")
    assert (level.status, level.json.get("stale")) == (200, None)
    repaired = await door.post("/v1/stock/POISON/W1/restock", {"quantity": 1}, key="poison")
    assert (repaired.status, repaired.json["on_hand"]) == (200, 7)


async def test_a_poison_event_of_a_warehouse_stops_nobody_else(up: Up, door: Door, window: Door) -> None:
    url = up.facts["event_store_url"]
    assert (await door.put("/v1/warehouses/W9", {"name": "Nine"})).status == 201
    await restock(door, "NINE", "W9", 5)
    append(url, "warehouse:W9", 2, "warehouse.demolished", "{}")
    query(url, "UPDATE warehouses SET version = 2, changed = nextval('warehouses_changed_seq') WHERE code = 'W9'")
    await eventually_async(lambda: query(url, f"SELECT 1 FROM {DEAD_LETTERS} WHERE stream = 'warehouse:W9'"))
    # What is decided about it alone fails, and at once.
    async with asyncio.timeout(5):
        assert (await door.put("/v1/warehouses/W9", {"name": "Other"}, key="demolished")).status == 500
        assert (await door.post("/v1/stock/NINE/W9/restock", {"quantity": 1})).status == 500
        version = await restock(door, "HEALTHY", "W2", 1)
        assert (await door.put("/v1/warehouses/W8", {})).status == 201
    assert (await window.get(f"/v1/stock/HEALTHY/W2?min_version=W2:{version}")).status == 200
    await eventually_async(seen(window, "NINE", "redis", W9=5))

    correct(url, "warehouse:W9", 2, "warehouse.changed", {"details": {"name": "Neun"}})
    assert retry(up) == (0, 1, [])
    assert (await door.put("/v1/warehouses/W9", {"priority": 1}, key="demolished")).json["name"] == "Neun"

    async def renamed() -> bool:
        shown = (await window.get("/v1/warehouses/W9")).json
        return (shown["name"], shown["priority"], shown["version"]) == ("Neun", 1, 3)

    await eventually_async(renamed, HEALED_S)


def correct(url: str, stream: str, version: int, topic: str, facts: dict[str, Any]) -> None:
    """Make of the poison what had been meant."""
    state = {
        "originator_id": stream,
        "originator_version": version,
        "timestamp": datetime.now(UTC).isoformat(),
        "origin": {"command_id": "by-hand", "actor": "operator", "correlation_id": "by-hand"},
        **facts,
    }
    query(
        url,
        "UPDATE stored_events SET topic = %s, state = %s WHERE originator_id = %s AND originator_version = %s",
        topic,
        json.dumps(state).encode(),
        stream,
        version,
    )


def parked(up: Up) -> list[str]:
    """The streams that stand still."""
    exit_code, report = stockhold(up, "dead-letters")
    assert exit_code == 0
    return [letter["stream"] for letter in report["dead_letters"]]


def retry(up: Up) -> tuple[int, int, list[str]]:
    """Have what is parked tried again: exit code, how many are healed, and what stays."""
    exit_code, report = stockhold(up, "dead-letters", "--retry")
    return exit_code, report["healed"], [letter["stream"] for letter in report["dead_letters"]]


# Anew ------------------------------------------------------------------------------------------------


async def test_the_views_are_built_anew_while_customers_write_and_look(up: Up) -> None:
    """Whoever asks for what was just written gets it (see `Shop`), before, while and after the views are exchanged."""
    shop = Shop(
        Books("rebuild"),
        up.facts["command_url"],
        up.facts["read_url"],
        ("BUILT-1", "BUILT-2", "BUILT-3"),
        ("W1", "W2"),
        random.Random(seed()),
    )
    await shop.open(units=1_000)
    async with shop.busy(customers=4):
        exit_code, report = await asyncio.to_thread(stockhold, up, "rebuild", "--build", "--retire")
        assert (exit_code, report["generation"], report["retired"]) == (0, 2, [1]), report
        enough = shop.reads + 50
        await eventually_async(lambda: shop.reads >= enough)
    assert not shop.books.unanswered


def test_after_all_that_the_views_are_the_log(up: Up) -> None:
    assert_clean(up)
