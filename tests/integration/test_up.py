"""`stockhold up` as its users meet it, with the servers alone: what the APIs do is tested where they are whole."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis

from infra.embedded.errors import StartFailedError
from infra.embedded.folder import DataFolder
from infra.embedded.leftover import processes_in
from infra.embedded.stack import StackOptions, running_stack
from infra.embedded.supervisor import RestartPolicy
from tests.support import STOCKHOLD, Up, eventually, is_running, stockhold_up

SERVERS_ALONE = [word for role in ("command-api", "projector", "sweeper", "read-api") for word in ("--without", role)]


@pytest.fixture
def up(module_data_dir: Path) -> Iterator[Up]:
    with stockhold_up(module_data_dir, *SERVERS_ALONE) as running:
        yield running


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, **environment}
    return subprocess.run([*STOCKHOLD, *arguments], capture_output=True, text=True, check=False, env=env, timeout=60)


def answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def running_facts(data_dir: Path) -> dict[str, Any]:
    facts = DataFolder(data_dir).read_running()
    assert facts is not None
    return facts


def pid_now(data_dir: Path, name: str) -> int:
    return next(int(one["pid"]) for one in running_facts(data_dir)["processes"] if one["name"] == name)


def test_one_json_line_says_where_everything_is(up: Up, module_data_dir: Path) -> None:
    facts = up.facts
    assert set(facts) == {"command_url", "read_url", "event_store_url", "read_model_url", "redis_url", "processes"}
    assert [one["name"] for one in facts["processes"]] == ["postgres", "valkey"]
    assert all(set(one) == {"name", "pid"} and is_running(one["pid"]) for one in facts["processes"])
    with psycopg.connect(facts["event_store_url"]) as connection:
        found = connection.execute("SELECT to_regclass('stockhold.migrations') IS NOT NULL").fetchone()
        assert found == (True,), "migrations are applied"
    with redis.Redis.from_url(facts["redis_url"]) as cache:
        assert cache.ping()
    assert running_facts(module_data_dir) == facts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_it_stops_in_order_at_each_signal_and_leaves_nothing(
    up: Up, module_data_dir: Path, number: signal.Signals
) -> None:
    up.process.send_signal(number)
    assert up.process.wait(30) == 0
    assert not [pid for pid in up.pids() if is_running(pid)]
    assert DataFolder(module_data_dir).read_running() is None
    assert "database system is shut down" in (module_data_dir / "logs" / "postgres.log").read_text()


def test_kill_9_of_the_supervisor_leaves_nothing_running_and_the_folder_usable(up: Up, module_data_dir: Path) -> None:
    with psycopg.connect(up.facts["event_store_url"]) as connection:
        connection.execute("CREATE OR REPLACE VIEW notes AS SELECT 'answered' AS note")
    up.process.kill()
    up.process.wait()
    eventually(lambda: not [pid for pid in up.pids() if is_running(pid)])
    eventually(lambda: not processes_in(module_data_dir / "postgres", "postgres"))
    with (
        stockhold_up(module_data_dir, *SERVERS_ALONE) as again,
        psycopg.connect(again.facts["event_store_url"]) as connection,
    ):
        assert connection.execute("SELECT note FROM notes").fetchall() == [("answered",)]


def test_a_start_right_after_kill_9_does_not_meet_the_old_servers(up: Up, module_data_dir: Path) -> None:
    up.process.kill()
    up.process.wait()
    with stockhold_up(module_data_dir, *SERVERS_ALONE) as again:
        assert answers(again.facts["event_store_url"])
    assert not [pid for pid in up.pids() if is_running(pid)]


def test_it_stops_when_the_program_that_started_it_is_gone(module_data_dir: Path) -> None:
    source = f"""
import os, signal
from pathlib import Path
from tests.support import stockhold_up
with stockhold_up(Path({str(module_data_dir)!r}), *{SERVERS_ALONE!r}) as up:
    print(*up.pids(), flush=True)
    signal.pause()
"""
    program = subprocess.Popen([STOCKHOLD[0], "-c", source], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert program.stdout is not None
    pids = [int(word) for word in program.stdout.readline().split()]
    assert len(pids) == 3
    program.kill()
    program.wait()
    program.stdout.close()
    eventually(lambda: not [pid for pid in pids if is_running(pid)], timeout_s=30)


@pytest.mark.parametrize("name", ["postgres", "valkey"])
def test_a_server_that_is_killed_is_back_at_its_address_with_the_data(up: Up, module_data_dir: Path, name: str) -> None:
    url = up.facts["event_store_url"]
    with psycopg.connect(url) as connection:
        connection.execute("CREATE OR REPLACE VIEW notes AS SELECT 'answered' AS note")
    os.kill(up.pid_of(name), signal.SIGKILL)
    eventually(lambda: pid_now(module_data_dir, name) != up.pid_of(name), timeout_s=30)
    assert not is_running(up.pid_of(name))
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT note FROM notes").fetchall() == [("answered",)]
    with redis.Redis.from_url(up.facts["redis_url"]) as cache:
        assert cache.ping()
    assert up.process.poll() is None


def test_a_server_killed_again_and_again_stops_the_stack_with_the_reason(up: Up, module_data_dir: Path) -> None:
    killed: set[int] = set()

    def kill_next() -> bool:
        facts = DataFolder(module_data_dir).read_running()
        if facts is not None:
            pid = pid_now(module_data_dir, "valkey")
            if pid not in killed:
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
        return up.process.poll() is not None

    eventually(kill_next, timeout_s=60)
    assert up.process.returncode == 1
    assert "valkey failed 5 times in a row; lastly: valkey ended (signal SIGKILL)" in up.errors()
    assert not [pid for pid in up.pids() if is_running(pid)]


def test_a_second_stack_on_the_same_folder_is_told_who_has_it(up: Up, module_data_dir: Path) -> None:
    second = run("up", "--data", str(module_data_dir), "--command-port", "0", "--read-port", "0")
    assert second.returncode == 3
    assert f"in use by process {up.process.pid}" in second.stderr
    assert answers(up.facts["event_store_url"])


def test_a_port_that_is_taken_is_told_before_anything_is_started(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = run("up", "--data", str(data_dir / "new"), "--command-port", str(port), "--read-port", "0")
    assert refused.returncode == 3
    assert f"port {port} on 127.0.0.1 is taken" in refused.stderr
    assert not (data_dir / "new").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_listening_to_others_takes_an_explicit_word(data_dir: Path, host: str) -> None:
    refused = run("up", "--data", str(data_dir), "--host", host)
    assert refused.returncode == 2
    assert "--insecure-listen" in refused.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--command-port", "70000"],
        ["--without", "everything"],
        ["--command-processes", "-1"],
        ["--worker-processes", "2"],
        ["--unknown"],
    ],
)
def test_wrong_usage_is_exit_code_2(data_dir: Path, arguments: list[str]) -> None:
    assert run("up", "--data", str(data_dir / "new"), *arguments).returncode == 2
    assert not (data_dir / "new").exists()


def test_a_setting_that_does_not_fit_is_named(data_dir: Path) -> None:
    refused = run("up", "--data", str(data_dir), STOCKHOLD_QUEUE_LIMIT="many")
    assert refused.returncode == 2
    assert "STOCKHOLD_QUEUE_LIMIT" in refused.stderr


def test_external_servers_are_used_and_none_are_started(up: Up, module_data_dir: Path) -> None:
    urls = {f"STOCKHOLD_{name.upper()}": up.facts[name] for name in ("event_store_url", "redis_url")}
    with stockhold_up(module_data_dir / "unused", *SERVERS_ALONE, environment=urls) as guest:
        assert guest.facts["processes"] == []
        assert guest.facts["event_store_url"] == guest.facts["read_model_url"] == up.facts["event_store_url"]
        assert guest.facts["redis_url"] == up.facts["redis_url"]
        assert not (module_data_dir / "unused").exists()


def test_half_an_address_does_not_end_at_another_stack(data_dir: Path) -> None:
    home = {"XDG_STATE_HOME": str(data_dir)}
    elsewhere = {"STOCKHOLD_EVENT_STORE_URL": "postgresql://nobody:secret@127.0.0.1:1/none"}
    with stockhold_up(data_dir / "stockhold", *SERVERS_ALONE):
        assert run("sweep", "--now", **home).returncode == 0
        refused = run("sweep", "--now", **home, **elsewhere)
    assert refused.returncode == 2
    assert "another log" in refused.stderr
    assert "secret" not in refused.stderr


def test_a_log_that_lives_elsewhere_is_not_taken_for_an_empty_one(up: Up, data_dir: Path) -> None:
    log = {"STOCKHOLD_EVENT_STORE_URL": up.facts["event_store_url"]}
    with stockhold_up(data_dir / "cache", *SERVERS_ALONE, environment=log) as guest:
        assert [one["name"] for one in guest.facts["processes"]] == ["valkey"]
    refused = run("sweep", "--now", "--data", str(data_dir / "cache"))
    assert refused.returncode == 2
    assert "set STOCKHOLD_EVENT_STORE_URL" in refused.stderr
    assert not (data_dir / "cache" / "postgres").exists()
    assert run("sweep", "--now", "--data", str(data_dir / "cache"), **log).returncode == 0


def test_addresses_that_lead_nowhere_are_told_without_a_traceback(up: Up, empty_database_url: str) -> None:
    ours = {f"STOCKHOLD_{name.upper()}": up.facts[name] for name in ("event_store_url", "redis_url")}
    away = {"STOCKHOLD_EVENT_STORE_URL": "postgresql://nobody:secret@127.0.0.1:1/none"}
    empty = {"STOCKHOLD_EVENT_STORE_URL": empty_database_url}
    for command, environment, code, why in (
        ("verify", {"STOCKHOLD_EVENT_STORE_URL": "foo"}, 2, "STOCKHOLD_EVENT_STORE_URL"),
        ("doctor", {"STOCKHOLD_REDIS_URL": "foo"}, 2, "STOCKHOLD_REDIS_URL"),
        ("sweep --now", away, 3, "PostgreSQL"),
        ("verify", away, 3, "PostgreSQL"),
        ("sweep --now", empty, 2, "no tables of Stockhold"),
        ("history A W", empty, 2, "no tables of Stockhold"),
    ):
        refused = run(*command.split(), **(ours | environment))
        assert refused.returncode == code, refused.stderr
        assert refused.stderr.startswith("stockhold: ")
        assert why in refused.stderr
        assert "Traceback" not in refused.stderr
        assert "secret" not in refused.stderr


@pytest.mark.parametrize(
    ("setting", "url"),
    [
        ("STOCKHOLD_EVENT_STORE_URL", "postgresql://nobody:secret@127.0.0.1:1/none"),
        ("STOCKHOLD_READ_MODEL_URL", "postgresql://nobody:secret@127.0.0.1:1/none"),
        ("STOCKHOLD_REDIS_URL", "redis://:secret@127.0.0.1:1/0"),
    ],
)
def test_an_external_server_that_is_away_is_exit_code_3_and_its_password_stays_secret(
    data_dir: Path, setting: str, url: str
) -> None:
    refused = run("up", "--data", str(data_dir), "--command-port", "0", "--read-port", "0", **{setting: url})
    assert refused.returncode == 3
    assert setting in refused.stderr
    assert "secret" not in refused.stderr
    assert "Traceback" not in refused.stderr


def test_ctrl_c_during_the_start_stops_it_at_once(module_data_dir: Path) -> None:
    process = subprocess.Popen(
        [*STOCKHOLD, "up", "--data", str(module_data_dir), *SERVERS_ALONE, "--json"],
        stdout=subprocess.PIPE,
        process_group=0,
    )
    eventually(DataFolder(module_data_dir).is_locked, timeout_s=30)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert process.stdout is not None
    process.stdout.close()
    assert not processes_in(module_data_dir / "postgres", "postgres")
    assert not processes_in(module_data_dir / "postgres.new", "postgres")


def test_children_that_cannot_start_end_the_stack_with_the_reason(module_data_dir: Path) -> None:
    options = StackOptions(
        module_data_dir,
        command_port=0,
        roles=frozenset({"command-api"}),
        environment={"STOCKHOLD_QUEUE_LIMIT": "many"},
        policy=RestartPolicy(pause_first_s=0.01, failures_max=3),
    )
    reason = r"command-api-1 does not start; after 3 attempts: .*exit code 2"
    with pytest.raises(StartFailedError, match=reason), running_stack(options):
        pass
    assert not processes_in(module_data_dir / "postgres", "postgres")


def test_a_stack_in_a_thread_works_like_one_of_its_own(module_data_dir: Path) -> None:
    with running_stack(StackOptions(module_data_dir, roles=frozenset())) as info:
        assert info.command_url is None
        assert answers(info.event_store_url)
        pids = [process.pid for process in info.processes]
    assert len(pids) == 2
    assert not [pid for pid in pids if is_running(pid)]


def test_standard_output_has_the_json_line_and_nothing_else(module_data_dir: Path) -> None:
    process = subprocess.Popen(
        [*STOCKHOLD, "up", "--data", str(module_data_dir), *SERVERS_ALONE, "--json"],
        stdout=subprocess.PIPE,
        process_group=0,
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    process.terminate()
    rest = process.stdout.read()
    process.stdout.close()
    assert process.wait(30) == 0
    assert json.loads(first)["processes"]
    assert rest == b""


def test_help_is_quick() -> None:
    """It imports no server, no database client, no web framework: those alone take longer than this."""
    listed = run("--help", PYTHONPROFILEIMPORTTIME="1")
    assert listed.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in listed.stderr.splitlines()}
    assert not imported & {"psycopg", "redis", "fastapi", "pydantic", "eventsourcing", "uvicorn"}


def test_a_process_that_nobody_knows_is_wrong_usage() -> None:
    refused = run("process", "accountant-1")
    assert refused.returncode == 2
    assert "command-api" in refused.stderr
