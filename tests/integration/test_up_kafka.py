"""`stockhold up --kafka` with the servers alone: what runs behind them is tested where it is whole."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from infra.embedded.folder import DataFolder
from infra.embedded.leftover import processes_in
from infra.embedded.stack import KAFKA_ROLES, ROLES
from infra.kafka.admin import ensure_topics
from infra.kafka.clients import producer, running
from infra.kafka.probe import addresses, broker_answers
from infra.kafka.topics import Topics
from tests.integration.test_up import SERVERS_ALONE, pid_now, run
from tests.support import Up, eventually, is_running, stockhold_up

SERVERS_ONLY = [word for role in ROLES for word in ("--without", role)]
SWEEPER_TOO = [word for role in ROLES if role != "sweeper" for word in ("--without", role)]
AT_ANY_PORT = ("--command-port", "0", "--read-port", "0")


@pytest.fixture
def up(module_data_dir: Path) -> Iterator[Up]:
    with stockhold_up(module_data_dir, "--kafka", *SERVERS_ONLY) as started:
        yield started


def answers(servers: str) -> bool:
    try:
        return any(broker_answers(*address) for address in addresses(servers))
    except OSError:
        return False


@pytest.mark.kafka
def test_the_json_line_says_where_kafka_is_and_only_this_machine_gets_there(up: Up, module_data_dir: Path) -> None:
    assert [one["name"] for one in up.facts["processes"]] == ["kafka", "postgres", "valkey"]
    assert answers(up.facts["kafka"])
    listening = {
        connection.laddr.ip
        for connection in psutil.Process(up.pid_of("kafka")).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    facts = DataFolder(module_data_dir).read_running()
    assert facts is not None
    assert facts["kafka"] == up.facts["kafka"]
    assert up.stop() == 0
    assert not [pid for pid in up.pids() if is_running(pid)]
    assert not answers(up.facts["kafka"])


@pytest.mark.kafka
def test_kill_9_of_the_supervisor_leaves_no_broker(up: Up, module_data_dir: Path) -> None:
    up.process.kill()
    up.process.wait()
    eventually(lambda: not [pid for pid in up.pids() if is_running(pid)])
    assert processes_in(module_data_dir / "kafka", "java") == []


@pytest.mark.kafka
async def test_a_broker_that_is_killed_is_back_at_its_address_with_its_messages(up: Up, module_data_dir: Path) -> None:
    servers, topics = up.facts["kafka"], Topics("kept.", 2)
    await ensure_topics(servers, topics.specs(), 1)
    async with running(lambda: producer(servers, "test"), servers) as sender:
        sent = await sender.send_and_wait(topics.stock_events, b"one", partition=1)
        os.kill(up.pid_of("kafka"), signal.SIGKILL)
        # The producer waits for the one that the supervisor starts in its place.
        again = await sender.send_and_wait(topics.stock_events, b"two", partition=1)
    assert again.offset == sent.offset + 1
    assert eventually(lambda: pid_now(module_data_dir, "kafka") != up.pid_of("kafka"), timeout_s=30)
    assert up.process.poll() is None


@pytest.mark.kafka
def test_brokers_that_are_named_are_used_and_none_is_started(kafka: str, module_data_dir: Path) -> None:
    for words in ((), ("--kafka",)):
        with stockhold_up(
            module_data_dir, *words, *SWEEPER_TOO, environment={"STOCKHOLD_KAFKA_SERVERS": kafka}
        ) as guest:
            assert guest.facts["kafka"] == kafka
            assert [one["name"] for one in guest.facts["processes"]] == ["postgres", "valkey", "sweeper"]
            # What it was started with: `environ` would not show the account's of another user.
            environment = psutil.Process(guest.pid_of("sweeper")).environ()
            assert environment["STOCKHOLD_KAFKA_SERVERS"] == kafka


def test_without_kafka_nothing_of_it_is_said_or_started(module_data_dir: Path) -> None:
    with stockhold_up(module_data_dir, *SERVERS_ALONE) as plain:
        assert "kafka" not in plain.facts
        assert {one["name"] for one in plain.facts["processes"]}.isdisjoint({"kafka", *KAFKA_ROLES})


def test_brokers_that_are_away_are_exit_code_3(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
    refused = run("up", "--data", str(data_dir), *AT_ANY_PORT, STOCKHOLD_KAFKA_SERVERS=f"127.0.0.1:{port}")
    assert refused.returncode == 3
    assert f"no Kafka at STOCKHOLD_KAFKA_SERVERS: 127.0.0.1:{port}" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_what_is_no_address_of_a_broker_is_exit_code_2(data_dir: Path) -> None:
    refused = run("up", "--data", str(data_dir), *AT_ANY_PORT, STOCKHOLD_KAFKA_SERVERS="kafka:port")
    assert refused.returncode == 2
    assert "STOCKHOLD_KAFKA_SERVERS" in refused.stderr
    assert "'kafka:port' is no address of a broker" in refused.stderr


def test_without_java_it_is_said_before_any_server_is_started(data_dir: Path) -> None:
    nothing = {"PATH": str(data_dir), "JAVA_HOME": ""}
    refused = run("up", "--kafka", "--data", str(data_dir / "new"), *AT_ANY_PORT, **nothing)
    assert refused.returncode == 3
    assert "Kafka needs Java 17 or later" in refused.stderr
    assert not (data_dir / "new" / "postgres").exists()
