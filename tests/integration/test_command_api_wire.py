"""The command API and HTTP's corners: long bodies, bodies in chunks, connections of every kind, stopping."""

import asyncio
import re

import pytest
import pytest_asyncio

from tests.command_api import Api as AnyApi
from tests.command_api import Connection, ScriptedExecutor, command_api, request_bytes
from tests.support import eventually_async

ORDER = '{"order_id":"o-1","lines":[{"sku":"A","quantity":1}]}'
Api = AnyApi[ScriptedExecutor]


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_api():
    """Starting and stopping a server takes longer than most of these tests."""
    async with command_api(ScriptedExecutor()) as running:
        yield running


@pytest.fixture
def api(shared_api: Api) -> Api:
    """An API that nobody has asked before."""
    executor = shared_api.executor
    vars(executor).update(vars(ScriptedExecutor()))
    shared_api.fast.clear()
    return shared_api


# Long bodies -----------------------------------------------------------------------------------------

MIB = 1 << 20


@pytest.mark.parametrize(("target", "limit"), [("/v1/reservations", MIB), ("/v1/reservations:batch", 16 * MIB)])
async def test_a_body_may_be_as_long_as_its_limit(api: Api, target, limit):
    body = ORDER if limit == MIB else f'{{"reservations":[{ORDER}]}}'
    reply = await api.post(target, body.ljust(limit))
    assert reply.status in {200, 201}
    reply = await api.post(target, body.ljust(limit + 1), idempotency_key="k")
    assert (reply.status, reply.code) == (413, "payload-too-large")
    assert reply.headers["idempotency-key"] == "k"


async def test_the_connection_lives_on_after_a_body_that_was_too_long(api: Api):
    connection = await api.connect()
    long, short = (
        request_bytes("POST", "/v1/reservations", ORDER.ljust(3 * MIB)),
        request_bytes("POST", "/v1/reservations", ORDER),
    )
    await connection.send(long + short)
    assert (await connection.read()).status == 413
    assert (await connection.read()).status == 201
    await connection.close()


def chunked(body: bytes, size: int) -> bytes:
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


CHUNKED = [("Transfer-Encoding", "chunked")]


async def test_a_body_in_chunks(api: Api):
    reply = await api.ask("POST", "/v1/reservations", chunked(ORDER.encode(), 7), CHUNKED)
    assert reply.status == 201
    assert api.fast == []


async def test_a_body_in_chunks_that_is_too_long(api: Api):
    body = chunked(ORDER.encode().ljust(MIB + 1), 64 * 1024)
    reply = await api.ask("POST", "/v1/reservations", body, CHUNKED)
    assert (reply.status, reply.code) == (413, "payload-too-large")


async def test_a_client_that_asks_first(api: Api):
    connection = await api.connect()
    whole = request_bytes("POST", "/v1/reservations", ORDER, [("Expect", "100-continue")])
    head, body = whole.split(b"\r\n\r\n", 1)
    await connection.send(head + b"\r\n\r\n")
    assert (await connection.read()).status == 100
    await connection.send(body)
    assert (await connection.read()).status == 201
    await connection.close()


async def test_a_client_that_asks_first_whether_too_much_is_too_much(api: Api):
    connection = await api.connect()
    whole = request_bytes("POST", "/v1/reservations", ORDER.ljust(2 * MIB), [("Expect", "100-continue")])
    await connection.send(whole.split(b"\r\n\r\n", 1)[0] + b"\r\n\r\n")
    assert (await connection.read()).status == 413
    await connection.close()


async def test_who_goes_away_in_the_middle_of_a_body_leaves_nothing_behind(api: Api, caplog):
    for target in ("/v1/reservations", "/v1/reservations?slowly"):
        connection = await api.connect()
        await connection.send(request_bytes("POST", target, ORDER)[:-10])
        await connection.close()
    assert (await api.post("/v1/reservations", ORDER)).status == 201
    assert len(api.executor.submitted) == 1
    assert caplog.records == []


# Connections -----------------------------------------------------------------------------------------


async def test_one_connection_many_requests(api: Api):
    connection = await api.connect()
    for number in range(50):
        target = "/v1/reservations" if number % 2 else "/v1/reservations/r-1/cancel"
        reply = await connection.ask(
            "POST", target, ORDER if number % 2 else None, [("Idempotency-Key", f"k-{number}")]
        )
        assert (reply.status, reply.headers["idempotency-key"]) == (201, f"k-{number}")
    await connection.close()


async def test_pipelined_requests_are_answered_in_order_whatever_their_way(api: Api):
    kinds = [
        ("/v1/reservations", ORDER),
        ("/v1/reservations/r-1/cancel", None),
        ("/v1/reservations", "bad"),
        ("/nowhere", None),
    ]
    sent = [request_bytes("POST", *kinds[n % 4], [("Idempotency-Key", f"k-{n}")]) for n in range(40)]
    connection = await api.connect()
    await connection.send(b"".join(sent))
    replies = [await connection.read() for _ in sent]
    assert [reply.headers["idempotency-key"] for reply in replies] == [f"k-{n}" for n in range(40)]
    assert [reply.status for reply in replies] == [201, 201, 422, 404] * 10
    await connection.close()


async def test_bytes_that_come_one_by_one(api: Api):
    connection = await api.connect()
    for byte in request_bytes("POST", "/v1/reservations", ORDER):
        await connection.send(bytes([byte]))
    assert (await connection.read()).status == 201
    await connection.close()


async def test_a_client_of_http_1_0(api: Api):
    connection = await api.connect()
    await connection.send(request_bytes("POST", "/v1/reservations", ORDER).replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert (await connection.read()).status == 201
    assert await connection.reader.read() == b""
    await connection.close()


async def test_who_has_gone_is_not_waited_for(api: Api):
    api.executor.held = True
    for target in ("/v1/reservations", "/v1/reservations?slowly"):
        connection = await api.connect()
        await connection.send(request_bytes("POST", target, ORDER))
        await eventually_async(lambda: api.executor.waiting)
        await connection.close()
        await asyncio.sleep(0)
        api.executor.settle()
    api.executor.held = False
    assert (await api.post("/v1/reservations", ORDER)).status == 201


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"POST /v1/reservations HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"POST /v1/reservations HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/reserv\xe4tions HTTP/1.1\r\nhost: h\r\n\r\n",
        b"POST /v1/reservations HTTP/1.1\r\nx-actor: a\x00b\r\n\r\n",
        b"POST /v1/reservations HTTP/1.1\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/reservations HTTP/1.1\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}x",
    ],
)
async def test_what_is_not_http_harms_nobody(api: Api, raw):
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(raw)
    writer.write_eof()
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    assert re.match(rb"HTTP/1.1 4\d\d ", answer) or answer == b""
    assert b"Traceback" not in answer
    assert api.executor.submitted == []
    assert (await api.post("/v1/reservations", ORDER)).status == 201


# Stopping --------------------------------------------------------------------------------------------


async def in_flight(api: Api, target: str) -> Connection:
    connection = await api.connect()
    before = len(api.executor.waiting)
    await connection.send(request_bytes("POST", target, ORDER))
    await eventually_async(lambda: len(api.executor.waiting) > before)
    return connection


async def test_stopping_answers_what_is_in_flight_in_both_lanes():
    async with command_api(ScriptedExecutor(held=True)) as api:
        connections = [await in_flight(api, target) for target in ("/v1/reservations", "/v1/reservations?slowly")]
        idle = await api.connect()
        api.stop.set()
        assert await idle.reader.read() == b""
        with pytest.raises(ConnectionError):
            await api.connect()
        assert not api.serving.done()
        api.executor.settle()
        for connection in connections:
            assert (await connection.read()).status == 201
            assert await connection.reader.read() == b""
            await connection.close()
        await api.serving
        await idle.close()
