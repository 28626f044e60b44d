"""Every process is killed by `kill -9` while customers order, pay and look; afterwards the books are right.

What was answered is in the log once, as it was answered. What was not is there whole or not at all, and asking again
under the same key settles it. When to kill is drawn from a seed (see `load.seed`), and told with a failure.
"""

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from infra.embedded.folder import DataFolder
from tests.end_to_end.ledger import assert_clean, check_books
from tests.end_to_end.load import Books, Shop, connected, seed
from tests.support import Up, eventually_async, is_running, stockhold_up

PROCESSES = ("--command-processes", "2")
VICTIMS = ("command-api-1", "projector", "sweeper", "valkey", "read-api-1", "postgres", "command-api-2", "projector")
WITH_KAFKA = ("--kafka", "--worker-processes", "2")
VICTIMS_WITH_KAFKA = ("worker-1", "relay", "kafka", "worker-2", "postgres", "publisher", "valkey", "intake", "worker-1")
SKUS, WAREHOUSES = ("C-1", "C-2", "C-3", "C-4"), ("W1", "W2", "W3")
CUSTOMERS = 12
BACK_S = 30.0


def pids_now(folder: Path) -> dict[str, int]:
    facts = DataFolder(folder).read_running()
    assert facts is not None
    processes = facts["processes"]
    assert isinstance(processes, list)
    return {one["name"]: one["pid"] for one in processes}


def open_shop(up: Up, books: Books, draw: random.Random) -> Shop:
    return Shop(books, up.facts["command_url"], up.facts["read_url"], SKUS, WAREHOUSES, draw)


async def commands_answered(books: Books, number: int) -> None:
    """Wait until so many more commands have been answered."""
    enough = len(books.answered) + number
    await eventually_async(lambda: len(books.answered) >= enough, BACK_S)


async def kill(folder: Path, name: str) -> None:
    """Kill it, and wait until its successor is ready."""
    pid = pids_now(folder)[name]
    os.kill(pid, signal.SIGKILL)
    await eventually_async(lambda: pids_now(folder).get(name, pid) != pid, BACK_S, what=f"{name} is back")
    assert not is_running(pid)


@asynccontextmanager
async def rush_in(shop: Shop) -> AsyncIterator[None]:
    """Two full batches of orders are under way when the block begins; it ends when they have had their answers."""
    async with asyncio.TaskGroup() as group:
        for sku in shop.draw.sample(SKUS, 2):
            group.create_task(shop.rush(sku))
        yield


@pytest.mark.timeout(420)
@pytest.mark.parametrize(
    ("processes", "victims"),
    [
        pytest.param(PROCESSES, VICTIMS, id="follower"),
        pytest.param(WITH_KAFKA, VICTIMS_WITH_KAFKA, id="kafka", marks=pytest.mark.kafka),
    ],
)
async def test_whoever_is_killed_the_books_are_right(
    data_dir: Path, processes: tuple[str, ...], victims: tuple[str, ...]
) -> None:
    draw = random.Random(seed())
    books = Books("crash")
    with stockhold_up(data_dir, *processes) as up:
        shop = open_shop(up, books, draw)
        await shop.open(units=3_000)
        async with shop.busy(CUSTOMERS):
            for victim in victims:
                await commands_answered(books, draw.randint(20, 120))
                async with rush_in(shop):
                    await asyncio.sleep(draw.uniform(0, 0.3))  # a moment by chance: there is nothing to wait for
                    await kill(data_dir, victim)
            await commands_answered(books, 50)
        await check_and_settle(books, up)
        assert shop.reads > 50
        assert_clean(up)
        # And the whole of it at once.
        shop = open_shop(up, books, draw)
        async with shop.busy(CUSTOMERS):
            await commands_answered(books, draw.randint(20, 120))
            async with rush_in(shop):
                await asyncio.sleep(draw.uniform(0, 0.3))
                up.process.kill()
                up.process.wait()
                await eventually_async(lambda: not [pid for pid in up.pids() if is_running(pid)])
    with stockhold_up(data_dir, *processes) as up:
        await check_and_settle(books, up)
        assert_clean(up)
        shop = open_shop(up, books, draw)
        async with shop.busy(CUSTOMERS):
            await commands_answered(books, 50)
        await check_and_settle(books, up)
        assert_clean(up)


async def check_and_settle(books: Books, up: Up) -> None:
    """The books are right before what is open was asked again, and after it."""
    url = up.facts["event_store_url"]
    check_books(books, url)
    async with connected(up.facts["command_url"]) as door:
        await books.settle(door)
    check_books(books, url)
