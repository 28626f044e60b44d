"""The follower on real servers: every promise that the views make, driven step by step."""

from collections.abc import AsyncIterator

import pytest

from domain.values import ReleaseReason, stock_stream
from tests.support_domain import after, committed, extended, registered, released, reserved, restocked, shipped
from tests.support_views import LogWriter, Rig, assert_cache_is_views, follower_rig


@pytest.fixture
def log(database_url: str) -> LogWriter:
    return LogWriter(database_url)


@pytest.fixture
async def rig(database_url: str, redis_url: str) -> AsyncIterator[Rig]:
    async with follower_rig(database_url, redis_url) as rig:
        yield rig


async def test_events_become_rows_in_both_stores(log: LogWriter, rig: Rig) -> None:
    log.warehouse("W1", name="Frankfurt")
    log.happened("A", "W1", registered(), restocked(10), reserved("r-1", 3, ttl_s=60), reserved("r-2", 2, ttl_s=30))
    log.happened("A", "W1", committed("r-2", 2), shipped("r-2", 1))
    await rig.catch_up()
    level = rig.level("A", "W1")
    assert level is not None
    assert (level["on_hand"], level["reserved"], level["committed"], level["sold"]) == (9, 3, 1, 1)
    assert level["version"] == 6
    assert level["next_due_at"] == after(60)
    assert [row["type"] for row in rig.views()["movements"]] == ["RECEIPT", "RESERVATION", "RESERVATION", "SALE", "SHIPMENT"]
    await assert_cache_is_views(rig)
