"""The servers of `compose.yaml`, from the settings that it gives them: the same programs as in their images, started here."""

import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from infra.embedded.folder import DataFolder
from infra.embedded.kafka import KafkaServer
from infra.embedded.ports import free_server_port, free_server_ports
from infra.embedded.postgres import SETTINGS
from infra.embedded.valkey import binary
from infra.kafka.admin import ensure_topics
from infra.kafka.clients import consumer, producer, running
from infra.kafka.topics import Topics
from tests.support import eventually
from tests.support_compose import ROOT, services
from tests.support_kafka import OwnBroker, program

SERVICES = services()
NOT_OF_THE_BROKER = {"KAFKA_HEAP_OPTS"}
"""For the programs that start it."""


def test_postgresql_is_set_as_the_one_that_stockhold_up_runs() -> None:
    name, *options = SERVICES["postgres"]["command"]
    assert name == "postgres"
    for option in options:
        setting, value = option.removeprefix("--").replace("-", "_").split("=")
        assert SETTINGS[setting] == value


def test_the_broker_s_image_has_the_version_of_the_jars() -> None:
    version = re.search(
        r"<version>([\d.]+)</version>", (ROOT / "infra" / "kafka" / "pom.xml").read_text().split("kafka_2.13")[1]
    )
    assert version is not None
    assert SERVICES["kafka"]["image"].startswith(f"apache/kafka:{version[1]}@")


@pytest.fixture
def valkey(data_dir: Path) -> Iterator[int]:
    port = free_server_port()
    name, *options = SERVICES["valkey"]["command"]
    assert name == "valkey-server"
    process = subprocess.Popen(
        [str(binary()), *options, "--bind", "127.0.0.1", "--port", str(port)],
        cwd=data_dir,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield port
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_valkey_starts_as_it_is_told_to_and_is_behind_its_password(valkey: int, data_dir: Path) -> None:
    password = SERVICES["valkey"]["environment"]["REDISCLI_AUTH"]
    with closing(redis.Redis("127.0.0.1", valkey, password=password, decode_responses=True)) as client:

        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.ConnectionError:  # and BusyLoadingError, which is one
                return False

        eventually(answers)
        told = client.config_get("maxmemory-policy", "maxmemory", "save", "appendonly")
        assert told == {
            "maxmemory-policy": "noeviction",
            "maxmemory": str(768 * 1024**2),
            "save": "",
            "appendonly": "no",
        }
        client.set("key", "value")
    with closing(redis.Redis("127.0.0.1", valkey)) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    assert list(data_dir.iterdir()) == []


@dataclass(frozen=True)
class Composed(KafkaServer):
    """A broker with the settings of the composition, on other addresses."""

    environment: Mapping[str, str] = field(default_factory=dict)
    outside_port: int = 0

    def own_settings(self) -> dict[str, str]:
        """As the image turns variables into settings."""
        names = {
            name: name.removeprefix("KAFKA_")
            .lower()
            .replace("___", "-")
            .replace("__", "\0")
            .replace("_", ".")
            .replace("\0", "_")
            for name in self.environment
            if name.startswith("KAFKA_") and name not in NOT_OF_THE_BROKER
        }
        return {setting: self._mapped(self.environment[name]) for name, setting in names.items()}

    def _mapped(self, value: str) -> str:
        here = "127.0.0.1"
        for inside in ("0.0.0.0:9092", "kafka:9092"):
            value = value.replace(inside, f"{here}:{self.port}")
        for inside in ("0.0.0.0:29092", "127.0.0.1:29092"):
            value = value.replace(inside, f"{here}:{self.outside_port}")
        return value.replace("127.0.0.1:9093", f"{here}:{self.controller_port}")

    def _settings(self, storage: str) -> dict[str, str]:
        return self.own_settings() | {"log.dirs": str(storage)}


@pytest.fixture
def broker(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Composed]:
    environment = SERVICES["kafka"]["environment"]
    # The storage is formatted with the name that the composition gives to the cluster.
    monkeypatch.setattr("infra.embedded.kafka._new_cluster_id", lambda: environment["CLUSTER_ID"])
    folder = DataFolder(data_dir)
    with folder.locked():
        inside, outside, controller = free_server_ports(3)
        server = Composed(folder, inside, controller, program(), environment, outside)
        own = OwnBroker(server)
        own.start()
        try:
            yield server
        finally:
            own.stop()


@pytest.mark.kafka
async def test_kafka_starts_as_it_is_told_to_and_serves_both_networks(broker: Composed) -> None:
    inside, outside = broker.servers, f"127.0.0.1:{broker.outside_port}"
    admin = AIOKafkaAdminClient(bootstrap_servers=inside)
    try:
        await admin.start()
        (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.BROKER, "1")])
        (resource,) = answer.resources
        used = {entry[0]: entry[1] for entry in resource[4]}
    finally:
        await admin.close()
    wanted = {name: value for name, value in broker.own_settings().items() if name != "log.dirs"}
    assert {name: used.get(name) for name in wanted} == wanted, "a setting that Kafka does not know, or reads otherwise"

    topics = Topics("", int(SERVICES["relay"]["environment"]["STOCKHOLD_KAFKA_PARTITIONS"]))
    await ensure_topics(inside, topics.specs(), 1)
    async with (
        running(lambda: producer(outside, "this-machine"), outside) as sender,
        running(lambda: consumer(inside, None, "a-container"), inside) as reader,
    ):
        sent = await sender.send_and_wait(topics.named("order.placed"), b"an order", partition=3)
        reader.assign([sent.topic_partition])
        received = await reader.getone()
        assert (received.value, received.offset) == (b"an order", sent.offset)
