"""The monitor of a background process, over real sockets; and what the supervisor makes of what it hears there."""

import asyncio
import json
import os
import signal
import socket
import sys
import textwrap
import urllib.request
from collections.abc import AsyncIterator, Iterator
from http.client import HTTPConnection
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from infra.embedded.child import ChildSpec
from infra.embedded.errors import ChildKeepsFailingError
from infra.embedded.ports import free_server_port
from infra.embedded.supervisor import ProcessInfo, RestartPolicy, Supervisor
from infra.health import Health
from infra.http_server import bound_socket
from infra.monitor import monitored, works
from infra.settings import ProcessSettings
from tests.support import eventually_async, is_running

QUICK = RestartPolicy(
    pause_first_s=0.01, pause_max_s=0.02, failures_max=3, healthy_after_s=30.0, ask_every_s=0.02, silence_max_s=1.0
)

# A process of the stack in small: its health, its monitor, its readiness, and then whatever it is about.
PROGRAM = """
import asyncio, signal, sys, time
from infra.monitor import monitored, works
from infra.process import until_stopped
from infra.settings import ProcessSettings

async def main():
    settings = ProcessSettings()
    async with monitored(settings) as health:
        works(settings, health)()
{body}

asyncio.run(main())
"""


def program(body: str, listener: socket.socket, **environment: str) -> ChildSpec:
    source = PROGRAM.format(body=textwrap.indent(textwrap.dedent(body), " " * 8))
    return ChildSpec("worker", [sys.executable, "-c", source], env=environment, monitor_socket=listener)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


class Watched(Supervisor):
    def __init__(self, policy: RestartPolicy) -> None:
        self.seen: list[ProcessInfo] = []
        super().__init__(self.seen.append, policy)


@pytest.fixture
async def supervisor() -> AsyncIterator[Watched]:
    watched = Watched(QUICK)
    yield watched
    await watched.stop()
    assert not [process for process in watched.seen if is_running(process.pid)]


async def fetch(port: int, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    def ask() -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body

    return await asyncio.to_thread(ask)


@pytest.fixture
async def shown() -> AsyncIterator[tuple[Health, int]]:
    listener = bound_socket("127.0.0.1", 0)
    port = listener.getsockname()[1]
    registry = CollectorRegistry()
    Counter("things", "Things seen.", registry=registry).inc(3)
    settings = ProcessSettings(monitor_fd=listener.detach(), stall_s=0.05)
    async with monitored(settings, (registry,)) as health:
        yield health, port


async def test_a_process_is_alive_before_it_works_and_then_ready(shown: tuple[Health, int]) -> None:
    health, port = shown
    assert await fetch_json(port, "/healthz") == (200, {"status": "alive"})
    status, body = await fetch_json(port, "/readyz")
    assert (status, body["code"], body["checks"]) == (503, "unavailable", {"start": "it does not work yet"})
    works(ProcessSettings(), health)()
    assert await fetch_json(port, "/readyz") == (200, {"status": "ready", "checks": {"start": "ok"}})


async def fetch_json(port: int, path: str) -> tuple[int, dict[str, Any]]:
    status, headers, body = await fetch(port, path)
    assert headers["content-type"] == ("application/json" if status == 200 else "application/problem+json")
    assert ("retry-after" in headers) is (status == 503)
    return status, json.loads(body)


async def test_what_is_away_makes_it_unready_but_not_dead(shown: tuple[Health, int]) -> None:
    health, port = shown
    works(ProcessSettings(), health)()
    health.say("kafka", "the brokers are away")
    status, body = await fetch_json(port, "/readyz")
    assert (status, body["detail"]) == (503, "kafka: the brokers are away")
    assert body["checks"] == {"start": "ok", "kafka": "the brokers are away"}
    assert (await fetch_json(port, "/healthz"))[0] == 200


async def test_a_stall_is_told_by_both(shown: tuple[Health, int]) -> None:
    health, port = shown
    works(ProcessSettings(), health)()
    health.at("events", 5, 9)

    async def seen() -> bool:
        return (await fetch_json(port, "/healthz"))[0] == 503

    await eventually_async(seen)
    for path in ("/healthz", "/readyz"):
        status, body = await fetch_json(port, path)
        assert status == 503
        assert "events stands at 5 of 9" in body["detail"]


async def test_metrics_heads_and_errors(shown: tuple[Health, int]) -> None:
    _, port = shown
    status, headers, body = await fetch(port, "/metrics")
    assert (status, b"things_total 3.0" in body) == (200, True)
    assert headers["content-type"].startswith("text/plain")
    status, headers, body = await fetch(port, "/healthz", "HEAD")
    assert (status, headers["content-length"], body) == (200, "18", b"")
    for path, method, wanted in (("/docs", "GET", "not-found"), ("/healthz", "POST", "method-not-allowed")):
        status, headers, body = await fetch(port, path, method)
        assert json.loads(body)["code"] == wanted
        assert headers["content-type"] == "application/problem+json"
    assert headers["allow"] == "GET, HEAD"


async def test_a_process_alone_listens_where_it_is_told_or_not_at_all() -> None:
    port = free_server_port()
    async with monitored(ProcessSettings(monitor_port=port)):
        assert (await fetch_json(port, "/healthz"))[0] == 200
    with pytest.raises(ConnectionRefusedError):
        await fetch(port, "/healthz")
    before = len(asyncio.all_tasks())
    async with monitored(ProcessSettings()):
        assert len(asyncio.all_tasks()) == before


async def restarted(supervisor: Watched, times: int = 1) -> list[int]:
    await eventually_async(lambda: len(supervisor.seen) == 1 + times, timeout_s=30)
    return [process.pid for process in supervisor.seen]


async def test_the_supervisor_names_the_monitor_and_leaves_in_peace_who_answers(
    supervisor: Watched, listener: socket.socket
) -> None:
    await supervisor.start([program("await until_stopped()", listener)])
    (process,) = supervisor.processes()
    assert process.monitor is not None
    assert (await asyncio.to_thread(urllib.request.urlopen, f"{process.monitor}/readyz")).status == 200
    # Not ready is no reason to end it; longer than it would have taken to be ended for silence.
    looked = asyncio.get_running_loop().time() + QUICK.silence_max_s
    port = listener.getsockname()[1]
    while asyncio.get_running_loop().time() < looked:
        assert (await fetch_json(port, "/healthz"))[0] == 200
    assert supervisor.processes() == [process]


async def test_a_loop_that_hangs_is_ended_and_started_again(supervisor: Watched, listener: socket.socket) -> None:
    await supervisor.start([program("signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)", listener)])
    first, second = await restarted(supervisor)
    assert not is_running(first)
    assert first != second


async def test_a_process_that_is_stopped_in_its_tracks_is_started_again(
    supervisor: Watched, listener: socket.socket
) -> None:
    await supervisor.start([program("await until_stopped()", listener)])
    os.kill(supervisor.seen[0].pid, signal.SIGSTOP)
    first, second = await restarted(supervisor)
    assert not is_running(first)
    assert (await fetch_json(listener.getsockname()[1], "/healthz"))[0] == 200
    assert supervisor.processes()[0].pid == second


async def test_a_process_that_says_it_is_stuck_is_started_again(
    supervisor: Watched, listener: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    stands = "health.at('events', 5, 9)\nawait until_stopped()"
    await supervisor.start([program(stands, listener, STOCKHOLD_STALL_S="0.3")])
    await restarted(supervisor)
    assert "worker is stuck and was ended: events stands at 5 of 9" in caplog.text


async def test_one_that_is_stuck_again_and_again_stops_the_stack(supervisor: Watched, listener: socket.socket) -> None:
    stands = "health.at('events', 5, 9)\nawait until_stopped()"
    await supervisor.start([program(stands, listener, STOCKHOLD_STALL_S="0.05")])
    with pytest.raises(ChildKeepsFailingError, match=r"worker failed 3 times in a row.*events stands at 5 of 9"):
        await asyncio.wait_for(supervisor.until_failure(), 60)
