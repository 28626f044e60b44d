"""One child process: how it is started, when it counts as ready, how it is ended."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from infra.embedded.errors import StartFailedError
from infra.embedded.service_user import ServiceUser

GUARD = Path(__file__).with_name("guard.py")
POLL_S = 0.02
LOG_TAIL_LINES = 12
# PR_SET_PDEATHSIG is Linux's own; everywhere else a keeper process watches a pipe.
KERNEL_WATCHES_PARENT = sys.platform == "linux"


def nothing() -> None:
    """The default for a step that a child does not need."""


def always() -> bool:
    """The default for a child that needs no servers outside."""
    return True


@dataclass(frozen=True)
class ChildSpec:
    """What to run and how to treat it.

    `prepare` runs before every start, `check_ready` (None: the child writes to STOCKHOLD_READY_FD) says when it works,
    and may block for a moment; both run in a thread. `after_ready` runs once each time it became ready, before anyone
    is told. `needs` names children without which it cannot work: it is started when they are ready. `outside_answers`
    says, in a thread, whether the servers that are nobody's children answer: without them it may fail as often as it
    will. `log_path` takes its output; None: our standard error. On `monitor_socket` it answers whether it still lives. Times in seconds.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    user: ServiceUser | None = None
    listen_socket: socket.socket | None = None
    monitor_socket: socket.socket | None = None
    needs: tuple[str, ...] = ()
    outside_answers: Callable[[], bool] = always
    prepare: Callable[[], None] = nothing
    check_ready: Callable[[], bool] | None = None
    after_ready: Callable[[], None] = nothing
    ready_timeout_s: float = 30.0
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout_s: float = 15.0
    death_signal: signal.Signals = signal.SIGKILL
    log_path: Path | None = None
    watched_by_kernel: bool = KERNEL_WATCHES_PARENT


class Child:
    """A started process of a spec. Not restarted here: a restart is a new Child."""

    def __init__(self, spec: ChildSpec) -> None:
        """Start it. The calling thread must live as long as the child shall: on Linux the child dies with it."""
        self.spec = spec
        self.started_at_s = time.monotonic()
        self._ready_fd, ready_write = os.pipe()
        lifeline_read, self._lifeline_fd = os.pipe()
        os.set_blocking(self._ready_fd, False)
        self._descriptors = [self._ready_fd, self._lifeline_fd]
        try:
            self._process = self._spawn(ready_write, lifeline_read)
        except BaseException:
            self._close()
            raise
        finally:
            os.close(ready_write)
            os.close(lifeline_read)

    def _spawn(self, ready_fd: int, lifeline_fd: int) -> subprocess.Popen[bytes]:
        spec = self.spec
        guard = [sys.executable, "-I", "-S", str(GUARD)]
        guard += ["--parent", str(os.getpid()), "--death-signal", str(int(spec.death_signal))]
        if spec.user is not None:
            guard += ["--user", f"{spec.user.uid}:{spec.user.gid}"]
        if not spec.watched_by_kernel:
            guard += ["--lifeline", str(lifeline_fd)]
        inherited = [ready_fd, lifeline_fd]
        env = {**os.environ, **spec.env, "STOCKHOLD_READY_FD": str(ready_fd), "STOCKHOLD_LIFELINE_FD": str(lifeline_fd)}
        for name, listener in (("LISTEN", spec.listen_socket), ("MONITOR", spec.monitor_socket)):
            if listener is not None:
                inherited.append(listener.fileno())
                env[f"STOCKHOLD_{name}_FD"] = str(listener.fileno())
        with contextlib.ExitStack() as files:
            output: int = sys.__stderr__.fileno() if sys.__stderr__ is not None else subprocess.DEVNULL
            if spec.log_path is not None:
                output = files.enter_context(spec.log_path.open("ab")).fileno()
            # A session of its own: Ctrl-C in the terminal reaches the supervisor alone, which stops children in order.
            return subprocess.Popen(  # noqa: S603  (the program is ours)
                [*guard, "--", *spec.argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=env,
                cwd=spec.cwd,
                pass_fds=inherited,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        """None while it runs; negative: the number of the signal that ended it."""
        return self._process.poll()

    def is_ready(self) -> bool:
        if self.spec.check_ready is not None:
            return self.spec.check_ready()
        with contextlib.suppress(BlockingIOError):
            return os.read(self._ready_fd, 16).startswith(b"ready")
        return False

    def check_start(self) -> None:
        """Raise StartFailedError once it cannot become ready any more."""
        spec = self.spec
        if (code := self.exit_code()) is not None:
            raise StartFailedError(f"{spec.name} ended while it was starting ({describe_exit(code)}){self.log_tail()}")
        if time.monotonic() - self.started_at_s > spec.ready_timeout_s:
            raise StartFailedError(f"{spec.name} was not ready within {spec.ready_timeout_s:g} s{self.log_tail()}")

    def log_tail(self) -> str:
        """The last lines of its log as the end of a message; empty if it has none of its own."""
        if self.spec.log_path is None:
            return ""
        lines = self.spec.log_path.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n  ".join([f"; {self.spec.log_path} ends with:", *lines])

    def send_stop(self) -> None:
        self._process.send_signal(self.spec.stop_signal)

    def force(self) -> None:
        """Order its end, and that of what it started in its session, without waiting for it."""
        if self.exit_code() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def kill(self) -> None:
        """End it at once if it still runs, and free what is held for it."""
        self.force()
        self._process.wait()
        self._close()

    def _close(self) -> None:
        """Close each descriptor once: by a second time its number could be somebody else's."""
        while self._descriptors:
            os.close(self._descriptors.pop())

    def wait_ready(self) -> None:
        """Block until it is ready. Raises StartFailedError, and then it is not running any more."""
        try:
            while not self.is_ready():
                self.check_start()
                time.sleep(POLL_S)
            self.spec.after_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Block until it has stopped, asked first and then forced."""
        self.send_stop()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(self.spec.stop_timeout_s)
        self.kill()


def describe_exit(code: int) -> str:
    """`exit code 3`, or `signal SIGKILL` for a negative one."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
