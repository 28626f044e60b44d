"""W6: what a command costs on an item with a long past, or with many holds. The write side runs alone."""

import time
from statistics import median

from benchmarks.bench import Bench
from benchmarks.http import Client
from benchmarks.items import Items
from benchmarks.load.requests import Reserve, ReserveAndRelease, ReserveBatch
from benchmarks.report import CaseResult
from benchmarks.stack import WRITE_SIDE

_USERS = 32
_PAIRS = 3_000  # reserve and release, per round and variant: the number of holds stays what it is
_FEW, _MANY, _VERY_MANY = 10, 10_000, 1_000_000
_FRESH_ITEMS = 20
_BATCH = 1_000
_FLAT = 2.0
_A_DAY_S = 86_400
_CREATED = 201


def w6_history(bench: Bench) -> list[CaseResult]:
    bench.use_stack(WRITE_SIDE)
    name = bench.fresh_name()
    variants = {
        f"{_MANY:,} events": _with_events(bench, Items(f"{name}-MANY", 0, 1), _MANY),
        f"{_MANY:,} active holds": _with_holds(bench, Items(f"{name}-HELD", 0, 1)),
    }
    if bench.options.full:
        variants[f"{_VERY_MANY:,} events"] = _with_events(bench, Items(f"{name}-VAST", 0, 1), _VERY_MANY)
    costs = {variant: list[float]() for variant in ("fresh", *variants)}
    for number in range(bench.options.rounds):
        fresh = _with_few(bench, Items(f"{name}-{number:03d}", 0, _FRESH_ITEMS))
        for variant, items in {"fresh": fresh, **variants}.items():
            costs[variant].append(_cost_us(bench, items))
            bench.say(f"  {variant}: {costs[variant][-1]:.0f} µs per command")
    results = [_result(variant, costs[variant], costs["fresh"]) for variant in variants]
    results[-1].note = _cold_loads(bench, {f"{_FEW} events and holds": fresh, **variants})
    return results


def _result(variant: str, costs: list[float], fresh: list[float]) -> CaseResult:
    ratios = [cost / base for cost, base in zip(costs, fresh, strict=True)]
    return CaseResult(
        case="W6",
        title=f"a command on an item with {variant}",
        unit="µs/command",
        target="≤ 2 x an item with 10 events and 10 holds",
        ours=median(costs),
        opponent=median(fresh),
        opponent_name="with 10",
        ratio=median(ratios),
        ratio_spread=(min(ratios), max(ratios)),
        met=median(ratios) <= _FLAT,
    )


def _with_few(bench: Bench, items: Items) -> Items:
    bench.stocked(items)
    bench.finish("holds", Reserve(items, dwell=_FEW, requests=_FEW * items.count), _FEW)
    return items


def _with_events(bench: Bench, items: Items, events: int) -> Items:
    bench.stocked(items)
    bench.say(f"giving an item {events:,} events")
    bench.finish("events", ReserveAndRelease(items, turns=events // 2), 2 * _USERS)
    return items


def _with_holds(bench: Bench, items: Items) -> Items:
    bench.stocked(items)
    bench.say(f"giving an item {_MANY:,} holds")
    requests = ReserveBatch(items, _BATCH, due_at=time.time() + _A_DAY_S, requests=_MANY // _BATCH)
    bench.finish("holds", requests, 1)
    return items


def _cost_us(bench: Bench, items: Items) -> float:
    """Of one command among many at once, on items that are in memory (each is touched before)."""
    bench.finish("touch", ReserveAndRelease(items, turns=items.count), 1)
    dwell = _PAIRS // items.count
    load = bench.finish("commands", ReserveAndRelease(items, dwell=dwell, turns=_PAIRS), _USERS)
    return load.seconds / (2 * _PAIRS) * 1e6


def _cold_loads(bench: Bench, variants: dict[str, Items]) -> str:
    """The first command on each item after a restart, one at a time: what loading costs, reported apart."""
    if bench.options.attached is not None:
        return ""
    bench.stop_stack()
    bench.use_stack(WRITE_SIDE)
    warm = bench.stocked(Items(bench.fresh_name(), 0, 1))
    client = Client(bench.command_url)
    _first_command_ms(client, warm, 0)
    words = []
    for variant, items in variants.items():
        milliseconds = median(_first_command_ms(client, items, number) for number in range(items.count))
        words.append(f"{milliseconds:.1f} ms with {variant}")
    client.close()
    return "first command after a restart, the item loaded from the log: " + ", ".join(words)


def _first_command_ms(client: Client, items: Items, number: int) -> float:
    line = {"sku": items.sku(number), "warehouse": items.warehouse(number), "quantity": 1}
    started = time.perf_counter()
    status, answer = client.call("POST", "/v1/reservations", {"order_id": "cold-load", "lines": [line]})
    assert status == _CREATED, answer
    return (time.perf_counter() - started) * 1e3
