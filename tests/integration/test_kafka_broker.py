"""Apache Kafka as a local process: what it acknowledged is kept, only this machine gets in, nothing is left running."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from aiokafka.structs import TopicPartition

from infra.embedded.child import Child
from infra.embedded.folder import DataFolder
from infra.embedded.kafka import kafka_server
from infra.embedded.leftover import processes_in
from infra.kafka.admin import ensure_topics
from infra.kafka.clients import KAFKA_LINES, consumer, producer, quiet_kafka_loggers, running
from infra.kafka.topics import TopicSpec
from tests.support import eventually, eventually_async, is_running
from tests.support_kafka import OwnBroker, own_broker, program

pytestmark = pytest.mark.kafka
TOPIC = TopicSpec("notes", 1, {})


@pytest.fixture(scope="module")
def shared(module_data_dir: Path) -> Iterator[OwnBroker]:
    with own_broker(module_data_dir / "shared") as started:
        yield started


@pytest.fixture
def broker(shared: OwnBroker) -> OwnBroker:
    """One for the tests of this module, running at first, whatever the test before did to it."""
    shared.start()
    return shared


@pytest.fixture
def formatted(module_data_dir: Path) -> Path:
    """The folder of the tests that start brokers of their own, formatted by the first of them."""
    return module_data_dir / "formatted"


async def write(servers: str, *notes: bytes) -> None:
    await ensure_topics(servers, [TOPIC], 1)
    async with running(lambda: producer(servers, "test"), servers) as sender:
        for note in notes:
            await sender.send_and_wait(TOPIC.name, note, partition=0)


async def read(servers: str) -> list[bytes]:
    """All notes, from the first one."""
    partition = TopicPartition(TOPIC.name, 0)
    async with running(lambda: consumer(servers, None, "test"), servers) as receiver:
        receiver.assign([partition])
        await receiver.seek_to_beginning(partition)
        end = (await receiver.end_offsets([partition]))[partition]
        notes: list[bytes] = []
        while len(notes) < end:
            notes.append((await receiver.getone()).value)
        return notes


async def test_what_was_acknowledged_survives_kill_9_and_an_orderly_restart(broker: OwnBroker) -> None:
    address = broker.servers
    await write(broker.servers, b"one", b"two")
    before = await read(broker.servers)
    assert before[-2:] == [b"one", b"two"]
    killed = broker.pid
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: not is_running(killed))
    broker.kill()
    broker.start()
    assert broker.servers == address
    assert await read(broker.servers) == before
    await write(broker.servers, b"three")
    broker.stop()
    broker.start()
    assert await read(broker.servers) == [*before, b"three"]


async def test_clients_of_a_broker_that_is_away_write_few_lines(
    broker: OwnBroker, caplog: pytest.LogCaptureFixture
) -> None:
    quiet_kafka_loggers()
    await ensure_topics(broker.servers, [TOPIC], 1)
    async with running(lambda: producer(broker.servers, "test"), broker.servers) as sender:
        await sender.send_and_wait(TOPIC.name, b"before", partition=0)
        left_out, lines = KAFKA_LINES.left_out, len(caplog.records)
        broker.kill()
        late = await sender.send(TOPIC.name, b"late", partition=0)
        await eventually_async(lambda: KAFKA_LINES.left_out - left_out > 500, timeout_s=60)
        assert len(caplog.records) - lines < 100
        broker.start()
        await late
    assert (await read(broker.servers))[-2:] == [b"before", b"late"]


@pytest.mark.parametrize("by_an_error", [False, True])
async def test_clients_let_go_of_a_broker_that_is_away(broker: OwnBroker, by_an_error: bool) -> None:
    """No error and no connection of theirs is left; a message that nobody acknowledged holds nobody up."""
    quiet_kafka_loggers()
    with suppress(ZeroDivisionError):
        await ensure_topics(broker.servers, [TOPIC], 1)
        async with (
            running(lambda: consumer(broker.servers, "leaving", "test"), broker.servers) as receiver,
            running(lambda: producer(broker.servers, "test"), broker.servers) as sender,
        ):
            receiver.subscribe([TOPIC.name])
            await sender.send_and_wait(TOPIC.name, b"fetched", partition=0)
            await receiver.getone()
            left_out = KAFKA_LINES.left_out
            broker.kill()
            await eventually_async(lambda: KAFKA_LINES.left_out - left_out > 100, timeout_s=60)
            if by_an_error:
                await sender.send(TOPIC.name, b"never", partition=0)
                raise ZeroDivisionError


async def test_a_later_run_finds_the_messages_at_other_ports(broker: OwnBroker) -> None:
    await write(broker.servers, b"kept")
    before = await read(broker.servers)
    broker.stop()
    later = OwnBroker(kafka_server(broker.server.folder, program()))
    assert later.servers != broker.servers
    later.start()
    try:
        assert await read(later.servers) == before
    finally:
        later.stop()


def test_it_stops_at_sigterm_in_order_and_leaves_nothing(broker: OwnBroker) -> None:
    pid = broker.pid
    broker.stop()
    assert not is_running(pid)
    assert processes_in(broker.server.home, "java") == []
    assert (broker.server.home / "data" / ".kafka_cleanshutdown").exists()


def test_only_this_machine_is_listened_to_and_only_on_two_ports(broker: OwnBroker) -> None:
    listening = [
        connection.laddr
        for connection in psutil.Process(broker.pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert {address.ip for address in listening} == {"127.0.0.1"}
    assert {address.port for address in listening} == {broker.server.port, broker.server.controller_port}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_under_root_it_runs_as_the_servers_account(broker: OwnBroker) -> None:
    user = broker.server.folder.user
    assert user is not None
    assert psutil.Process(broker.pid).uids().real == user.uid != 0


def test_java_options_of_whoever_starts_it_do_not_reach_it(formatted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Dno.such=thing -XX:+UnknownOptionThatEndsJava")
    with own_broker(formatted) as broker:
        assert broker.server.answers()


def test_a_broker_that_an_earlier_stack_left_behind_is_ended_first(formatted: Path) -> None:
    folder = DataFolder(formatted)
    with folder.locked():
        left = OwnBroker(kafka_server(folder, program()))
        left.start()
        pid = left.pid
        again = OwnBroker(kafka_server(folder, program()))
        again.start()
        try:
            assert not is_running(pid)
        finally:
            again.stop()
            left.kill()


def test_an_interrupted_formatting_is_done_anew(data_dir: Path) -> None:
    half = data_dir / "kafka" / "data.new"
    half.mkdir(parents=True)
    (half / "meta.properties").write_text("version=")
    with own_broker(data_dir) as broker:
        assert broker.server.answers()
        assert not half.exists()


def test_any_folder_will_do(data_dir: Path) -> None:
    odd = data_dir / "café, à = la: carte #1"
    with own_broker(odd) as broker:
        assert broker.server.answers()
        assert (odd / "kafka" / "data" / "meta.properties").exists()


@pytest.mark.parametrize("by_kernel", [True, False])
def test_it_ends_with_its_parent(formatted: Path, by_kernel: bool) -> None:
    source = f"""
import dataclasses, signal
from pathlib import Path
from infra.embedded.child import Child
from infra.embedded.folder import DataFolder
from infra.embedded.kafka import kafka_server
from tests.support_kafka import program
folder = DataFolder(Path({str(formatted)!r}))
with folder.locked():
    spec = dataclasses.replace(kafka_server(folder, program()).spec(), watched_by_kernel={by_kernel})
    spec.prepare()
    child = Child(spec)
    child.wait_ready()
    print("ready", flush=True)
    signal.pause()
"""
    parent = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"ready\n"
    (server,) = processes_in(formatted / "kafka", "java")
    parent.kill()
    parent.wait()
    parent.stdout.close()
    eventually(lambda: not is_running(server.pid))


def test_a_broker_that_cannot_start_says_why(formatted: Path) -> None:
    from infra.embedded.errors import StartFailedError

    folder = DataFolder(formatted)
    with folder.locked():
        server = kafka_server(folder, program())
        server.prepare()
        storage = server.home / "data" / "meta.properties"
        whole = storage.read_text()
        storage.write_text(whole.replace("version=1", "version=9"))
        try:
            spec = server.spec()
            spec.prepare()
            with pytest.raises(StartFailedError, match=r"(?s)kafka ended while it was starting.*meta\.properties"):
                Child(spec).wait_ready()
        finally:
            storage.write_text(whole)
