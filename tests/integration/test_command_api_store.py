"""The command API in front of the real executor on a real event store: the contract's stories, over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import psycopg
import pytest

from infra.bootstrap import create_executor
from infra.settings import Settings
from tests.command_api import Api as AnyApi
from tests.command_api import Reply, command_api
from tests.support import eventually_async, nothing_for_the_collector
from write_side.executor import CommandExecutor

Api = AnyApi[CommandExecutor]


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[Api]:
    executor = create_executor(Settings(event_store_url=database_url))
    await executor.start()
    async with command_api(executor) as running:
        yield running
    await executor.drain()


async def put(api: Api, target: str, body: dict[str, Any], **headers: str) -> Reply:
    pairs = [(name.replace("_", "-"), text) for name, text in headers.items()]
    return await api.ask("PUT", target, msgspec.json.encode(body), pairs)


async def post(api: Api, target: str, body: dict[str, Any] | None = None, **headers: str) -> Reply:
    return await api.post(target, None if body is None else msgspec.json.encode(body), **headers)


async def stocked(api: Api, quantity: int = 10, sku: str = "A") -> None:
    assert (await put(api, "/v1/warehouses/FRA1", {"name": "Frankfurt"})).status in {200, 201}
    assert (await post(api, f"/v1/stock/{sku}/FRA1/restock", {"quantity": quantity})).status == 200


def order(reservation_id: str, quantity: int = 1, **more: Any) -> dict[str, Any]:
    lines = [{"sku": "A", "quantity": quantity}]
    return {"reservation_id": reservation_id, "order_id": reservation_id, "lines": lines} | more


async def events_of(url: str) -> int:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        cursor = await connection.execute("SELECT count(*) FROM stockhold.stored_events")
        row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def test_a_warehouse_is_made_once_and_changed_often(api: Api):
    assert (await put(api, "/v1/warehouses/FRA1", {"priority": 1})).status == 201
    changed = await put(api, "/v1/warehouses/FRA1", {"name": "Frankfurt"})
    assert (changed.status, changed.json["name"], changed.json["priority"]) == (200, "Frankfurt", 1)
    reply = await put(api, "/v1/warehouses/FRA1", {}, if_none_match="*")
    assert (reply.status, reply.code) == (412, "version-mismatch")


async def test_what_is_answered_is_gone_without_the_collector(api: Api):
    await stocked(api)
    assert (await post(api, "/v1/reservations", order("r0"))).status == 201
    with nothing_for_the_collector():
        batch = [order("r1"), order("r2", 100), {"lines": []}]
        assert (await post(api, "/v1/reservations:batch", {"reservations": batch})).status == 200
        for target, body, status in (
            ("/v1/reservations", order("r3"), 201),
            ("/v1/reservations", order("r3", 2), 409),
            ("/v1/reservations", {"lines": 1}, 422),
            ("/v1/reservations/r3/commit", None, 200),
            ("/v1/reservations/r0/commit", None, 200),
            ("/v1/reservations/r9/commit", None, 404),
            ("/v1/stock/A/FRA1/adjust", {"delta": 5, "reason": "FOUND"}, 200),
            ("/v1/stock/B/FRA1/restock", {"quantity": 5}, 200),
        ):
            reply = await post(api, target, body, idempotency_key=f"{target} {body}")
            assert (target, reply.status) == (target, status)
            assert (await post(api, target, body, idempotency_key=f"{target} {body}")).status == status


async def test_stock_goes_where_there_is_a_warehouse(api: Api):
    reply = await post(api, "/v1/stock/A/FRA1/restock", {"quantity": 5})
    assert (reply.status, reply.code) == (404, "unknown-warehouse")
    await stocked(api)
    reply = await post(api, "/v1/stock/B/FRA1/adjust", {"delta": 5, "reason": "FOUND"})
    assert (reply.status, reply.code) == (404, "unknown-stock-item")
    reply = await post(api, "/v1/stock/A/FRA1/restock", {"quantity": 5, "unit_cost": 0.1, "expected_version": 2})
    assert (reply.status, reply.json["on_hand"], reply.json["version"]) == (200, 15, 3)
    reply = await post(api, "/v1/stock/A/FRA1/count", {"counted": 5, "expected_version": 2})
    assert (reply.status, reply.code, reply.json["actual_version"]) == (412, "version-mismatch", 3)


async def test_a_paid_and_shipped_order(api: Api):
    await stocked(api)
    reply = await post(api, "/v1/reservations", order("o-1", 4), x_actor="shop")
    assert (reply.status, reply.json["status"], reply.json["created_by"]) == (201, "ACTIVE", "shop")
    reply = await post(api, "/v1/reservations/o-1/commit")
    assert (reply.status, reply.json["status"]) == (200, "COMMITTED")
    reply = await post(api, "/v1/reservations/o-1/ship", {"tracking": "1Z", "lines": [{"sku": "A", "quantity": 3}]})
    assert (reply.status, reply.json["status"]) == (200, "PARTIALLY_SHIPPED")
    (allocation,) = reply.json["lines"][0]["allocations"]
    assert (allocation["committed"], allocation["shipped"], allocation["shipments"][0]["tracking"]) == (1, 3, "1Z")
    reply = await post(api, "/v1/reservations/o-1/cancel", {})
    assert (reply.status, reply.json["status"]) == (200, "SHIPPED")
    back = {"lines": [{"sku": "A", "warehouse": "FRA1", "quantity": 3, "condition": "DAMAGED"}]}
    reply = await post(api, "/v1/reservations/o-1/return", back)
    assert (reply.status, reply.json["status"]) == (200, "RETURNED")
    reply = await post(api, "/v1/stock/A/FRA1/repair", {"quantity": 3})
    assert (reply.json["on_hand"], reply.json["damaged"], reply.json["available"]) == (10, 0, 10)


async def test_a_key_is_answered_once(api: Api, database_url: str):
    await stocked(api)
    first = await post(api, "/v1/reservations", order("o-1", 4), idempotency_key="k")
    events = await events_of(database_url)
    again = await post(api, "/v1/reservations", order("o-1", 4), idempotency_key="k")
    assert (again.status, again.body) == (201, first.body)
    assert again.headers["idempotency-replayed"] == "true"
    reply = await post(api, "/v1/reservations", order("o-1", 5), idempotency_key="k")
    assert (reply.status, reply.code) == (409, "idempotency-key-reused")
    same_id = await post(api, "/v1/reservations", order("o-1", 4))
    assert (same_id.status, same_id.json["reservation_id"]) == (200, "o-1")
    reply = await post(api, "/v1/reservations", order("o-1", 5))
    assert (reply.status, reply.code, reply.json["state"]) == (409, "duplicate-reservation", "ACTIVE")
    assert await events_of(database_url) == events


async def test_a_refusal_stays_refused_under_its_key(api: Api):
    await stocked(api, 1)
    reply = await post(api, "/v1/reservations", order("o-1", 4), idempotency_key="k")
    assert (reply.status, reply.code) == (409, "insufficient-stock")
    assert reply.json["shortages"] == [{"sku": "A", "requested": 4, "available": 1}]
    await stocked(api, 9)
    again = await post(api, "/v1/reservations", order("o-1", 4), idempotency_key="k")
    assert (again.status, again.body, again.headers["idempotency-replayed"]) == (409, reply.body, "true")
    assert (await post(api, "/v1/reservations", order("o-1", 4), idempotency_key="new")).status == 201


async def test_what_is_refused_at_the_door_may_be_tried_again_under_its_key(api: Api, database_url: str):
    await stocked(api)
    events = await events_of(database_url)
    assert (await post(api, "/v1/reservations", order("o-1", -1), idempotency_key="k")).status == 422
    assert await events_of(database_url) == events
    reply = await post(api, "/v1/reservations", order("o-1", 1), idempotency_key="k")
    assert (reply.status, "idempotency-replayed" in reply.headers) == (201, False)


async def test_unknown_and_ended_reservations(api: Api):
    await stocked(api)
    reply = await post(api, "/v1/reservations/nobody/commit")
    assert (reply.status, reply.code) == (404, "unknown-reservation")
    await post(api, "/v1/reservations", order("o-1"))
    assert (await post(api, "/v1/reservations/o-1/release", {"reason": "PAYMENT_FAILED"})).json["status"] == "RELEASED"
    reply = await post(api, "/v1/reservations/o-1/commit")
    assert (reply.status, reply.code, reply.json["state"]) == (409, "reservation-not-active", "RELEASED")
    await post(api, "/v1/reservations", order("o-2", ttl_seconds=1))
    too_many = {"lines": [{"sku": "A", "quantity": 99}]}  # 409 as long as there is a hold that it asks too much of

    async def has_expired():
        return (await post(api, "/v1/reservations/o-2/commit", too_many)).status == 410

    await eventually_async(has_expired)
    reply = await post(api, "/v1/reservations/o-2/commit")
    assert (reply.status, reply.code) == (410, "reservation-expired")


async def test_a_batch_of_orders_each_standing_alone(api: Api, database_url: str):
    await stocked(api, 3)
    orders: list[Any] = [order(f"o-{number}") for number in range(5)]
    orders.insert(1, {"order_id": "bad"})
    first = await post(api, "/v1/reservations:batch", {"reservations": orders}, idempotency_key="b")
    results = first.json["results"]
    assert [result["status"] for result in results] == [201, 422, 201, 201, 409, 409]
    assert results[4]["body"]["code"] == "insufficient-stock"
    events = await events_of(database_url)
    again = await post(api, "/v1/reservations:batch", {"reservations": orders}, idempotency_key="b")
    assert again.body == first.body
    alone = await post(api, "/v1/reservations", orders[0], idempotency_key="b#0")
    assert (alone.status, alone.json, alone.headers["idempotency-replayed"]) == (201, results[0]["body"], "true")
    assert await events_of(database_url) == events


async def test_texts_of_every_kind_are_kept_as_they_are(api: Api, database_url: str):
    await stocked(api)
    body = {
        "quantity": 1,
        "note": '\u00fc \U0001f600 \u2028 "quoted" \\u0000 {}',
        "metadata": {"\u00fc": ["\\", {"n": 0.1, "big": 2**63}], "null": None},
        "reference": {"type": "delivery note", "id": "7/\u00df"},
        "unit_cost": "999999999999.999999",
    }
    reply = await post(api, "/v1/stock/A/FRA1/restock", body, x_actor="m\u00fcller", x_correlation_id="c 1")
    assert reply.status == 200
    async with await psycopg.AsyncConnection.connect(database_url) as connection:
        cursor = await connection.execute(
            "SELECT convert_from(state, 'UTF8') FROM stockhold.stored_events ORDER BY notification_id DESC LIMIT 1"
        )
        row = await cursor.fetchone()
    assert row is not None
    stored = msgspec.json.decode(row[0])
    origin = stored["origin"]
    assert (origin["note"], origin["metadata"], origin["reference"]) == (
        body["note"],
        body["metadata"],
        body["reference"],
    )
    assert (origin["actor"], origin["correlation_id"], stored["unit_cost"]) == ("m\u00fcller", "c 1", body["unit_cost"])


async def test_many_at_once_get_what_there_is_and_not_one_more(api: Api):
    await stocked(api, 20)
    replies = await asyncio.gather(*(post(api, "/v1/reservations", order(f"o-{number}")) for number in range(60)))
    statuses = [reply.status for reply in replies]
    assert (statuses.count(201), statuses.count(409)) == (20, 40)
    reply = await post(api, "/v1/stock/A/FRA1/adjust", {"delta": 0, "reason": "CORRECTION"})
    assert (reply.json["reserved"], reply.json["available"]) == (20, 0)


async def test_ready_as_long_as_the_store_is_there(api: Api):
    assert (await api.ask("GET", "/readyz")).status == 200
