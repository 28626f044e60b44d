"""`stockhold up --kafka`, whole: an order comes in and is answered by Kafka, whatever is killed meanwhile.

The tests of this module share one stack; the last one stops it.
"""

import asyncio
import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiokafka import AIOKafkaConsumer

from infra.embedded.folder import DataFolder
from infra.kafka.clients import consumer, producer, running
from infra.kafka.partitions import partition_of_sku
from tests.support import STOCKHOLD, Up, eventually, eventually_async, is_running, stockhold_up
from tests.support_intake import about, encoded, placed

pytestmark = pytest.mark.kafka
BACKGROUND = ["relay", "worker-1", "worker-2", "publisher", "intake", "sweeper"]
NAMES = ["kafka", "postgres", "valkey", *BACKGROUND, "command-api-1", "read-api-1"]
PATIENCE_S = 60


@pytest.fixture(scope="module")
def up(module_data_dir: Path) -> Iterator[Up]:
    with stockhold_up(module_data_dir, "--kafka", "--worker-processes", "2") as started:
        yield started


def call(method: str, url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def restock(up: Up, sku: str, quantity: int) -> int:
    """The item's version after it."""
    url = up.facts["command_url"]
    call("PUT", f"{url}/v1/warehouses/W1", {})
    return int(call("POST", f"{url}/v1/stock/{sku}/W1/restock", {"quantity": quantity})["version"])


def read(up: Up, path: str) -> dict[str, Any]:
    """What the read API shows; nothing of what the views do not know yet."""
    try:
        found: dict[str, Any] = call("GET", up.facts["read_url"] + path)
    except urllib.error.HTTPError as error:
        with error:
            if error.code != HTTPStatus.NOT_FOUND:
                raise
        return {}
    return found


def level(up: Up, sku: str) -> dict[str, Any]:
    return read(up, f"/v1/stock/{sku}/W1")


def status_of(up: Up, reservation_id: str) -> str | None:
    return read(up, f"/v1/reservations/{reservation_id}").get("status")


def pids_now(data_dir: Path) -> dict[str, int]:
    facts = DataFolder(data_dir).read_running()
    assert facts is not None
    processes = facts["processes"]
    assert isinstance(processes, list)
    return {one["name"]: one["pid"] for one in processes}


async def send(up: Up, *events: dict[str, Any]) -> None:
    async with running(lambda: producer(up.facts["kafka"], "shop"), up.facts["kafka"]) as sender:
        for event in events:
            await sender.send_and_wait(event["type"], encoded(event), key=event["data"]["order_id"].encode())


async def told(receiver: AIOKafkaConsumer, *wanted: tuple[str, str]) -> None:
    """Read until each (type, order) has come; messages of different orders come in any order."""
    missing = set(wanted)
    async with asyncio.timeout(PATIENCE_S):
        while missing:
            message = await receiver.getone()
            missing.discard((json.loads(message.value)["type"], message.key.decode()))


def test_every_process_of_it_runs_and_only_this_machine_gets_in(up: Up) -> None:
    assert [one["name"] for one in up.facts["processes"]] == NAMES
    listening = {
        connection.laddr.ip
        for pid in up.pids()
        for connection in psutil.Process(pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


async def test_an_order_comes_in_is_answered_and_shows_in_the_views(up: Up) -> None:
    restock(up, "TEA", 10)
    servers = up.facts["kafka"]
    async with running(lambda: consumer(servers, None, "shop"), servers) as receiver:
        receiver.subscribe(["inventory.reserved", "inventory.reservation-rejected", "inventory.committed"])
        await send(up, placed("o1", ("TEA", 4, "W1")), placed("o2", ("TEA", 40, "W1")))
        await told(receiver, ("inventory.reserved", "o1"), ("inventory.reservation-rejected", "o2"))
        await send(up, about("payment.authorized", "o1"))
        await told(receiver, ("inventory.committed", "o1"))
    await send(up, about("order.shipped", "o1"))
    await eventually_async(lambda: status_of(up, "o1") == "SHIPPED", PATIENCE_S)
    assert status_of(up, "o2") is None
    # The cache, which levels are read from, follows the tables.
    wanted = {"on_hand": 6, "sold": 4, "available": 6}
    await eventually_async(lambda: wanted.items() <= level(up, "TEA").items(), PATIENCE_S)


async def test_a_broker_that_is_killed_is_back_and_nothing_is_lost(up: Up, module_data_dir: Path) -> None:
    restock(up, "CUP", 1)
    killed = pids_now(module_data_dir)["kafka"]
    os.kill(killed, signal.SIGKILL)
    for _ in range(20):  # the write side needs no Kafka
        version = restock(up, "CUP", 1)
    await eventually_async(lambda: pids_now(module_data_dir).get("kafka", killed) != killed, PATIENCE_S)
    await eventually_async(lambda: level(up, "CUP").get("version") == version, PATIENCE_S)
    await send(up, placed("o3", ("CUP", 21, "W1")))
    await eventually_async(lambda: status_of(up, "o3") == "ACTIVE", PATIENCE_S)


async def test_every_process_that_stands_on_kafka_is_back_after_kill_9(up: Up, module_data_dir: Path) -> None:
    skus = [f"SKU-{number}" for number in range(40)]
    assert {partition_of_sku(sku, 8) for sku in skus} == set(range(8)), "work for both workers"
    # Who met the end of the broker may be between two lives.
    await eventually_async(lambda: set(NAMES) <= set(pids_now(module_data_dir)), PATIENCE_S)
    killed = {name: pids_now(module_data_dir)[name] for name in BACKGROUND if name != "sweeper"}
    for pid in killed.values():
        os.kill(pid, signal.SIGKILL)
    versions = {sku: restock(up, sku, 5) for sku in skus}
    await send(up, placed("o4", *((sku, 5, "W1") for sku in skus)))
    await eventually_async(lambda: status_of(up, "o4") == "ACTIVE", PATIENCE_S)
    reserved = {sku: version + 1 for sku, version in versions.items()}
    await eventually_async(lambda: {sku: level(up, sku).get("version") for sku in skus} == reserved, PATIENCE_S)
    now = pids_now(module_data_dir)
    assert all(now[name] != pid for name, pid in killed.items())


def test_it_is_verified_and_stops_and_nothing_is_left(up: Up, module_data_dir: Path) -> None:
    verified = subprocess.run(
        [*STOCKHOLD, "verify", "--data", str(module_data_dir), "--json"], capture_output=True, text=True, check=False
    )
    assert verified.returncode == 0, verified.stderr + verified.stdout
    pids = [up.process.pid, *pids_now(module_data_dir).values()]
    assert up.stop() == 0
    assert not [pid for pid in pids if is_running(pid)]
    eventually(lambda: not [one for one in psutil.process_iter(["cwd"]) if _in(one, module_data_dir)])


def _in(process: psutil.Process, folder: Path) -> bool:
    return is_running(process.pid) and str(process.info["cwd"] or "").startswith(str(folder))
