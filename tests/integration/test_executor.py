"""What an executor promises, on PostgreSQL: lock-first and optimistic."""

from collections.abc import AsyncIterator

import pytest

from tests.executor_contract import batches, expiry, failures, idempotency, memory, neighbours, orders, shortage
from tests.support_write_side import Cluster, PostgresDatabase


@pytest.fixture(params=[False, True], ids=["lock-first", "optimistic"])
async def cluster(request: pytest.FixtureRequest, module_database_url: str) -> AsyncIterator[Cluster]:
    database = PostgresDatabase(module_database_url)
    opened = Cluster(database, optimistic=request.param)
    yield opened
    await opened.close()
    database.empty()


class TestBatches(batches.Batches): ...


class TestFullQueue(batches.FullQueue): ...


class TestDraining(batches.Draining): ...


class TestKeys(idempotency.Keys): ...


class TestReservationIds(idempotency.ReservationIds): ...


class TestNeighbours(neighbours.Neighbours): ...


class TestColdMemory(neighbours.ColdMemory): ...


class TestUndo(failures.Undo): ...


class TestAway(failures.Away): ...


class TestPoison(failures.Poison): ...


class TestUnreadableEvents(failures.UnreadableEvents): ...


class TestExpiry(expiry.Expiry):
    DUE = 10_000


class TestClocks(expiry.Clocks): ...


class TestSnapshots(memory.Snapshots): ...


class TestShortage(shortage.Shortage): ...


class TestOrders(orders.Orders): ...


class TestPremature(orders.Premature): ...
