"""W7 and the floors: the whole stack at work, in absolute numbers."""

from benchmarks.bench import Bench, describe_round
from benchmarks.cases.freshness import seconds_to_visible
from benchmarks.cases.writes import HOT, HOT_USERS
from benchmarks.cpu import CpuMeter
from benchmarks.http import Client
from benchmarks.items import Items
from benchmarks.load.requests import Availability, OrderLife, Requests, Reserve
from benchmarks.report import CaseResult, Floor

_USERS = 32
_READS, _WRITES = 0.8, 0.2
_READ_P99_MS, _HOT_P99_MS = 20.0, 50.0
_REDIS_SHARE = 0.95
_RESERVATIONS, _CHANGES = 1_000.0, 1_667.0


def w7_mixed(bench: Bench) -> list[CaseResult]:
    """Eighty percent reads of availability, twenty percent reservations, from the same users."""
    bench.use_stack()
    items = bench.cold_items()
    bench.wait_for_views()
    meter = CpuMeter.of(bench.facts)
    reads = bench.stream(Availability(items), "reads", weight=_READS, markers={"redis": '"source":"redis"'})
    writes = bench.stream(Reserve(items), "writes", weight=_WRITES)
    load = bench.load(reads, writes, users=_USERS, seconds=bench.options.seconds * bench.options.rounds)
    read, write = load.streams["reads"], load.streams["writes"]
    read_p99_ms, redis_share = read.histogram().percentile_ms(99), read.markers["redis"] / max(1, read.requests)
    bench.floors += [
        Floor("availability read p99 while writes run", read_p99_ms, "< 20", "ms", read_p99_ms < _READ_P99_MS),
        Floor("share of reads answered by Redis", redis_share * 100, "> 95", "%", redis_share > _REDIS_SHARE),
    ]
    return [
        CaseResult(
            case="W7",
            title="80 % availability reads, 20 % reserves",
            unit="requests/s",
            target="read p99 < 20 ms, > 95 % from Redis",
            ours=load.per_second("reads") + load.per_second("writes"),
            p50_ms=read.histogram().percentile_ms(50),
            p99_ms=read_p99_ms,
            met=read_p99_ms < _READ_P99_MS and redis_share > _REDIS_SHARE,
            note=(
                f"{load.per_second('reads'):,.0f} reads/s, {load.per_second('writes'):,.0f} reserves/s with p99 "
                f"{write.histogram().percentile_ms(99):.1f} ms; {redis_share:.1%} from Redis; "
                f"{describe_round(load, meter)}"
            ),
        )
    ]


def floors(bench: Bench) -> list[CaseResult]:
    """What the service's own requirements name. "Sustained" counts the time until the views have it all, too."""
    bench.use_stack()
    items = bench.cold_items()
    bench.wait_for_views()
    reservations = _sustained(bench, "reservations", Reserve(items))
    changes = _sustained(bench, "stock changes", OrderLife(items))
    hot = bench.round(Reserve(bench.stocked(HOT)), HOT_USERS)
    hot_p99_ms = hot.latency.percentile_ms(99)
    bench.floors += [
        Floor("reservations sustained", reservations, "≥ 1,000", "/s", reservations >= _RESERVATIONS),
        Floor("stock changes sustained", changes, "≥ 1,667", "/s", changes >= _CHANGES),
        Floor("write p99, everybody on one SKU", hot_p99_ms, "< 50", "ms", hot_p99_ms < _HOT_P99_MS),
    ]
    return []


def _sustained(bench: Bench, what: str, requests: Requests) -> float:
    probe = bench.stocked(Items(bench.fresh_name(), 0, 1))
    meter = CpuMeter.of(bench.facts)
    load = bench.load(bench.stream(requests), users=_USERS)
    spent = describe_round(load, meter)
    done, commands, reads = load.streams["all"], Client(bench.command_url), Client(bench.read_url)
    catch_up_s = seconds_to_visible(commands, reads, probe, 0)
    commands.close()
    reads.close()
    p99_ms = done.histogram().percentile_ms(99)
    bench.say(
        f"  {what}: {load.per_second('all'):,.0f}/s, p99 {p99_ms:.1f} ms, views {catch_up_s:.2f} s behind  {spent}"
    )
    return done.succeeded / (load.seconds + catch_up_s)
