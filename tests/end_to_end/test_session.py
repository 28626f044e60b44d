"""A first session, as the README tells it: from an empty service to an order that was held, paid and shipped.

Then what both doors say to requests that are wrong: the contract's problem, and nothing appended.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.command_api import Reply
from tests.end_to_end.ledger import log_size, read_outcomes
from tests.end_to_end.load import Door, connected, versions_of
from tests.support import Up, eventually_async, stockhold_up

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.fixture(scope="module")
def up(module_data_dir: Path) -> Iterator[Up]:
    with stockhold_up(module_data_dir) as running:
        yield running


@pytest.fixture
async def door(up: Up) -> AsyncIterator[Door]:
    async with connected(up.facts["command_url"]) as opened:
        yield opened


@pytest.fixture
async def window(up: Up) -> AsyncIterator[Door]:
    async with connected(up.facts["read_url"]) as opened:
        yield opened


def freshness(reservation: dict[str, Any]) -> str:
    return "&".join(f"min_version={item}:{version}" for item, version in versions_of(reservation).items())


async def test_from_nothing_to_a_shipped_order(door: Door, window: Door) -> None:
    built = await door.put("/v1/warehouses/FRA1", {"name": "Frankfurt", "latitude": 50.1, "longitude": 8.7})
    assert (built.status, built.json["version"]) == (201, 1)
    assert UUID.fullmatch(built.headers["idempotency-key"])
    stocked = await door.post("/v1/stock/MUG-1/FRA1/restock", {"quantity": 50, "unit_cost": 4.25, "lot": "2026-11"})
    assert stocked.status == 200
    assert {name: stocked.json[name] for name in ("on_hand", "available", "version", "status")} == {
        "on_hand": 50,
        "available": 50,
        "version": 2,
        "status": "IN_STOCK",
    }

    order = {"reservation_id": "r-1", "order_id": "o-1", "lines": [{"sku": "MUG-1", "quantity": 3}]}
    held = await door.post("/v1/reservations", order, key="checkout-1")
    assert held.status == 201
    assert held.json["status"] == "ACTIVE"
    assert held.json["lines"][0]["allocations"][0]["warehouse"] == "FRA1"
    target = f"/v1/availability/MUG-1?quantity=48&min_version=FRA1:{versions_of(held.json)['MUG-1@FRA1']}"

    async def cached() -> Any:  # a cache that is being filled for the first time is not asked
        answer = await window.get(target)
        assert answer.status == 200
        assert (answer.json["available"], answer.json["can_fulfil"]) == (47, False)
        return answer if answer.json["source"] == "redis" else None

    seen = await eventually_async(cached, what="an answer from the cache")
    assert seen.json["warehouses"][0]["name"] == "Frankfurt"

    paid = await door.post("/v1/reservations/r-1/commit")
    assert (paid.status, paid.json["status"], paid.json["expires_at"]) == (200, "COMMITTED", None)
    sent = await door.post("/v1/reservations/r-1/ship", {"tracking": "1Z999"})
    assert (sent.status, sent.json["status"]) == (200, "SHIPPED")
    shown = await window.get(f"/v1/reservations/r-1?{freshness(sent.json)}")
    assert (shown.status, shown.json) == (200, sent.json)
    level = await window.get("/v1/stock/MUG-1/FRA1")
    assert {name: level.json[name] for name in ("on_hand", "reserved", "committed", "sold")} == {
        "on_hand": 47,
        "reserved": 0,
        "committed": 0,
        "sold": 3,
    }
    history = await window.get("/v1/stock/MUG-1/FRA1/history")
    assert [one["version"] for one in history.json["items"]] == [5, 4, 3, 2]


async def test_the_same_order_again_is_the_same_order(door: Door) -> None:
    await door.put("/v1/warehouses/FRA1", {})
    await door.post("/v1/stock/CUP-1/FRA1/restock", {"quantity": 10})
    order = {"reservation_id": "r-2", "order_id": "o-2", "lines": [{"sku": "CUP-1", "quantity": 1}]}
    first = await door.post("/v1/reservations", order, key="checkout-2")
    replayed = await door.post("/v1/reservations", order, key="checkout-2")
    assert (replayed.status, replayed.body) == (201, first.body)
    assert replayed.headers["idempotency-replayed"] == "true"
    repeated = await door.post("/v1/reservations", order, key="another key")
    assert (repeated.status, repeated.json) == (200, first.json)


REFUSED: list[tuple[str, str, Any, int, str]] = [
    ("POST", "/v1/reservations/no-such/commit", None, 404, "unknown-reservation"),
    ("POST", "/v1/stock/NONE/B1/adjust", {"delta": 1, "reason": "FOUND"}, 404, "unknown-stock-item"),
    ("POST", "/v1/stock/B-1/NOWHERE/restock", {"quantity": 1}, 404, "unknown-warehouse"),
    (
        "POST",
        "/v1/reservations",
        {"order_id": "o", "lines": [{"sku": "B-1", "quantity": 99}]},
        409,
        "insufficient-stock",
    ),
    ("POST", "/v1/stock/B-1/B1/write-off", {"quantity": 99}, 409, "quantity-out-of-range"),
    ("POST", "/v1/reservations/b-released/commit", None, 409, "reservation-not-active"),
    ("POST", "/v1/reservations/b-held/ship", None, 409, "reservation-not-active"),
    (
        "POST",
        "/v1/reservations",
        {"reservation_id": "b-held", "order_id": "o", "lines": [{"sku": "B-1", "quantity": 2}]},
        409,
        "duplicate-reservation",
    ),
    ("POST", "/v1/stock/B-1/B2/restock", {"quantity": 101}, 409, "capacity-exceeded"),
    ("POST", "/v1/stock/B-1/B1/restock", {"quantity": 1, "expected_version": 1}, 412, "version-mismatch"),
]


@pytest.fixture(scope="module")
def bad_input_shop(up: Up) -> None:
    """Houses B1 and B2 (which takes 100 of anything), 10 of B-1 at B1, one reservation held and one released."""
    asyncio.run(_stock_bad_input_shop(up))


async def _stock_bad_input_shop(up: Up) -> None:
    async with connected(up.facts["command_url"]) as door:
        await door.put("/v1/warehouses/B1", {})
        await door.put("/v1/warehouses/B2", {"policy": {"max_stock_level": 100}})
        await door.post("/v1/stock/B-1/B1/restock", {"quantity": 10})
        for name in ("b-held", "b-released"):
            order = {"reservation_id": name, "order_id": name, "lines": [{"sku": "B-1", "quantity": 1}]}
            assert (await door.post("/v1/reservations", order)).status == 201
        assert (await door.post("/v1/reservations/b-released/release")).status == 200


def assert_problem(reply: Reply, status: int, code: str) -> None:
    assert (reply.status, reply.code) == (status, code), reply.raw
    assert {"type", "title", "status", "detail", "code"} <= reply.json.keys()


@pytest.mark.usefixtures("bad_input_shop")
@pytest.mark.parametrize(("method", "target", "body", "status", "code"), REFUSED)
async def test_a_refused_decision_is_recorded_and_appends_nothing(
    up: Up, door: Door, method: str, target: str, body: Any, status: int, code: str
) -> None:
    url = up.facts["event_store_url"]
    size = log_size(url)
    key = f"refused {method} {target} {code}"
    reply = await door.ask(method, target, body, key=key)
    assert_problem(reply, status, code)
    again = await door.ask(method, target, body, key=key)
    assert (again.status, again.body) == (reply.status, reply.body)
    assert again.headers["idempotency-replayed"] == "true"
    assert log_size(url) == size


ORDER = '{"order_id":"o","lines":[{"sku":"B-1","quantity":%s}]}'
RESTOCK = "/v1/stock/B-1/B1/restock"
MALFORMED: list[tuple[str, str, str | bytes | None, int, str]] = [
    ("POST", "/v1/reservations", ORDER % "-1", 422, "invalid-request"),
    ("POST", "/v1/reservations", ORDER % "0", 422, "invalid-request"),
    ("POST", "/v1/reservations", ORDER % "1.5", 422, "invalid-request"),
    ("POST", "/v1/reservations", ORDER % "9007199254740992", 422, "invalid-request"),
    ("POST", "/v1/reservations", ORDER % "1e400", 422, "invalid-request"),
    ("POST", "/v1/reservations", ORDER % "true", 422, "invalid-request"),
    ("POST", "/v1/reservations", ORDER % '"1"', 422, "invalid-request"),
    ("POST", "/v1/reservations", (ORDER % "1").replace("B-1", "B\\u0000"), 422, "invalid-request"),
    ("POST", "/v1/reservations", (ORDER % "1").replace("B-1", "Bücher"), 422, "invalid-request"),
    ("POST", "/v1/reservations", (ORDER % "1").replace("B-1", "B@1"), 422, "invalid-request"),
    (
        "POST",
        "/v1/reservations",
        (ORDER % "1").replace("B-1", "'; DROP TABLE stored_events; --"),
        422,
        "invalid-request",
    ),
    (
        "POST",
        "/v1/reservations",
        (ORDER % "1").replace('"order_id"', '"colour":"red","order_id"'),
        422,
        "invalid-request",
    ),
    ("POST", "/v1/reservations", '{"order_id":"o","lines":[]}', 422, "invalid-request"),
    ("POST", "/v1/reservations", "[]", 422, "invalid-request"),
    ("POST", "/v1/reservations", '{"order_id":', 422, "invalid-request"),
    ("POST", "/v1/reservations", b"\xff\xfe", 422, "invalid-request"),
    ("POST", "/v1/reservations", None, 422, "invalid-request"),
    ("POST", "/v1/reservations:batch", '{"reservations":[]}', 422, "invalid-request"),
    ("POST", "/v1/reservations/r%0A1/commit", None, 422, "invalid-request"),
    ("POST", "/v1/reservations/b-held/release", '{"reason":"EXPIRED"}', 422, "invalid-request"),
    ("POST", "/v1/reservations/b-held/commit", '{"lines":[{"sku":"B-1","quantity":-1}]}', 422, "invalid-request"),
    ("POST", "/v1/reservations/b-held/extend", "{}", 422, "invalid-request"),
    ("POST", RESTOCK, '{"quantity":-5}', 422, "invalid-request"),
    ("POST", RESTOCK, '{"quantity":0.5}', 422, "invalid-request"),
    ("POST", RESTOCK, '{"quantity":10000000000000000000000}', 422, "invalid-request"),
    ("POST", RESTOCK, '{"quantity":1,"sku":"B-2"}', 422, "invalid-request"),
    ("POST", RESTOCK, '{"quantity":1,"note":"%s"}' % ("x" * 2_001), 422, "invalid-request"),
    ("POST", "/v1/stock/B%C3%BC-1/B1/restock", '{"quantity":1}', 422, "invalid-request"),
    ("PUT", "/v1/warehouses/B1", '{"latitude":91}', 422, "invalid-request"),
    ("POST", "/v1/reservations", '{"order_id":"' + "o" * 2**20 + '"}', 413, "payload-too-large"),
    ("POST", RESTOCK, '{"note":"' + "o" * 2**20 + '"}', 413, "payload-too-large"),
    ("POST", "/v1/nothing", "{}", 404, "not-found"),
    ("DELETE", "/v1/reservations", None, 405, "method-not-allowed"),
]


@pytest.mark.usefixtures("bad_input_shop")
@pytest.mark.parametrize(
    ("method", "target", "body", "status", "code"),
    MALFORMED,
    ids=[f"{target} {str(body)[:50]}" for _, target, body, _, _ in MALFORMED],
)
async def test_what_is_no_command_changes_nothing_and_leaves_its_key_free(
    up: Up, door: Door, method: str, target: str, body: str | bytes | None, status: int, code: str
) -> None:
    url = up.facts["event_store_url"]
    size = log_size(url)
    key = f"malformed {MALFORMED.index((method, target, body, status, code))}"
    content = body.encode() if isinstance(body, str) else body
    assert_problem(await door.ask(method, target, content, key=key), status, code)
    assert log_size(url) == size
    assert key not in read_outcomes(url)


@pytest.mark.usefixtures("bad_input_shop")
async def test_another_media_type_is_refused(up: Up, door: Door) -> None:
    size = log_size(up.facts["event_store_url"])
    reply = await door.ask(
        "POST", RESTOCK, b"quantity=1", headers=[("content-type", "application/x-www-form-urlencoded")]
    )
    assert_problem(reply, 415, "unsupported-media-type")
    assert log_size(up.facts["event_store_url"]) == size


@pytest.mark.usefixtures("bad_input_shop")
async def test_a_bad_item_of_a_batch_stands_alone(up: Up, door: Door) -> None:
    orders = [json.loads(ORDER % quantity) for quantity in (1, -1, 99, 1)]
    reply = await door.post("/v1/reservations:batch", {"reservations": orders}, key="batch-1")
    assert reply.status == 200
    assert [result["status"] for result in reply.json["results"]] == [201, 422, 409, 201]
    outcomes = read_outcomes(up.facts["event_store_url"])
    assert [f"batch-1#{number}" in outcomes for number in range(4)] == [True, False, True, True]


READS: list[tuple[str, str, bytes | None, int, str]] = [
    ("GET", "/v1/availability/NONE", None, 404, "unknown-stock-item"),
    ("GET", "/v1/stock/NONE/B1", None, 404, "unknown-stock-item"),
    ("GET", "/v1/stock/B-1/NOWHERE", None, 404, "unknown-stock-item"),
    ("GET", "/v1/reservations/no-such", None, 404, "unknown-reservation"),
    ("GET", "/v1/warehouses/NOWHERE", None, 404, "unknown-warehouse"),
    ("GET", "/v1/availability/B%C3%BC", None, 422, "invalid-request"),
    ("GET", "/v1/availability/B-1?quantity=-1", None, 422, "invalid-request"),
    ("GET", "/v1/availability/B-1?quantity=1.5", None, 422, "invalid-request"),
    ("GET", "/v1/availability/B-1?quantity=99999999999999999999", None, 422, "invalid-request"),
    ("GET", "/v1/availability/B-1?min_version=B1", None, 422, "invalid-request"),
    ("GET", "/v1/availability/B-1?min_version=B1:999", None, 503, "not-fresh-enough"),
    ("GET", "/v1/stock/B-1/B1/as-of?version=0.5", None, 422, "invalid-request"),
    ("GET", "/v1/reservations?cursor=%00", None, 422, "invalid-request"),
    ("POST", "/v1/availability:batch", b'{"items":[{"sku":"B-1","quantity":0}]}', 422, "invalid-request"),
    ("POST", "/v1/availability:batch", b'{"items":[{"sku":"B-1","colour":1}]}', 422, "invalid-request"),
    ("POST", "/v1/availability:batch", b"[" + b" " * 2**24 + b"]", 413, "payload-too-large"),
    ("GET", "/v1/nothing", None, 404, "not-found"),
    ("PUT", "/v1/availability/B-1", b"{}", 405, "method-not-allowed"),
]


@pytest.mark.usefixtures("bad_input_shop")
@pytest.mark.parametrize(
    ("method", "target", "body", "status", "code"), READS, ids=[f"{one[0]} {one[1]} {one[3]}" for one in READS]
)
async def test_what_cannot_be_read_is_a_problem_of_the_contract(
    window: Door, method: str, target: str, body: bytes | None, status: int, code: str
) -> None:
    reply = await window.ask(method, target, body)
    assert_problem(reply, status, code)
    assert ("retry-after" in reply.headers) == (status == 503)


async def test_both_doors_document_themselves_and_tell_how_they_are(door: Door, window: Door) -> None:
    for api in (door, window):
        for path in ("/healthz", "/readyz", "/docs", "/metrics", "/openapi.json"):
            assert (await api.get(path)).status == 200, path
        assert (await api.get("/openapi.json")).json["openapi"].startswith("3.")
