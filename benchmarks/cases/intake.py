"""W4K: orders that wait in the topic, taken in by the saga's intake. Cold items, as W4."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random

import msgspec

from benchmarks.bench import Bench
from benchmarks.cases.writes import compare, duel_with_pgbench
from benchmarks.cpu import CpuMeter
from benchmarks.errors import BenchFailedError
from benchmarks.items import Items
from benchmarks.load.histogram import Histogram
from benchmarks.load.messages import orders, send
from benchmarks.measure import Round
from benchmarks.metrics import Metrics, Rise, watch
from benchmarks.report import CaseResult
from benchmarks.stack import KAFKA_INTAKE

_PGBENCH_CLIENTS = 32
_RATIO = 4.0
_ORDERS_PER_SECOND = 15_000  # about what it takes in: a round is about as long as it is asked to be
_TAKEN = "stockhold_intake_messages_total"


def w4k_intake(bench: Bench) -> list[CaseResult]:
    facts = bench.use_stack(KAFKA_INTAKE)
    if not facts.kafka:
        raise BenchFailedError("the running stack has no Kafka")
    items, intake = bench.cold_items(), _Intake(bench)
    bench.say("one order for each item: the intake has them in memory, as the API has in W4")
    intake.take_in(items, range(items.count))
    duel = duel_with_pgbench(bench, "cold", _PGBENCH_CLIENTS, lambda seconds: intake.round(items, seconds))
    result = compare("W4K", "order.placed waiting in the topic, cold items", duel, "pgbench cold", "reservations/s")
    result.p50_ms = result.p99_ms = None
    result.opponent_p99_ms = msgspec.UNSET
    result.target = "≥ 4 x pgbench cold"
    result.met = duel.ratio >= _RATIO
    result.note = f"from when all orders are in the topic until all have been taken in; {result.note}"
    return [result]


@contextmanager
def _held(pid: int) -> Iterator[None]:
    """The process stands still meanwhile. Its group waits 10 s for it, which are some 700,000 orders."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class _Intake:
    """The intake of the running stack. Raises BenchFailedError if it has none with a monitor."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        found = [process for process in bench.facts.processes if process.name == "intake" and process.monitor]
        if not found:
            raise BenchFailedError("the running stack has no intake that shows its figures")
        self._process = found[0]

    def round(self, items: Items, seconds: float) -> Round:
        """Fills the topic, and measures how fast what then waits is taken in. Every order must be."""
        chooser = Random(self._bench.fresh_name())
        numbers = chooser.choices(range(items.count), k=int(seconds * _ORDERS_PER_SECOND))
        rise, meter = self.take_in(items, numbers)
        waiting = rise.last.value - rise.first.value
        if not waiting:
            raise BenchFailedError("the intake had taken in all orders before it was looked at")
        words = [f"{name} {share:.0%}" for name, share in meter.shares().items() if share >= 0.01]  # noqa: PLR2004 - a percent
        each = f"{rise.cpu_us:.0f} µs of processor for each in the intake"
        return Round(rise.per_second, Histogram(), ", ".join([f"{waiting:,.0f} waited", each, *words]))

    def take_in(self, items: Items, numbers: Sequence[int]) -> tuple[Rise, CpuMeter]:
        """Sends orders, then waits until all of them have been taken in: how that went, and what it cost."""
        goal = self._taken() + len(numbers)
        with _held(self._process.pid):
            send(self._bench.facts.kafka, orders(items, self._bench.fresh_name(), numbers))
            meter = CpuMeter.of(self._bench.facts)
        return watch(self._taken, goal, self._process.pid), meter

    def _taken(self) -> float:
        return Metrics.of(self._process.monitor).total(_TAKEN, topic="order.placed", outcome="applied")
