"""P2: how long after a command's answer the read API shows it, while a thousand commands a second run.

Seen in two ways: by asking again and again without `min_version`, and by asking once with it.
"""

import threading
import time
from collections.abc import Callable

from benchmarks.bench import Bench
from benchmarks.errors import BenchFailedError
from benchmarks.http import Client
from benchmarks.items import Items
from benchmarks.load.histogram import Histogram
from benchmarks.load.requests import Reserve
from benchmarks.report import CaseResult, Floor
from benchmarks.stack import KAFKA_WHOLE, WHOLE, Parts

_RATE, _USERS = 1_000.0, 32
_SECONDS_MIN = 10.0
_PROBE_ITEMS = 100
_POLL_S, _PROBE_EVERY_S = 0.002, 0.02
_VISIBLE_S_MAX = 120.0
_P50_MS, _P99_MS, _FLOOR_MS = 100.0, 500.0, 1_000.0
_OK, _CREATED, _NOT_YET = 200, 201, 503

Probe = Callable[[Client, str, str, int], bool]


def p2_freshness(bench: Bench) -> list[CaseResult]:
    return [_freshness(bench, "P2", WHOLE)]


def p2k_freshness(bench: Bench) -> list[CaseResult]:
    """Through Kafka: relay, broker and Faust worker stand between the log and the views."""
    return [_freshness(bench, "P2K", KAFKA_WHOLE)]


def _freshness(bench: Bench, case: str, parts: Parts) -> CaseResult:
    bench.use_stack(parts)
    items, probes = bench.cold_items(), bench.stocked(Items(bench.fresh_name(), 0, _PROBE_ITEMS))
    bench.wait_for_views()
    seconds = max(_SECONDS_MIN, bench.options.seconds)
    with bench.start_load(bench.stream(Reserve(items)), users=_USERS, seconds=seconds, rate=_RATE) as load:
        polled, asked = _probe(bench, probes, seconds - 1)
        background = load.result()
    latency = background.streams["all"].histogram()
    result = CaseResult(
        case=case,
        title=f"commit → visible at {_RATE:,.0f} commands/s" + ", through Kafka" * parts.kafka,
        unit="ms (p99)",
        target="p50 < 100 ms, p99 < 500 ms",
        ours=polled.percentile_ms(99),
        p50_ms=polled.percentile_ms(50),
        p99_ms=polled.percentile_ms(99),
        met=polled.percentile_ms(50) < _P50_MS and polled.percentile_ms(99) < _P99_MS,
        note=(
            f"{polled.count:,} commands polled for, worst {polled.max_ms:.0f} ms; {asked.count:,} read back with "
            f"min_version: p50 {asked.percentile_ms(50):.1f} ms, p99 {asked.percentile_ms(99):.1f} ms; "
            f"{background.per_second('all'):,.0f} commands/s went on, their p99 {latency.percentile_ms(99):.1f} ms"
        ),
    )
    worst = polled.percentile_ms(99)
    through = ", through Kafka" if parts.kafka else ""
    bench.floors.append(Floor(f"commit → visible (p99){through}", worst, "< 1,000", "ms", worst < _FLOOR_MS))
    return result


def _probe(bench: Bench, items: Items, seconds: float) -> tuple[Histogram, Histogram]:
    """Two probers at once: one polls, one passes `min_version`."""
    polled, asked, failures = Histogram(), Histogram(), list[BaseException]()

    def probing(histogram: Histogram, is_visible: Probe, part: int) -> None:
        try:
            _probe_until(bench, items, time.monotonic() + seconds, histogram, is_visible, part)
        except BaseException as error:  # noqa: BLE001 - raised again where the threads are joined
            failures.append(error)

    threads = [
        threading.Thread(target=probing, args=(polled, _shows, 0)),
        threading.Thread(target=probing, args=(asked, _shows_when_asked, 1)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return polled, asked


def _probe_until(
    bench: Bench, items: Items, deadline: float, histogram: Histogram, is_visible: Probe, part: int
) -> None:
    """Paced: a prober that finds everything at once must not become the load."""
    commands, reads = Client(bench.command_url), Client(bench.read_url)
    number, due = part, time.monotonic()
    while time.monotonic() < deadline:
        number, due = (number + 2) % items.count, due + _PROBE_EVERY_S
        time.sleep(max(0.0, due - time.monotonic()))
        histogram.record(seconds_to_visible(commands, reads, items, number, is_visible))
    commands.close()
    reads.close()


def _shows(reads: Client, sku: str, warehouse: str, version: int) -> bool:
    status, answer = reads.call("GET", f"/v1/availability/{sku}")
    levels = answer["warehouses"] if status == _OK else []
    return any(level["warehouse"] == warehouse and level["version"] >= version for level in levels)


def _shows_when_asked(reads: Client, sku: str, warehouse: str, version: int) -> bool:
    status, answer = reads.call("GET", f"/v1/availability/{sku}?min_version={warehouse}:{version}")
    if status not in {_OK, _NOT_YET}:
        raise BenchFailedError(f"min_version: {status} {answer}")
    return status == _OK


def seconds_to_visible(commands: Client, reads: Client, items: Items, number: int, is_visible: Probe = _shows) -> float:
    """Holds one unit, and waits until the read API says so. Raises BenchFailedError if it never does."""
    sku, warehouse = items.sku(number), items.warehouse(number)
    order = {"order_id": "probe", "lines": [{"sku": sku, "warehouse": warehouse, "quantity": 1}]}
    status, answer = commands.call("POST", "/v1/reservations", order)
    if status != _CREATED:
        raise BenchFailedError(f"a probe was refused: {status} {answer}")
    version, answered = answer["lines"][0]["allocations"][0]["version"], time.perf_counter()
    while not is_visible(reads, sku, warehouse, version):
        if time.perf_counter() - answered > _VISIBLE_S_MAX:
            raise BenchFailedError(f"{sku}@{warehouse} version {version} is not visible after {_VISIBLE_S_MAX:.0f} s")
        time.sleep(_POLL_S)
    return time.perf_counter() - answered
