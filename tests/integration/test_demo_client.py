"""The demo's HTTP client against a real server that misbehaves."""

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from demo.client import OK, UNAVAILABLE, Urls, connected, expect
from demo.errors import CHECK_FAILED, NOT_REACHABLE, DemoError


class Moody:
    """Answers with what is next in `moods`: a status, or None to hang up without an answer. Keeps what it was sent."""

    def __init__(self, *moods: int | None) -> None:
        self.moods = list(moods)
        self.received: list[tuple[str, bytes]] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.received.append((request.headers.get("Idempotency-Key", ""), await request.read()))
        mood = self.moods.pop(0)
        if mood is None:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        retry_after = {"Retry-After": "0"} if mood == UNAVAILABLE else {}
        return web.json_response({"code": "insufficient-stock"}, status=mood, headers=retry_after)


@pytest.fixture
async def serve():
    servers = []

    async def start(moody: Moody) -> Urls:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", moody.answer)
        server = TestServer(app)
        await server.start_server()
        servers.append(server)
        url = str(server.make_url("")).rstrip("/")
        return Urls(url, url)

    yield start
    for server in servers:
        await server.close()


@pytest.mark.parametrize("trouble", [UNAVAILABLE, None])
async def test_a_command_without_outcome_is_sent_again_with_its_key(serve, trouble):
    moody = Moody(trouble, trouble, OK)
    async with connected(await serve(moody)) as client:
        answer = await client.command("POST", "/v1/reservations", {"order_id": "basket-1"}, "basket-1:reserve")
    assert answer.status == OK
    assert moody.received == [("basket-1:reserve", b'{"order_id":"basket-1"}')] * 3
    assert client.commands_repeated == 2


async def test_a_refusal_is_an_outcome_and_not_repeated(serve):
    moody = Moody(409)
    async with connected(await serve(moody)) as client:
        answer = await client.command("POST", "/v1/reservations", {}, "key")
    assert answer.is_refusal(409, "insufficient-stock")
    assert not answer.is_refusal(409, "warehouse-inactive")
    assert client.commands_repeated == 0


async def test_a_read_waits_for_its_view(serve):
    async with connected(await serve(Moody(UNAVAILABLE, OK))) as client:
        assert (await client.read("/v1/stock/product-1/store-1")).status == OK


@pytest.mark.parametrize(("status", "exit_code"), [(500, CHECK_FAILED), (UNAVAILABLE, NOT_REACHABLE)])
async def test_an_answer_that_must_not_be_ends_the_demo(serve, monkeypatch, status, exit_code):
    monkeypatch.setattr("demo.client.RETRY_FOR_S", 0.0)
    async with connected(await serve(Moody(status, status))) as client:
        answer = await client.read("/v1/stock/product-1/store-1")
    with pytest.raises(DemoError, match="Reading milk") as error:
        expect(answer, "Reading milk", OK)
    assert error.value.exit_code == exit_code


async def test_nobody_there(unused_tcp_port, monkeypatch):
    monkeypatch.setattr("demo.client.RETRY_FOR_S", 0.0)
    url = f"http://127.0.0.1:{unused_tcp_port}"
    async with connected(Urls(url, url)) as client:
        answer = await client.command("POST", "/v1/reservations", {}, "key")
        with pytest.raises(DemoError, match=url) as error:
            await client.greet()
    assert answer.status == UNAVAILABLE
    assert error.value.exit_code == NOT_REACHABLE
