"""The service under the demo: a stack of its own, started as a user would start it, or one that runs already."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from demo.client import Urls
from demo.errors import NOT_REACHABLE, DemoError
from demo.kafka_door import Brokers

STOCKHOLD = (sys.executable, "-m", "infra.cli.main")
SERVER_URLS = {
    "event_store_url": "STOCKHOLD_EVENT_STORE_URL",
    "read_model_url": "STOCKHOLD_READ_MODEL_URL",
    "redis_url": "STOCKHOLD_REDIS_URL",
}
KAFKA_SERVERS, KAFKA_PREFIX = "STOCKHOLD_KAFKA_SERVERS", "STOCKHOLD_KAFKA_PREFIX"
NOT_OF_OWN_STACK = {*SERVER_URLS.values(), KAFKA_SERVERS, KAFKA_PREFIX}
START_S_MAX = 120.0
KAFKA_START_S_MAX = 900.0  # Maven may have to bring the broker first
STOP_S_MAX = 60.0
LOG_LINES = 30


@dataclass(frozen=True)
class Stack:
    """A running stack: where its APIs are, how to have it verified, and whether nobody else uses it.

    `brokers`: of Kafka, if orders are to come in through it.
    """

    urls: Urls
    is_own: bool
    environment: Mapping[str, str] = field(repr=False)  # has passwords
    stockhold: Sequence[str] = STOCKHOLD
    brokers: Brokers | None = None

    def verify(self) -> dict[str, Any]:
        """What `stockhold verify --json` says. Raises DemoError if it could not do its work."""
        found = subprocess.run(  # noqa: S603  (our own command)
            [*self.stockhold, "verify", "--json"],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if found.returncode not in {0, 1} or not found.stdout.strip():
            raise DemoError(f"`stockhold verify` ended with {found.returncode}.\n{found.stderr}", NOT_REACHABLE)
        report: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
        return report


class StartingStack:
    """`stockhold up`, on its way: the demo reads its baskets meanwhile."""

    def __init__(self, folder: Path, stockhold: Sequence[str] = STOCKHOLD, *, kafka: bool = False) -> None:
        self._stockhold = stockhold
        self._start_s_max = KAFKA_START_S_MAX if kafka else START_S_MAX
        self._environment = {name: value for name, value in os.environ.items() if name not in NOT_OF_OWN_STACK}
        words = ["up", "--json", "--data", str(folder / "data"), "--command-port", "0", "--read-port", "0"]
        self._log = folder / "up.log"
        # If the demo is killed, this end of the pipe closes, and the stack knows that nobody wants it any more.
        lifeline, self._lifeline = os.pipe()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603  (our own command)
                [*stockhold, *words, *["--kafka"] * kafka],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**self._environment, "STOCKHOLD_LIFELINE_FD": str(lifeline)},
                pass_fds=[lifeline],
                # Ctrl-C shall reach the demo alone, which then stops the stack: first the customers, then the shop.
                process_group=0,
            )
        os.close(lifeline)

    def wait_ready(self) -> Stack:
        """Raises DemoError with the end of the stack's log if it does not come up."""
        line = self._first_line()
        if line is None:
            raise DemoError(f"The stack did not start.\n{self._log_end()}", NOT_REACHABLE)
        facts = json.loads(line)
        environment = self._environment | {variable: facts[name] for name, variable in SERVER_URLS.items()}
        urls = Urls(facts["command_url"], facts["read_url"])
        brokers = Brokers(facts["kafka"]) if "kafka" in facts else None
        return Stack(urls, is_own=True, environment=environment, stockhold=self._stockhold, brokers=brokers)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            os.close(self._lifeline)
            if self._process.stdout:
                self._process.stdout.close()

    def _first_line(self) -> bytes | None:
        output = self._process.stdout
        assert output is not None
        ready, _, _ = select.select([output], [], [], self._start_s_max)
        return (output.readline() or None) if ready else None

    def _log_end(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-LOG_LINES:])


@contextmanager
def own_stack(stockhold: Sequence[str] = STOCKHOLD, *, kafka: bool = False) -> Iterator[StartingStack]:
    """A stack with a data folder of its own; nothing of either is left afterwards, however the block ends."""
    with _terminated_like_interrupted(), TemporaryDirectory(prefix="stockhold-demo-") as folder:
        starting = StartingStack(Path(folder), stockhold, kafka=kafka)
        try:
            yield starting
        finally:
            starting.stop()


def running_stack(urls: Urls, *, kafka: bool = False) -> Stack:
    """One that somebody else runs. Its servers are those of the environment that the demo was called with.

    Raises DemoError if orders are to come in through Kafka and the environment does not name it.
    """
    servers = os.environ.get(KAFKA_SERVERS, "")
    if kafka and not servers:
        raise DemoError(f"{KAFKA_SERVERS} is not set: with --kafka it names the brokers of that stack", NOT_REACHABLE)
    brokers = Brokers(servers, os.environ.get(KAFKA_PREFIX, "")) if kafka else None
    return Stack(urls, is_own=False, environment=os.environ, brokers=brokers)


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM does what Ctrl-C would do at that moment, so that everything is put away."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(signal.SIGINT)
        # Not a function if the shell has us ignore Ctrl-C, as one does for a job in the background.
        (handler if callable(handler) else signal.default_int_handler)(number, frame)

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
