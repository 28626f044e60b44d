"""A read API on real servers, over views that a test fills event by event, at a time that the test sets.

async with read_rig(database_url, redis_url) as world:
    world.log.warehouse("W1", name="Frankfurt")
    world.log.happened("A", "W1", registered(), restocked(10))
    await world.catch_up()
    assert (await world.get("/v1/availability/A")).json["available"] == 10
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from infra.http_fast_lane import FastRoute
from infra.http_server import bound_socket, serve
from infra.settings import Settings
from projections.redis_layout import microseconds
from read_api.app import ReadApi, open_read_api
from read_api.clock import ReadClock
from tests.command_api import Connection, Reply, noting_targets
from tests.support_domain import NOW, Shop, after
from tests.support_views import LogWriter, Rig, follower_rig


class SetClock(ReadClock):
    """Stands at the instant that a test gave it."""

    def __init__(self, now: datetime = NOW) -> None:
        super().__init__()
        self.instant = now

    def now_us(self) -> int:
        return microseconds(self.instant)

    def observe(self, before_us: int, database_us: int, after_us: int) -> None:
        """What the database says does not count here."""


@dataclass
class ReadWorld:
    """``fast``: targets that the fast lane took on ``port``; on ``plain_port`` the same application has no fast lane."""

    shop: Shop
    log: LogWriter
    rig: Rig
    api: ReadApi
    clock: SetClock
    port: int
    plain_port: int
    fast: list[bytes]
    logged: int = 0

    async def show(self) -> None:
        """Everything that happened in the shop is in the views, and it is as late as in the shop."""
        self.write()
        await self.rig.catch_up()
        self.clock.instant = self.shop.now
        # So that a test which changes a warehouse need not wait for the notice of it.
        await self.api.current.refresh()

    def write(self) -> None:
        """Everything that happened in the shop is in the log."""
        self.log.append(self.shop.events_since(self.logged))
        self.logged = len(self.shop.log)

    def at(self, seconds: float) -> None:
        """Reads are asked so many seconds after NOW; nothing else happens."""
        self.clock.instant = after(seconds)

    async def ask(
        self,
        method: str,
        target: str,
        body: bytes | str | None = None,
        headers: Sequence[tuple[str, str]] = (),
        *,
        plain: bool = False,
    ) -> Reply:
        port = self.plain_port if plain else self.port
        connection = Connection(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 24))
        try:
            async with asyncio.timeout(20):
                return await connection.ask(method, target, body, headers)
        finally:
            await connection.close()

    async def get(self, target: str) -> Reply:
        return await self.ask("GET", target)

    async def read(self, target: str) -> Any:
        """The JSON of an answer that must be one."""
        reply = await self.get(target)
        assert reply.status == 200, reply.raw
        return reply.json

    async def problem(self, target: str) -> tuple[int, str]:
        """(status, code) of an answer that must be a problem."""
        reply = await self.get(target)
        return reply.status, reply.code

    async def items(self, target: str) -> list[Any]:
        """Every item of a list, page by page."""
        found: list[Any] = []
        cursor = ""
        while True:
            reply = await self.get(target + cursor)
            assert reply.status == 200, reply.raw
            found += reply.json["items"]
            if reply.json["next_cursor"] is None:
                return found
            cursor = ("&" if "?" in target else "?") + f"cursor={reply.json['next_cursor']}"


def read_settings(database_url: str, redis_url: str, **changed: Any) -> Settings:
    return Settings(
        event_store_url=database_url,
        read_model_url=database_url,
        redis_url=redis_url,
        process_name="read-api-1",
        **changed,
    )


@asynccontextmanager
async def serving(api: ReadApi, fast_routes: Sequence[FastRoute]) -> AsyncIterator[int]:
    """The application on a port of its own."""
    stop, ready = asyncio.Event(), asyncio.Event()
    listener = bound_socket("127.0.0.1", 0)
    port: int = listener.getsockname()[1]
    running = asyncio.ensure_future(
        serve(api.app, listener, until=stop.wait(), fast_routes=fast_routes, on_ready=ready.set, grace_s=2)
    )
    async with asyncio.timeout(20):
        await ready.wait()
    try:
        yield port
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await running


@asynccontextmanager
async def read_rig(database_url: str, redis_url: str, **settings: Any) -> AsyncIterator[ReadWorld]:
    """A follower that the test drives, and the read API beside it."""
    clock = SetClock()
    async with (
        follower_rig(database_url, redis_url) as rig,
        open_read_api(read_settings(database_url, redis_url, **settings), clock) as api,
    ):
        fast: list[bytes] = []
        async with serving(api, noting_targets(api.fast_routes, fast)) as port, serving(api, ()) as plain_port:
            yield ReadWorld(Shop(), LogWriter(database_url), rig, api, clock, port, plain_port, fast)
