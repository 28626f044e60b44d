"""Serving an ASGI application, with fast routes beside it, from a socket until told to stop."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final

import uvicorn

from infra.http_fast_lane import FastRoute, fast_lane_protocol

GRACE_S: Final = 10.0
"""How long requests in flight may take to finish once the server was told to stop."""
KEEP_ALIVE_S: Final = 75
"""How long a connection may be idle: longer than clients and proxies keep theirs, so that it is they who close it."""

logger = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """uvicorn's server without its own ideas of signals, and with a word when it is ready."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Whoever runs the process decides what a signal means; it tells us through ``until``.
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        # Before the first request: the date header is only made by the first tick of the main loop.
        await self.on_tick(0)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            # Past the grace: a caller that never reads its answer must not keep the process.
            connection.transport.abort()


def listening_socket(fd: int) -> socket.socket:
    """The inherited listening socket ``fd``, ready for :func:`serve`. The object owns the descriptor."""
    listener = socket.socket(fileno=fd)
    listener.setblocking(False)
    return _without_delay(listener)


def bound_socket(host: str, port: int, backlog: int = 2048) -> socket.socket:
    """A listening socket on ``host``:``port`` (0: any free port). Raises OSError if it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return _without_delay(socket.create_server((host, port), family=family, backlog=backlog))


def _without_delay(listener: socket.socket) -> socket.socket:
    """What is accepted inherits it. The event loop sets it only on sockets that name their protocol, and without it
    an answer in two writes waits 40 ms for the client's delayed acknowledgement of the first.
    """
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


async def serve(
    app: Callable[..., Awaitable[Any]],
    listener: socket.socket,
    *,
    until: Awaitable[object],
    fast_routes: Sequence[FastRoute] = (),
    on_ready: Callable[[], None] = lambda: None,
    grace_s: float = GRACE_S,
) -> None:
    """Serves ``app`` on ``listener`` until ``until`` completes, then lets requests in flight finish.

    ``on_ready`` is called once, when connections are accepted. Idle connections are closed at once,
    busy ones after their answer, all of them after ``grace_s`` seconds. The listener is closed.
    The application has no lifespan: what it needs is opened and closed by who composes it.
    """
    config = uvicorn.Config(
        app,
        http=fast_lane_protocol(fast_routes),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(grace_s)),
    )
    server = _Server(config, on_ready)
    stopping = asyncio.ensure_future(until)
    stopping.add_done_callback(lambda _: setattr(server, "should_exit", True))
    try:
        await server.serve(sockets=[listener])
    finally:
        stopping.cancel()
