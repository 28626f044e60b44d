"""Whoever keeps the views and does not get on, though nothing has failed, shows it; and gets on when it can."""

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from tests.support import STOCKHOLD, eventually
from tests.support_domain import registered
from tests.support_views import LogWriter

STALL_S = "1.5"


class Shown:
    """What a process shows on its monitor."""

    def __init__(self, port: int) -> None:
        self._port = port

    def status(self, path: str) -> tuple[int, dict[str, str]]:
        """Status, and the checks of an answer that has them; status 0 as long as nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", timeout=10) as answer:
                return answer.status, json.loads(answer.read()).get("checks", {})
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, json.loads(refused.read()).get("checks", {})
        except (urllib.error.URLError, TimeoutError):
            return 0, {}

    def is_ready(self) -> bool:
        return self.status("/readyz")[0] == 200

    def is_stuck(self) -> bool:
        return self.status("/healthz")[0] == 503


@contextmanager
def process(name: str, database_url: str, redis_url: str, **environment: str) -> Iterator[Shown]:
    # As a supervisor does: one without it would end, because nobody else would see to that.
    listener = socket.create_server(("127.0.0.1", 0))
    env = {
        **os.environ,
        "STOCKHOLD_EVENT_STORE_URL": database_url,
        "STOCKHOLD_READ_MODEL_URL": database_url,
        "STOCKHOLD_REDIS_URL": redis_url,
        "STOCKHOLD_MONITOR_FD": str(listener.fileno()),
        "STOCKHOLD_STALL_S": STALL_S,
        **environment,
    }
    running = subprocess.Popen([*STOCKHOLD, "process", name], env=env, stdout=sys.stderr, pass_fds=[listener.fileno()])
    try:
        shown = Shown(listener.getsockname()[1])
        eventually(shown.is_ready, timeout_s=60)
        yield shown
        assert running.poll() is None
    finally:
        running.kill()
        running.wait()
        listener.close()


def held_up_and_released(shown: Shown, url: str, table: str) -> str:
    """What the process says of itself while a statement of it waits for a lock that somebody sits on."""
    with psycopg.connect(url) as connection:
        connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
        LogWriter(url).happened("A", "W1", registered())
        eventually(shown.is_stuck, timeout_s=30)
        status, checks = shown.status("/readyz")
        assert status == 503
        connection.rollback()
    eventually(shown.is_ready, timeout_s=30)
    assert not shown.is_stuck()
    return "; ".join(why for why in checks.values() if why != "ok")


def test_a_projector_that_waits_for_ever(database_url: str, redis_url: str) -> None:
    with process("projector", database_url, redis_url) as shown:
        said = held_up_and_released(shown, database_url, "stockhold_views_g1.stock_levels")
    assert "stockhold_views_g1 rounds has not come round" in said


def test_a_sweeper_that_waits_for_ever(database_url: str, redis_url: str) -> None:
    with process("sweeper", database_url, redis_url) as shown:
        assert "sweep has not come round" in held_up_and_released(shown, database_url, "stockhold.holds")


@pytest.mark.kafka
def test_a_worker_that_waits_for_ever(kafka: str, kafka_prefix: str, database_url: str, redis_url: str) -> None:
    brokers = {"STOCKHOLD_KAFKA_SERVERS": kafka, "STOCKHOLD_KAFKA_PREFIX": kafka_prefix}
    with process("worker-1", database_url, redis_url, **brokers) as shown:
        said = held_up_and_released(shown, database_url, "stockhold_views_g1.stock_levels")
    assert "stockhold_views_g1" in said
