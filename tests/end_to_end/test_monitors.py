"""What the background processes of a whole stack show, and what becomes of one that stands still."""

import json
import os
import signal
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
        return answer.read().decode()


def test_every_background_process_has_a_monitor_of_its_own(up: Up) -> None:
    found = monitors(up.facts)
    assert set(found) == set(BACKGROUND)
    for url in found.values():
        assert url.startswith("http://127.0.0.1:")
        assert json.loads(get(f"{url}/healthz")) == {"status": "alive"}
        ready = json.loads(eventually(lambda url=url: get(f"{url}/readyz")))
        assert set(ready["checks"].values()) == {"ok"}
    assert "generations" in json.loads(get(f"{found['projector']}/readyz"))["checks"]
    assert "stockhold_projection_lag_events" in get(f"{found['projector']}/metrics")
    assert "stockhold_expired_holds_total" in get(f"{found['sweeper']}/metrics")


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
