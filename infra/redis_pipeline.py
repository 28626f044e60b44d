"""Reads from Redis that share round trips: what is asked in one turn of the event loop goes out as one pipeline.

redis-py's asyncio client costs a pooled connection, a task switch and a parse in Python for every call; a
hot read spends more there than on everything else together. This client is one connection, one deque of
who waits for which reply, and hiredis to parse. It serves reads only: after a lost connection nobody
knows what a write has done, so what waited fails and is not repeated.
"""

import asyncio
import logging
import random
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import hiredis
from redis.asyncio.connection import parse_url

logger = logging.getLogger(__name__)

TIMEOUT_S: Final = 0.25
"""How long a reply may take before the connection counts as dead: a caller waits for it, then asks Postgres."""
CONNECT_TIMEOUT_S: Final = 1.0
RECONNECT_S_MIN: Final = 0.02
RECONNECT_S_MAX: Final = 0.5
WAITING_MAX: Final = 10_000
"""How many requests may wait for a reply; the next one fails at once."""

Replies = Callable[[list[Any] | None], None]
"""Called once with the replies in order, or with None if Redis is away, refused one of them, or the gate is shut."""


def packed(*parts: bytes | str) -> bytes:
    """One command as Redis wants it on the wire."""
    encoded = (part.encode() if isinstance(part, str) else part for part in parts)
    return b"*%d\r\n%b" % (len(parts), b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in encoded))


class Gate(Protocol):
    """Asked once per round trip, before everybody's own commands: whether what Redis says may be believed."""

    def commands(self) -> Sequence[bytes]:
        """Packed commands; none: the gate is shut."""

    def is_open(self, replies: Sequence[Any]) -> bool:
        """By the replies to the commands."""


class RedisPipeline:
    """One connection to ``url`` (``redis://``, ``rediss://`` or ``unix://``), made again whenever it is lost.

    A shut ``gate`` makes Redis count as away for every request of that round trip.
    """

    def __init__(self, url: str, gate: Gate | None = None, *, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url
        self._gate = gate
        self._timeout_s = timeout_s
        self._connection: _Connection | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        return self._connection is not None

    async def start(self) -> None:
        """Connects if Redis is there, and keeps trying in the background if it is not."""
        first_try = asyncio.Event()
        self._keeper = asyncio.create_task(self._keep_connected(first_try))
        await first_try.wait()

    async def stop(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    def request(self, commands: Sequence[bytes], done: Replies) -> None:
        """Sends packed ``commands`` with this turn's pipeline; ``done`` is called in the event loop, maybe at once."""
        connection = self._connection
        if connection is None or len(connection.waiting) >= WAITING_MAX:
            done(None)
            return
        if self._gate is not None and not connection.outgoing:
            question = self._gate.commands()
            if not question:
                done(None)
                return
            connection.ask(question, _nobody, self._gate)
        connection.ask(commands, done)

    async def fetch(self, commands: Sequence[bytes]) -> list[Any] | None:
        """As :meth:`request`, for a coroutine."""
        replies: asyncio.Future[list[Any] | None] = asyncio.get_running_loop().create_future()
        self.request(commands, lambda found: None if replies.done() else replies.set_result(found))
        return await replies

    async def _keep_connected(self, first_try: asyncio.Event) -> None:
        pause_s = RECONNECT_S_MIN
        while True:
            try:
                connection = await asyncio.wait_for(_connect(self._url, self._timeout_s), CONNECT_TIMEOUT_S)
            except (OSError, TimeoutError, hiredis.HiredisError) as error:
                logger.warning("Redis is away: %s", error)
                first_try.set()
                # Jitter: many readers should not knock at the same moment.
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311  # no secret depends on it
                pause_s = min(pause_s * 2, RECONNECT_S_MAX)
                continue
            pause_s = RECONNECT_S_MIN
            self._connection = connection
            first_try.set()
            try:
                await connection.lost
            finally:
                self._connection = None
                connection.close()


def _nobody(_: list[Any] | None) -> None:
    """Waits for the answer to a gate's question: the connection itself looks at it."""


class _Waiting:
    """Who waits for so many replies. With a ``gate`` they are the answer to its question."""

    __slots__ = ("asked_at_s", "done", "gate", "replies", "wanted")

    def __init__(self, wanted: int, done: Replies, asked_at_s: float, gate: Gate | None) -> None:
        self.wanted = wanted
        self.done = done
        self.asked_at_s = asked_at_s
        self.gate = gate
        self.replies: list[Any] = []


class _Connection(asyncio.Protocol):
    def __init__(self, timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(notEnoughData=Ellipsis)
        # No type to check at run time: uvloop's transports are nobody's subclass.
        self._transport: Any = None
        self._timeout_s = timeout_s
        self._watch: asyncio.TimerHandle | None = None
        self._turn_s = 0.0
        # Replies come in the order of the commands, so what the gate said holds until it is asked again.
        self._gate_is_open = True
        self.waiting: deque[_Waiting] = deque()
        self.outgoing: list[bytes] = []
        self.lost: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def ask(self, commands: Sequence[bytes], done: Replies, gate: Gate | None = None) -> None:
        if self.lost.done():
            # Nobody else would: whoever keeps the connection hears of the loss a turn of the event loop later.
            self._call(done, None)
            return
        if not self.outgoing:
            self._loop.call_soon(self._flush)
            self._turn_s = self._loop.time()
            if self._watch is None:
                self._watch = self._loop.call_at(self._turn_s + self._timeout_s, self._look_for_timeout)
        self.outgoing += commands
        self.waiting.append(_Waiting(len(commands), done, self._turn_s, gate))

    def data_received(self, data: bytes) -> None:
        reader, waiting = self._reader, self.waiting
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not Ellipsis:
                first = waiting[0]
                first.replies.append(reply)
                if len(first.replies) == first.wanted:
                    waiting.popleft()
                    self._hand_over(first)
        except (hiredis.ProtocolError, IndexError):
            logger.exception("Redis talks nonsense")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  # asyncio passes it; the cause changes nothing
        if self._watch is not None:
            self._watch.cancel()
        if not self.lost.done():
            self.lost.set_result(None)
        while self.waiting:
            self._call(self.waiting.popleft().done, None)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        outgoing, self.outgoing = self.outgoing, []
        # Lost since it was scheduled: who waits has been told.
        if self._transport is not None and not self.lost.done() and not self._transport.is_closing():
            self._transport.write(b"".join(outgoing))

    def _hand_over(self, waiting: _Waiting) -> None:
        replies: list[Any] | None = waiting.replies
        for reply in waiting.replies:
            if isinstance(reply, hiredis.ReplyError):
                logger.warning("Redis refused a read: %s", reply)
                replies = None
        if waiting.gate is not None:
            self._gate_is_open = replies is not None and waiting.gate.is_open(replies)
        else:
            self._call(waiting.done, replies if self._gate_is_open else None)

    @staticmethod
    def _call(done: Replies, replies: list[Any] | None) -> None:
        try:
            done(replies)
        except Exception:
            # One caller's mistake must not take the replies of the others with it.
            logger.exception("somebody who waited for Redis failed")

    def _look_for_timeout(self) -> None:
        self._watch = None
        if not self.waiting:
            return
        due_s = self.waiting[0].asked_at_s + self._timeout_s
        if due_s <= self._loop.time():
            logger.warning("Redis does not answer")
            self.close()
        else:
            self._watch = self._loop.call_at(due_s, self._look_for_timeout)


async def _connect(url: str, timeout_s: float) -> _Connection:
    """Raises OSError or hiredis.HiredisError."""
    where = parse_url(url)
    loop = asyncio.get_running_loop()

    def protocol() -> _Connection:
        return _Connection(timeout_s)

    if "path" in where:
        _, connection = await loop.create_unix_connection(protocol, where["path"])
    else:
        tls = ssl.create_default_context() if url.startswith("rediss://") else None
        host, port = where.get("host", "localhost"), where.get("port", 6379)
        _, connection = await loop.create_connection(protocol, host, port, ssl=tls)
    try:
        await _shake_hands(connection, where)
    except BaseException:
        connection.close()
        raise
    return connection


async def _shake_hands(connection: _Connection, where: Any) -> None:
    commands = [packed("SELECT", str(where.get("db", 0)))]
    if where.get("password"):
        user = [where["username"]] if where.get("username") else []
        commands.insert(0, packed("AUTH", *user, where["password"]))
    answered: asyncio.Future[list[Any] | None] = asyncio.get_running_loop().create_future()
    connection.ask(commands, lambda replies: None if answered.done() else answered.set_result(replies))
    if await answered is None:
        raise ConnectionRefusedError("Redis refused the password or the database")
