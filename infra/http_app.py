"""What the ASGI applications of both APIs have in common: problems for every error, and a true OpenAPI page."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from domain.errors import DomainError
from infra.openapi import Schemas
from infra.openapi_page import openapi_page
from infra.problems import (
    PROBLEM_JSON,
    RETRY_AFTER_S,
    InvalidRequest,
    invalid_request,
    problem,
    refusal_problem,
)

logger = logging.getLogger(__name__)

_CODES = {404: "not-found", 405: "method-not-allowed", 413: "payload-too-large", 415: "unsupported-media-type"}


class HttpProblem(Exception):
    """Ends a request with the problem ``code`` of the one table; ``facts`` become its members."""

    def __init__(self, code: str, detail: str, **facts: Any) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.facts = facts


def problem_of(error: Exception) -> tuple[int, bytes]:
    """(status, body) of what an API may raise; anything else is ``internal`` and says nothing of itself."""
    match error:
        case HttpProblem():
            return problem(error.code, error.detail, **error.facts)
        case InvalidRequest():
            return invalid_request(error)
        case DomainError():
            return refusal_problem(error)
        case _:
            return problem("internal", "the request failed for a reason that is not the caller's")


def retry_header(status: int) -> dict[str, str]:
    """``Retry-After`` for the answers that invite to try again."""
    return {"retry-after": str(RETRY_AFTER_S)} if status in {429, 503} else {}


def problem_response(status: int, body: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status, {**retry_header(status), **(headers or {})}, PROBLEM_JSON)


def json_response(body: bytes, status: int = 200) -> Response:
    return Response(body, status, media_type="application/json")


def create_app(title: str, description: str, version: str, schemas: Schemas) -> FastAPI:
    """A FastAPI application that answers every error with a problem and documents ``schemas``."""
    app = FastAPI(
        title=title, description=description, version=version, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.add_middleware(_PathsAsSent)
    for error in (HttpProblem, InvalidRequest, DomainError):
        app.add_exception_handler(error, _answer_problem)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_exception_handler(Exception, _answer_internal)
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        document.setdefault("components", {}).setdefault("schemas", {}).update(schemas.components)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend its page
    # FastAPI's own page loads its scripts from a host on the internet, which many a network does not let through.
    app.add_api_route("/docs", _docs, methods=["GET"], include_in_schema=False, response_class=Response)
    return app


async def _docs(request: Request) -> Response:
    return Response(openapi_page(request.app.openapi()), media_type="text/html")


class Alive(msgspec.Struct):
    status: Literal["alive"] = "alive"


class Ready(msgspec.Struct):
    """What was looked at, and what was seen: ``ok``, why not, or what should be known though it is no hindrance."""

    status: Literal["ready"]
    checks: dict[str, str]


class Remark(str):
    """What a check says of something that should be known, and does not keep the process from its work."""

    __slots__ = ()


Checks = Callable[[], Awaitable[Mapping[str, str | None]]]
"""Looks at what the process needs: a name for each, and None or what is wrong with it (a Remark: only to be known)."""


def add_probes(app: FastAPI, schemas: Schemas, checks: Checks, registries: Sequence[CollectorRegistry]) -> None:
    """``/healthz`` (the process lives), ``/readyz`` (``checks`` found nothing wrong) and ``/metrics``."""

    async def healthz(_: Request) -> Response:
        return json_response(msgspec.json.encode(Alive()))

    async def readyz(_: Request) -> Response:
        found = await checks()
        shown = {name: str(why or "ok") for name, why in found.items()}
        wrong = [f"{name}: {why}" for name, why in found.items() if why is not None and not isinstance(why, Remark)]
        if wrong:
            raise HttpProblem("unavailable", "; ".join(wrong), checks=shown)
        return json_response(msgspec.json.encode(Ready("ready", shown)))

    async def metrics(_: Request) -> Response:
        text = b"".join(generate_latest(registry) for registry in registries)
        return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})

    alive = schemas.operation(answers={200: Alive}, problems=[])
    ready = schemas.operation(answers={200: Ready}, problems=["unavailable"])
    text = {"responses": {"200": {"description": "Prometheus text", "content": {"text/plain": {"schema": _TEXT}}}}}
    for path, endpoint, summary, operation in (
        ("/healthz", healthz, "The process is alive", alive),
        ("/readyz", readyz, "What it needs is there", ready),
        ("/metrics", metrics, "Figures for Prometheus", text),
    ):
        add_route(app, "GET", path, endpoint, summary=summary, operation=operation)
        app.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False, response_model=None)


_TEXT = {"type": "string"}


class _PathsAsSent:
    """Routes look at the path as it was sent: an encoded slash is part of an identifier, not a separator."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = scope["raw_path"].decode("latin-1")
        await self._app(scope, receive, send)


async def _answer_problem(_: Request, error: Exception) -> Response:
    return problem_response(*problem_of(error))


async def _answer_internal(request: Request, error: Exception) -> Response:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem_response(*problem_of(error))


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code)
    if code is None:
        return await _answer_internal(request, error)
    detail = f"{request.method} {request.url.path}" if code in {"not-found", "method-not-allowed"} else error.detail
    return problem_response(*problem(code, detail), headers=dict(error.headers or {}))


Endpoint = Callable[[Request], Awaitable[Response]]


def add_route(app: FastAPI, method: str, path: str, endpoint: Endpoint, *, summary: str, operation: Any) -> None:
    """Route ``method`` ``path`` to ``endpoint``, documented by ``operation`` (:meth:`Schemas.operation`)."""
    app.add_api_route(
        path,
        endpoint,
        methods=[method],
        summary=summary,
        openapi_extra=operation,
        response_model=None,
        # A plain Response has no media type: what the operation says of its answers stands alone.
        response_class=Response,
    )
