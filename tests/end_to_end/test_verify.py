"""`stockhold verify --data` on a folder: while its stack runs, and when it has stopped, with nothing left behind."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import psutil

from infra.embedded.folder import DataFolder
from tests.end_to_end.load import connected
from tests.support import STOCKHOLD, is_running, stockhold_up


def verify(folder: Path) -> dict[str, Any]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("STOCKHOLD_")}
    done = subprocess.run(
        [*STOCKHOLD, "verify", "--data", str(folder), "--json"],
        capture_output=True,
        text=True,
        check=False,
        env=env,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    facts: dict[str, Any] = json.loads(done.stdout)
    assert (facts["violations"], facts["differences"], facts["oversold"]) == (0, 0, 0)
    return facts


async def test_of_a_running_stack_and_of_a_stopped_one(data_dir: Path) -> None:
    with stockhold_up(data_dir) as up:
        async with connected(up.facts["command_url"]) as door:
            await door.put("/v1/warehouses/FRA1", {"name": "Frankfurt"})
            await door.post("/v1/stock/MUG-1/FRA1/restock", {"quantity": 50})
            for number in range(5):
                order = {"order_id": f"o-{number}", "lines": [{"sku": "MUG-1", "quantity": 3}], "ttl_seconds": 600}
                held = await door.post("/v1/reservations", order)
                assert held.status == 201
        running = verify(data_dir)
        assert (running["events"], running["items"], running["warehouses"], running["holds"]) == (8, 1, 1, 5)
        assert up.stop() == 0
    assert DataFolder(data_dir).read_running() is None
    before = {process.pid for process in psutil.process_iter()}
    stopped = verify(data_dir)
    assert {name: stopped[name] for name in ("events", "rows")} == {name: running[name] for name in ("events", "rows")}
    assert DataFolder(data_dir).read_running() is None
    left = [
        process for process in psutil.process_iter(["cwd"]) if process.pid not in before and is_running(process.pid)
    ]
    assert not [process for process in left if str(process.info["cwd"] or "").startswith(str(data_dir))]


def test_a_folder_without_a_stack_is_wrong_usage(data_dir: Path) -> None:
    done = subprocess.run(
        [*STOCKHOLD, "verify", "--data", str(data_dir)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "there is no stack" in done.stderr
