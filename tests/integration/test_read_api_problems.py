"""Bad input, each with its problem, and what operators ask of a process."""

import psycopg
import pytest
import pytest_asyncio

from tests.support import eventually_async
from tests.support_read_api import read_rig

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(module_database_url, servers):
    async with read_rig(module_database_url, servers.redis_url, min_version_wait_ms=20) as world:
        world.shop.stocked("A", "W1", 10)
        world.shop.create("r-1", [("A", 3)])
        await world.show()
        yield world


LONG = "x" * 2_001
BAD = {
    "/v1/availability/A%2FB": "path.sku",
    "/v1/availability/%00": "path.sku",
    "/v1/availability/-A": "path.sku",
    "/v1/availability/%FF": "path",
    "/v1/availability/A?quantity=0": "query.quantity",
    "/v1/availability/A?quantity=-5": "query.quantity",
    "/v1/availability/A?quantity=9007199254740992": "query.quantity",
    "/v1/availability/A?quantity=five": "query.quantity",
    "/v1/availability/A?near=91,0": "query.near",
    "/v1/availability/A?near=48.1": "query.near",
    "/v1/availability/A?min_version=W1:x": "query.min_version[0]",
    "/v1/availability/A?min_version=W1:1&min_version=": "query.min_version[1]",
    "/v1/availability": "query",
    "/v1/availability?sku=%20": "query.sku[0]",
    "/v1/stock/A/W%201": "path.warehouse",
    "/v1/stock/A/W:1": "path.warehouse",
    "/v1/stock/A/" + "W" * 33: "path.warehouse",
    "/v1/stock/A/W1?min_version=A@W1": "query.min_version[0]",
    "/v1/stock/A/W1/policy?min_version=1": "query.min_version[0]",
    "/v1/stock/A/W1/as-of": "query",
    "/v1/stock/A/W1/as-of?at=now": "query.at",
    "/v1/stock/A/W1/as-of?version=1.0": "query.version",
    "/v1/stock/A/W1/history?limit=0": "query.limit",
    "/v1/stock/A/W1/history?from=2026-13-01T00:00:00Z": "query.from",
    "/v1/stock/A/W1/history?cursor=" + LONG: "query.cursor",
    "/v1/warehouses?status=OPEN": "query.status",
    "/v1/warehouses?country=Germany": "query.country",
    "/v1/warehouses?limit=ten": "query.limit",
    "/v1/warehouses/W%201": "path.code",
    "/v1/warehouses/W1/stock?status=active": "query.status",
    "/v1/warehouses/W1/stock?min_version=W1:1": "query.min_version[0]",
    "/v1/low-stock?warehouse=%2A": "query.warehouse",
    "/v1/shortages?cursor=e30": "query.cursor",
    "/v1/reservations/%C3%BC": "path.reservation_id",
    "/v1/reservations?order_id=": "query.order_id",
    "/v1/reservations?status=GONE": "query.status",
    "/v1/reservations?expires_before=2026-03-01": "query.expires_before",
    "/v1/movements?type=MAGIC": "query.type",
    "/v1/movements?actor=%00": "query.actor",
    "/v1/movements?reference=%00": "query.reference",
    "/v1/movements?reference=" + "r" * 402: "query.reference",
    "/v1/movements?sku=A&sku=B": "query.sku",
}


@pytest.mark.parametrize("target", list(BAD))
async def test_bad_input_is_named_by_its_place(world, target):
    reply = await world.get(target)
    assert (reply.status, reply.code) == (422, "invalid-request"), reply.raw
    assert [error["path"] for error in reply.json["errors"]] == [BAD[target]]
    assert set(reply.json) == {"type", "title", "status", "detail", "code", "errors"}
    assert reply.json["errors"][0]["message"] in reply.json["detail"]


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/v1",
        "/v1/",
        "/v1/availability/A/",
        "/v1/stock/A",
        "/v1/stock/A/W1/",
        "/v2/availability/A",
        "/%00",
        "/v1/items/A",
    ],
)
async def test_no_such_route(world, target):
    assert await world.problem(target) == (404, "not-found")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_nothing_here_changes_anything(world, method):
    for target in ("/v1/stock/A/W1", "/v1/availability/A", "/v1/reservations", "/healthz"):
        reply = await world.ask(method, target, "{}")
        assert (reply.status, reply.code) == (405, "method-not-allowed")
        assert "GET" in reply.headers["allow"]


async def test_the_largest_numbers_and_the_ends_of_time_are_only_numbers_and_times(world):
    largest = 2**53 - 1
    assert (await world.read(f"/v1/availability/A?quantity={largest}"))["can_fulfil"] is False
    assert await world.problem(f"/v1/stock/A/W1?min_version=W1:{largest}") == (503, "not-fresh-enough")
    assert await world.problem(f"/v1/stock/A/W1/as-of?version={largest}") == (404, "unknown-stock-item")
    first, last = "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"
    east, west = "0001-01-01T00:00:00%2B23:59", "9999-12-31T23:59:59-23:59"
    for since, until in ((first, last), (east, west)):
        assert len(await world.items(f"/v1/movements?from={since}&to={until}")) == 2
        assert len(await world.items(f"/v1/stock/A/W1/history?from={since}&to={until}")) == 2
        assert await world.items(f"/v1/movements?to={since}") == []
        assert (await world.read(f"/v1/stock/A/W1/as-of?at={until}"))["version"] == 3
        assert await world.problem(f"/v1/stock/A/W1/as-of?at={since}") == (404, "unknown-stock-item")
        assert len(await world.items(f"/v1/reservations?expires_before={until}")) == 1
        assert await world.items(f"/v1/reservations?expires_before={since}") == []


async def test_the_process_is_alive_and_ready_and_counts(world):
    assert await world.read("/healthz") == {"status": "alive"}
    checks = {"read_model": "ok", "event_store": "ok", "projection": "ok"}
    assert await world.read("/readyz") == {"status": "ready", "checks": checks}
    await world.get("/v1/availability/A")
    await world.get("/v1/stock/A/NOWHERE")
    text = (await world.get("/metrics")).body.decode()
    reads = "stockhold_reads_total"
    assert f'{reads}{{process="read-api-1",route="/v1/availability/{{sku}}",status="200"}}' in text
    assert f'{reads}{{process="read-api-1",route="/v1/stock/{{sku}}/{{warehouse}}",status="404"}}' in text
    assert 'stockhold_levels_answered_total{process="read-api-1",source="redis"}' in text
    assert 'stockhold_read_seconds_bucket{le="+Inf",process="read-api-1",route="/v1/availability/{sku}"}' in text
    assert (await world.ask("HEAD", "/healthz")).status == 200


async def test_the_description_names_every_route(world):
    page = await world.read("/openapi.json")
    assert {path for path in page["paths"] if path.startswith("/v1")} == {
        "/v1/availability/{sku}",
        "/v1/availability",
        "/v1/availability:batch",
        "/v1/stock/{sku}/{warehouse}",
        "/v1/stock/{sku}/{warehouse}/policy",
        "/v1/stock/{sku}/{warehouse}/history",
        "/v1/stock/{sku}/{warehouse}/as-of",
        "/v1/warehouses",
        "/v1/warehouses/{code}",
        "/v1/warehouses/{code}/stock",
        "/v1/low-stock",
        "/v1/shortages",
        "/v1/reservations",
        "/v1/reservations/{reservation_id}",
        "/v1/movements",
    }
    assert (await world.get("/docs")).headers["content-type"].startswith("text/html")


async def test_views_that_stand_still_while_the_log_goes_on_are_not_ready(world, monkeypatch):
    monkeypatch.setattr("read_api.app.STUCK_S", 0.05)
    world.shop.stocked("A", "W1", 1)
    world.write()  # and nobody follows

    async def refused() -> bool:
        reply = await world.get("/readyz")
        return reply.status == 503 and "the views stand at" in reply.json["detail"]

    await eventually_async(refused)
    await world.show()
    assert (await world.get("/readyz")).status == 200


async def test_views_that_are_ahead_of_the_log_are_not_ready(database_url, servers):
    async with read_rig(database_url, servers.redis_url) as world:
        world.shop.stocked("A", "W1", 1)
        await world.show()
        assert (await world.get("/readyz")).status == 200
        with psycopg.connect(database_url) as connection:
            connection.execute("DELETE FROM stockhold.stored_events")
        reply = await world.get("/readyz")
        assert reply.status == 503
        assert "restored" in reply.json["detail"]
