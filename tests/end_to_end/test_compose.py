"""The composition without a container engine: each of our services from the very files, command and environment that
the Dockerfile and `compose.yaml` give it, and an order through the whole of it.

What is not shown here is what an engine would do: building the image, its network and volumes, limits, a file system
that cannot be written to, the user; and the images of others (their health checks are run where their programs are here).
"""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec
import psycopg
import pytest
import redis
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from psycopg import sql

from infra.embedded.postgres import binary
from infra.embedded.servers import ServerUrls, embedded_servers
from infra.kafka.topics import Topics
from tests.end_to_end.load import Door, connected
from tests.support import eventually_async
from tests.support_compose import Service, services
from tests.support_containers import Containers, command_of, containers, memory_limit
from tests.support_intake import about, encoded, placed

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(400)]

POSTGRES, VALKEY, KAFKA = "postgres:5432", "valkey:6379", "kafka:9092"


@pytest.fixture(scope="module")
def own(module_data_dir: Path) -> Iterator[ServerUrls]:
    """Servers with the composition's passwords, as the images make them from their environment."""
    found = services()
    with embedded_servers(module_data_dir) as urls:
        password = found["postgres"]["environment"]["POSTGRES_PASSWORD"]
        with psycopg.connect(urls.event_store_url, autocommit=True) as connection:
            connection.execute(sql.SQL("ALTER ROLE stockhold PASSWORD {}").format(sql.Literal(password)))
        with redis.Redis.from_url(urls.redis_url) as client:
            client.config_set("requirepass", found["valkey"]["command"][-1])
        yield urls


@pytest.fixture
def composed(own: ServerUrls, kafka: str, kafka_prefix: str) -> Iterator[Containers]:
    found = services()
    for service in found.values():
        if "STOCKHOLD_KAFKA_SERVERS" in service["environment"]:
            # The broker is every test's: the one thing that is added.
            service["environment"] = service["environment"] | {"STOCKHOLD_KAFKA_PREFIX": kafka_prefix}
    places = {POSTGRES: _address(own.event_store_url), VALKEY: _address(own.redis_url), KAFKA: kafka}
    servers = {
        "postgres": lambda: _postgres_is_healthy(found["postgres"], places[POSTGRES]),
        "valkey": lambda: _valkey_is_healthy(found["valkey"], places[VALKEY]),
        "kafka": lambda: _kafka_is_healthy(found["kafka"], places[KAFKA]),
    }
    with containers(found, places, servers) as run:
        yield run


def _address(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}"


def _port(address: str) -> str:
    return address.rpartition(":")[2]


def _postgres_is_healthy(service: Service, address: str) -> bool:
    name, *words = command_of(service, {"--port=5432": f"--port={_port(address)}"})
    return subprocess.run([str(binary(name)), *words], capture_output=True, check=False).returncode == 0


def _valkey_is_healthy(service: Service, address: str) -> bool:
    """Its check asks with a program that is not here; this asks the same with the same password."""
    host, _, port = address.partition(":")
    with redis.Redis(host, int(port), password=service["environment"]["REDISCLI_AUTH"]) as client:
        return bool(client.ping())


def _kafka_is_healthy(service: Service, address: str) -> bool:
    words = command_of(service, {"127.0.0.1/9092": f"127.0.0.1/{_port(address)}"})
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


class Saga:
    """Whoever takes orders, authorizes payments and ships: on Kafka alone."""

    def __init__(self, servers: str, prefix: str) -> None:
        self._servers = servers
        self._topics = Topics(prefix, 8)
        self._heard: set[tuple[str, str]] = set()

    async def __aenter__(self) -> Self:
        self._producer = AIOKafkaProducer(bootstrap_servers=self._servers, acks="all")
        heard = [self._topics.named(name) for name in ("inventory.reserved", "inventory.committed")]
        self._consumer = AIOKafkaConsumer(*heard, bootstrap_servers=self._servers, auto_offset_reset="earliest")
        await self._producer.start()
        await self._consumer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()
        await self._producer.stop()

    async def says(self, event: dict[str, Any]) -> None:
        topic = self._topics.named(event["type"])
        await self._producer.send_and_wait(topic, encoded(event), key=event["data"]["order_id"].encode())

    async def hears(self, kind: str) -> dict[str, Any]:
        """The next message that is no repeat: whatever is killed, each is told at least once."""
        while True:
            async with asyncio.timeout(60):
                record = await self._consumer.getone()
            event: dict[str, Any] = msgspec.json.decode(record.value)
            assert record.topic == self._topics.named(event["type"])
            assert record.key == event["data"]["order_id"].encode()
            if (event["type"], event["id"]) not in self._heard:
                break
        self._heard.add((event["type"], event["id"]))
        assert event["type"] == kind
        return event


async def stocked(door: Door) -> None:
    built = await door.put("/v1/warehouses/FRA1", {"name": "Frankfurt"})
    assert built.status == 201
    filled = await door.post("/v1/stock/TEA/FRA1/restock", {"quantity": 10})
    assert (filled.status, filled.json["available"]) == (200, 10)


async def an_order(composed: Containers, saga: Saga, order: str, left: int) -> None:
    """From the first message to what a customer is shown: three units shipped, and as many `left`."""
    await saga.says(placed(order, ("TEA", 3, "FRA1")))
    assert (await saga.hears("inventory.reserved"))["data"]["order_id"] == order
    await saga.says(about("payment.authorized", order))
    assert (await saga.hears("inventory.committed"))["data"]["order_id"] == order
    await saga.says(about("order.shipped", order))
    async with connected(composed.url("read-api")) as window:

        async def shipped() -> bool:
            seen = await window.get(f"/v1/reservations/{order}")
            assert seen.status == 200, seen.json
            assert seen.json["status"] == "SHIPPED", seen.json
            level = await window.get("/v1/availability/TEA")
            assert (level.json["available"], level.json["source"]) == (left, "redis"), level.json
            return True

        await eventually_async(shipped, 60, what="the read API shows the shipped order")


async def test_an_order_through_the_whole_composition(composed: Containers, kafka: str, kafka_prefix: str) -> None:
    before: dict[str, int] = composed.image.files()
    await asyncio.to_thread(composed.up)
    names = {container.name for container in composed.processes()}
    assert names == {
        "command-api-1",
        "sweeper-1",
        "relay-1",
        "worker-1",
        "worker-2",
        "publisher-1",
        "intake-1",
        "read-api-1",
    }
    async with connected(composed.url("command-api")) as door, Saga(kafka, kafka_prefix) as saga:
        await stocked(door)
        await an_order(composed, saga, "order-1", left=7)
        for name in ("relay", "worker", "publisher", "intake"):
            composed.running[name][0].dies()
        await an_order(composed, saga, "order-2", left=4)
    await asyncio.to_thread(composed.wait)

    for words in (["verify", "--json"], ["doctor", "--json"]):
        code, said = await asyncio.to_thread(composed.run, "stockhold", *words)
        assert code == 0, said
    for container in composed.processes():
        assert container.listening() == expected_ports(container.name, container.ports)
        assert container.resident_bytes() < memory_limit(container.service), container.name
    stopped = await asyncio.to_thread(composed.down)
    assert stopped == dict.fromkeys(names, 0)
    assert composed.image.files() == before, "a container has nowhere to write but its temporary folder"


def expected_ports(name: str, ports: dict[str, str]) -> set[tuple[str, str]]:
    inside = {"command-api-1": "8000", "read-api-1": "8001"}.get(name, "9000")
    return {("127.0.0.1", ports[inside])}
