"""A background process of the stack, started alone, so that a case decides when it works."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Self

from benchmarks.errors import BenchFailedError
from benchmarks.metrics import Metrics
from benchmarks.options import StackFacts
from benchmarks.stack import environment

_STOP_S_MAX = 60.0


def servers_of(facts: StackFacts) -> dict[str, str]:
    """The environment that a command or a process of Stockhold finds these servers by."""
    return {
        "STOCKHOLD_EVENT_STORE_URL": facts.event_store_url,
        "STOCKHOLD_READ_MODEL_URL": facts.read_model_url,
        "STOCKHOLD_REDIS_URL": facts.redis_url,
        "STOCKHOLD_KAFKA_SERVERS": facts.kafka,
    }


def stockhold(*words: str) -> list[str]:
    return [sys.executable, "-P", "-m", "infra.cli.main", *words]


class Part:
    """`stockhold process NAME`, for a `with` block; it ends with us, however we end."""

    def __init__(self, name: str, servers: Mapping[str, str]) -> None:
        self.name = name
        port = _free_port()
        self._monitor = f"http://127.0.0.1:{port}"
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the end of the block
        lifeline, self._lifeline = os.pipe()
        own = {"STOCKHOLD_MONITOR_PORT": str(port), "STOCKHOLD_LIFELINE_FD": str(lifeline)}
        self._process = subprocess.Popen(  # noqa: S603 - our own command and arguments
            stockhold("process", name),
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            env=environment() | dict(servers) | own,
            pass_fds=(lifeline,),
            start_new_session=True,
        )
        os.close(lifeline)

    @property
    def pid(self) -> int:
        return self._process.pid

    def metrics(self) -> Metrics:
        """Raises BenchFailedError if the process has ended."""
        if self._process.poll() is not None:
            self._errors.seek(0)
            words = self._errors.read()[-2_000:].decode(errors="replace").strip()
            raise BenchFailedError(f"{self.name} has ended with {self._process.returncode}: {words}")
        return Metrics.of(self._monitor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()
        os.close(self._lifeline)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
