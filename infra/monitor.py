"""What a background process shows of itself: `/healthz`, `/readyz` and `/metrics`, on a socket of its own.

The supervisor hands the socket down and asks `/healthz`; a process run alone listens on `STOCKHOLD_MONITOR_PORT`, and ends
by itself when it is stuck.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest

from infra.health import Health
from infra.http_server import bound_socket, listening_socket, serve
from infra.problems import PROBLEM_JSON, RETRY_AFTER_S, problem
from infra.process import announce_ready
from infra.settings import ProcessSettings
from infra.watchdog import watch

START: Final = "start"
"""The check that fails until the process works."""
METHODS: Final = {"GET", "HEAD"}


class Page(NamedTuple):
    """An answer: status, body and its kind."""

    status: int
    body: bytes
    kind: str = PROBLEM_JSON


@asynccontextmanager
async def monitored(
    settings: ProcessSettings, registries: Sequence[CollectorRegistry] = (REGISTRY,)
) -> AsyncIterator[Health]:
    """The health of this process, shown on its monitor while the block lasts (if it has one: see the module).

    Raises OSError if the port is taken.
    """
    health = Health(settings.stall_s)
    health.say(START, "it does not work yet")
    listener = _listener(settings)
    if listener is None:
        yield health
        return
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(monitor_app(health, registries), listener, until=stop.wait()))
    # A supervisor asks over the socket that it handed down; alone, nobody would act on the answer.
    unwatch = watch(health, settings.stall_s) if settings.monitor_fd is None else _nobody_watches
    try:
        yield health
    finally:
        unwatch()
        stop.set()
        await serving


def _nobody_watches() -> None:
    """What there is to end where no watchdog runs."""


def works(settings: ProcessSettings, health: Health) -> Callable[[], None]:
    """What a runner calls once it works (harmless if repeated): the supervisor is told, and `/readyz` may say ready."""

    def announce() -> None:
        health.say(START, None)
        announce_ready(settings)

    return announce


def _listener(settings: ProcessSettings) -> socket.socket | None:
    if settings.monitor_fd is not None:
        return listening_socket(settings.monitor_fd)
    return bound_socket(settings.host, settings.monitor_port) if settings.monitor_port else None


def monitor_app(health: Health, registries: Sequence[CollectorRegistry]) -> Callable[..., Awaitable[None]]:
    """The ASGI application."""
    pages: Mapping[str, Callable[[], Page]] = {
        "/healthz": lambda: _alive(health),
        "/readyz": lambda: _ready(health),
        "/metrics": lambda: Page(200, b"".join(map(generate_latest, registries)), CONTENT_TYPE_LATEST),
    }

    async def app(scope: Mapping[str, Any], _: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        if scope["type"] != "http":
            return
        method, path = scope["method"], scope["path"]
        page = pages.get(path, lambda: Page(*problem("not-found", f"{method} {path}")))
        answer = page() if method in METHODS else Page(*problem("method-not-allowed", f"{method} {path}"))
        await send({"type": "http.response.start", "status": answer.status, "headers": _headers(answer)})
        await send({"type": "http.response.body", "body": b"" if method == "HEAD" else answer.body})

    return app


def _headers(page: Page) -> list[tuple[bytes, bytes]]:
    headers = [(b"content-type", page.kind.encode()), (b"content-length", b"%d" % len(page.body))]
    if page.status == 405:  # noqa: PLR2004  (method not allowed)
        headers.append((b"allow", b"GET, HEAD"))
    if page.status == 503:  # noqa: PLR2004  (unavailable)
        headers.append((b"retry-after", b"%d" % RETRY_AFTER_S))
    return headers


def _alive(health: Health) -> Page:
    if (stuck := health.stuck) is not None:
        return Page(*problem("unavailable", stuck))
    return Page(200, b'{"status":"alive"}', "application/json")


def _ready(health: Health) -> Page:
    found = health.checks()
    shown = {name: why or "ok" for name, why in found.items()}
    if wrong := [f"{name}: {why}" for name, why in found.items() if why is not None]:
        return Page(*problem("unavailable", "; ".join(wrong), checks=shown))
    return Page(200, msgspec.json.encode({"status": "ready", "checks": shown}), "application/json")
