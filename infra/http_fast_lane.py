"""A lane past ASGI for the few routes that are asked a thousand times a second.

A raw ASGI application on uvicorn costs a scope, a task and several turns of the event loop per
request. A request of a :class:`FastRoute` costs none of them: its handler is called from the
parser, with the body, and answers whenever it likes. Everything else, and everything unusual
(HTTP/1.0, ``Expect``, chunked or long bodies, an upgrade, a target the pattern does not match),
takes uvicorn's ordinary way into the ASGI application, which must know the same routes.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from uvicorn import Config
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from infra.problems import PROBLEM_JSON, problem

logger = logging.getLogger(__name__)

JSON_HEADERS: Final = b"content-type: application/json\r\n"
PROBLEM_HEADERS: Final = f"content-type: {PROBLEM_JSON}\r\n".encode()
_TELLING_HEADERS: Final = frozenset({b"expect", b"transfer-encoding", b"content-length", b"upgrade"})
# The base class sets a cycle's event when the connection is lost; nobody ever waits on a fast request's.
_NOBODY_WAITS: Final = asyncio.Event()


@dataclass(frozen=True, slots=True)
class FastRoute:
    """Requests with this ``method`` whose whole target (path and query, as sent) matches ``pattern``.

    ``handler`` is called in the event loop and must not block. A request whose ``Content-Length`` is
    above ``body_bytes_max`` goes to the ASGI application, whose refusal is then the answer.
    """

    method: bytes
    pattern: re.Pattern[bytes]
    handler: "Callable[[FastRequest], None]"
    body_bytes_max: int = 0


class FastRequest(RequestResponseCycle):
    """One request in the fast lane, and the way to answer it.

    ``target`` is the path with its query as sent, ``match`` what the route's pattern made of it,
    ``headers`` have lower-case names, ``body`` is whole when the handler is called.
    """

    def __init__(self, protocol: "FastLaneProtocol", route: FastRoute, match: "re.Match[bytes]") -> None:
        # Not the base class's: its fields serve the ASGI interface, which a fast request does not have.
        self.method = route.method
        self.target = protocol.url
        self.match = match
        self.headers = protocol.headers
        self.body = bytearray()
        self.keep_alive = protocol.parser.should_keep_alive()
        self.disconnected = False
        self.response_complete = False
        self.message_event = _NOBODY_WAITS
        self._protocol = protocol
        self._handler = route.handler

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        """Answers; from the event loop's thread, now or later, exactly once.

        ``headers`` are whole header lines, each ended by CRLF, without ``content-length``. If the caller
        has gone in the meantime, nothing happens.
        """
        if self.response_complete:
            raise RuntimeError("this request has been answered already")
        self.response_complete = True
        protocol = self._protocol
        transport = protocol.transport
        if self.disconnected or transport.is_closing():
            return
        transport.write(
            b"".join(
                (
                    STATUS_LINE[status],
                    protocol.default_header_lines(),
                    headers,
                    b"content-length: %d\r\n\r\n" % len(body)
                    if self.keep_alive
                    else b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body),
                    body,
                )
            )
        )
        if not self.keep_alive:
            transport.close()
        protocol.on_response_complete()

    def start(self) -> None:
        """Hands the request to its handler. A handler that fails has answered 500."""
        if self.disconnected or self._protocol.transport.is_closing():
            self.response_complete = True
            return
        try:
            self._handler(self)
        except Exception:
            logger.exception("a fast route failed")
            if not self.response_complete:
                status, body = problem("internal", "the request failed for a reason that is not the caller's")
                self.respond(status, PROBLEM_HEADERS, body)


class FastLaneProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with a fast lane: see :func:`fast_lane_protocol`."""

    fast_routes: dict[bytes, tuple[FastRoute, ...]]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._fast: FastRequest | None = None
        self._telling: dict[bytes, bytes] = {}
        self._previous: RequestResponseCycle | None = None
        self._held = False
        self._idle_since_s: float | None = None
        self._default_headers: list[tuple[bytes, bytes]] | None = None
        self._default_header_lines = b""

    def default_header_lines(self) -> bytes:
        """The server's own header lines (``date`` …), encoded once for every list that uvicorn makes."""
        headers = self.server_state.default_headers
        if headers is not self._default_headers:
            self._default_headers = headers
            self._default_header_lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        return self._default_header_lines

    # Parser callbacks. The scope is not built before it is known that somebody needs it.
    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._fast = None
        self._telling = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.headers.append((name, value))
        if name in _TELLING_HEADERS:
            self._telling[name] = value

    def on_headers_complete(self) -> None:
        for route in self.fast_routes.get(self.parser.get_method(), ()):
            match = route.pattern.fullmatch(self.url)
            if match is not None and self._is_ordinary(route):
                self._previous = self.cycle
                self._fast = self.cycle = FastRequest(self, route, match)
                return
        self._take_the_ordinary_way()

    def _is_ordinary(self, route: FastRoute) -> bool:
        """Whether the request, by its headers, is one that the fast lane knows how to serve."""
        if self.parser.get_http_version() != "1.1" or self.limit_concurrency is not None:
            return False
        if not self._telling:
            return True
        if len(self._telling) > 1:
            return False
        # The parser has refused what is not a number.
        length = self._telling.get(b"content-length")
        return length is not None and int(length) <= route.body_bytes_max

    def _take_the_ordinary_way(self) -> None:
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        self.headers = self.scope["headers"] = headers
        self.expect_100_continue = self._telling.get(b"expect", b"").lower() == b"100-continue"
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._fast is None:
            super().on_body(body)
        else:
            self._fast.body += body

    def on_message_complete(self) -> None:
        request = self._fast
        if request is None:
            super().on_message_complete()
            return
        self._fast = None
        previous, self._previous = self._previous, None
        if previous is None or previous.response_complete:
            request.start()
        else:
            # Pipelined: answers leave in the order of the requests.
            self.flow.pause_reading()
            self.pipeline.appendleft((request, self.app))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if isinstance(cycle, FastRequest):
            # Not called here: a thousand pipelined requests answered at once would be as many stack frames.
            self.loop.call_soon(cycle.start)
        else:
            super()._start_asgi_task(cycle, _unless_gone(cycle, app))

    def on_response_complete(self) -> None:
        if self.flow.write_paused:
            # Back-pressure: who does not read its answers is not asked for more questions.
            self._held = True
            self.flow.pause_reading()
            return
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        else:
            self._idle_since_s = self.loop.time()
            if self.timeout_keep_alive_task is None:
                self._look_again_in(self.timeout_keep_alive)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._held:
            self._held = False
            self.on_response_complete()

    # An idle connection is closed after a while. One timer per connection that looks when it last was busy is
    # cheaper than one per request, of which all but the last are cancelled.
    def data_received(self, data: bytes) -> None:
        self._idle_since_s = None
        super().data_received(data)

    def _unset_keepalive_if_required(self) -> None:
        """The timer looks for itself whether it is still needed."""

    def _look_again_in(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if self._idle_since_s is None or self.transport.is_closing():
            return
        left_s = self._idle_since_s + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self._look_again_in(left_s)
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        # Each of them knows its protocol: a cycle, and in a process with caches a leak (decision 13).
        self.cycle = None  # type: ignore[assignment]  # as uvicorn itself begins
        self._fast = self._previous = None
        self.pipeline.clear()


def _unless_gone(cycle: RequestResponseCycle, app: ASGI3Application) -> ASGI3Application:
    """``app``, whose answer is dropped when the caller has gone.

    uvicorn looks whether it was told so; uvloop's transport is closed a moment before it tells, and raises then.
    """

    async def answering(scope: Any, receive: Any, send: Any) -> None:
        async def send_unless_gone(message: Any) -> None:
            if cycle.transport.is_closing():
                cycle.disconnected = True
            await send(message)

        await app(scope, receive, send_unless_gone)

    return answering


def fast_lane_protocol(routes: Sequence[FastRoute]) -> type[FastLaneProtocol]:
    """The protocol class with these routes, for uvicorn's ``Config(http=…)``. The first match serves."""
    by_method: dict[bytes, tuple[FastRoute, ...]] = {}
    for route in routes:
        by_method[route.method] = (*by_method.get(route.method, ()), route)
    return type("BoundFastLaneProtocol", (FastLaneProtocol,), {"fast_routes": by_method})
