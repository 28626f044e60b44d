"""The fast lane on raw bytes: what it takes, what it leaves to ASGI, and the order of the answers."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from infra.http_fast_lane import FastLaneProtocol, FastRequest, FastRoute, fast_lane_protocol
from tests.support import eventually_async

TEXT = b"content-type: text/plain\r\n"


class Wire(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.closed = False
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        self.sent += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


async def ordinary_app(scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    """Answers with how it was asked."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    query = scope["query_string"]
    text = b"asgi %b %b?%b %b" % (scope["method"].encode(), scope["raw_path"], query, body)
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


class Lane:
    """One connection; requests of the fast routes wait in ``waiting`` until the test answers them."""

    def __init__(self, handler: Callable[[FastRequest], None] | None = None) -> None:
        self.waiting: list[FastRequest] = []
        take = handler or self.waiting.append
        protocol_class = fast_lane_protocol(
            [
                FastRoute(b"GET", re.compile(rb"/fast/([a-z]+)(\?.*)?"), take),
                FastRoute(b"POST", re.compile(rb"/fast"), take, body_bytes_max=20),
            ]
        )
        config = Config(ordinary_app, http=protocol_class, log_config=None, access_log=False)
        self.state = ServerState()
        self.state.default_headers = [(b"date", b"today")]
        self.protocol: FastLaneProtocol = protocol_class(config, self.state, {})
        self.wire = Wire()
        self.protocol.connection_made(self.wire)

    def feed(self, data: bytes) -> None:
        self.protocol.data_received(data)

    async def answered(self) -> bytes:
        """Everything sent, once the ordinary tasks and callbacks under way are through."""
        for _ in range(20):
            await asyncio.sleep(0)
        return self.wire.sent

    def end(self) -> None:
        self.wire.closed = True
        self.protocol.connection_lost(None)


@pytest.fixture
async def lane():
    lane = Lane()
    yield lane
    lane.end()


def answer(text: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\ndate: today\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%b" % (
        status,
        len(text),
        text,
    )


async def test_a_matching_request_reaches_its_handler_whole(lane):
    lane.feed(b"GET /fast/abc?x=%20 HTTP/1.1\r\nHost: h\r\nX-Actor: Me\r\n\r\n")
    (request,) = lane.waiting
    assert (request.method, request.target, request.body) == (b"GET", b"/fast/abc?x=%20", b"")
    assert request.match[1] == b"abc"
    assert request.headers == [(b"host", b"h"), (b"x-actor", b"Me")]
    request.respond(200, TEXT, b"hello")
    assert lane.wire.sent == answer(b"hello")
    assert not lane.wire.closed


async def test_bytes_may_come_one_by_one(lane):
    for byte in b"POST /fast HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello":
        lane.feed(bytes([byte]))
    (request,) = lane.waiting
    assert request.body == b"hello"


async def test_the_handler_waits_for_the_last_byte_of_the_body(lane):
    lane.feed(b"POST /fast HTTP/1.1\r\ncontent-length: 5\r\n\r\nhell")
    assert lane.waiting == []
    lane.feed(b"o")
    assert len(lane.waiting) == 1


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        (b"GET /slow/abc HTTP/1.1\r\n\r\n", b"asgi GET /slow/abc? "),
        (b"GET /fast/ABC HTTP/1.1\r\n\r\n", b"asgi GET /fast/ABC? "),
        (b"GET /fast/%61 HTTP/1.1\r\n\r\n", b"asgi GET /fast/%61? "),
        (b"GET /fast/abc HTTP/1.0\r\n\r\n", b"asgi GET /fast/abc? "),
        (b"PUT /fast/abc HTTP/1.1\r\n\r\n", b"asgi PUT /fast/abc? "),
        (b"GET /fast/abc HTTP/1.1\r\ncontent-length: 1\r\n\r\nx", b"asgi GET /fast/abc? x"),
        (b"GET /fast/abc HTTP/1.1\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n", b"asgi GET /fast/abc? "),
        (b"POST /fast HTTP/1.1\r\ncontent-length: 21\r\n\r\n" + b"x" * 21, b"asgi POST /fast? " + b"x" * 21),
        (b"POST /fast HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", b"asgi POST /fast? ab"),
    ],
)
async def test_everything_unusual_takes_the_ordinary_way(lane, sent, seen):
    lane.feed(sent)
    assert lane.waiting == []
    assert (await lane.answered()).endswith(b"\r\n\r\n" + seen)


async def test_a_client_that_waits_for_100_continue_gets_it(lane):
    lane.feed(b"POST /fast HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
    assert await lane.answered() == b"HTTP/1.1 100 Continue\r\n\r\n"
    lane.feed(b"ab")
    assert (await lane.answered()).endswith(b"asgi POST /fast? ab")


async def test_a_head_request_gets_no_body(lane):
    lane.feed(b"HEAD /fast/abc HTTP/1.1\r\n\r\n")
    assert (await lane.answered()).endswith(b"\r\n\r\n")
    assert lane.waiting == []


async def test_pipelined_answers_leave_in_the_order_of_the_requests(lane):
    lane.feed(
        b"GET /fast/a HTTP/1.1\r\n\r\nGET /slow HTTP/1.1\r\n\r\nGET /fast/b HTTP/1.1\r\n\r\nGET /fast/c HTTP/1.1\r\n\r\n"
    )
    assert [request.target for request in lane.waiting] == [b"/fast/a"]
    assert await lane.answered() == b""
    lane.waiting[0].respond(200, TEXT, b"A")
    await lane.answered()
    assert [request.target for request in lane.waiting] == [b"/fast/a", b"/fast/b"]
    lane.waiting[1].respond(404, TEXT, b"B")
    await lane.answered()
    lane.waiting[2].respond(200, TEXT, b"C")
    assert lane.wire.sent == (
        answer(b"A") + answer(b"asgi GET /slow? ") + answer(b"B", b"404 Not Found") + answer(b"C")
    )


async def test_a_fast_request_waits_for_the_ordinary_one_before_it(lane):
    lane.feed(b"GET /slow HTTP/1.1\r\n\r\nGET /fast/a HTTP/1.1\r\n\r\n")
    assert lane.waiting == []
    await lane.answered()
    lane.waiting[0].respond(200, TEXT, b"A")
    assert lane.wire.sent == answer(b"asgi GET /slow? ") + answer(b"A")


async def test_thousands_of_pipelined_requests_answered_at_once_do_not_pile_up_stack_frames():
    lane = Lane(lambda request: request.respond(200, TEXT, b"x"))
    lane.feed(b"GET /slow HTTP/1.1\r\n\r\n" + b"GET /fast/a HTTP/1.1\r\n\r\n" * 3_000)
    while lane.protocol.pipeline:
        await lane.answered()
    assert (await lane.answered()).count(answer(b"x")) == 3_000
    lane.end()


async def test_connection_close_is_honoured(lane):
    lane.feed(b"GET /fast/a HTTP/1.1\r\nconnection: close\r\n\r\n")
    lane.waiting[0].respond(200, TEXT, b"A")
    assert b"\r\nconnection: close\r\n" in lane.wire.sent
    assert lane.wire.closed


async def test_a_caller_that_has_gone_is_not_answered(lane):
    lane.feed(b"GET /fast/a HTTP/1.1\r\n\r\n")
    lane.end()
    lane.waiting[0].respond(200, TEXT, b"A")
    assert lane.wire.sent == b""


async def test_a_caller_that_has_gone_is_not_answered_the_ordinary_way_either(lane, caplog):
    lane.feed(b"GET /slow HTTP/1.1\r\n\r\n")
    lane.wire.closed = True  # as uvloop closes it, some time before the protocol is told
    assert await lane.answered() == b""
    assert caplog.records == []


async def test_a_request_is_answered_once(lane):
    lane.feed(b"GET /fast/a HTTP/1.1\r\n\r\n")
    lane.waiting[0].respond(200, TEXT, b"A")
    with pytest.raises(RuntimeError, match="already"):
        lane.waiting[0].respond(200, TEXT, b"A")


async def test_a_handler_that_fails_answers_500(caplog):
    def fail(_: FastRequest) -> None:
        raise ValueError("boom")

    lane = Lane(fail)
    lane.feed(b"GET /fast/a HTTP/1.1\r\n\r\n")
    assert lane.wire.sent.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert b'"code":"internal"' in lane.wire.sent
    assert b"boom" not in lane.wire.sent
    assert "boom" in caplog.text
    lane.end()


async def test_shutdown_lets_the_request_in_flight_finish_and_closes(lane):
    lane.feed(b"GET /fast/a HTTP/1.1\r\n\r\n")
    lane.protocol.shutdown()
    assert not lane.wire.closed
    lane.waiting[0].respond(200, TEXT, b"A")
    assert b"connection: close" in lane.wire.sent
    assert lane.wire.closed


async def test_who_does_not_read_answers_is_not_read_from(lane):
    lane.feed(b"GET /fast/a HTTP/1.1\r\n\r\nGET /fast/b HTTP/1.1\r\n\r\n")
    lane.protocol.pause_writing()
    lane.waiting[0].respond(200, TEXT, b"A")
    await lane.answered()
    assert not lane.wire.reading
    assert len(lane.waiting) == 1
    lane.protocol.resume_writing()
    await lane.answered()
    assert lane.wire.reading
    assert len(lane.waiting) == 2


async def test_an_idle_connection_is_closed_after_its_time(lane):
    lane.protocol.timeout_keep_alive = 0.02
    lane.feed(b"GET /fast/a HTTP/1.1\r\n\r\n")
    lane.waiting[0].respond(200, TEXT, b"A")
    await eventually_async(lambda: lane.wire.closed)


async def test_a_connection_is_not_idle_while_a_request_arrives_or_waits_for_its_answer(lane):
    lane.feed(b"GET /fast/a HTTP/1.1\r\n\r\n")
    lane.waiting[0].respond(200, TEXT, b"A")
    lane.protocol.timeout_keep_alive = 0
    lane.feed(b"GET /fa")
    lane.protocol.timeout_keep_alive_handler()
    lane.feed(b"st/b HTTP/1.1\r\n\r\n")
    lane.protocol.timeout_keep_alive_handler()
    assert not lane.wire.closed
    lane.waiting[1].respond(200, TEXT, b"B")
    await eventually_async(lambda: lane.wire.closed)
    assert lane.wire.sent == answer(b"A") + answer(b"B")


async def test_a_body_cut_short_never_reaches_the_handler(lane):
    lane.feed(b"POST /fast HTTP/1.1\r\ncontent-length: 5\r\n\r\nhe")
    lane.end()
    assert lane.waiting == []


async def test_garbage_after_a_fast_request_is_refused(lane):
    lane.feed(b"GET /fast/a HTTP/1.1\r\n\r\n")
    lane.waiting[0].respond(200, TEXT, b"A")
    lane.feed(b"\x00\x01\x02 nonsense\r\n\r\n")
    assert b"HTTP/1.1 400 Bad Request" in lane.wire.sent
    assert lane.wire.closed


async def test_both_lengths_at_once_are_left_to_the_parser(lane):
    # Two framings in one request are how requests are smuggled: the fast lane keeps out of it.
    lane.feed(b"POST /fast HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n")
    await lane.answered()
    assert lane.waiting == []
