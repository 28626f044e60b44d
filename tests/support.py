"""Helpers that tests of every tier share: waiting for a condition, and a whole stack."""

import asyncio
import gc
import inspect
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar, overload

import psutil

STOCKHOLD = (sys.executable, "-m", "infra.cli.main")
DOWN_TIMEOUT_S = 60.0

T = TypeVar("T")
POLL_S = 0.01


def eventually(condition: Callable[[], T], timeout_s: float = 10.0, *, what: str = "") -> T:
    """Poll until `condition()` is truthy and return what it gave; AssertionError when the time is up.

    A condition that raises AssertionError counts as not yet true, and the last such error ends the message.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        value, problem = _try(condition)
        if value:
            return value
        if time.monotonic() > deadline_s:
            raise AssertionError(_message(what or _name(condition), timeout_s, value, problem))
        time.sleep(POLL_S)


@overload
async def eventually_async(condition: Callable[[], Awaitable[T]], timeout_s: float = ..., *, what: str = ...) -> T: ...
@overload
async def eventually_async(condition: Callable[[], T], timeout_s: float = ..., *, what: str = ...) -> T: ...
async def eventually_async(condition: Callable[[], Any], timeout_s: float = 10.0, *, what: str = "") -> Any:
    """The same on the event loop; the condition may be a plain function or a coroutine function."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        value: Any = None
        problem: AssertionError | None = None
        try:
            found = condition()
            value = await found if inspect.isawaitable(found) else found
        except AssertionError as error:
            problem = error
        if value:
            return value
        if time.monotonic() > deadline_s:
            raise AssertionError(_message(what or _name(condition), timeout_s, value, problem))
        await asyncio.sleep(POLL_S)


def _try(condition: Callable[[], T]) -> tuple[T | None, AssertionError | None]:
    try:
        return condition(), None
    except AssertionError as error:
        return None, error


def _name(condition: Callable[..., object]) -> str:
    return getattr(condition, "__qualname__", repr(condition))


def _message(what: str, timeout_s: float, value: object, problem: AssertionError | None) -> str:
    return f"not within {timeout_s:g} s: {what} (last: {problem if problem is not None else value!r})"


OURS = ("domain.", "write_side.", "projections.", "read_api.", "infra.")


@contextmanager
def nothing_for_the_collector() -> Iterator[None]:
    """AssertionError if what was done inside left cycles of our own objects behind.

    A process with caches never looks twice at what was there when it looked (decision 13): a cycle that is alive
    then is a leak for ever. Structs that hide from it (``gc=False``) are not seen; those hold nobody who could hold them.
    """
    gc.collect()
    gc.disable()
    try:
        yield
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = Counter(type(each).__qualname__ for each in gc.garbage if type(each).__module__.startswith(OURS))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not left, f"cycles that only the collector frees: {dict(left)}"


def is_running(pid: int) -> bool:
    """Whether the process lives: one that has ended and was not yet waited for does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class Up:
    """A `stockhold up --json` that this test started as a user would. `facts` is the line that it printed."""

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        self.process = process
        self._errors = errors
        self.facts: dict[str, Any] = {}

    def wait_up(self) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it did not come up: {self.errors()}"
        self.facts = json.loads(line)

    def pid_of(self, name: str) -> int:
        """Process id of a child at the time when the stack came up."""
        return next(int(one["pid"]) for one in self.facts["processes"] if one["name"] == name)

    def pids(self) -> list[int]:
        return [self.process.pid, *(int(one["pid"]) for one in self.facts["processes"])]

    def errors(self) -> str:
        """What it has written to standard error so far."""
        self._errors.seek(0)
        return self._errors.read().decode()

    def stop(self) -> int:
        """Stop it as an operator would, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DOWN_TIMEOUT_S)


@contextmanager
def stockhold_up(data_dir: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[Up]:
    """Run the whole stack on free ports; come back when it is up, and stop it at the end of the block.

    A test may stop or kill it earlier. If this process is killed, the stack goes too.
    """
    lifeline, ours = os.pipe()
    ports = ("--command-port", "0", "--read-port", "0")
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [*STOCKHOLD, "up", "--json", "--data", str(data_dir), *ports, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **(environment or {}), "STOCKHOLD_LIFELINE_FD": str(lifeline)},
            pass_fds=[lifeline],
            process_group=0,
        )
        os.close(lifeline)
        up = Up(process, errors)
        try:
            up.wait_up()
            yield up
        finally:
            if process.poll() is None:
                up.stop()
            os.close(ours)
            assert process.stdout is not None
            process.stdout.close()
