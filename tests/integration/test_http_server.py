"""The server with its fast lane on real sockets: ready, serving, draining."""

import asyncio
import re
import socket

import pytest

from infra.http_fast_lane import FastRequest, FastRoute
from infra.http_server import bound_socket, listening_socket, serve

TEXT = b"content-type: text/plain\r\n"


async def ordinary_app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"asgi"})


class Running:
    """A server in the test's own loop; fast requests wait in ``waiting``."""

    def __init__(self, grace_s: float = 5) -> None:
        self.waiting: asyncio.Queue[FastRequest] = asyncio.Queue()
        self.stop = asyncio.Event()
        self.ready = asyncio.Event()
        listener = bound_socket("127.0.0.1", 0)
        self.port = listener.getsockname()[1]
        # Through its number, as a child inherits it.
        self.listener = listening_socket(listener.detach())
        route = FastRoute(b"GET", re.compile(rb"/fast"), self.waiting.put_nowait)
        self.task = asyncio.ensure_future(
            serve(
                ordinary_app,
                self.listener,
                until=self.stop.wait(),
                fast_routes=[route],
                on_ready=self.ready.set,
                grace_s=grace_s,
            )
        )

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


@pytest.fixture
async def running():
    running = Running()
    async with asyncio.timeout(10):
        await running.ready.wait()
    yield running
    running.stop.set()
    async with asyncio.timeout(20):
        await running.task


async def read_answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    assert length is not None
    return head + await reader.readexactly(int(length[1]))


async def test_both_lanes_answer_on_one_connection(running):
    reader, writer = await running.connect()
    writer.write(b"GET /fast HTTP/1.1\r\nhost: h\r\n\r\n")
    (await running.waiting.get()).respond(200, TEXT, b"fast")
    answer = await read_answer(reader)
    assert answer.endswith(b"fast")
    assert re.search(rb"\r\ndate: .*GMT\r\n", answer)
    writer.write(b"GET /slow HTTP/1.1\r\nhost: h\r\n\r\n")
    assert (await read_answer(reader)).endswith(b"asgi")
    writer.close()


async def test_stopping_answers_what_is_in_flight_and_closes_the_idle(running):
    idle_reader, idle_writer = await running.connect()
    idle_writer.write(b"GET /slow HTTP/1.1\r\nhost: h\r\n\r\n")
    await read_answer(idle_reader)
    reader, writer = await running.connect()
    writer.write(b"GET /fast HTTP/1.1\r\nhost: h\r\n\r\n")
    request = await running.waiting.get()
    running.stop.set()
    assert await idle_reader.read() == b""
    assert not running.task.done()
    request.respond(200, TEXT, b"last")
    answer = await read_answer(reader)
    assert answer.endswith(b"last")
    assert b"connection: close" in answer
    await running.task
    with pytest.raises(ConnectionError):
        await running.connect()
    idle_writer.close()
    writer.close()


async def test_after_the_grace_a_request_that_is_never_answered_is_dropped():
    running = Running(grace_s=1)
    await running.ready.wait()
    reader, writer = await running.connect()
    writer.write(b"GET /fast HTTP/1.1\r\nhost: h\r\n\r\n")
    await running.waiting.get()
    running.stop.set()
    async with asyncio.timeout(10):
        await running.task
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await read_answer(reader)
    writer.close()


async def test_who_does_not_read_its_answer_is_not_served_the_next_and_holds_up_only_itself(running):
    blob = b"x" * 30_000_000  # more than the sockets' buffers hold
    slow_reader, slow_writer = await running.connect()
    slow_writer.write(b"GET /fast HTTP/1.1\r\nhost: h\r\n\r\n" * 2)
    (await running.waiting.get()).respond(200, TEXT, blob)
    reader, writer = await running.connect()
    writer.write(b"GET /slow HTTP/1.1\r\nhost: h\r\n\r\n")
    assert (await read_answer(reader)).endswith(b"asgi")
    assert running.waiting.empty()
    assert (await read_answer(slow_reader)).endswith(blob)
    (await running.waiting.get()).respond(200, TEXT, b"next")
    assert (await read_answer(slow_reader)).endswith(b"next")
    writer.close()
    slow_writer.close()


def test_what_is_accepted_sends_without_waiting_for_acknowledgements():
    with bound_socket("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        inherited = listening_socket(listener.dup().detach())
        with inherited:
            assert inherited.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
