"""What the cases work with: a stack with the parts they want, stock on its shelves, clients, an opponent, a word of progress."""

import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Self

from benchmarks.cpu import CpuMeter
from benchmarks.errors import BenchFailedError
from benchmarks.http import Client, address
from benchmarks.items import WAREHOUSES, Items, warehouse_code
from benchmarks.load.plan import LoadResult, Plan, Stream
from benchmarks.load.process import RunningLoad, run_load
from benchmarks.load.requests import Availability, Requests, Restock
from benchmarks.log import log_end, wait_until_passed
from benchmarks.measure import Round
from benchmarks.opponents.pgbench import Pgbench
from benchmarks.options import Options, StackFacts
from benchmarks.report import Floor
from benchmarks.stack import WHOLE, Parts, Stack

ENDLESS_STOCK = 1_000_000_000
_SETUP_USERS = 64
_CREATED = 201


class Bench:
    """One run. Stacks are started when a case first wants them; one at a time, one data folder per set of parts."""

    def __init__(self, options: Options, say: Callable[[str], None]) -> None:
        self.options, self.say = options, say
        self.oversold = 0
        self.floors: list[Floor] = []
        self._folder = tempfile.TemporaryDirectory(prefix="stockhold-bench-", ignore_cleanup_errors=True)
        self._stack: Stack | None = None
        self._stocked: set[tuple[str, Items]] = set()
        self.relayed = False
        """Whether the topic of the stack that a relay is started on has its log up to the last backlog."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_stack()
        self._folder.cleanup()

    # The stack.
    @property
    def facts(self) -> StackFacts:
        """Of the stack that runs now."""
        if self.options.attached is not None:
            return self.options.attached
        assert self._stack is not None, "a case asks for its stack first"
        return self._stack.facts

    def use_stack(self, parts: Parts = WHOLE, command_processes: int = 1) -> StackFacts:
        """Makes that stack the running one. Raises StackUnreachableError."""
        if self.options.attached is not None:
            return self.options.attached
        wanted = (parts, command_processes)
        if self._stack is None or (self._stack.parts, self._stack.command_processes) != wanted:
            self.stop_stack()
            self.say(f"starting the stack ({parts.name}, {command_processes} command process(es))")
            self._stack = Stack(parts, Path(self._folder.name) / parts.name, command_processes)
        return self._stack.facts

    @property
    def command_url(self) -> str:
        """Raises BenchFailedError if the stack has no command API."""
        return _present(self.facts.command_url, "command API")

    @property
    def read_url(self) -> str:
        """Raises BenchFailedError if the stack has no read API."""
        return _present(self.facts.read_url, "read API")

    def stop_stack(self) -> None:
        if self._stack is not None:
            self._stack.stop()
            self._stack = None

    def opponent(self) -> Pgbench:
        """For a `with` block. Raises PgbenchError."""
        return Pgbench(self.facts.event_store_url, max(1, self.options.items // WAREHOUSES))

    # Stock.
    def cold_items(self) -> Items:
        """All the items of the run, on the shelves of the running stack."""
        return self.stocked(Items("COLD", 0, self.options.items))

    def stocked(self, items: Items, quantity: int = ENDLESS_STOCK) -> Items:
        """Puts `quantity` of each item on its shelf, unless it is there already. Raises BenchFailedError."""
        where = (self._stack.parts.name if self._stack else "attached", items)
        if where not in self._stocked and not (self.options.attached and self._is_stocked(items)):
            self.say(f"stocking {items.count:,} items")
            self._create_warehouses()
            self.finish("restock", Restock(items, quantity), _SETUP_USERS)
        self._stocked.add(where)
        return items

    def _is_stocked(self, items: Items) -> bool:
        """Whether an earlier run on this stack has stocked them: its last item can be had."""
        last = items.count - 1
        line = {"sku": items.sku(last), "warehouse": items.warehouse(last), "quantity": 1}
        client = Client(self.command_url)
        status, _ = client.call("POST", "/v1/reservations", {"order_id": "probe", "lines": [line]})
        client.close()
        return status == _CREATED

    def wait_for_views(self) -> None:
        """Until the views have all that is in the log now. Raises BenchFailedError."""
        self.say("waiting for the views")
        log = self.facts.event_store_url
        wait_until_passed(self.facts.read_model_url or log, log_end(log).head)

    def _create_warehouses(self) -> None:
        client = Client(self.command_url)
        for number in range(WAREHOUSES):
            status, answer = client.call("PUT", f"/v1/warehouses/{warehouse_code(number)}", {"priority": number + 1})
            if status not in {200, 201}:
                raise BenchFailedError(f"a warehouse was refused: {status} {answer}")
        client.close()

    # Load.
    def fresh_name(self) -> str:
        """Ids that begin with it meet no others."""
        return f"b{secrets.token_hex(4)}"

    def stream(
        self, requests: Requests, name: str = "all", *, weight: float = 1.0, markers: dict[str, str] | None = None
    ) -> Stream:
        """To the server that such requests are for."""
        host, port = address(self.read_url if isinstance(requests, Availability) else self.command_url)
        return Stream(name, host, port, requests, weight, markers or {})

    def plan(self, *streams: Stream, users: int, seconds: float | None, rate: float | None = None) -> Plan:
        return Plan(run=self.fresh_name(), users=users, seconds=seconds, streams=streams, rate=rate)

    def load(self, *streams: Stream, users: int, seconds: float | None = None, rate: float | None = None) -> LoadResult:
        """Runs for `seconds` (default: a round). Raises LoadFailedError."""
        return run_load(self.plan(*streams, users=users, seconds=seconds or self.options.seconds, rate=rate))

    def start_load(self, *streams: Stream, users: int, seconds: float, rate: float | None = None) -> RunningLoad:
        """In the background; for a `with` block."""
        return RunningLoad(self.plan(*streams, users=users, seconds=seconds, rate=rate))

    def run_to_end(self, requests: Requests, users: int) -> LoadResult:
        """Until the stream is exhausted, whatever the answers are. Raises LoadFailedError."""
        return run_load(self.plan(self.stream(requests), users=users, seconds=None))

    def finish(self, name: str, requests: Requests, users: int) -> LoadResult:
        """Runs a stream to its end; every answer must be a success. Raises BenchFailedError, LoadFailedError."""
        result = self.run_to_end(requests, users)
        stream = result.streams["all"]
        if stream.failures or stream.succeeded != stream.requests:
            raise BenchFailedError(f"{name}: {stream.statuses}, {stream.failures} failures; {stream.last_refusal}")
        return result

    def round(self, requests: Requests, users: int, seconds: float | None = None) -> Round:
        """A closed loop on the running stack; what was not answered 2xx does not count."""
        meter = CpuMeter.of(self.facts)
        result = self.load(self.stream(requests), users=users, seconds=seconds)
        stream = result.streams["all"]
        return Round(result.per_second("all"), stream.histogram(), describe_round(result, meter))


def _present(url: str | None, what: str) -> str:
    if url is None:
        raise BenchFailedError(f"the stack has no {what}")
    return url


def describe_round(result: LoadResult, meter: CpuMeter) -> str:
    """What a round was paid with, and what went wrong in it."""
    shares = {"client": result.cpu_seconds / result.seconds, **meter.shares()}
    words = [f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.01]  # noqa: PLR2004 - one percent
    for stream in result.streams.values():
        words += [f"{count:,} x {status}" for status, count in stream.statuses.items() if not status.startswith("2")]
        words += [f"{stream.failures} connections lost"] * bool(stream.failures)
    return ", ".join(words)
