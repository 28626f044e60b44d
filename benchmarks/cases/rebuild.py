"""P3: every view made again from the log, while the old ones go on being read."""

import json
import subprocess
import time

from benchmarks.bench import Bench, describe_round
from benchmarks.cpu import CpuMeter
from benchmarks.errors import BenchFailedError
from benchmarks.load.plan import LoadResult
from benchmarks.load.requests import Availability, ReserveBatch
from benchmarks.log import log_end
from benchmarks.options import StackFacts
from benchmarks.part import servers_of, stockhold
from benchmarks.report import CaseResult
from benchmarks.stack import KAFKA_WHOLE, WHOLE, Parts, environment

_RATE = 50_000.0
_FULL_EVENTS, _BATCH, _MAKERS = 1_000_000, 500, 4
_READ_RATE, _READERS = 100.0, 4
_REBUILD_S_MAX = 600.0


def p3_rebuild(bench: Bench) -> list[CaseResult]:
    return _rebuild_case(bench, "P3", WHOLE)


def p3k_rebuild(bench: Bench) -> list[CaseResult]:
    """With Faust workers, who take the new views over."""
    return _rebuild_case(bench, "P3K", KAFKA_WHOLE)


def _rebuild_case(bench: Bench, case: str, parts: Parts) -> list[CaseResult]:
    facts = bench.use_stack(parts)
    items = bench.cold_items()
    if bench.options.full and (missing := _FULL_EVENTS - log_end(facts.event_store_url).events) > 0:
        bench.say(f"adding {missing:,} events to the log")
        bench.finish("events", ReserveBatch(items, _BATCH, requests=-(-missing // _BATCH)), _MAKERS)
    bench.wait_for_views()
    events, meter = log_end(facts.event_store_url).events, CpuMeter.of(facts)
    stream = bench.stream(Availability(items))
    with bench.start_load(stream, users=_READERS, seconds=_REBUILD_S_MAX, rate=_READ_RATE) as readers:
        told, seconds = _rebuild(facts)
        load = readers.finish_now()
    return [_result(case, events, told, seconds, load, describe_round(load, meter))]


def _rebuild(facts: StackFacts) -> tuple[dict[str, float], float]:
    """What `stockhold rebuild` tells, and its seconds from start to end. Raises BenchFailedError."""
    started = time.perf_counter()
    run = subprocess.run(  # noqa: S603 - our own command and arguments
        stockhold("rebuild", "--json"),
        env=environment() | servers_of(facts),
        capture_output=True,
        text=True,
        timeout=_REBUILD_S_MAX,
        check=False,
    )
    if run.returncode:
        raise BenchFailedError(f"`stockhold rebuild` failed: {run.stderr[-2_000:].strip()}")
    return json.loads(run.stdout), time.perf_counter() - started


def _result(case: str, events: int, told: dict[str, float], seconds: float, load: LoadResult, spent: str) -> CaseResult:
    """Rebuilt is what is full, indexed, in Redis too and up to date; that it is then verified is told apart."""
    reads = load.streams["all"]
    rate = events / (told["seconds"] - told["verify_seconds"])
    uninterrupted = reads.failures == 0 and reads.succeeded == reads.requests
    return CaseResult(
        case=case,
        title=f"rebuild of every view from {events:,} events",
        unit="events/s",
        target="≥ 50,000 events/s, reads uninterrupted",
        ours=rate,
        p50_ms=reads.histogram().percentile_ms(50),
        p99_ms=reads.histogram().percentile_ms(99),
        met=rate >= _RATE and uninterrupted,
        note=(
            f"filled in {told['fill_seconds']:.1f} s, indexed in {told['index_seconds']:.1f} s; verified before the "
            f"switch, which is not in the rate, in {told['verify_seconds']:.1f} s; {seconds:.1f} s from start to end of "
            f"the command; latencies are of {reads.succeeded:,} reads meanwhile, "
            f"of which {reads.requests - reads.succeeded + reads.failures} failed; {spent}"
        ),
    )
