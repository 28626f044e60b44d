"""The follower on real servers: every promise that the views make, driven step by step."""

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import REGISTRY

from domain.events import Discontinued, WarehouseCreated, WarehouseDetails
from domain.values import ReleaseReason, stock_stream
from infra.event_store.mapper import EventMapper
from projections import follower as follower_module
from projections.postgres_views import LostLeadership, PostgresViews
from projections.redis_views import NotFilled
from tests.support import eventually_async
from tests.support_domain import (
    NOW,
    after,
    committed,
    extended,
    happened,
    registered,
    released,
    reserved,
    restocked,
    returned,
    shipped,
)
from tests.support_histories import played_seed
from tests.support_views import LogWriter, Rig, Views, assert_cache_is_views, follower_rig

A = stock_stream("A", "W1")


@pytest.fixture
def log(database_url: str) -> LogWriter:
    return LogWriter(database_url)


@pytest.fixture
async def rig(database_url: str, redis_url: str) -> AsyncIterator[Rig]:
    async with follower_rig(database_url, redis_url) as rig:
        yield rig


def some_orders(log: LogWriter) -> None:
    """Two warehouses, three items, and orders in every state."""
    log.warehouse("W1", name="Frankfurt")
    log.warehouse("W2", priority=2)
    log.happened("A", "W1", registered(), restocked(20), reserved("r-1", 3, ttl_s=60), reserved("r-2", 2, ttl_s=30))
    log.happened("B", "W1", registered(), restocked(10), reserved("r-1", 1, ttl_s=60))
    log.happened("A", "W2", registered(), restocked(5))
    log.happened("A", "W1", committed("r-2", 2), shipped("r-2", 1, "T1"), returned(1, reservation_id="r-2"))
    log.happened("B", "W1", released("r-1", 1, ReleaseReason.EXPIRED))
    log.warehouse("W1", name="Frankfurt am Main")


async def fold_of_the_log(rig: Rig) -> Views:
    """What the views must be: the whole log, applied in order to empty tables."""
    for table in ("stock_levels", "policies", "reservations", "holds", "movements", "warehouses", "dead_letters"):
        rig.execute(f"TRUNCATE {table}")
    rig.execute("UPDATE cursors SET pg_position = 0")
    await rig.restart(cache=False)
    while await rig.follower.step():
        pass
    return rig.views()


async def test_events_become_rows_in_both_stores(log: LogWriter, rig: Rig) -> None:
    some_orders(log)
    await rig.catch_up()
    level = rig.level("A", "W1")
    assert level is not None
    assert (level["on_hand"], level["reserved"], level["committed"], level["sold"]) == (20, 3, 1, 1)
    assert (level["version"], level["returned"], level["next_due_at"]) == (7, 1, after(60))
    views = rig.views()
    kinds = [row["type"] for row in views["movements"] if (row["sku"], row["warehouse"]) == ("A", "W1")]
    assert kinds == ["RECEIPT", "RESERVATION", "RESERVATION", "SALE", "SHIPMENT", "RETURN"]
    assert {(row["reservation_id"], row["sku"], row["version"]) for row in views["holds"]} == {
        ("r-1", "A", 3),
        ("r-1", "B", 4),
        ("r-2", "A", 7),
    }
    assert [(row["code"], row["version"]) for row in views["warehouses"]] == [("W1", 2), ("W2", 1)]
    await assert_cache_is_views(rig)


async def test_small_batches_make_the_same_views_as_large_ones(
    log: LogWriter, database_url: str, redis_url: str
) -> None:
    log.append(played_seed(7).log)
    async with follower_rig(database_url, redis_url, batch=1) as rig:
        await rig.catch_up()
        await assert_cache_is_views(rig)
        one_by_one = rig.views()
        assert one_by_one == await fold_of_the_log(rig)
    async with follower_rig(database_url, redis_url, batch=10_000) as rig:
        assert one_by_one == await fold_of_the_log(rig)


async def test_starting_from_zero_again_changes_nothing(log: LogWriter, rig: Rig) -> None:
    some_orders(log)
    await rig.catch_up()
    views = rig.views()
    rig.execute("UPDATE cursors SET pg_position = 0")
    await rig.restart()
    await rig.catch_up()
    assert rig.views() == views
    await assert_cache_is_views(rig)


async def test_repeats_and_disorder_change_nothing(log: LogWriter, rig: Rig) -> None:
    log.append(played_seed(11).log)
    rows = log.rows()
    chance = random.Random(1)
    for _ in range(12):
        await rig.follower.apply(chance.choices(rows, k=chance.randint(1, 9)))
    await rig.follower.apply(rows)
    views = rig.views()
    await rig.pusher.push_queued(rig.rows)
    await assert_cache_is_views(rig)
    assert views == await fold_of_the_log(rig)


async def test_a_gap_is_healed_from_the_log(log: LogWriter, rig: Rig) -> None:
    some_orders(log)
    last = [row for row in log.rows() if row.stream == A][-1]
    await rig.follower.apply([last])
    level = rig.level("A", "W1")
    assert level is not None
    assert level["version"] == last.version
    assert len(rig.views()["movements"]) == 6


async def test_a_long_gap_is_healed_in_several_transactions(
    log: LogWriter, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "HEAL_ROWS", 3)
    log.happened("A", "W1", registered(), *[restocked(1) for _ in range(20)])
    await rig.follower.apply([log.rows()[-1]])
    level = rig.level("A", "W1")
    assert level is not None
    assert (level["version"], level["on_hand"]) == (21, 20)


async def test_a_version_that_the_log_lacks_parks_the_item(log: LogWriter, rig: Rig) -> None:
    log.happened("A", "W1", registered(), restocked(1))
    lost = log.event(A, restocked(1))
    log.happened("A", "W1", restocked(1))
    await rig.catch_up()
    level = rig.level("A", "W1")
    assert level is not None
    assert (level["version"], level["stale"]) == (2, True)
    (letter,) = rig.views()["dead_letters"]
    assert (letter["stream"], letter["version"]) == (A, 4)
    log.append([lost])
    await retry(rig, A)
    assert rig.level("A", "W1") == level | {"version": 4, "stale": False, "on_hand": 3}


async def test_the_last_event_lost_is_healed(log: LogWriter, rig: Rig) -> None:
    some_orders(log)
    await rig.catch_up()
    views = rig.views()
    log.happened("A", "W1", restocked(7))
    log.warehouse("W2", priority=9)
    head = log.rows()[-1].position
    await rig.follower.apply([], position=head)  # the cursor has passed them, and nothing of them is there
    assert rig.views() == views
    assert not await rig.follower.reconcile(head)
    level = rig.level("A", "W1")
    assert level is not None
    assert level["on_hand"] == 27
    assert [row["version"] for row in rig.views()["warehouses"]] == [2, 2]
    await rig.pusher.push_queued(rig.rows)
    await assert_cache_is_views(rig)


async def test_reconciliation_looks_at_every_position_once_however_often_it_restarts(
    log: LogWriter, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_module, "RECONCILED_POSITIONS", 4)
    some_orders(log)
    head = log.rows()[-1].position
    await rig.follower.apply([], position=head)
    looks = 0
    while await rig.follower.reconcile(head):
        looks += 1
        await rig.follower.remember()
        await rig.restart()
    assert looks == (head - 1) // 4
    views = rig.views()
    assert views == await fold_of_the_log(rig)


async def test_reconciliation_leaves_what_is_younger_alone(log: LogWriter, rig: Rig) -> None:
    some_orders(log)
    await rig.follower.apply([], position=log.rows()[-1].position)
    assert not await rig.follower.reconcile(0)
    assert rig.views()["stock_levels"] == []


async def retry(rig: Rig, stream: str) -> None:
    rig.execute("UPDATE dead_letters SET retry_requested = true WHERE stream = %s", stream)
    await rig.follower.retry_parked()
    await rig.pusher.push_queued(rig.rows)


POISON = {
    "unknown topic": ("stock-item.no-such-thing", b"{}"),
    "unreadable": ("stock-item.restocked", b"{"),
    "of another stream": (
        "stock-item.restocked",
        EventMapper().encode(restocked(1).at(stock_stream("B", "W1"), 3, NOW)),
    ),
    "impossible": ("stock-item.committed", EventMapper().encode(committed("r-9", 1).at(A, 3, NOW))),
    "not to be stored": (
        "stock-item.returned",
        EventMapper().encode(returned(1, order_id="a\x00b").at(A, 3, NOW)),
    ),
    "too large to be stored": (
        "stock-item.restocked",
        EventMapper().encode(restocked(2**63).at(A, 3, NOW)),
    ),
    "of a warehouse": (
        "warehouse.created",
        EventMapper().encode(happened(WarehouseCreated, details=WarehouseDetails()).at(A, 3, NOW)),
    ),
}


@pytest.mark.parametrize("kind", POISON)
async def test_poison_stops_its_item_and_nothing_else(log: LogWriter, rig: Rig, kind: str) -> None:
    topic, state = POISON[kind]
    log.happened("A", "W1", registered(), restocked(10))
    version = log.append_poison(A, topic, state)
    log.happened("B", "W1", registered(), restocked(3))
    log.happened("A", "W1", restocked(5))
    await rig.catch_up()
    stale, other = rig.level("A", "W1"), rig.level("B", "W1")
    assert stale is not None
    assert other is not None
    assert (stale["version"], stale["stale"], stale["on_hand"]) == (2, True, 10)
    assert (other["version"], other["stale"]) == (2, False)
    (letter,) = rig.views()["dead_letters"]
    assert (letter["stream"], letter["version"], letter["topic"]) == (A, version, topic)
    await assert_cache_is_views(rig)

    await retry(rig, A)  # nothing has been repaired
    assert rig.level("A", "W1") == stale
    assert [row["retry_requested"] for row in rig.views()["dead_letters"]] == [False]

    log.rewrite(A, version, happened(Discontinued).at(A, version, NOW))
    log.happened("A", "W1", restocked(1))
    await rig.catch_up()
    assert rig.level("A", "W1") == stale
    await retry(rig, A)
    assert rig.views()["dead_letters"] == []
    assert rig.level("A", "W1") == stale | {"version": 5, "stale": False, "on_hand": 16, "discontinued": True}
    await assert_cache_is_views(rig)


async def test_an_item_may_begin_with_poison(log: LogWriter, rig: Rig) -> None:
    log.append_poison(A)
    log.happened("A", "W1", restocked(5))
    log.happened("B", "W1", registered())
    await rig.catch_up()
    assert [row["sku"] for row in rig.views()["stock_levels"]] == ["B"]
    assert [row["stream"] for row in rig.views()["dead_letters"]] == [A]


async def test_reconciliation_does_not_touch_a_parked_item(log: LogWriter, rig: Rig) -> None:
    log.happened("A", "W1", registered())
    log.append_poison(A)
    await rig.catch_up()
    (before,) = rig.execute("SELECT attempts FROM dead_letters")
    await rig.follower.reconcile(log.rows()[-1].position)
    assert rig.execute("SELECT attempts FROM dead_letters") == [before]


async def test_a_crash_between_load_and_commit_loses_nothing(log: LogWriter, rig: Rig) -> None:
    some_orders(log)
    await rig.writer.begin({}, rig.follower.cursor)
    await rig.restart()
    await rig.catch_up()
    await assert_cache_is_views(rig)
    views = rig.views()
    assert views == await fold_of_the_log(rig)


async def test_a_crash_between_commit_and_push_loses_nothing(log: LogWriter, database_url: str, redis_url: str) -> None:
    some_orders(log)
    async with follower_rig(database_url, redis_url, batch=3) as rig:
        while await rig.follower.step():
            await rig.restart()  # what was committed was never pushed
            await assert_cache_is_views(rig)
        assert (await rig.cached()).filled


async def test_a_crash_between_push_and_acknowledgement_repeats_harmlessly(log: LogWriter, rig: Rig) -> None:
    some_orders(log)
    await rig.catch_up()
    # The acknowledgement is written down with the next batch: as far as the table knows, nothing was pushed.
    assert rig.execute("SELECT redis_position FROM cursors") == [(0,)]
    await rig.restart()
    await assert_cache_is_views(rig)


async def test_the_cursors_follow(log: LogWriter, rig: Rig) -> None:
    some_orders(log)
    await rig.catch_up()
    await rig.follower.remember()
    head = log.rows()[-1].position
    ((pg, redis, pg_revision, redis_revision),) = rig.execute(
        "SELECT pg_position, redis_position, pg_revision, redis_revision FROM cursors"
    )
    assert (pg, redis) == (head, head)
    assert pg_revision == redis_revision > 0


async def test_only_one_writes(log: LogWriter, rig: Rig) -> None:
    some_orders(log)
    other = await PostgresViews.connect(rig.url, rig.generation.schema)
    try:
        assert not await other.try_lead()
        stale_cursor = await other.cursor()
        await rig.catch_up()
        with pytest.raises(LostLeadership):
            await other.begin({}, stale_cursor)
        await rig.stop()
        await eventually_async(other.try_lead, what="the lock of the one that left")
    finally:
        await other.close()
    await rig.start()


async def test_the_instant_at_which_something_is_due_is_exact(log: LogWriter, rig: Rig) -> None:
    async def next_due() -> object:
        await rig.catch_up()
        level = rig.level("A", "W1")
        assert level is not None
        assert (await rig.cached()).levels["A", "W1"].next_due_at == level["next_due_at"]
        return level["next_due_at"]

    log.happened("A", "W1", registered(), restocked(20))
    assert await next_due() is None
    log.happened("A", "W1", *[reserved(f"r-{ttl}", 2, ttl_s=ttl) for ttl in (50, 10, 30, 20, 40)])
    assert await next_due() == after(10)
    log.happened("A", "W1", committed("r-10", 2))
    assert await next_due() == after(20)
    log.happened("A", "W1", extended("r-20", ttl_s=100), released("r-40", 2, ReleaseReason.CANCELLED))
    assert await next_due() == after(30)
    log.happened("A", "W1", committed("r-30", 1))
    assert await next_due() == after(30)
    log.happened("A", "W1", committed("r-30", 1), reserved("r-5", 1, ttl_s=5))
    assert await next_due() == after(5)
    log.happened("A", "W1", *[released(f"r-{n}", q, ReleaseReason.CANCELLED) for n, q in ((5, 1), (50, 2), (20, 2))])
    assert await next_due() is None
    await assert_cache_is_views(rig)


async def test_no_batch_is_too_large_for_one_script(log: LogWriter, rig: Rig) -> None:
    log.append([log.event(stock_stream(f"S{number}", "W1"), registered()) for number in range(450)])
    await rig.catch_up()
    assert len((await rig.cached()).levels) == 450
    await assert_cache_is_views(rig)


async def test_postgres_goes_on_while_the_cache_takes_nothing(
    log: LogWriter, database_url: str, redis_url: str
) -> None:
    async with follower_rig(database_url, redis_url, cache=False) as rig:
        some_orders(log)
        await rig.catch_up()
        assert rig.level("A", "W1") is not None
        assert not (await rig.cached()).filled
        await rig.pusher.synchronise(rig.rows)
        await assert_cache_is_views(rig)


async def test_a_cache_that_missed_something_is_given_the_difference(log: LogWriter, rig: Rig) -> None:
    some_orders(log)
    await rig.catch_up()
    await rig.restart(cache=False)  # nothing is offered to the pusher
    log.happened("A", "W1", reserved("r-7", 1, ttl_s=5))
    log.happened("C", "W2", registered())
    log.warehouse("W3")
    await rig.catch_up()
    before = await rig.cached()
    assert ("C", "W2") not in before.levels
    await rig.pusher.synchronise(rig.rows)
    await assert_cache_is_views(rig)


async def test_a_level_that_skipped_a_version_comes_with_all_of_its_holds(log: LogWriter, rig: Rig) -> None:
    some_orders(log)
    await rig.catch_up()
    value = await rig.redis.hget(rig.keys.stock("A"), "W1")
    log.happened("A", "W1", reserved("r-7", 1, ttl_s=5))
    await rig.catch_up()
    await rig.redis.hset(rig.keys.stock("A"), "W1", value)
    await rig.redis.delete(rig.keys.due("A", "W1"))
    log.happened("A", "W1", reserved("r-8", 1, ttl_s=6))
    await rig.catch_up()
    await assert_cache_is_views(rig)


async def test_an_older_row_never_replaces_a_newer_one(log: LogWriter, rig: Rig) -> None:
    some_orders(log)
    await rig.catch_up()
    old = await rig.rows.whole([("A", "W1")])
    log.happened("A", "W1", reserved("r-7", 1, ttl_s=5))
    log.warehouse("W1", name="newer")
    await rig.catch_up()
    old_warehouses = [row for row in await rig.rows.warehouses(-1) if row.code == "W2"]
    await rig.pusher._cache.put(old, old_warehouses)
    await assert_cache_is_views(rig)


async def test_emptied_and_then_one_event_shows_no_part_of_a_sku(log: LogWriter, rig: Rig) -> None:
    some_orders(log)
    await rig.catch_up()
    await rig.redis.flushdb()
    log.happened("A", "W2", restocked(1))
    log.happened("A", "W3", registered())
    await rig.follower.step()
    with pytest.raises(NotFilled):
        await rig.pusher.push_queued(rig.rows)
    assert await rig.redis.dbsize() == 0, "readers would take a part of A's warehouses for all of them"
    await rig.pusher.synchronise(rig.rows)
    await assert_cache_is_views(rig)


@pytest.mark.parametrize("page", [1, 2])
async def test_emptied_while_it_is_being_filled(log: LogWriter, database_url: str, redis_url: str, page: int) -> None:
    some_orders(log)
    async with follower_rig(database_url, redis_url, cache=False, refill_rows=page) as rig:
        await rig.catch_up()

        async def emptied_after_one_page(revision: int, size: int) -> AsyncIterator[Any]:
            emptied = False
            async for levels in rows_newer(revision, size):
                yield levels
                if not emptied:
                    await rig.redis.flushdb()
                emptied = True

        rows: Any = rig.rows
        rows_newer = rows.newer
        rows.newer = emptied_after_one_page  # the moment could not be met from outside
        with pytest.raises(NotFilled):
            await rig.pusher.synchronise(rig.rows)
        assert not (await rig.cached()).filled
        rows.newer = rows_newer
        await rig.pusher.synchronise(rig.rows)
        await assert_cache_is_views(rig)


async def test_what_an_earlier_owner_left_is_gone_after_a_refill(log: LogWriter, rig: Rig) -> None:
    some_orders(log)
    await rig.catch_up()
    await rig.redis.hset(rig.keys.stock("GHOST"), "W1", await rig.redis.hget(rig.keys.stock("A"), "W1"))
    await rig.redis.delete(rig.keys.filled)
    await rig.pusher.synchronise(rig.rows)
    await assert_cache_is_views(rig)
    assert not await rig.redis.exists(rig.keys.stock("GHOST"))


async def test_the_cache_forgets_its_script(log: LogWriter, rig: Rig) -> None:
    some_orders(log)
    await rig.redis.script_flush()
    await rig.catch_up()
    await assert_cache_is_views(rig)


async def test_more_is_committed_than_the_queue_keeps(
    log: LogWriter, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from projections import cache_pusher

    monkeypatch.setattr(cache_pusher, "QUEUED_LEVELS_MAX", 2)
    some_orders(log)
    await rig.catch_up()
    with pytest.raises(cache_pusher._Missed):
        await rig.pusher._serve(rig.rows)
    await rig.pusher.synchronise(rig.rows)
    await assert_cache_is_views(rig)


async def test_a_server_that_forgets_its_last_transactions_is_caught_up_with(log: LogWriter, rig: Rig) -> None:
    """Views are written without waiting for the disk: PostgreSQL may go back where Redis does not."""
    some_orders(log)
    await rig.catch_up()
    written = ("stock_levels", "cursors", "holds", "movements", "policies")
    for table in written:
        rig.execute(f"CREATE TABLE kept_{table} AS SELECT * FROM {table}")
    log.happened("A", "W1", reserved("r-7", 1, ttl_s=5))
    await rig.catch_up()
    await rig.stop()
    for table in written:
        rig.execute(f"TRUNCATE {table}")
        rig.execute(f"INSERT INTO {table} SELECT * FROM kept_{table}")
    await rig.start()
    log.happened("B", "W1", restocked(1))
    await rig.catch_up()
    await assert_cache_is_views(rig)
    await rig.restart()
    await assert_cache_is_views(rig)


async def test_what_prometheus_is_told(log: LogWriter, rig: Rig) -> None:
    def told(name: str) -> float:
        return REGISTRY.get_sample_value(f"stockhold_projection_{name}", {"generation": ""}) or 0.0

    before = {name: told(name) for name in ("batches_total", "events_total", "skipped_events_total")}
    parked, healed = told("parked_streams_total"), told("healed_streams_total")
    log.happened("A", "W1", registered(), restocked(1))
    await rig.catch_up()
    await rig.follower.apply(log.rows())
    assert {name: told(name) - value for name, value in before.items()} == {
        "batches_total": 2,
        "events_total": 2,
        "skipped_events_total": 2,
    }
    log.happened("A", "W1", restocked(1))

    async def waited() -> bool:  # since the look before, and it looks once a second
        await rig.follower.tend()
        return told("lag_seconds") > 0

    await eventually_async(waited)
    assert told("lag_events") == 1
    await rig.follower.apply([], position=log.rows()[-1].position)
    assert not await rig.follower.reconcile(log.rows()[-1].position)
    assert told("healed_streams_total") - healed == 1
    log.append_poison(A)
    await rig.catch_up()
    await rig.follower.retry_parked()
    assert (told("parked_streams_total") - parked, told("stale_streams")) == (1, 1)
