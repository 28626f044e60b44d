"""An orderly stop under load lets what was admitted finish; a start on the same folder finds everything again."""

import asyncio
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.command_api import Reply
from tests.end_to_end.ledger import assert_clean, check_books, log_size, read_log, read_outcomes
from tests.end_to_end.load import Books, Shop, connected, seed
from tests.support import Up, eventually_async, stockhold_up

SKUS, WAREHOUSES = ("R-1", "R-2"), ("W1", "W2")
PATHS = (
    "/v1/stock/KEPT/W1",
    "/v1/stock/KEPT/W1/policy",
    "/v1/stock/KEPT/W1/history",
    "/v1/availability/KEPT?quantity=1",
    "/v1/warehouses",
    "/v1/reservations/kept-held",
    "/v1/reservations/kept-shipped",
    "/v1/reservations?order_id=kept",
)


@dataclass
class Remembered:
    """What was answered before the stop: commands by their key, and what readers saw."""

    commands: dict[str, tuple[str, str, Any, Reply]]
    reads: dict[str, Any]
    size: int


async def live_a_little(up: Up) -> Remembered:
    commands: dict[str, tuple[str, str, Any, Reply]] = {}
    async with connected(up.facts["command_url"]) as door, connected(up.facts["read_url"]) as window:

        async def tell(method: str, target: str, body: Any, status: int) -> Reply:
            key = f"kept-{len(commands)}"
            reply = await door.ask(method, target, body, key=key)
            assert reply.status == status, reply.raw
            commands[key] = (method, target, body, reply)
            return reply

        order = {"order_id": "kept", "ttl_seconds": 900, "lines": [{"sku": "KEPT", "quantity": 2}]}
        await tell("PUT", "/v1/warehouses/W1", {"name": "Kept"}, 201)
        await tell("POST", "/v1/stock/KEPT/W1/restock", {"quantity": 10}, 200)
        await tell("PUT", "/v1/stock/KEPT/W1/policy", {"safety_stock": 1}, 200)
        await tell("POST", "/v1/reservations", order | {"reservation_id": "kept-held"}, 201)
        await tell("POST", "/v1/reservations", order | {"reservation_id": "kept-shipped"}, 201)
        await tell("POST", "/v1/reservations/kept-shipped/commit", None, 200)
        shipped = await tell("POST", "/v1/reservations/kept-shipped/ship", {"tracking": "1Z"}, 200)
        await tell("POST", "/v1/reservations/kept-shipped/release", None, 409)
        version = shipped.json["lines"][0]["allocations"][0]["version"]
        assert (await window.get(f"/v1/stock/KEPT/W1?min_version=W1:{version}")).status == 200
        reads = {path: (await window.get(path)).json for path in PATHS}
    return Remembered(commands, reads, log_size(up.facts["event_store_url"]))


async def finds_it_again(up: Up, remembered: Remembered) -> None:
    async with connected(up.facts["command_url"]) as door, connected(up.facts["read_url"]) as window:
        for path, before in remembered.reads.items():

            async def is_as_before(path: str = path, before: Any = before) -> bool:
                reply = await window.get(path)
                return bool(reply.json == before)

            await eventually_async(is_as_before)
        for key, (method, target, body, reply) in remembered.commands.items():
            again = await door.ask(method, target, body, key=key)
            assert (again.status, again.body) == (reply.status, reply.body)
            assert again.headers["idempotency-replayed"] == "true"
        assert log_size(up.facts["event_store_url"]) == remembered.size
        # And life goes on where it was: nothing is free that was held.
        wanted = {"order_id": "more", "lines": [{"sku": "KEPT", "quantity": 6}]}
        assert (await door.post("/v1/reservations", wanted)).code == "insufficient-stock"
        assert (await door.post("/v1/reservations/kept-held/commit")).json["status"] == "COMMITTED"


async def test_everything_is_there_after_a_restart(data_dir: Path) -> None:
    with stockhold_up(data_dir) as up:
        remembered = await live_a_little(up)
        assert up.stop() == 0
    with stockhold_up(data_dir) as up:
        await finds_it_again(up, remembered)
        await stop_under_load(up, data_dir)


async def stop_under_load(up: Up, data_dir: Path) -> None:
    """Every command that was admitted is answered before the end; what was not answered was never taken."""
    books = Books("stop")
    shop = Shop(books, up.facts["command_url"], up.facts["read_url"], SKUS, WAREHOUSES, random.Random(seed()))
    await shop.open(units=500)
    async with shop.busy(customers=16):
        await eventually_async(lambda: len(books.answered) > 100)
        up.process.terminate()
        await eventually_async(lambda: books.unanswered, 60)
    assert await asyncio.to_thread(up.process.wait, 60) == 0
    assert "is killed" not in up.errors()
    with stockhold_up(data_dir, "--without", "read-api") as again:
        url = again.facts["event_store_url"]
        check_books(books, url)
        keys = {event.key for event in read_log(url)} | read_outcomes(url).keys()
        assert not [entry for entry in books.unanswered if entry.key in keys]
        assert_clean(again)
