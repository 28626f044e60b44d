"""Stockhold as a customer starts it: `stockhold up --json`, stopped as a customer stops it."""

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import msgspec

from benchmarks.errors import StackUnreachableError
from benchmarks.options import StackFacts

_START_S_MAX = 120.0
_KAFKA_START_S_MAX = 900.0  # Maven may have to bring the broker first
_STOP_S_MAX = 60.0
_ADDRESSES = {
    "STOCKHOLD_EVENT_STORE_URL",
    "STOCKHOLD_READ_MODEL_URL",
    "STOCKHOLD_REDIS_URL",
    "STOCKHOLD_KAFKA_SERVERS",
    "STOCKHOLD_KAFKA_PREFIX",
}


class Parts(msgspec.Struct, frozen=True):
    """Which parts of the stack run: a case on the write side alone does not pay for the views."""

    name: str
    without: tuple[str, ...] = ()
    kafka: bool = False


WRITE_SIDE = Parts("write-side", without=("projector", "sweeper", "read-api"))
WRITE_SIDE_AND_SWEEPER = Parts("write-side-and-sweeper", without=("projector", "read-api"))
WHOLE = Parts("whole")
KAFKA_WHOLE = Parts("kafka-whole", kafka=True)
KAFKA_LOG = Parts(  # a case starts relay and worker itself, when it wants them
    "kafka-log", without=("sweeper", "read-api", "relay", "worker", "publisher", "intake"), kafka=True
)
KAFKA_INTAKE = Parts("kafka-intake", without=("sweeper", "read-api", "relay", "worker", "publisher"), kafka=True)


class Stack:
    """One running `stockhold up`, which ends with us, however we end. Raises StackUnreachableError when it does not come up."""

    def __init__(self, parts: Parts, data: Path, command_processes: int = 1) -> None:
        self.parts, self.command_processes = parts, command_processes
        self._start_s_max = _KAFKA_START_S_MAX if parts.kafka else _START_S_MAX
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - read when the start fails, closed by stop()
        lifeline, self._lifeline = os.pipe()
        self._process = subprocess.Popen(  # noqa: S603 - our own command and arguments
            self._command(data),
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment() | {"STOCKHOLD_LIFELINE_FD": str(lifeline)},
            pass_fds=(lifeline,),
            start_new_session=True,
        )
        os.close(lifeline)
        try:
            self.facts = msgspec.json.decode(self._first_line(), type=StackFacts)
        except BaseException:
            self.stop()
            raise

    def _command(self, data: Path) -> Sequence[str]:
        without = [word for part in self.parts.without for word in ("--without", part)]
        ports = ("--command-port", "0", "--read-port", "0", "--command-processes", str(self.command_processes))
        return [
            sys.executable,
            "-P",
            "-m",
            "infra.cli.main",
            "up",
            "--json",
            "--data",
            str(data),
            *ports,
            *without,
            *["--kafka"] * self.parts.kafka,
        ]

    def _first_line(self) -> bytes:
        assert self._process.stdout is not None
        output, line, deadline = self._process.stdout.fileno(), b"", time.monotonic() + self._start_s_max
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while b"\n" not in line:
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                piece = os.read(output, 65_536) if ready else b""
                if not piece:
                    raise StackUnreachableError(f"`stockhold up` did not come up: {self._last_words()}")
                line += piece
        return line

    def _last_words(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-2_000:].decode(errors="replace").strip() or "it said nothing"

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_S_MAX)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()
        os.close(self._lifeline)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def environment() -> dict[str, str]:
    """Without the addresses of anybody's own servers: a benchmark fills, and empties, only what it started."""
    return {name: value for name, value in os.environ.items() if name not in _ADDRESSES}
