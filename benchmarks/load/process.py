"""Starts load processes and reads their results."""

import signal
import subprocess
import sys
from typing import Self

import msgspec

from benchmarks.errors import LoadFailedError
from benchmarks.load.plan import LoadResult, Plan

_GRACE_S = 120.0


class RunningLoad:
    """A load process at work; `result()` waits for its end."""

    def __init__(self, plan: Plan) -> None:
        self._seconds_max = (plan.seconds or 600.0) + _GRACE_S
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "benchmarks.load"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(plan))
        self._process.stdin.close()
        self._process.stdin = None

    def result(self) -> LoadResult:
        """Raises LoadFailedError."""
        try:
            output, errors = self._process.communicate(timeout=self._seconds_max)
        except subprocess.TimeoutExpired as error:
            self.stop()
            raise LoadFailedError(f"no result within {self._seconds_max:.0f} s") from error
        if self._process.returncode:
            raise LoadFailedError(errors.decode(errors="replace").strip().rpartition("\n")[2])
        return msgspec.json.decode(output, type=LoadResult)

    def finish_now(self) -> LoadResult:
        """The result so far: nothing more is sent, what is on its way is waited for. Raises LoadFailedError."""
        self._process.send_signal(signal.SIGTERM)
        return self.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


def run_load(plan: Plan) -> LoadResult:
    """Raises LoadFailedError."""
    with RunningLoad(plan) as load:
        return load.result()
