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
_STOP_S_MAX = 60.0


class Parts(msgspec.Struct, frozen=True):
    """Which parts of the stack run: a case on the write side alone does not pay for the views."""

    name: str
    without: tuple[str, ...] = ()
    read_processes: int = 1


WRITE_SIDE = Parts("write-side", without=("projector", "sweeper"), read_processes=0)
WRITE_SIDE_AND_SWEEPER = Parts("write-side-and-sweeper", without=("projector",), read_processes=0)
WHOLE = Parts("whole")


class Stack:
    """One running `stockhold up`. Raises StackUnreachableError when it does not come up."""

    def __init__(self, parts: Parts, data: Path, command_processes: int = 1) -> None:
        self.parts, self.command_processes = parts, command_processes
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - read when the start fails, closed by stop()
        self._process = subprocess.Popen(  # noqa: S603 - our own command and arguments
            self._command(data), stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True
        )
        try:
            self.facts = msgspec.json.decode(self._first_line(), type=StackFacts)
        except BaseException:
            self.stop()
            raise

    def _command(self, data: Path) -> Sequence[str]:
        without = [word for part in self.parts.without for word in ("--without", part)]
        ports = ("--command-port", "0", "--read-port", "0")
        processes = (
            *("--command-processes", str(self.command_processes)),
            *("--read-processes", str(self.parts.read_processes)),
        )
        up = ("up", "--json", "--data", str(data), *ports, *processes, *without)
        return [sys.executable, "-m", "infra.cli.main", *up]

    def _first_line(self) -> bytes:
        assert self._process.stdout is not None
        output, line, deadline = self._process.stdout.fileno(), b"", time.monotonic() + _START_S_MAX
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
