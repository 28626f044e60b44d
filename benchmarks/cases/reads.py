"""R1, R2, R3: the read API, with nothing else going on."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from urllib.parse import quote

from benchmarks.bench import Bench
from benchmarks.cases.freshness import seconds_to_visible
from benchmarks.cases.writes import compare, said
from benchmarks.cpu import CpuMeter
from benchmarks.errors import BenchFailedError
from benchmarks.http import Client
from benchmarks.items import Items
from benchmarks.load.plan import Stream
from benchmarks.load.requests import Availability, Fixed, ReserveAndRelease
from benchmarks.measure import Round, all_latencies, alternate
from benchmarks.report import CaseResult

_USERS = 32
_WARM_UP_S = 1.0
_RATIO, _P99_MS = 0.5, 10.0
_SKUS, _SKUS_PER_CORE, _MANY_USERS = 50, 20_000.0, 8
_EVENTS, _REPLAYS, _REPLAY_MS = 10_000, 20, 200.0
_OK = 200


def r1_availability(bench: Bench) -> list[CaseResult]:
    """One SKU per request, against a raw ASGI hello on the same server, in turn."""
    bench.use_stack()
    requests = Availability(_visible(bench))
    with _hello_server() as port:
        stream = Stream("all", "127.0.0.1", port, Fixed("/"))

        def hello(seconds: float) -> Round:
            load = bench.load(stream, users=_USERS, seconds=seconds)
            return Round(load.per_second("all"), load.streams["all"].histogram())

        bench.round(requests, _USERS, _WARM_UP_S)
        hello(_WARM_UP_S)
        duel = alternate(
            bench.options.rounds,
            lambda: said(bench, "ours", bench.round(requests, _USERS)),
            lambda: said(bench, "hello", hello(bench.options.seconds)),
        )
    result = compare("R1", "availability of one SKU", duel, "raw ASGI hello", unit="requests/s")
    result.target = "≥ 0.5 x a raw ASGI hello, p99 < 10 ms"
    result.met = duel.ratio >= _RATIO and all_latencies(duel.ours).percentile_ms(99) < _P99_MS
    return [result]


def r2_many(bench: Bench) -> list[CaseResult]:
    """Fifty SKUs per request, each in five warehouses; per second of the read API's own processor time."""
    facts = bench.use_stack()
    requests = Availability(_visible(bench), size=_SKUS)
    bench.round(requests, _MANY_USERS, _WARM_UP_S)
    meter = CpuMeter.of(facts)
    seconds = bench.options.seconds * bench.options.rounds
    load = bench.load(bench.stream(requests), users=_MANY_USERS, seconds=seconds)
    used = sum(spent for name, spent in meter.used_seconds().items() if name.startswith("read-api"))
    stream, skus = load.streams["all"], load.streams["all"].succeeded * _SKUS
    per_core = skus / (used or load.seconds)
    return [
        CaseResult(
            case="R2",
            title=f"availability of {_SKUS} SKUs x 5 warehouses in one request",
            unit="SKU/s per core",
            target="≥ 20,000 SKU/s per core",
            ours=per_core,
            p50_ms=stream.histogram().percentile_ms(50),
            p99_ms=stream.histogram().percentile_ms(99),
            met=per_core >= _SKUS_PER_CORE,
            note=(
                f"{skus / load.seconds:,.0f} SKU/s of wall time over {_MANY_USERS} connections"
                + (f", the read API used {used / load.seconds:.0%} of a core" if used else "")
            ),
        )
    ]


def r3_replay(bench: Bench) -> list[CaseResult]:
    """The state of one item as of its ten-thousandth version: a fold over all its events."""
    bench.use_stack()
    item = bench.stocked(Items(bench.fresh_name(), 0, 1))
    bench.say(f"giving an item {_EVENTS:,} events")
    bench.finish("events", ReserveAndRelease(item, turns=_EVENTS // 2), 2 * _USERS)
    commands, reads = Client(bench.command_url), Client(bench.read_url)
    seconds_to_visible(commands, reads, item, 0)
    path = f"/v1/stock/{item.sku(0)}/{item.warehouse(0)}"
    replays_ms = [_call_ms(reads, f"{path}/as-of?version={_EVENTS}") for _ in range(_REPLAYS)]
    pages, movements, history_s = _whole_history(reads, path)
    commands.close()
    reads.close()
    return [
        CaseResult(
            case="R3",
            title=f"replay of one item, {_EVENTS:,} events",
            unit="ms",
            target="< 200 ms",
            ours=median(replays_ms),
            p50_ms=median(replays_ms),
            p99_ms=max(replays_ms),
            met=median(replays_ms) < _REPLAY_MS,
            note=f"as-of?version={_EVENTS}; its history, {movements:,} movements on {pages} pages: {history_s:.2f} s",
        )
    ]


def _visible(bench: Bench) -> Items:
    items = bench.cold_items()
    bench.wait_for_views()
    return items


def _call_ms(reads: Client, path: str) -> float:
    started = time.perf_counter()
    status, answer = reads.call("GET", path)
    if status != _OK:
        raise BenchFailedError(f"GET {path}: {status} {answer}")
    return (time.perf_counter() - started) * 1e3


def _whole_history(reads: Client, path: str) -> tuple[int, int, float]:
    """(pages, movements, seconds) from the newest to the first."""
    started, pages, movements, cursor = time.perf_counter(), 0, 0, ""
    while True:
        status, page = reads.call("GET", f"{path}/history?limit=1000{cursor}")
        if status != _OK:
            raise BenchFailedError(f"history: {status} {page}")
        pages, movements = pages + 1, movements + len(page["items"])
        if not page["next_cursor"]:
            return pages, movements, time.perf_counter() - started
        cursor = f"&cursor={quote(page['next_cursor'])}"


@contextmanager
def _hello_server() -> Iterator[int]:
    server = subprocess.Popen([sys.executable, "-P", "-m", "benchmarks.opponents.hello"], stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        yield int(server.stdout.readline())
    finally:
        server.terminate()
        server.communicate()
