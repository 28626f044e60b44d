"""The door of the write side: from a request's parts to a submission, and from its outcome to an answer.

It knows neither ASGI nor sockets; the routes of both lanes come through it, so that they cannot answer
differently. Nothing here waits: the answer is given later, by whoever decides the command.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any, Final, Protocol

from infra.http_fast_lane import JSON_HEADERS, PROBLEM_HEADERS
from infra.problems import RETRY_AFTER_S, InvalidRequest, invalid_request, problem
from write_side.api.bodies import Body, CommandReader, path_value, read_batch
from write_side.api.caller import Caller, Headers
from write_side.api.meters import Meter
from write_side.api.routes import Route
from write_side.submission import Answer, Overloaded, Submission, request_digest

logger = logging.getLogger(__name__)

Respond = Callable[[int, bytes, bytes], None]
"""Answers a request: status, whole header lines (each ended by CRLF, no length), body."""

REPLAYED: Final = b"idempotency-replayed: true\r\n"
RETRY_AFTER: Final = b"retry-after: %d\r\n" % RETRY_AFTER_S
INTERNAL: Final = "the request failed for a reason that is not the caller's"
_OK: Final = 200
_FIRST_PROBLEM: Final = 400
_TRY_AGAIN: Final = 503
# What clients send, word for word; everything else is taken apart.
_JSON: Final = frozenset({b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"})


class Executor(Protocol):
    """What the door needs of :class:`write_side.executor.CommandExecutor`."""

    @property
    def ready(self) -> bool:
        """Whether commands are being decided."""

    def submit(self, submission: Submission) -> None:
        """Admit one command. Raises Overloaded."""

    def submit_all(self, submissions: Sequence[Submission]) -> None:
        """Admit all of them or none. Raises Overloaded."""


class _Refused(Exception):
    """A request that is refused at the door with the problem ``code``."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Exchange:
    """One request and the way to answer it, once."""

    __slots__ = ("_key", "_meter", "_respond", "_started", "answered")

    def __init__(self, respond: Respond, key: str, meter: Meter | None) -> None:
        self._respond = respond
        self._key = key
        self._meter = meter
        self._started = perf_counter()
        self.answered = False

    def answer(self, answer: Answer) -> None:
        """Sends the outcome of the command."""
        status, body = answer.status, answer.body
        headers = b"%bidempotency-key: %b\r\n" % (
            JSON_HEADERS if status < _FIRST_PROBLEM else PROBLEM_HEADERS,
            self._key.encode(),
        )
        if answer.replayed:
            headers += REPLAYED
        if status == _TRY_AGAIN:
            headers += RETRY_AFTER
        self.answered = True
        self._respond(status, headers, body)
        if self._meter is not None:
            self._meter.note(status, perf_counter() - self._started)


class Gate:
    """The door of one route."""

    def __init__(self, route: Route, executor: Executor, meter: Meter) -> None:
        self.route = route
        self._executor = executor
        self._meter = meter
        self._path_fields = route.path_fields
        self.reader = CommandReader(route.command, (*route.path_fields, *route.from_headers))
        self._submit = self._submit_batch if route.batch else self._submit_one

    def handle(self, segments: Sequence[str], headers: Headers, body: Body, respond: Respond) -> None:
        """Takes one request and sees to it that it is answered, now or later.

        ``segments`` are the route's path fields in its order, as they were sent.
        """
        caller = Caller(headers)
        exchange = Exchange(respond, caller.key, self._meter)
        try:
            if caller.errors or (body and caller.media_type not in _JSON):
                _check_headers(caller, body)
            self._submit(segments, caller, body, exchange)
        except InvalidRequest as error:
            exchange.answer(Answer(*invalid_request(error)))
        except _Refused as refused:
            exchange.answer(Answer(*problem(refused.code, refused.detail)))
        except Overloaded:
            exchange.answer(Answer(*problem("overloaded", "too many commands are waiting: the same key again, later")))
        except Exception:
            logger.exception(
                "a request failed",
                extra={
                    "operation": self.route.operation,
                    "correlation_id": caller.correlation_id,
                    "idempotency_key": caller.key,
                },
            )
            if not exchange.answered:
                exchange.answer(Answer(*problem("internal", INTERNAL)))

    def refuse(self, code: str, detail: str, headers: Headers, respond: Respond) -> None:
        """Answers a request whose body is not even read with the problem ``code``."""
        Exchange(respond, Caller(headers).key, self._meter).answer(Answer(*problem(code, detail)))

    def _submit_one(self, segments: Sequence[str], caller: Caller, body: Body, exchange: Exchange) -> None:
        route = self.route
        given: dict[str, Any] = {}
        for name, segment in zip(self._path_fields, segments, strict=True):
            given[name] = path_value(name, segment)
        for name in route.from_headers:
            given[name] = getattr(caller, name)
        command = self.reader.read(given, body)
        digest = request_digest(route.operation, command)
        self._executor.submit(
            Submission(
                command,
                digest,
                caller.key,
                exchange.answer,
                actor=caller.actor,
                correlation_id=caller.correlation_id,
            )
        )

    def _submit_batch(self, _: Sequence[str], caller: Caller, body: Body, exchange: Exchange) -> None:
        items = read_batch(body)
        answers = _BatchAnswers(len(items), exchange)
        submissions = []
        for number, item in enumerate(items):
            if isinstance(item, InvalidRequest):
                answers.take(number, Answer(*invalid_request(item)))
                continue
            submissions.append(
                Submission(
                    item,
                    request_digest(_CREATE, item),
                    f"{caller.key}#{number}",
                    partial(answers.take, number),
                    actor=caller.actor,
                    correlation_id=caller.correlation_id,
                )
            )
        if submissions:
            self._executor.submit_all(submissions)


# An item repeated alone, under its own key, is the same request: it has the digest of the single call.
_CREATE: Final = "reservations.create"


class _BatchAnswers:
    """Gathers the answers of a batch; the last one sends them all."""

    __slots__ = ("_exchange", "_missing", "_replayed", "_results")

    def __init__(self, size: int, exchange: Exchange) -> None:
        self._exchange = exchange
        self._results = [b""] * size
        self._missing = size
        self._replayed = True

    def take(self, number: int, answer: Answer) -> None:
        """The outcome of item ``number``."""
        self._results[number] = b'{"status":%d,"body":%b}' % (answer.status, answer.body)
        self._replayed &= answer.replayed
        self._missing -= 1
        if not self._missing:
            body = b'{"results":[%b]}' % b",".join(self._results)
            self._exchange.answer(Answer(_OK, body, self._replayed))


def _check_headers(caller: Caller, body: Body) -> None:
    """Raise for headers that do not do. A body is JSON in UTF-8, however its media type spells that."""
    if caller.errors:
        raise InvalidRequest(caller.errors)
    if not body:
        return
    kind, *parameters = (part.strip() for part in (caller.media_type or b"").lower().split(b";"))
    charsets = [value.strip(b'"') for name, _, value in (p.partition(b"=") for p in parameters) if name == b"charset"]
    if kind != b"application/json" or not {b"utf-8", b"utf8"}.issuperset(charsets):
        raise _Refused("unsupported-media-type", "a body must be `application/json`, in UTF-8")
