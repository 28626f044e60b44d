"""What the background processes of a whole stack show, and what becomes of one that stands still."""

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import Up, eventually, is_running, stockhold_up

BACKGROUND = ("projector", "sweeper")


@pytest.fixture(scope="module")
def up(module_data_dir: Path) -> Iterator[Up]:
    with stockhold_up(module_data_dir, environment={"STOCKHOLD_STALL_S": "2"}) as up:
        yield up


def monitors(facts: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["monitor"] for one in facts["processes"] if "monitor" in one}


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return bytes(answer.read()).decode()


def test_every_background_process_has_a_monitor_of_its_own(up: Up) -> None:
    found = monitors(up.facts)
    assert set(found) == set(BACKGROUND)
    for url in found.values():
        assert url.startswith("http://127.0.0.1:")
        assert json.loads(get(f"{url}/healthz")) == {"status": "alive"}
        ready = json.loads(get(f"{url}/readyz"))
        assert set(ready["checks"].values()) == {"ok"}
    assert "generations" in json.loads(get(f"{found['projector']}/readyz"))["checks"]
    assert "stockhold_projection_lag_events" in get(f"{found['projector']}/metrics")
    assert "stockhold_expired_holds_total" in get(f"{found['sweeper']}/metrics")


@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_those_that_stand_on_kafka_too(kafka: str, kafka_prefix: str, data_dir: Path) -> None:
    environment = {"STOCKHOLD_STALL_S": "5", "STOCKHOLD_KAFKA_SERVERS": kafka, "STOCKHOLD_KAFKA_PREFIX": kafka_prefix}
    with stockhold_up(data_dir, environment=environment) as up:
        found = monitors(up.facts)
        assert set(found) == {"sweeper", "relay", "worker-1", "publisher", "intake"}
        for url in found.values():
            ready = json.loads(get(f"{url}/readyz"))
            assert set(ready["checks"].values()) == {"ok"}
        for name, metric in {
            "relay": "stockhold_relay_lag_seconds",
            "worker-1": "stockhold_projection_commit_to_visible_seconds",
            "publisher": "stockhold_publisher_lag_events",
            "intake": "stockhold_intake_waiting_messages",
        }.items():
            assert [other for other, url in found.items() if f"\n{metric}" in get(f"{url}/metrics")] == [name]
        stopped = {name: up.pid_of(name) for name in ("relay", "worker-1", "publisher", "intake")}
        for pid in stopped.values():
            os.kill(pid, signal.SIGSTOP)
        put(f"{up.facts['command_url']}/v1/warehouses/W1", {"name": "One"})
        eventually(lambda: not any(map(is_running, stopped.values())), timeout_s=60)
        eventually(lambda: seen_by_a_reader(up), timeout_s=90, what="the view of what was written meanwhile")
        eventually(lambda: all(is_ready(url) for url in found.values()), timeout_s=90, what="all of them ready again")


def put(url: str, body: dict[str, Any]) -> None:
    headers = {"content-type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(url, json.dumps(body).encode(), headers, method="PUT"), timeout=20
    ) as answer:
        assert answer.status == 201


def seen_by_a_reader(up: Up) -> bool:
    items = json.loads(get(f"{up.facts['read_url']}/v1/warehouses"))["items"]
    return [item["name"] for item in items] == ["One"]


def is_ready(url: str) -> bool:
    try:
        return bool(json.loads(get(f"{url}/readyz"))["status"] == "ready")
    except (urllib.error.URLError, TimeoutError):
        return False


@pytest.mark.parametrize("name", BACKGROUND)
def test_one_that_stands_still_is_started_again(up: Up, module_data_dir: Path, name: str) -> None:
    def running() -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((module_data_dir / "running.json").read_text())
        return facts

    pid = next(int(one["pid"]) for one in running()["processes"] if one["name"] == name)
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: not is_running(pid), timeout_s=60)
    eventually(lambda: pid not in {one["pid"] for one in running()["processes"] if one["name"] == name}, timeout_s=60)
    assert monitors(running()) == monitors(up.facts)
    assert json.loads(get(f"{monitors(up.facts)[name]}/readyz"))["status"] == "ready"
