"""Postgres is there and does not answer: a read waits for as long as a statement may take, then it is told."""

import time
from collections.abc import AsyncIterator

import pytest

from infra.http_app import HttpProblem
from read_api.database import ViewDatabase, create_pool
from tests.support import eventually_async
from tests.support_proxy import Proxy, proxy_to

STATEMENT_MS = 500


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    async with proxy_to(database_url) as opened:
        yield opened


@pytest.fixture
async def database(proxy: Proxy) -> AsyncIterator[ViewDatabase]:
    async with create_pool(proxy.url, 1, STATEMENT_MS) as pool:
        yield ViewDatabase(pool, STATEMENT_MS)
        proxy.go_on()


async def test_a_server_that_hangs_is_away_until_it_answers_again(database: ViewDatabase, proxy: Proxy) -> None:
    assert await database.rows("public", "SELECT 1") == [(1,)]
    proxy.stop()
    for _ in range(3):
        started_s = time.monotonic()
        with pytest.raises(HttpProblem, match="away"):
            await database.rows("public", "SELECT 1")
        assert time.monotonic() - started_s < 5
    proxy.go_on()

    async def back() -> bool:
        try:
            return await database.rows("public", "SELECT 1") == [(1,)]
        except HttpProblem:
            return False

    await eventually_async(back)


async def test_a_statement_that_takes_too_long_is_ended_by_the_server_and_not_cut(
    database: ViewDatabase, proxy: Proxy
) -> None:
    (before,) = await database.rows("public", "SELECT pg_backend_pid()")
    connections = proxy.connections
    with pytest.raises(HttpProblem, match="away"):
        await database.rows("public", "SELECT pg_sleep(20)")
    assert (await database.rows("public", "SELECT pg_backend_pid()"), proxy.connections) == ([before], connections)
