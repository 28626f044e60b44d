"""HTTP as a careful client does it: every command has its idempotency key, and what may be repeated is repeated."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import NamedTuple

import aiohttp
import msgspec

from demo.errors import CHECK_FAILED, NOT_REACHABLE, DemoError

RETRY_FOR_S = 60.0
COMMAND_PAUSE_MAX_S = 1.0
READ_PAUSE_MAX_S = 0.05  # the service has already waited for its view before it answers 503
ATTEMPT_TIMEOUT_S = 15.0

OK = 200
CREATED = 201
NOT_FOUND = 404
CONFLICT = 409
GONE = 410
UNAVAILABLE = 503

JSON = {"Content-Type": "application/json"}


class Urls(NamedTuple):
    """Where the two APIs are, without a slash at the end."""

    command: str
    read: str


class Request(NamedTuple):
    method: str
    url: str
    headers: dict[str, str]
    body: bytes | None
    pause_max_s: float


class Answer(NamedTuple):
    status: int
    body: bytes
    retry_after_s: float = 0.0

    def is_refusal(self, status: int, code: str) -> bool:
        """A problem document with this code."""
        return self.status == status and msgspec.json.decode(self.body).get("code") == code


class Client:
    """Sends until the outcome is known, or for a minute: a 503 and a broken connection leave it open."""

    def __init__(self, session: aiohttp.ClientSession, urls: Urls) -> None:
        self._session = session
        self._urls = urls
        self.commands_repeated = 0

    async def greet(self) -> None:
        """Raises DemoError at once if one of the APIs does not answer: nobody waits a minute for a mistyped address."""
        for url in self._urls:
            answer = await self._attempt(Request("GET", f"{url}/healthz", {}, None, 0.0))
            if answer.status != OK:
                raise DemoError(f"{url} does not answer: {answer.body.decode()}", NOT_REACHABLE)

    async def command(self, method: str, path: str, body: object, key: str) -> Answer:
        """Repeated with the same idempotency key, so that it happens once however often it is sent."""
        headers = {"Idempotency-Key": key, **JSON}
        request = Request(method, self._urls.command + path, headers, msgspec.json.encode(body), COMMAND_PAUSE_MAX_S)
        answer, repeats = await self._send(request)
        self.commands_repeated += repeats
        return answer

    async def read(self, path: str) -> Answer:
        answer, _ = await self._send(Request("GET", self._urls.read + path, {}, None, READ_PAUSE_MAX_S))
        return answer

    async def ask(self, path: str, body: object) -> Answer:
        """A read whose question is too long for a URL."""
        request = Request("POST", self._urls.read + path, JSON, msgspec.json.encode(body), READ_PAUSE_MAX_S)
        answer, _ = await self._send(request)
        return answer

    async def _send(self, request: Request) -> tuple[Answer, int]:
        """The answer, a 503 only if nothing else came, and how many times the request was repeated."""
        give_up_at = monotonic() + RETRY_FOR_S
        repeats = 0
        answer = await self._attempt(request)
        while answer.status == UNAVAILABLE and monotonic() < give_up_at:
            await asyncio.sleep(min(answer.retry_after_s, request.pause_max_s))
            answer = await self._attempt(request)
            repeats += 1
        return answer, repeats

    async def _attempt(self, request: Request) -> Answer:
        try:
            async with self._session.request(
                request.method, request.url, headers=request.headers, data=request.body
            ) as response:
                return Answer(response.status, await response.read(), _retry_after_s(response))
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as error:
            # It may have arrived or not, which is just what a 503 says.
            return Answer(UNAVAILABLE, (str(error) or type(error).__name__).encode(), COMMAND_PAUSE_MAX_S)


@asynccontextmanager
async def connected(urls: Urls) -> AsyncIterator[Client]:
    # One more connection per worker is opened when it is needed; the workers are what bounds them.
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=ATTEMPT_TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield Client(session, urls)


def expect(answer: Answer, what: str, *statuses: int) -> Answer:
    """Raises DemoError for any other status: the demo asks for nothing that a right service answers otherwise."""
    if answer.status not in statuses:
        exit_code = NOT_REACHABLE if answer.status == UNAVAILABLE else CHECK_FAILED
        raise DemoError(f"{what}: {answer.status} {answer.body.decode()}", exit_code)
    return answer


def _retry_after_s(response: aiohttp.ClientResponse) -> float:
    """The header may also be a date; nobody who answers us sends one."""
    header = response.headers.get("Retry-After", "")
    return float(header) if header.isdigit() else COMMAND_PAUSE_MAX_S
