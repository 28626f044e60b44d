"""`stockhold migrate`, and `stockhold process` without a supervisor: what a container runs."""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psycopg
import pytest

from infra.embedded.ports import free_server_port
from infra.migrations.runner import EVENT_STORE, PUBLIC, READ_MODEL, load
from tests.support import STOCKHOLD

EXIT_USAGE, EXIT_UNREACHABLE = 2, 3


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*STOCKHOLD, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=clean(os.environ) | environment,
    )


def clean(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if not name.startswith("STOCKHOLD_")}


def test_migrate_brings_an_empty_database_up_to_date_and_then_has_nothing_to_do(empty_database_url: str) -> None:
    done = run("migrate", "--json", STOCKHOLD_EVENT_STORE_URL=empty_database_url)
    sets = (EVENT_STORE, READ_MODEL, PUBLIC)
    assert json.loads(done.stdout) == {
        "applied": [f"{tables.schema}/{file.name}" for tables in sets for file in load(tables.folder)]
    }
    again = run("migrate", STOCKHOLD_EVENT_STORE_URL=empty_database_url)
    assert (again.returncode, again.stdout) == (0, "up to date already\n")
    with psycopg.connect(empty_database_url) as connection:
        assert connection.execute("SELECT count(*) FROM stockhold.migrations").fetchone() == (
            len(load(EVENT_STORE.folder)),
        )


def test_migrate_says_what_it_lacks() -> None:
    without = run("migrate")
    assert without.returncode == EXIT_USAGE
    assert "STOCKHOLD_EVENT_STORE_URL" in without.stderr
    away = run("migrate", STOCKHOLD_EVENT_STORE_URL=f"postgresql://someone@127.0.0.1:{free_server_port()}/nowhere")
    assert away.returncode == EXIT_UNREACHABLE
    assert "could not be brought up to date" in away.stderr
    assert "Traceback" not in away.stderr


@pytest.mark.parametrize(
    ("role", "more"),
    [
        ("command-api", {}),
        ("read-api-2", {}),
        ("sweeper", {"STOCKHOLD_MONITOR_PORT": "9000"}),
        ("worker", {"STOCKHOLD_MONITOR_PORT": "9000"}),
    ],
)
def test_a_process_listens_beyond_this_machine_only_if_it_was_told_to(role: str, more: dict[str, str]) -> None:
    refused = run("process", role, STOCKHOLD_HOST="0.0.0.0", **more)
    assert refused.returncode == EXIT_USAGE
    assert "STOCKHOLD_INSECURE_LISTEN" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_one_that_was_told_to_tries() -> None:
    # An address of the documentation's, not this machine's.
    told = {"STOCKHOLD_INSECURE_LISTEN": "1", "STOCKHOLD_HOST": "192.0.2.1", "STOCKHOLD_MONITOR_PORT": "9000"}
    tried = run("process", "sweeper", STOCKHOLD_EVENT_STORE_URL="postgresql://nobody@127.0.0.1/nowhere", **told)
    assert tried.returncode == 1
    assert "annot assign requested address" in tried.stderr


def test_up_takes_the_same_word_from_the_environment(data_dir: Path) -> None:
    # As above: past the guard there is nothing to listen on.
    words = ("up", "--data", str(data_dir), "--host", "192.0.2.1", "--command-port", "0", "--read-port", "0")
    refused = run(*words)
    assert refused.returncode == EXIT_USAGE
    assert "--insecure-listen" in refused.stderr
    allowed = run(*words, STOCKHOLD_INSECURE_LISTEN="1")
    assert allowed.returncode == EXIT_UNREACHABLE
    assert "cannot listen on 192.0.2.1" in allowed.stderr
