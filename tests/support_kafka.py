"""A real broker for the tests that ask for one: one for the session, of which each test has the topics of its own prefix.

    kafka         the broker's address, as STOCKHOLD_KAFKA_SERVERS has it
    kafka_prefix  before the names of this test's topics and groups, as STOCKHOLD_KAFKA_PREFIX has it

A test that uses them, or starts a broker of its own (`own_broker`), is marked `@pytest.mark.kafka`: marked tests are left
out where there is no Java or no Maven, and fail there if STOCKHOLD_REQUIRE_KAFKA=1.
"""

import functools
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.embedded.child import Child
from infra.embedded.folder import DataFolder
from infra.embedded.kafka import KafkaServer, kafka_server
from infra.kafka.java import BrokerProgram, broker_program, what_is_missing

JARS = os.environ.get("STOCKHOLD_KAFKA_JARS", "")
REQUIRED = os.environ.get("STOCKHOLD_REQUIRE_KAFKA", "") not in {"", "0"}


@functools.cache
def why_no_kafka() -> str | None:
    """What this machine lacks for a broker; None: nothing."""
    return what_is_missing(JARS)


@functools.cache
def program() -> BrokerProgram:
    return broker_program(JARS)


class OwnBroker:
    """A broker that a test may stop, kill and start again, on the same ports and the same data."""

    def __init__(self, server: KafkaServer) -> None:
        self.server = server
        self.servers = server.servers
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def begin(self) -> Child:
        """Start it and leave the waiting to the caller."""
        spec = self.server.spec()
        spec.prepare()
        self._child = Child(spec)
        return self._child

    def start(self) -> None:
        """Running: nothing to do. The calling thread must live as long as the broker shall."""
        if self._child is None or self._child.exit_code() is not None:
            self.kill()
            self.begin().wait_ready()

    def stop(self) -> None:
        """As SIGTERM does. Not running: nothing to do."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def kill(self) -> None:
        """As SIGKILL does."""
        if self._child is not None:
            self._child.kill()
            self._child = None


@contextmanager
def own_broker(data_dir: Path) -> Iterator[OwnBroker]:
    """A broker of the test's own, running at first. The calling thread must outlive the block."""
    folder = DataFolder(data_dir)
    with folder.locked():
        broker = OwnBroker(kafka_server(folder, program()))
        broker.start()
        try:
            yield broker
        finally:
            broker.stop()


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="stockhold-test-kafka-"))
    try:
        with own_broker(folder) as broker:
            yield broker.servers
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def kafka_prefix() -> str:
    return f"t{uuid.uuid4().hex[:10]}."


def last_line() -> str:
    """What `make test` ends with."""
    why = why_no_kafka()
    return f"passed; the tests of Kafka were left out: {why}" if why else "passed, the tests of Kafka among them"


if __name__ == "__main__":
    print(last_line())  # noqa: T201  (that is what it is run for)
