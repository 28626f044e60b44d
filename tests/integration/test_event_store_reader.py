"""The event store's second connection, which reads beside transactions: lost alone, it comes back alone."""

import asyncio

import psycopg
import pytest

from infra.event_store.port import Needs, StoreUnavailable
from infra.event_store.postgres import PostgresEventStore
from infra.postgres import PipelineConnection
from tests.support import eventually_async


def end_backend(url: str, name: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = %s AND datname = current_database()",
            [name],
        ).fetchall()
    assert ended == [(True,)]


async def test_a_reader_that_was_lost_alone_reads_again(database_url: str) -> None:
    store = PostgresEventStore(
        database_url, lock_timeout_ms=1_000, idle_in_transaction_timeout_ms=5_000, connect_timeout_s=5
    )
    await store.open()
    try:
        end_backend(database_url, "stockhold-reader")
        assert store._reader is not None
        await eventually_async(lambda: store._reader is not None and store._reader.lost)
        assert (await store.read(Needs(), 0)).warehouses == []
        await store.write_snapshots([])
        # And the writer never noticed.
        await store.lock_and_load(Needs(), 0)
        await store.abandon()
    finally:
        await store.close()


class SlowToRead(PostgresEventStore):
    """Its second connection is not to be had while `there` is not set."""

    there: asyncio.Event

    async def _connect_reader(self) -> PipelineConnection:
        await self.there.wait()
        return await super()._connect_reader()


async def test_a_store_that_was_opened_by_half_is_not_open(database_url: str) -> None:
    """Else its writer would work, nobody would open it again, and it could never read beside a transaction."""
    store = SlowToRead(database_url, lock_timeout_ms=1_000, idle_in_transaction_timeout_ms=5_000, connect_timeout_s=5)
    store.there = asyncio.Event()
    opening = asyncio.ensure_future(store.open())
    try:
        await eventually_async(lambda: store._writer is not None)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        with pytest.raises(StoreUnavailable):
            await store.lock_and_load(Needs(), 0)
        store.there.set()
        await store.open()
        assert (await store.read(Needs(), 0)).warehouses == []
    finally:
        await store.close()
