"""The command API: the calls of :mod:`write_side.api.routes` over HTTP, and what operators ask of a process.

FastAPI routes and documents every call. The bodies do not pass through it: a call's endpoint hands the
request to its :class:`write_side.api.door.Gate`, as the fast lane does for the calls that are asked a
thousand times a second.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from fastapi import FastAPI, Request, Response
from prometheus_client import REGISTRY, CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from infra.http_app import add_probes, create_app
from infra.http_fast_lane import FastRequest, FastRoute
from infra.openapi import Schemas
from infra.problems import problem
from infra.settings import ProcessSettings
from write_side.api.caller import Caller, Headers
from write_side.api.door import Exchange, Executor, Gate
from write_side.api.meters import Meters
from write_side.api.openapi import DESCRIPTION, VERSION, add_rules, call_operation
from write_side.api.routes import ROUTES
from write_side.submission import Answer

_QUOTED_CHARACTERS_MAX: Final = 200


class CommandApi(NamedTuple):
    """What to hand to :func:`infra.http_server.serve`."""

    app: FastAPI
    fast_routes: Sequence[FastRoute]


def create_command_api(executor: Executor, settings: ProcessSettings | None = None) -> CommandApi:
    """The command API in front of ``executor``, which somebody else starts and drains."""
    settings = settings or ProcessSettings()
    meters = Meters((route.operation for route in ROUTES), settings.process_name)
    registry = CollectorRegistry()
    registry.register(meters)
    gates = [Gate(route, executor, meters.by_operation[route.operation]) for route in ROUTES]
    schemas = Schemas()
    app = create_app("Stockhold command API", DESCRIPTION, VERSION, schemas)
    app.add_exception_handler(HTTPException, _no_route)
    for gate in gates:
        _add_route(app, gate, schemas)
    add_rules(schemas)
    add_probes(app, schemas, partial(_look_at, executor), (REGISTRY, registry))
    return CommandApi(app, [_fast_route(gate) for gate in gates if gate.route.fast])


async def _look_at(executor: Executor) -> Mapping[str, str | None]:
    return {"event_store": None if executor.ready else "not connected"}


# The fast lane ---------------------------------------------------------------------------------------


def _fast_route(gate: Gate) -> FastRoute:
    route = gate.route
    return FastRoute(route.method.encode(), route.target, partial(_serve_fast, gate), route.body_bytes_max)


def _serve_fast(gate: Gate, request: FastRequest) -> None:
    segments = [segment.decode() for segment in request.match.groups()]
    gate.handle(segments, request.headers, request.body, request.respond)


# The ordinary way ------------------------------------------------------------------------------------


class _Reply:
    """An answer that the endpoint waits for."""

    def __init__(self) -> None:
        self._given: asyncio.Future[tuple[int, bytes, bytes]] = asyncio.get_running_loop().create_future()

    def respond(self, status: int, headers: bytes, body: bytes) -> None:
        if not self._given.done():  # given up by a server that has no more time
            self._given.set_result((status, headers, body))

    async def response(self, more_headers: bytes = b"") -> Response:
        status, lines, body = await self._given
        response = Response(body, status)
        headers = [line.split(b": ", 1) for line in (lines + more_headers).splitlines()]
        response.raw_headers = [(name, value) for name, value in headers]
        response.raw_headers.append((b"content-length", b"%d" % len(body)))
        return response


def _add_route(app: FastAPI, gate: Gate, schemas: Schemas) -> None:
    route = gate.route

    async def endpoint(request: Request) -> Response:
        headers: Headers = request.scope["headers"]
        reply = _Reply()
        try:
            body = await _whole_body(request, route.body_bytes_max)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        if body is None:
            detail = f"the body of this request may have {route.body_bytes_max} bytes"
            gate.refuse("payload-too-large", detail, headers, reply.respond)
        else:
            segments = [request.path_params[name] for name in route.path_fields]
            gate.handle(segments, headers, body, reply.respond)
        return await reply.response()

    app.add_api_route(
        route.path,
        endpoint,
        methods=[route.method],
        operation_id=route.operation,
        summary=route.summary,
        status_code=next(iter(route.answers)),
        response_class=Response,
        response_model=None,
        tags=[route.operation.partition(".")[0]],
        openapi_extra=call_operation(gate, schemas),
    )


async def _whole_body(request: Request, bytes_max: int) -> bytearray | None:
    """The body, or None if it is longer than ``bytes_max``."""
    if int(request.headers.get("content-length", 0)) > bytes_max:
        return None
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > bytes_max:
            return None
    return body


def _problem_reply(request: Request, code: str, detail: str) -> _Reply:
    reply = _Reply()
    exchange = Exchange(reply.respond, Caller(request.scope["headers"]).key, None)
    exchange.answer(Answer(*problem(code, detail)))
    return reply


async def _no_route(request: Request, error: Exception) -> Response:
    """No such path (404), or none with this method (405)."""
    assert isinstance(error, HTTPException)
    app: FastAPI = request.app
    methods: set[str] = set()
    for route in app.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            methods |= getattr(route, "methods", None) or set()
    if not methods:
        detail = f"there is no {request.scope['path'][:_QUOTED_CHARACTERS_MAX]}"
        return await _problem_reply(request, "not-found", detail).response()
    allow = ", ".join(sorted(methods))
    detail = f"{request.method} is not among {allow}"
    return await _problem_reply(request, "method-not-allowed", detail).response(b"allow: %b\r\n" % allow.encode())
