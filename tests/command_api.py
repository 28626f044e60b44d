"""What the tests of the command API share: an executor that answers by a script, and a client on raw sockets."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import msgspec

from infra.http_fast_lane import FastRequest, FastRoute
from infra.http_server import bound_socket, serve
from infra.problems import problem
from write_side.api.app import create_command_api
from write_side.api.door import Executor
from write_side.submission import Answer, Overloaded, Submission

Script = Callable[[Submission], Answer]


def as_understood(submission: Submission) -> Answer:
    """201 with everything that the door made of the request."""
    facts = {
        "command": type(submission.command).__name__,
        "fields": submission.command,
        "digest": submission.digest.hex(),
        "key": submission.key,
        "scope": submission.scope,
        "actor": submission.actor,
        "correlation_id": submission.correlation_id,
        "causation_id": submission.causation_id,
    }
    return Answer(201, msgspec.json.encode(facts))


@dataclass
class ScriptedExecutor:
    """Keeps the executor's promises to a door, and decides by ``script``.

    An answer never comes from within ``submit``; the outcome of a decision is recorded under (scope, key)
    and replayed; another digest under the same key is refused; past ``limit`` nothing is admitted.
    While ``held``, commands wait.
    """

    script: Script = as_understood
    limit: int = 10_000
    ready: bool = True
    held: bool = False
    submitted: list[Submission] = field(default_factory=list)
    waiting: list[Submission] = field(default_factory=list)
    recorded: dict[tuple[str, str], tuple[bytes, Answer]] = field(default_factory=dict)

    def submit(self, submission: Submission) -> None:
        self.submit_all([submission])

    def submit_all(self, submissions: Sequence[Submission]) -> None:
        if len(self.waiting) + len(submissions) > self.limit:
            raise Overloaded
        self.submitted += submissions
        self.waiting += submissions
        if not self.held:
            asyncio.get_running_loop().call_soon(self.settle)

    def settle(self) -> None:
        """Decides what waits."""
        waiting, self.waiting = self.waiting, []
        for submission in waiting:
            submission.answer(self._decide(submission))

    def _decide(self, submission: Submission) -> Answer:
        place = (submission.scope, submission.key)
        if place in self.recorded:
            digest, outcome = self.recorded[place]
            if digest != submission.digest:
                return Answer(*problem("idempotency-key-reused", "another request had this key"))
            return msgspec.structs.replace(outcome, replayed=True)
        outcome = self.script(submission)
        if outcome.status < 500:
            self.recorded[place] = (submission.digest, outcome)
        return outcome


def noting_targets(api_routes: Sequence[FastRoute], taken: list[bytes]) -> list[FastRoute]:
    """The fast routes, each noting the target of every request it takes."""

    def noting(route: FastRoute) -> FastRoute:
        def handler(request: FastRequest) -> None:
            taken.append(request.target)
            route.handler(request)

        return replace(route, handler=handler)

    return [noting(route) for route in api_routes]


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes
    raw: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def code(self) -> str:
        """The problem's code."""
        assert self.headers["content-type"] == "application/problem+json", self.raw
        assert self.json["status"] == self.status
        return str(self.json["code"])


def request_bytes(
    method: str, target: str, body: bytes | str | None = None, headers: Sequence[tuple[str, str]] = ()
) -> bytes:
    """An HTTP/1.1 request; a body is JSON unless ``headers`` say otherwise."""
    content = body.encode() if isinstance(body, str) else body
    lines = [f"{method} {target} HTTP/1.1", "host: here"]
    names = {name.lower() for name, _ in headers}
    if content is not None:
        if "content-type" not in names:
            lines.append("content-type: application/json")
        if "transfer-encoding" not in names:
            lines.append(f"content-length: {len(content)}")
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + (content or b"")


class Connection:
    """One connection; requests as bytes, answers parsed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, raw: bytes) -> None:
        self.writer.write(raw)
        await self.writer.drain()

    async def read(self, *, head: bool = False) -> Reply:
        """The next answer; ``head``: one without a body, whatever its length says."""
        raw = await self.reader.readuntil(b"\r\n\r\n")
        status_line, *lines = raw[:-4].decode("latin-1").split("\r\n")
        pairs = [line.split(": ", 1) for line in lines]
        headers = {name.lower(): value for name, value in pairs}
        assert len(headers) == len(pairs), f"a header twice: {raw!r}"
        body = b"" if head else await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Reply(int(status_line.split(" ")[1]), headers, body, raw + body)

    async def ask(
        self, method: str, target: str, body: bytes | str | None = None, headers: Sequence[tuple[str, str]] = ()
    ) -> Reply:
        await self.send(request_bytes(method, target, body, headers))
        return await self.read(head=method == "HEAD")

    async def close(self) -> None:
        self.writer.close()


E = TypeVar("E", bound=Executor)


@dataclass
class Api(Generic[E]):
    """A command API on a socket of its own, in the test's loop. ``fast``: targets that the fast lane took."""

    executor: E
    port: int
    stop: asyncio.Event
    serving: "asyncio.Task[None]"
    fast: list[bytes]

    async def connect(self) -> Connection:
        return Connection(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 24))

    async def ask(
        self, method: str, target: str, body: bytes | str | None = None, headers: Sequence[tuple[str, str]] = ()
    ) -> Reply:
        connection = await self.connect()
        try:
            async with asyncio.timeout(20):
                return await connection.ask(method, target, body, headers)
        finally:
            await connection.close()

    async def post(self, target: str, body: bytes | str | None = None, **headers: str) -> Reply:
        """POST with headers given as ``idempotency_key=…``."""
        return await self.ask("POST", target, body, [(name.replace("_", "-"), text) for name, text in headers.items()])


@asynccontextmanager
async def command_api(executor: E, grace_s: float = 10.0) -> AsyncIterator[Api[E]]:
    """A running command API in front of ``executor``; it has stopped when the block is left."""
    made = create_command_api(executor)
    fast: list[bytes] = []
    stop, ready = asyncio.Event(), asyncio.Event()
    listener = bound_socket("127.0.0.1", 0)
    port = listener.getsockname()[1]
    serving = asyncio.ensure_future(
        serve(
            made.app,
            listener,
            until=stop.wait(),
            fast_routes=noting_targets(made.fast_routes, fast),
            on_ready=ready.set,
            grace_s=grace_s,
        )
    )
    async with asyncio.timeout(20):
        await ready.wait()
    try:
        yield Api(executor, port, stop, serving, fast)
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await serving


def without_date(raw: bytes) -> bytes:
    return re.sub(rb"date: [^\r]*\r\n", b"", raw)
