"""W4: the batch door. Few connections, many reservations per request, cold items."""

from benchmarks.bench import Bench, describe_round
from benchmarks.cases.writes import compare, duel_with_pgbench
from benchmarks.cpu import CpuMeter
from benchmarks.items import Items
from benchmarks.load.requests import ReserveBatch
from benchmarks.measure import Round
from benchmarks.report import CaseResult
from benchmarks.stack import WRITE_SIDE

_USERS, _SIZE = 4, 500
_PGBENCH_CLIENTS = 32
_RATIO = 4.0


def w4_batch(bench: Bench) -> list[CaseResult]:
    bench.use_stack(WRITE_SIDE)
    items = bench.cold_items()
    duel = duel_with_pgbench(bench, "cold", _PGBENCH_CLIENTS, lambda seconds: batch_round(bench, items, seconds))
    result = compare("W4", f"HTTP batch of {_SIZE}, cold items", duel, "pgbench cold", unit="reservations/s")
    result.target = "≥ 4 x pgbench cold"
    result.met = duel.ratio >= _RATIO
    result.note = f"{_USERS} connections, latency of a whole request; {result.note}"
    return [result]


def batch_round(bench: Bench, items: Items, seconds: float) -> Round:
    """Counted are the reservations that were made, not the requests."""
    meter = CpuMeter.of(bench.facts)
    stream = bench.stream(ReserveBatch(items, _SIZE), markers={"made": '"status":201'})
    load = bench.load(stream, users=_USERS, seconds=seconds)
    made = load.streams["all"].markers["made"]
    return Round(made / load.seconds, load.streams["all"].histogram(), describe_round(load, meter))
