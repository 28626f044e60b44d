"""Apache Kafka as a local process: one broker that is its own controller, in a data folder, on loopback ports."""

import base64
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from infra.embedded.child import GUARD, ChildSpec
from infra.embedded.errors import StartFailedError
from infra.embedded.folder import DataFolder, write_private
from infra.embedded.leftover import wait_until_left
from infra.embedded.ports import LOOPBACK, free_server_ports
from infra.embedded.service_user import let_reach
from infra.kafka.java import BrokerProgram
from infra.kafka.probe import broker_answers, coordinator_answers

FORMAT_TIMEOUT_S = 120
STORAGE = "data"
HEAP_MB = 512
FORMAT_HEAP_MB = 128
ONE_BROKER = {
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
}
# For one machine of two cores, on which Kafka is one server of three.
SMALL = {
    "num.network.threads": "2",
    "num.io.threads": "4",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "4",
    "log.cleaner.dedupe.buffer.size": "16777216",
    "log.index.size.max.bytes": "1048576",  # its files are made in full for every partition
}
SETTINGS = {
    **ONE_BROKER,
    **SMALL,
    "auto.create.topics.enable": "false",  # a topic has the partitions that we give it, or none
    "group.initial.rebalance.delay.ms": "0",  # nobody else is coming: a group works as soon as it has a member
    "offsets.retention.minutes": str(30 * 24 * 60),  # a stack may be off for a month and go on where it was
}
LOGGING = """\
Configuration:
  status: error
  Appenders:
    Console:
      name: console
      target: SYSTEM_OUT
      PatternLayout:
        pattern: "%d{yyyy-MM-dd'T'HH:mm:ss.SSSX}{UTC} %p %c{1}: %m%n"
  Loggers:
    Root:
      level: warn
      AppenderRef:
        ref: console
    Logger:
      - name: kafka.server.KafkaRaftServer
        level: info
      - name: org.apache.kafka.common.config
        level: error
"""


@dataclass(frozen=True)
class KafkaServer:
    """The broker in `folder`/kafka; `kafka_server` makes one on free ports.

    What it has acknowledged survives its own death, but it does not wait for the disk: after the machine's death the last
    seconds may be gone. The log in PostgreSQL is the truth, and the relay publishes from it again.
    """

    folder: DataFolder
    port: int
    controller_port: int
    program: BrokerProgram

    @property
    def home(self) -> Path:
        return self.folder.path / "kafka"

    @property
    def servers(self) -> str:
        """What clients are told: STOCKHOLD_KAFKA_SERVERS."""
        return f"{LOOPBACK}:{self.port}"

    def spec(self) -> ChildSpec:
        return ChildSpec(
            name="kafka",
            argv=self._java(HEAP_MB, "kafka.Kafka", "server.properties"),
            env=_environment(),
            # Where a process stands tells whose it is. And its files are named from here: settings know no commas in a path.
            cwd=self.home,
            user=self.folder.user,
            prepare=self.prepare,
            check_ready=self.answers,
            ready_timeout_s=120.0,  # after a crash it reads its segments again
            stop_signal=signal.SIGTERM,
            stop_timeout_s=30.0,
            death_signal=signal.SIGKILL,
            log_path=self.folder.log_path("kafka"),
        )

    def prepare(self) -> None:
        """Write the settings, and format the storage if there is none. Raises StartFailedError, DataFolderError."""
        self.folder.server_folder("kafka")
        if self.folder.user is not None:
            for place in (self.program.java.resolve().parent, self.program.jars):
                let_reach(self.folder.user, place)
        wait_until_left(self.home, "java")
        self._write("log4j2.yaml", LOGGING)
        if not (self.home / STORAGE).exists():
            self._format()
        self._write("server.properties", _properties(self._settings(STORAGE)))

    def _settings(self, storage: str) -> dict[str, str]:
        client, controller = self.servers, f"{LOOPBACK}:{self.controller_port}"
        return {
            **SETTINGS,
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"CLIENT://{client},CONTROLLER://{controller}",
            "advertised.listeners": f"CLIENT://{client}",
            "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "CLIENT",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": storage,
        }

    def _format(self) -> None:
        """Beside the final place and moved there whole, so that an interrupted one leaves no half."""
        beside = self.home / f"{STORAGE}.new"
        shutil.rmtree(beside, ignore_errors=True)
        self._write("format.properties", _properties(self._settings(beside.name)))
        guard = [sys.executable, "-I", "-S", str(GUARD)]
        guard += ["--parent", str(os.getpid()), "--death-signal", str(int(signal.SIGKILL))]
        if self.folder.user is not None:
            guard += ["--user", f"{self.folder.user.uid}:{self.folder.user.gid}"]
        words = ["format", "--cluster-id", _new_cluster_id(), "--config", "format.properties"]
        done = subprocess.run(  # noqa: S603  (Kafka's own program)
            [*guard, "--", *self._java(FORMAT_HEAP_MB, "kafka.tools.StorageTool", *words)],
            capture_output=True,
            text=True,
            check=False,
            timeout=FORMAT_TIMEOUT_S,
            cwd=self.home,
            env={**os.environ, **_environment()},
            start_new_session=True,
        )
        if done.returncode != 0:
            raise StartFailedError(f"Kafka's storage could not be formatted: {(done.stderr or done.stdout).strip()}")
        beside.rename(self.home / STORAGE)

    def _java(self, heap_mb: int, main_class: str, *words: str) -> list[str]:
        options = [f"-Xmx{heap_mb}m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError"]
        # The quick compiler alone: up with two thirds of the work, and still faster than any client in Python.
        options += ["-XX:TieredStopAtLevel=1"]
        options += ["-XX:-UsePerfData", "-Djava.awt.headless=true", "-Djava.net.preferIPv4Stack=true"]
        options += ["-Dlog4j2.configurationFile=log4j2.yaml"]
        return [str(self.program.java), *options, "-cp", f"{self.program.jars}/*", main_class, *words]

    def _write(self, name: str, text: str) -> None:
        path = self.home / name
        write_private(path, text)
        self.folder.give(path)

    def answers(self) -> bool:
        """Whether it takes work by now: messages, and members of groups."""
        with suppress(OSError):
            return broker_answers(LOOPBACK, self.port) and coordinator_answers(LOOPBACK, self.port)
        return False


def kafka_server(folder: DataFolder, program: BrokerProgram) -> KafkaServer:
    """A broker on two free ports, which are its own for as long as this object is used."""
    port, controller_port = free_server_ports(2)
    return KafkaServer(folder, port, controller_port, program)


def _new_cluster_id() -> str:
    """As Kafka makes them: a UUID in 22 letters, of which the first must not look like the start of an option."""
    while (name := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return name


def _properties(settings: Mapping[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def _environment() -> dict[str, str]:
    """Options of the person who starts us must not reach the server's Java, which reads paths as the locale says."""
    options = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "CLASSPATH")
    return {**{name: "" for name in options if name in os.environ}, "LC_ALL": "C.UTF-8"}
