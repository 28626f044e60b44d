"""P1: a Faust worker drains a backlog of the topic into PostgreSQL and Redis. The opponent is the direct follower.

Both keep views of their own of the same log: the worker those of the stack, the follower others beside them.
"""

import subprocess
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec
import psycopg
from psycopg.conninfo import make_conninfo

from benchmarks.bench import Bench
from benchmarks.cases.backlog import Backlog, make_backlog, relay_backlog
from benchmarks.cases.writes import compare, said
from benchmarks.errors import BenchFailedError
from benchmarks.items import Items
from benchmarks.load.histogram import Histogram
from benchmarks.log import LogEnd, log_end, wait_until_passed
from benchmarks.measure import Round, alternate
from benchmarks.metrics import watch
from benchmarks.options import StackFacts
from benchmarks.part import Part, servers_of, stockhold
from benchmarks.report import CaseResult
from benchmarks.stack import KAFKA_LOG, environment

_RATE = 10_000.0
_EVENTS_PER_ITEM = 2
_FEW_EVENTS = 2_000  # enough for something in every partition
_FOLLOWERS_DATABASE, _FOLLOWERS_REDIS = "stockhold_bench_follower", "/1"
_APPLIED = "stockhold_projection_events_total"
_HEALED = "stockhold_projection_healed_streams_total"


def p1_worker(bench: Bench) -> list[CaseResult]:
    if bench.options.attached is not None:
        bench.say("P1 is left out: it starts and stops a worker of its own")
        return []
    facts = bench.use_stack(KAFKA_LOG)
    items = bench.cold_items()
    worker, follower = _Side("worker-1", servers_of(facts)), _Side("projector", _servers_beside(facts))
    _settle(bench, worker, follower, items)
    backlogs = _Backlogs(lambda: make_backlog(bench, items, _EVENTS_PER_ITEM * bench.options.items))
    duel = alternate(
        bench.options.rounds,
        lambda: said(bench, "worker", worker.drain(backlogs.next_of(worker))),
        lambda: said(bench, "follower", follower.drain(backlogs.next_of(follower))),
    )
    last = backlogs.made[-1]
    result = compare("P1", f"Faust worker, a backlog of {last.events:,} events", duel, "direct follower", "events/s")
    result.p50_ms = result.p99_ms = None
    result.opponent_p99_ms = msgspec.UNSET
    result.target = "≥ 10,000 events/s per worker"
    result.met = result.ours >= _RATE and not worker.from_log
    result.note = f"{last.events / last.messages:.0f} events per message; {result.note}"
    if worker.from_log:
        result.note += f"; {worker.from_log:,} items were read from the log, because Kafka did not bring them"
    return [result]


class _Side:
    """A process that keeps views up to date, started for each of its rounds."""

    def __init__(self, name: str, servers: dict[str, str]) -> None:
        self.name = name
        self.servers = servers
        self.from_log = 0
        """Items that its rounds have healed from the log."""

    def run(self) -> Part:
        return Part(self.name, self.servers)

    def wait_until_passed(self, head: int) -> None:
        wait_until_passed(self.servers["STOCKHOLD_READ_MODEL_URL"], head)

    def drain(self, backlog: Backlog) -> Round:
        """From its first write to its last; then it must also know that Redis has all of it."""
        with self.run() as part:
            rise = watch(lambda: part.metrics().total(_APPLIED), backlog.events, part.pid, above=0)
            self.wait_until_passed(backlog.head)
            passed_s = time.perf_counter() - rise.last.at_s
            healed = int(part.metrics().total(_HEALED))
        self.from_log += healed
        words = (
            f"{rise.cpu_us:.0f} µs of processor for each; cursors past the head, in Redis too, {passed_s:.1f} s later"
        )
        return Round(rise.per_second, Histogram(), words)


class _Backlogs:
    """Each is made when one side asks for it, and drained by both."""

    def __init__(self, make: Callable[[], Backlog]) -> None:
        self._make = make
        self._drained: dict[str, int] = {}
        self.made: list[Backlog] = []

    def next_of(self, side: _Side) -> Backlog:
        number = self._drained.get(side.name, 0)
        self._drained[side.name] = number + 1
        if number == len(self.made):
            self.made.append(self._make())
        return self.made[number]


def _settle(bench: Bench, worker: _Side, follower: _Side, items: Items) -> None:
    """Both have the whole log, and Kafka knows of every partition where the worker is: so it begins there each time."""
    if not bench.relayed:
        relay_backlog(bench, LogEnd(0, 0))
        bench.relayed = True
    head = log_end(bench.facts.event_store_url).head
    bench.say("making the views of both sides")
    with worker.run():
        worker.wait_until_passed(head)
        few = make_backlog(bench, items, _FEW_EVENTS)
        worker.wait_until_passed(few.head)
    with follower.run():
        follower.wait_until_passed(few.head)


def _servers_beside(facts: StackFacts) -> dict[str, str]:
    """For other views of the same log, with tables in a database of their own. Raises BenchFailedError."""
    with psycopg.connect(facts.event_store_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {_FOLLOWERS_DATABASE}")
    servers = servers_of(facts) | {
        "STOCKHOLD_READ_MODEL_URL": make_conninfo(facts.event_store_url, dbname=_FOLLOWERS_DATABASE),
        "STOCKHOLD_REDIS_URL": urlsplit(facts.redis_url)._replace(path=_FOLLOWERS_REDIS).geturl(),
        "STOCKHOLD_KAFKA_SERVERS": "",
    }
    run = subprocess.run(  # noqa: S603 - our own command and arguments
        stockhold("migrate"), env=environment() | servers, capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise BenchFailedError(f"`stockhold migrate` failed: {run.stderr[-2_000:].strip()}")
    return servers
