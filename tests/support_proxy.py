"""A TCP proxy before PostgreSQL that understands where a transaction ends, and can cut or stop right there.

async with proxy_to(url) as proxy:
    … PostgresDatabase(url, proxy.url) …
    proxy.cut_next_commit(Cut.AFTER)
"""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import Enum
from urllib.parse import urlsplit, urlunsplit

_NEGOTIATIONS = {80877103, 80877104}
"""SSLRequest and GSSENCRequest: asked before the startup message, in its form."""


class Cut(Enum):
    """Where the connection of the next commit is cut."""

    BEFORE = "before the server has been told to commit"
    AFTER = "after the server has committed, before the client hears of it"
    AT_ONCE = "as soon as the server has been told: who knows whether it commits"


class _Frontend:
    """Splits what a client says into messages: (type, whole message); startup and negotiations have type b''."""

    def __init__(self) -> None:
        self._buffer = b""
        self._started = False

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        self._buffer += data
        messages: list[tuple[bytes, bytes]] = []
        while True:
            header = 1 if self._started else 0
            if len(self._buffer) < header + 4:
                return messages
            (length,) = struct.unpack_from("!i", self._buffer, header)
            if len(self._buffer) < header + length:
                return messages
            message, self._buffer = self._buffer[: header + length], self._buffer[header + length :]
            messages.append((message[:header], message))
            if not self._started:
                self._started = struct.unpack_from("!i", message, 4)[0] not in _NEGOTIATIONS


class Proxy:
    """Passes everything on until it is told otherwise."""

    def __init__(self, host: str, port: int, url: str) -> None:
        self._target = (host, port)
        self.url = url
        self.cuts = 0
        self.connections = 0
        self._next_cut: Cut | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._sessions: set[asyncio.Future[None]] = set()

    def cut_next_commit(self, cut: Cut) -> None:
        """Of a transaction that records an outcome."""
        self._next_cut = cut

    def stop(self) -> None:
        """Connections stay open, and nothing comes through any more: a network that is gone without a word."""
        self._flowing.clear()

    def go_on(self) -> None:
        self._flowing.set()

    def cut_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def accept(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        session = asyncio.ensure_future(self._serve(client, to_client))
        self._sessions.add(session)
        session.add_done_callback(self._sessions.discard)

    async def close(self) -> None:
        self.go_on()
        self.cut_all()
        await asyncio.gather(*self._sessions)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        try:
            server, to_server = await asyncio.open_connection(*self._target)
        except OSError:
            to_client.transport.abort()
            return
        self.connections += 1
        self._writers |= {to_client, to_server}
        answering = asyncio.ensure_future(self._pass_answers(server, to_client))
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._pass_requests(client, to_server, server, answering)
        finally:
            answering.cancel()
            await asyncio.wait([answering])
            for writer in (to_client, to_server):
                writer.transport.abort()
            self._writers -= {to_client, to_server}

    async def _pass_answers(self, server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await server.read(65_536):
                await self._flowing.wait()
                to_client.write(data)
                await to_client.drain()
        to_client.transport.abort()

    async def _pass_requests(
        self,
        client: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        answering: "asyncio.Future[None]",
    ) -> None:
        frontend, held, records = _Frontend(), [], False
        while data := await client.read(65_536):
            for kind, message in frontend.feed(data):
                held.append((kind, message))
                records = records or (kind == b"B" and b"\x00append_outcomes\x00" in message[:32])
                if kind == b"S" and records and self._next_cut is not None:
                    await self._cut(held, to_server, server, answering)
                    return
                if kind not in {b"P", b"B", b"D", b"E"}:  # a trip is passed on whole, at its Sync
                    await self._flowing.wait()
                    to_server.write(b"".join(message for _, message in held))
                    await to_server.drain()
                    held, records = [], False

    async def _cut(
        self,
        held: list[tuple[bytes, bytes]],
        to_server: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        answering: "asyncio.Future[None]",
    ) -> None:
        """The client hears nothing more; its connection is cut here, or by the caller."""
        cut, self._next_cut = self._next_cut, None
        answering.cancel()
        await asyncio.wait([answering])
        if cut is Cut.BEFORE:
            held = held[: next((n for n, (kind, m) in enumerate(held) if kind == b"B" and b"\x00commit\x00" in m), -1)]
        to_server.write(b"".join(message for _, message in held))
        await to_server.drain()
        if cut is Cut.AFTER:
            await server.readuntil(b"Z\x00\x00\x00\x05I")  # ReadyForQuery, and no transaction is open
        self.cuts += 1


@asynccontextmanager
async def proxy_to(url: str) -> AsyncIterator[Proxy]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    proxy = Proxy(parts.hostname, parts.port, "")
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    user, _, _ = parts.netloc.rpartition("@")
    proxy.url = urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{port}"))
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()
