"""The supervisor with small real programs for children."""

import asyncio
import os
import signal
import socket
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from infra.embedded.child import ChildSpec
from infra.embedded.errors import ChildKeepsFailingError, StartFailedError
from infra.embedded.supervisor import ProcessInfo, RestartPolicy, Supervisor
from tests.support import eventually_async, is_running

QUICK = RestartPolicy(pause_first_s=0.01, pause_max_s=0.02, failures_max=3, healthy_after_s=30.0)

# What every program below begins with: telling that it is ready.
READY = """
import os, signal, sys, time
def ready():
    os.write(int(os.environ["STOCKHOLD_READY_FD"]), b"ready\\n")
"""
WORKS = READY + "ready()\nsignal.pause()\n"


def program(source: str, name: str = "worker", **changes: Any) -> ChildSpec:
    return ChildSpec(name, [sys.executable, "-c", textwrap.dedent(source)], **changes)


class Watched(Supervisor):
    """A supervisor that remembers who became ready."""

    def __init__(self, policy: RestartPolicy = QUICK) -> None:
        self.seen: list[ProcessInfo] = []
        super().__init__(self.seen.append, policy)

    def pids(self, name: str) -> list[int]:
        return [process.pid for process in self.seen if process.name == name]


@pytest.fixture
async def supervisor() -> AsyncIterator[Watched]:
    watched = Watched()
    yield watched
    await watched.stop()
    assert not [process for process in watched.seen if is_running(process.pid)]


async def test_start_returns_when_every_child_of_the_group_is_ready(supervisor: Watched, tmp_path: Path) -> None:
    late = READY + f"open({str(tmp_path / 'late')!r}, 'x').close()\nready()\nsignal.pause()\n"
    await supervisor.start([program(WORKS, "one"), program(late, "two")])
    assert (tmp_path / "late").exists()
    assert {process.name for process in supervisor.processes()} == {"one", "two"}
    assert all(is_running(process.pid) for process in supervisor.processes())


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
async def test_a_child_that_dies_is_started_again(supervisor: Watched, end: signal.Signals) -> None:
    await supervisor.start([program(WORKS)])
    first = supervisor.pids("worker")[0]
    os.kill(first, end)
    await eventually_async(lambda: len(supervisor.pids("worker")) == 2)
    assert not is_running(first)
    assert is_running(supervisor.pids("worker")[1])


async def test_a_child_that_keeps_dying_stops_the_stack_with_the_reason(supervisor: Watched) -> None:
    await supervisor.start([program(READY + "ready()\nsys.exit(7)\n")])
    with pytest.raises(ChildKeepsFailingError, match=r"worker failed 3 times in a row.*exit code 7"):
        await asyncio.wait_for(supervisor.until_failure(), 10)
    assert len(supervisor.seen) == 3


async def test_a_child_that_never_starts_is_given_up_too(supervisor: Watched) -> None:
    with pytest.raises(StartFailedError, match=r"worker does not start; after 3 attempts: .*exit code 4"):
        await supervisor.start([program("raise SystemExit(4)")])
    assert supervisor.failure.done()


async def test_a_child_that_is_not_ready_in_time_is_killed_and_counts_as_failed(supervisor: Watched) -> None:
    with pytest.raises(StartFailedError, match=r"not ready within 0\.2 s"):
        await supervisor.start([program("import signal; signal.pause()", ready_timeout_s=0.2)])
    assert supervisor.processes() == []


async def test_a_program_that_does_not_exist_is_a_failed_start(supervisor: Watched) -> None:
    with pytest.raises(StartFailedError):
        await supervisor.start([ChildSpec("ghost", ["/nowhere/ghost"])])


async def test_a_child_that_worked_for_a_while_has_its_failures_forgiven(tmp_path: Path) -> None:
    """Four deaths with a limit of three, but healthy in between: the stack lives."""
    watched = Watched(RestartPolicy(pause_first_s=0.01, failures_max=3, healthy_after_s=0.0))
    await watched.start([program(WORKS)])
    for _ in range(4):
        await dies_and_returns(watched, "worker")
    assert not watched.failure.done()
    await watched.stop()


async def test_pauses_grow_up_to_their_limit() -> None:
    policy = RestartPolicy(pause_first_s=0.1, pause_max_s=5.0)
    assert [policy.pause_s(failures) for failures in (0, 1, 2, 3, 20)] == [0.1, 0.1, 0.2, 0.4, 5.0]


async def test_a_child_whose_server_went_away_is_not_to_blame(supervisor: Watched) -> None:
    """The client dies as often as the limit allows the server and itself together; only one of its deaths is its own."""
    await supervisor.start([program(WORKS, "server")])
    await supervisor.start([program(WORKS, "client", needs=("server",))])
    for _ in range(QUICK.failures_max - 1):
        await dies_and_returns(supervisor, "server")
        await dies_and_returns(supervisor, "client")
    await dies_and_returns(supervisor, "client")
    assert not supervisor.failure.done()


async def test_a_child_waits_for_its_server_before_it_starts_again(supervisor: Watched, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    waits = READY + f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)\nready()\nsignal.pause()\n"
    await supervisor.start([program(waits, "server")])
    await supervisor.start([program(WORKS, "client", needs=("server",))])
    gate.unlink()
    os.kill(supervisor.pids("server")[-1], signal.SIGKILL)
    await eventually_async(lambda: running(supervisor, "server") not in {None, *supervisor.pids("server")})
    os.kill(supervisor.pids("client")[-1], signal.SIGKILL)
    await eventually_async(lambda: [process.name for process in supervisor.processes()] == ["server"])
    gate.touch()
    await eventually_async(lambda: len(supervisor.seen) == 4)
    assert [process.name for process in supervisor.seen] == ["server", "client", "server", "client"]


async def test_failures_count_only_while_the_servers_outside_answer(supervisor: Watched, tmp_path: Path) -> None:
    there = tmp_path / "there"
    spec = program(READY + "ready()\nsys.exit(7)\n", outside_answers=there.exists)
    await supervisor.start([spec])
    await eventually_async(lambda: len(supervisor.pids("worker")) > 2 * QUICK.failures_max)
    assert not supervisor.failure.done()
    there.touch()
    with pytest.raises(ChildKeepsFailingError, match=r"worker failed 3 times in a row"):
        await asyncio.wait_for(supervisor.until_failure(), 10)


def running(supervisor: Watched, name: str) -> int | None:
    return next((process.pid for process in supervisor.processes() if process.name == name), None)


async def dies_and_returns(supervisor: Watched, name: str) -> None:
    before = len(supervisor.pids(name))
    os.kill(supervisor.pids(name)[-1], signal.SIGKILL)
    await eventually_async(lambda: len(supervisor.pids(name)) == before + 1)


async def test_groups_stop_in_reverse_order_and_gracefully(supervisor: Watched, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def drains(name: str) -> ChildSpec:
        source = f"""
        def stop(*_):
            open({str(log)!r}, "a").write("{name} ")
            sys.exit(0)
        signal.signal(signal.SIGTERM, stop)
        ready()
        while True: signal.pause()
        """
        return program(READY + textwrap.dedent(source), name)

    for name in ("server", "worker", "door"):
        await supervisor.start([drains(name)])
    await supervisor.stop()
    assert log.read_text().split() == ["door", "worker", "server"]
    assert supervisor.processes() == []


async def test_a_child_that_ignores_the_order_to_stop_is_killed(supervisor: Watched) -> None:
    deaf = READY + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nready()\nwhile True: signal.pause()\n"
    await supervisor.start([program(deaf, stop_timeout_s=0.2)])
    pid = supervisor.pids("worker")[0]
    await supervisor.stop()
    assert not is_running(pid)


async def test_kill_ends_everything_without_waiting_for_grace(supervisor: Watched) -> None:
    deaf = READY + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nready()\nwhile True: signal.pause()\n"
    await supervisor.start([program(deaf, stop_timeout_s=60.0)])
    stopping = asyncio.create_task(supervisor.stop())
    await asyncio.sleep(0)
    supervisor.kill()
    await asyncio.wait_for(stopping, 10)


async def test_stopping_while_a_child_is_still_starting(supervisor: Watched) -> None:
    starting = asyncio.create_task(supervisor.start([program("import signal; signal.pause()")]))
    await eventually_async(lambda: len(supervisor.processes()) == 1)
    pid = supervisor.processes()[0].pid
    starting.cancel()
    await supervisor.stop()
    assert not is_running(pid)


async def test_the_listening_socket_outlives_its_process(supervisor: Watched) -> None:
    """A connection made while the process is away is answered by the next one: nobody is refused."""
    source = """
    import socket
    listener = socket.socket(fileno=int(os.environ["STOCKHOLD_LISTEN_FD"]))
    ready()
    connection, _ = listener.accept()
    connection.sendall(str(os.getpid()).encode())
    connection.close()
    signal.pause()
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await supervisor.start([program(READY + textwrap.dedent(source), listen_socket=listener)])
        first = supervisor.pids("worker")[0]
        os.kill(first, signal.SIGKILL)
        await eventually_async(lambda: not is_running(first))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        answered_by = int(await asyncio.wait_for(reader.read(), 10))
        writer.close()
        await writer.wait_closed()
    await eventually_async(lambda: len(supervisor.pids("worker")) == 2)
    assert answered_by == supervisor.pids("worker")[1] != first


async def test_a_step_that_breaks_before_the_start_is_reported_not_swallowed(supervisor: Watched) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await supervisor.start([program(WORKS, prepare=broken)])
    with pytest.raises(ZeroDivisionError):
        await supervisor.until_failure()
