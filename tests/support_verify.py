"""A shop's whole story written to a real event store as the executor would, views beside it, and a verification."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from redis import Redis

from domain.commands import (
    CancelReservation,
    CommitReservation,
    ExtendReservation,
    ReleaseReservation,
    ReturnReservation,
    ShipReservation,
)
from domain.events import Registered
from domain.policy import Policy, PolicyPatch
from domain.reservation import cancel, commit, extend, release, ship, take_back
from domain.stock_item import StockItem, StockItemState
from domain.values import Address, AdjustmentReason, Condition, split_stock_stream
from infra.documents import encode
from infra.event_store.append_lock import SCHEMA
from infra.event_store.mapper import EventMapper
from infra.event_store.port import Needs, SnapshotRow, StoredRow, Writes
from infra.event_store.postgres import PostgresEventStore
from projections.generations import Generation
from projections.verify import Report, Verification
from tests.support_domain import Shop
from tests.support_views import Rig, follower_rig


def busy_shop() -> Shop:
    """Two warehouses, three items, and something of everything that can happen to them."""
    shop = Shop()
    shop.warehouse("W1", name="Frankfurt", priority=1, address=Address(country="DE"))
    shop.warehouse("W2", priority=2, latitude=50.1, longitude=8.6)
    shop.stocked("A", "W1", 5)
    shop.stocked("A", "W2", 20, Policy(backorder_limit=2, on_shortage="release_newest_unpaid"))
    shop.stocked("A-B", "W1", 30)  # sorts before A@W1 as a stream, after A as a SKU
    shop.create("r-paid", [{"sku": "A", "quantity": 7, "metadata": {"gift": True}}, ("A-B", 2)], customer_ref="c")
    shop.on(commit, CommitReservation, "r-paid")
    shop.create("r-part", [("A", 3, "W2")])
    shop.elapse(5)
    shop.on(extend, ExtendReservation, "r-part", add_seconds=100)
    shop.on(commit, CommitReservation, "r-part", lines=[{"sku": "A", "quantity": 2}])
    shop.on(ship, ShipReservation, "r-paid", tracking="T-1")
    shop.on(
        take_back,
        ReturnReservation,
        "r-paid",
        lines=[{"sku": "A", "warehouse": "W1", "quantity": 2, "condition": "DAMAGED"}],
    )
    shop.create("r-gone", [("A-B", 4)], ttl_seconds=30)
    shop.create("r-cancelled", [("A-B", 1)])
    shop.on(commit, CommitReservation, "r-cancelled")
    shop.on(cancel, CancelReservation, "r-cancelled")
    shop.create("r-released", [("A-B", 1), ("A", 1)])
    shop.on(release, ReleaseReservation, "r-released", reason="PAYMENT_FAILED")
    shop.elapse(60)
    shop.create("r-short", [("A-B", 99)], allocation={"allow_partial": True})  # takes what `r-gone` no longer has
    shop.on_item("A", "W1", StockItem.damage, 0 + shop.item("A", "W1").figures.on_hand)
    shop.on_item("A", "W1", StockItem.repair, 1)
    shop.on_item("A", "W1", StockItem.write_off, 1)
    shop.on_item("A", "W2", StockItem.adjust, -2, AdjustmentReason.LOST)
    shop.on_item("A", "W2", StockItem.take_back, 1, Condition.QUARANTINE, order_id="elsewhere")
    shop.on_item("A-B", "W1", StockItem.count, 20)
    shop.on_item("A", "W2", StockItem.change_policy, PolicyPatch(safety_stock=1))
    shop.create("r-open", [("A", 2)], ttl_seconds=600)
    shop.create("r-manual", [("A", 1)], kind="manual", ttl_seconds=None)
    shop.warehouse("W1", capacity=500)
    return shop


async def append_shop(url: str, shop: Shop, *, snapshots: bool = True) -> None:
    """The shop's log and index, in one transaction; then a snapshot of each item."""
    mapper = EventMapper()
    rows = [StoredRow(e.originator_id, e.originator_version, e.TOPIC, mapper.encode(e)) for e in shop.log]
    writes = Writes(
        now=shop.now,
        events=rows,
        headers=list(shop.headers.values()),
        holds=[hold for holds in shop.holds.values() for hold in holds.values()],
        items=[split_stock_stream(e.originator_id) for e in shop.log if type(e) is Registered],
        warehouses=[(code, warehouse.version) for code, warehouse in shop.stock.warehouses.items()],
    )
    store = PostgresEventStore(url, lock_timeout_ms=5_000, idle_in_transaction_timeout_ms=5_000, connect_timeout_s=5)
    await store.open()
    try:
        await store.lock_and_load(Needs(), 0)
        await store.append(writes)
        if snapshots:
            states = [(i.id, i.version, encode(i.to_state())) for i in shop.stock.items.values()]
            await store.write_snapshots(
                [SnapshotRow(stream, version, StockItemState.STATE_VERSION, state) for stream, version, state in states]
            )
    finally:
        await store.close()


async def verified(rig: Rig, redis_url: str, *, patience_s: float = 5.0) -> Report:
    """What a verification of the rig's views finds."""

    def verify() -> Report:
        with Verification(rig.url, rig.url, redis_url, patience_s=patience_s) as verification:
            return verification.run()

    return await asyncio.to_thread(verify)


@dataclass(frozen=True)
class PreparedStack:
    """A log with its index, its views and its cache, and a copy of all of that to go back to."""

    url: str
    redis_url: str
    redis: Redis
    generation: Generation
    dumps: Mapping[bytes, bytes]

    def verified(self, *, patience_s: float = 5.0) -> Report:
        with Verification(self.url, self.url, self.redis_url, patience_s=patience_s) as verification:
            return verification.run()

    def execute(self, statement: str, schema: str) -> None:
        with psycopg.connect(self.url, options=f"-c search_path={schema}") as connection:
            connection.execute(statement)

    def restore(self) -> None:
        with psycopg.connect(self.url) as connection:
            for schema in (SCHEMA, self.generation.schema):
                tables = _tables(connection, f"{schema}_copy")
                for table in tables:
                    connection.execute(f"DELETE FROM {schema}.{table}")
                    connection.execute(f"INSERT INTO {schema}.{table} SELECT * FROM {schema}_copy.{table}")
        self.redis.flushdb()
        for key, dump in self.dumps.items():
            self.redis.restore(key, 0, dump)


def prepare_stack(url: str, redis_url: str, shop: Shop) -> PreparedStack:
    """A stack at rest that has the shop's whole story."""

    async def build() -> Generation:
        await append_shop(url, shop)
        async with follower_rig(url, redis_url) as rig:
            await rig.catch_up()
            return rig.generation

    redis = Redis.from_url(redis_url)
    redis.flushdb()
    generation = asyncio.run(build())
    with psycopg.connect(url) as connection:
        for schema in (SCHEMA, generation.schema):
            connection.execute(f"CREATE SCHEMA {schema}_copy")
            for table in _tables(connection, schema):
                connection.execute(f"CREATE TABLE {schema}_copy.{table} AS TABLE {schema}.{table}")
    dumps: Any = {key: redis.dump(key) for key in redis.scan_iter()}
    return PreparedStack(url, redis_url, redis, generation, dumps)


def _tables(connection: psycopg.Connection, schema: str) -> list[str]:
    found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY 1", [schema])
    return [row[0] for row in found]
