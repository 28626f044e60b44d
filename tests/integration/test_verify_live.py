"""`verify` while things move: a live stack, views that lag or are missing; and the command with its exit codes."""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg

from domain.commands import CommitReservation, CreateReservation, Line, PutWarehouse, Restock, ShipReservation
from infra.bootstrap import create_executor
from infra.redis import connect_redis
from infra.settings import Settings
from projections.follower import FollowerOptions
from projections.lane import Servers
from projections.projector import run_projector
from projections.verify import GenerationName, Report, Verification
from tests.support import STOCKHOLD, eventually_async
from tests.support_domain import registered, restocked
from tests.support_verify import append_shop, busy_shop, verified
from tests.support_views import LogWriter, Rig, follower_rig, new_generation
from write_side.executor import CommandExecutor

ITEMS = 20


@asynccontextmanager
async def following(url: str, redis_url: str) -> AsyncIterator[None]:
    """A projector for as long as the block lasts."""
    stop, ready = asyncio.Event(), asyncio.Event()
    async with connect_redis(redis_url) as redis:
        task = asyncio.create_task(run_projector(Servers(url, url, redis), stop, ready.set, FollowerOptions(batch=50)))
        try:
            await ready.wait()
            yield
        finally:
            stop.set()
            await asyncio.wait_for(task, 20)


@asynccontextmanager
async def executing(url: str, redis_url: str) -> AsyncIterator[CommandExecutor]:
    executor = create_executor(Settings(event_store_url=url, redis_url=redis_url))
    await executor.start()
    try:
        yield executor
    finally:
        await executor.drain()


async def sell(executor: CommandExecutor, orders: range) -> None:
    """Orders of two lines, half of them paid and sent."""
    for number in orders:
        lines = (Line(f"S{number % ITEMS}", 1), Line(f"S{(number * 7 + 3) % ITEMS}", 2))
        created = CreateReservation(order_id=f"o{number}", reservation_id=f"r{number}", lines=lines, ttl_seconds=1)
        assert (await executor.execute(created)).status == 201
        if number % 2:
            await executor.execute(CommitReservation(reservation_id=f"r{number}"))
            await executor.execute(ShipReservation(reservation_id=f"r{number}"))


async def test_a_live_stack_is_clean_while_it_works(database_url: str, redis_url: str) -> None:
    async with following(database_url, redis_url), executing(database_url, redis_url) as executor:
        await executor.execute(PutWarehouse(code="W1"))
        for number in range(ITEMS):
            await executor.execute(Restock(sku=f"S{number}", warehouse="W1", quantity=1_000_000))
        stop = asyncio.Event()

        async def keep_selling(lane: int) -> None:
            number = lane * 1_000_000
            while not stop.is_set():
                await sell(executor, range(number, number + 10))
                number += 10

        selling = [asyncio.create_task(keep_selling(lane)) for lane in range(4)]
        try:
            seen = []
            for _ in range(3):
                report = await asyncio.to_thread(_verify, database_url, redis_url)
                assert (report.violation_details, report.difference_details) == ([], [])
                seen.append(report.events)
        finally:
            stop.set()
            await asyncio.gather(*selling)
    assert seen[0] < seen[1] < seen[2], "nothing was sold meanwhile"
    assert report.items == ITEMS
    assert report.holds > 0


def _verify(url: str, redis_url: str, **options: Any) -> Report:
    with Verification(url, url, redis_url, **options) as verification:
        return verification.run()


async def test_it_waits_for_views_that_get_on(database_url: str, redis_url: str) -> None:
    await append_shop(database_url, busy_shop())
    async with follower_rig(database_url, redis_url, batch=5) as rig:
        verifying = asyncio.create_task(verified(rig, redis_url, patience_s=20))
        await eventually_async(lambda: _connected(rig, "stockhold-verify"), what="the verification looks at the views")
        await rig.catch_up()
        assert (await verifying).is_clean


def _connected(rig: Rig, name: str) -> bool:
    return bool(rig.execute("SELECT 1 FROM pg_stat_activity WHERE application_name = %s", name))


async def test_views_that_stand_still_are_behind(database_url: str, redis_url: str) -> None:
    async with follower_rig(database_url, redis_url) as rig:
        log = LogWriter(database_url)
        log.happened("A", "W1", registered(), restocked(10))
        await rig.catch_up()
        log.happened("A", "W1", restocked(5))
        log.happened("B", "W1", registered())
        report = await verified(rig, redis_url, patience_s=0.2)
    assert report.difference_details[:2] == [
        f"{rig.generation.schema}: stands at position 2, the log at 4",
        f"the cache {rig.generation.redis_prefix}: stands at position 2, the log at 4",
    ]
    behind = {detail for detail in report.difference_details if not detail.startswith("index.")}
    assert {
        "stock_levels A@W1: is at version 2, behind version 3",
        "redis A@W1: is at version 2, behind version 3",
        "stock_levels B@W1: is missing",
        "redis B@W1: is missing",
    } <= behind
    assert report.violations == 0


async def test_an_item_that_stands_still_alone_is_found(database_url: str, redis_url: str) -> None:
    """The cursor has passed it, but its last event was lost on the way."""
    await append_shop(database_url, busy_shop())
    async with follower_rig(database_url, redis_url) as rig:
        rows = [row for row in LogWriter(database_url).rows() if (row.stream, row.version) != ("stock:A@W2", 15)]
        await rig.follower.apply(rows, position=LogWriter(database_url).rows()[-1].position)
        await rig.pusher.push_queued(rig.rows)
        report = await verified(rig, redis_url)
    assert "stock_levels A@W2: is at version 14, behind version 15" in report.difference_details
    assert "redis A@W2: is at version 14, behind version 15" in report.difference_details
    assert "reservations r-manual: is missing" not in report.difference_details  # the level is not so far either
    assert report.differences == 2


async def test_a_poisoned_item_is_a_violation_and_stands_still(database_url: str, redis_url: str) -> None:
    async with follower_rig(database_url, redis_url) as rig:
        log = LogWriter(database_url)
        log.happened("A", "W1", registered(), restocked(10))
        log.append_poison("stock:A@W1")
        await rig.catch_up()
        report = await verified(rig, redis_url)
    assert report.violation_details == [
        "stock:A@W1 at version 3: cannot be read: no event class has the topic 'stock-item.no-such-thing'"
    ]
    assert any(
        detail.startswith("dead_letters stock:A@W1: stands still at version") for detail in report.difference_details
    )


async def test_without_views_the_log_and_the_index_are_still_verified(database_url: str, redis_url: str) -> None:
    await append_shop(database_url, busy_shop())
    report = await asyncio.to_thread(_verify, database_url, redis_url, patience_s=0.2)
    assert report.difference_details == ["the generation of the views that is read: is not there"]
    assert (report.items, report.violations) == (3, 0)
    with psycopg.connect(database_url) as connection:
        connection.execute("DROP SCHEMA stockhold_views CASCADE")
    assert (await asyncio.to_thread(_verify, database_url, redis_url, patience_s=0.2)).differences == 1


async def test_a_generation_may_be_named_and_the_cache_left_out(database_url: str, redis_url: str) -> None:
    await append_shop(database_url, busy_shop())
    async with new_generation(database_url) as first:
        pass
    named = GenerationName(first.schema, first.redis_prefix)
    report = await asyncio.to_thread(_verify, database_url, redis_url, generation=named, patience_s=0.2)
    assert report.difference_details[0] == f"{first.schema}: stands at position 0, the log at {len(busy_shop().log)}"
    async with follower_rig(database_url, redis_url) as rig:
        await rig.catch_up()
        await rig.redis.flushdb()
        assert (await asyncio.to_thread(_verify, database_url, "", generation=named)).is_clean


# The command


def stockhold_verify(database_url: str, redis_url: str) -> "subprocess.CompletedProcess[str]":
    urls = {"STOCKHOLD_EVENT_STORE_URL": database_url, "STOCKHOLD_REDIS_URL": redis_url}
    return subprocess.run(
        [*STOCKHOLD, "verify", "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **urls},
        timeout=60,
    )


async def test_the_command_tells_by_its_exit_code(database_url: str, redis_url: str) -> None:
    await append_shop(database_url, busy_shop())
    async with follower_rig(database_url, redis_url) as rig:
        await rig.catch_up()
        clean = await asyncio.to_thread(stockhold_verify, database_url, redis_url)
        assert clean.returncode == 0, clean.stderr
        facts = json.loads(clean.stdout)
        assert (facts["events"], facts["items"], facts["violations"], facts["differences"]) == (
            len(busy_shop().log),
            3,
            0,
            0,
        )
        assert facts["seconds"] > 0
        assert "events verified" in clean.stderr
        rig.execute("UPDATE stock_levels SET on_hand = on_hand + 1")
        wrong = await asyncio.to_thread(stockhold_verify, database_url, redis_url)
    assert wrong.returncode == 1
    facts = json.loads(wrong.stdout)
    assert (facts["violations"], facts["differences"]) == (0, 3)
    assert all(detail in wrong.stderr for detail in facts["difference_details"])
    assert "stock_levels A@W2: on_hand is 17, not 16" in facts["difference_details"]


def test_servers_that_are_away_are_not_a_difference(database_url: str, redis_url: str) -> None:
    for urls in (("postgresql://127.0.0.1:1/none", redis_url), (database_url, "redis://127.0.0.1:1/0")):
        away = stockhold_verify(*urls)
        assert away.returncode == 3, away.stderr
        assert away.stdout == ""
