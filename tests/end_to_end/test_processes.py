"""The processes of a whole stack: found by name, back after kill -9, gone with their supervisor."""

import http.client
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from infra.embedded.folder import DataFolder
from tests.support import Up, eventually, is_running, stockhold_up

PROCESSES = ("--command-processes", "2")
NAMES = ["postgres", "valkey", "projector", "sweeper", "command-api-1", "command-api-2", "read-api-1"]


@pytest.fixture
def up(module_data_dir: Path) -> Iterator[Up]:
    with stockhold_up(module_data_dir, *PROCESSES) as running:
        yield running


def status_of(url: str, path: str) -> int:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def pids_now(data_dir: Path) -> dict[str, int]:
    facts = DataFolder(data_dir).read_running()
    assert facts is not None
    processes = facts["processes"]
    assert isinstance(processes, list)
    return {one["name"]: one["pid"] for one in processes}


def test_every_process_is_named_and_the_doors_are_open_when_it_says_so(up: Up) -> None:
    assert [one["name"] for one in up.facts["processes"]] == NAMES
    assert status_of(up.facts["command_url"], "/readyz") == 200


def test_who_has_no_customer_waiting_steps_back(up: Up) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    behind = {name for name in NAMES if os.getpriority(os.PRIO_PROCESS, up.pid_of(name)) > own}
    assert behind == {"projector", "sweeper"}


def test_a_killed_process_is_started_again_behind_the_same_address(up: Up, module_data_dir: Path) -> None:
    killed = {name: up.pid_of(name) for name in NAMES[2:]}
    for pid in killed.values():
        os.kill(pid, signal.SIGKILL)
    # Nobody serves at this moment; the socket is the supervisor's, and the request waits in it.
    assert status_of(up.facts["command_url"], "/healthz") == 200
    eventually(lambda: all(pids_now(module_data_dir).get(name, pid) != pid for name, pid in killed.items()), 30)
    assert not [pid for pid in killed.values() if is_running(pid)]


def test_they_end_with_their_supervisor(up: Up) -> None:
    port = urlsplit(up.facts["command_url"]).port
    (door,) = listening_sockets(port)
    up.process.kill()
    up.process.wait()
    eventually(lambda: not [pid for pid in up.pids() if is_running(pid)])
    # The socket and not the port, which another test may have by now.
    assert door not in listening_sockets(port)


def listening_sockets(port: int | None) -> set[str]:
    """The inodes of the sockets that listen at ``port`` of 127.0.0.1, whoever holds them (see ``man 5 proc_net_tcp``)."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {line[9] for line in lines if line[1] == f"0100007F:{port:04X}" and line[3] == "0A"}


def test_an_orderly_stop_lets_each_of_them_finish(up: Up) -> None:
    assert up.stop() == 0
    assert not [pid for pid in up.pids() if is_running(pid)]
    assert "is killed" not in up.errors()
