"""Availability: what counts, in which order it is shown, and one answer by both lanes and both views."""

import pytest

from tests.command_api import Reply
from tests.support import nothing_for_the_collector
from tests.support_read_api import read_rig

MUNICH = {"latitude": 48.137, "longitude": 11.575}


@pytest.fixture
async def world(database_url, redis_url):
    async with read_rig(database_url, redis_url) as world:
        yield world


async def test_a_sku_is_the_sum_of_its_active_warehouses(world):
    world.shop.warehouse("W1", name="Berlin", priority=2)
    world.shop.warehouse("W2", name="Munich", priority=1)
    world.shop.warehouse("W3", status="INACTIVE")
    for code, quantity in (("W1", 10), ("W2", 20), ("W3", 40)):
        world.shop.stocked("A", code, quantity)
    world.shop.create("r-1", [("A", 3, "W1")])
    await world.show()
    found = await world.read("/v1/availability/A")
    assert (found["known"], found["available"], found["status"], found["source"]) == (True, 27, "IN_STOCK", "redis")
    assert [(level["warehouse"], level["name"], level["available"]) for level in found["warehouses"]] == [
        ("W2", "Munich", 20),
        ("W1", "Berlin", 7),
        ("W3", None, 40),
    ]
    assert found["as_of"] == max(level["as_of"] for level in found["warehouses"])
    assert "can_fulfil" not in found
    assert "distance_km" not in found["warehouses"][0]


async def test_a_warehouse_that_closes_takes_its_stock_along(world):
    world.shop.stocked("A", "W1", 10)
    world.shop.stocked("A", "W2", 5)
    await world.show()
    world.shop.warehouse("W1", status="MAINTENANCE")
    await world.show()
    found = await world.read("/v1/availability/A")
    assert (found["available"], found["status"], len(found["warehouses"])) == (5, "LOW_STOCK", 2)
    world.shop.warehouse("W2", status="INACTIVE")
    await world.show()
    found = await world.read("/v1/availability/A?quantity=1")
    assert (found["available"], found["status"], found["can_fulfil"]) == (0, "OUT_OF_STOCK", False)


async def test_what_is_answered_is_gone_without_the_collector(world):
    world.shop.stocked("A", "W1", 5)
    world.shop.create("r-1", [("A", 3, "W1")])
    await world.show()
    await world.read("/v1/availability/A")
    with nothing_for_the_collector():
        for target, status in (
            ("/v1/availability/A", 200),
            ("/v1/availability?sku=A&sku=B", 200),
            ("/v1/availability/B", 404),
            ("/v1/availability/A?quantity=x", 422),
            ("/v1/reservations/r-1", 200),
            ("/v1/reservations?order_id=r-1", 200),
            ("/v1/stock/A/W1", 200),
            ("/v1/nowhere", 404),
        ):
            for plain in (False, True):
                assert (target, (await world.ask("GET", target, plain=plain)).status) == (target, status)


async def test_an_unknown_sku_is_404_alone_and_a_fact_among_others(world):
    world.shop.stocked("A", "W1", 5)
    await world.show()
    reply = await world.get("/v1/availability/B")
    assert (reply.status, reply.code, reply.json["sku"]) == (404, "unknown-stock-item", "B")
    page = await world.read("/v1/availability?sku=B&sku=A&sku=B")
    assert [(item["sku"], item["known"]) for item in page["items"]] == [("B", False), ("A", True), ("B", False)]
    assert page["items"][0] == {
        "sku": "B",
        "known": False,
        "available": 0,
        "status": "OUT_OF_STOCK",
        "warehouses": [],
        "as_of": None,
        "source": "postgres",
    }
    assert "can_fulfil" not in page


async def test_an_item_that_stands_still_says_so(world):
    world.shop.stocked("A", "W1", 5)
    await world.show()
    world.log.append_rows([("stock:A@W1", 3, "stock-item.no-such-thing", b"{}")])
    await world.rig.catch_up()
    (level,) = (await world.read("/v1/availability/A"))["warehouses"]
    assert (level["stale"], level["available"]) == (True, 5)
    assert (await world.read("/v1/stock/A/W1"))["stale"] is True


async def test_a_warehouse_that_memory_has_not_seen_yet_is_looked_up(world):
    await world.show()
    world.shop.warehouse("W9", name="New")
    world.shop.stocked("A", "W9", 5)
    world.write()
    await world.rig.catch_up()  # without the refresh that `show` asks for
    found = await world.read("/v1/availability/A")
    assert (found["available"], found["warehouses"][0]["name"]) == (5, "New")


async def test_stock_at_a_warehouse_that_nobody_knows_is_shown_and_not_counted(world):
    world.log.append_rows([("warehouse:W1", 1, "warehouse.no-such-thing", b"{}")])
    world.shop.stocked("A", "W2", 2)
    item = world.shop.stocked("A", "W1", 5)
    assert item.version == 2
    world.shop.log = [event for event in world.shop.log if event.originator_id != "warehouse:W1"]
    await world.show()
    found = await world.read("/v1/availability/A")
    assert (found["available"], [level["warehouse"] for level in found["warehouses"]]) == (2, ["W2", "W1"])


GETS = [
    "/v1/availability/A",
    "/v1/availability/A?quantity=5&near=48.1,11.6&min_version=W1:3",
    "/v1/availability/A?min_version=A@W1:3",
    "/v1/availability/A?quantity=9007199254740991",
    "/v1/availability/B",
    "/v1/availability/A?quantity=0",
    "/v1/availability/A?quantity=1.5",
    "/v1/availability/A?quantity=1&quantity=1",
    "/v1/availability/A?near=91,0",
    "/v1/availability/A?near=here",
    "/v1/availability/A?min_version=W1",
    "/v1/availability/A?min_version=W1:99",
    "/v1/availability/A?min_version=W9:1",
    "/v1/availability/A?unheard=of",
    "/v1/availability/A?",
    "/v1/availability/A?quantity=%35",
    "/v1/availability/A?quantity=%ff",
    "/v1/availability/_",
    "/v1/availability/" + "A" * 101,
    "/v1/availability",
    "/v1/availability?",
    "/v1/availability?sku=",
    "/v1/availability?sku=A",
    "/v1/availability?sku=A&sku=B&min_version=A@W1:2",
    "/v1/availability?sku=A&min_version=W1:2",
    "/v1/availability?" + "&".join(["sku=A"] * 100),
    "/v1/availability?" + "&".join(["sku=A"] * 101),
]
POSTS: list[tuple[str, str | bytes]] = [
    ("", '{"items":[{"sku":"A"}]}'),
    ("?min_version=A@W1:3", '{"items":[{"sku":"A","quantity":3},{"sku":"B"}]}'),
    ("?min_version=A@W1:99", '{"items":[{"sku":"A"}]}'),
    ("?min_version=A", '{"items":[{"sku":"A"}]}'),
    ("", '{"items":[]}'),
    ("", '{"items":[{"sku":"A","quantity":0}]}'),
    ("", '{"items":[{"sku":"A","quantity":1.5}]}'),
    ("", '{"items":[{"sku":"A","colour":"red"}]}'),
    ("", '{"items":[{"sku":"A b"}]}'),
    ("", '{"items":' + "[" * 5000),
    ("", "nonsense"),
    ("", b'{"items":[{"sku":"\xff"}]}'),
    ("", "null"),
    ("", ""),
]


def seen(reply: Reply) -> tuple[int, dict[str, str], bytes]:
    """What a caller can tell apart."""
    return reply.status, {name: value for name, value in reply.headers.items() if name != "date"}, reply.body


async def test_both_lanes_answer_with_the_same_bytes(database_url, redis_url):
    async with read_rig(database_url, redis_url, min_version_wait_ms=30) as world:
        world.shop.warehouse("W1", name='Fränk"furt', **MUNICH)
        world.shop.stocked("A", "W1", 10)
        world.shop.create("r-1", [("A", 3)])
        await world.show()
        for target in GETS:
            fast, plain = await world.get(target), await world.ask("GET", target, plain=True)
            assert seen(fast) == seen(plain), target
        for query, body in POSTS:
            target = "/v1/availability:batch" + query
            fast, plain = await world.ask("POST", target, body), await world.ask("POST", target, body, plain=True)
            assert seen(fast) == seen(plain), body
        taken = [target.decode() for target in world.fast]
        assert taken == [
            target for target in GETS if "_" not in target.partition("?")[0] and "A" * 101 not in target
        ] + ["/v1/availability:batch" + query for query, _ in POSTS]


async def test_other_media_types_and_methods_are_refused_by_both_lanes(world):
    for plain in (False, True):
        for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", "json"):
            reply = await world.ask(
                "POST", "/v1/availability:batch", '{"items":[{"sku":"A"}]}', [("content-type", kind)], plain=plain
            )
            assert (reply.status, reply.code) == (415, "unsupported-media-type"), kind
        reply = await world.ask("POST", "/v1/availability/A", "{}", plain=plain)
        assert (reply.status, reply.code, reply.headers["allow"]) == (405, "method-not-allowed", "GET")
        reply = await world.ask("GET", "/v1/availability:batch", plain=plain)
        assert (reply.status, reply.code, reply.headers["allow"]) == (405, "method-not-allowed", "POST")


async def test_a_batch_may_be_long_but_not_endless(world):
    world.shop.stocked("A", "W1", 5)
    await world.show()
    long = '{"items":[{"sku":"A"}' + " " * 2_000_000 + "]}"
    assert (await world.ask("POST", "/v1/availability:batch", long)).status == 200
    endless = '{"items":[{"sku":"A"}' + " " * 16_777_216 + "]}"
    reply = await world.ask("POST", "/v1/availability:batch", endless)
    assert (reply.status, reply.code) == (413, "payload-too-large")
    items = ",".join(['{"sku":"A"}'] * 1_000)
    assert len((await world.ask("POST", "/v1/availability:batch", f'{{"items":[{items}]}}')).json["items"]) == 1_000
    reply = await world.ask("POST", "/v1/availability:batch", f'{{"items":[{items},{{"sku":"A"}}]}}')
    assert (reply.status, reply.code) == (422, "invalid-request")
