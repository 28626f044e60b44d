"""W1, W2, W3: single commands over HTTP against the same promise in row-lock SQL. The write side runs alone."""

from collections.abc import Callable
from contextlib import suppress

from benchmarks.bench import Bench
from benchmarks.errors import PgbenchError
from benchmarks.items import Items
from benchmarks.load.requests import Requests, Reserve
from benchmarks.measure import Duel, Round, all_latencies, alternate, typical
from benchmarks.opponents.pgbench import Pgbench
from benchmarks.report import CaseResult
from benchmarks.stack import WRITE_SIDE

COLD_USERS, HOT_USERS = 32, 64
HOT = Items("HOT", 0, 1)
_WARM_UP_S = 1.0
_COLD_RATIO, _HOT_RATIO, _CART_RATIO = 1.5, 8.0, 1.4  # the targets of W1, W2, W3
_HOT_P99_SHARE = 1 / 10


def w1_cold(bench: Bench) -> list[CaseResult]:
    """Single-line reservations of random items."""
    bench.use_stack(WRITE_SIDE)
    duel = command_duel(bench, Reserve(bench.cold_items()), "cold", COLD_USERS)
    result = compare("W1", "single-line reserve, cold items", duel, "pgbench cold")
    result.target = "≥ 1.5 x pgbench cold, p99 below its p99"
    result.met = duel.ratio >= _COLD_RATIO and all_latencies(duel.ours).percentile_ms(99) < _their_p99(duel)
    return [result]


def w2_hot(bench: Bench) -> list[CaseResult]:
    """Everybody wants one SKU."""
    bench.use_stack(WRITE_SIDE)
    duel = command_duel(bench, Reserve(bench.stocked(HOT)), "hot", HOT_USERS)
    result = compare("W2", "flash sale: one SKU", duel, "pgbench hot")
    result.target = "≥ 8 x pgbench hot, p99 ≤ 1/10 of its p99"
    result.met = (
        duel.ratio >= _HOT_RATIO and all_latencies(duel.ours).percentile_ms(99) <= _their_p99(duel) * _HOT_P99_SHARE
    )
    sell_out(bench, result)
    return [result]


def w3_cart(bench: Bench) -> list[CaseResult]:
    """Three lines, all or nothing."""
    bench.use_stack(WRITE_SIDE)
    duel = command_duel(bench, Reserve(bench.cold_items(), lines=3), "cart", COLD_USERS)
    result = compare("W3", "3-line cart, cold items", duel, "pgbench cart")
    result.target = "≥ 1.4 x pgbench cart"
    result.met = duel.ratio >= _CART_RATIO
    return [result]


def command_duel(bench: Bench, requests: Requests, script: str, users: int) -> Duel:
    return duel_with_pgbench(bench, script, users, lambda seconds: bench.round(requests, users, seconds))


def duel_with_pgbench(bench: Bench, script: str, users: int, ours: Callable[[float], Round]) -> Duel:
    """`ours` (told the seconds of a round) and pgbench in turn, after a second of warming up each."""
    with bench.opponent() as opponent:
        opponent.refill()
        ours(_WARM_UP_S)
        with suppress(PgbenchError):  # on a busy machine it may not even have connected; the rounds will say so
            opponent.round(script, users, _WARM_UP_S)
        return alternate(
            bench.options.rounds,
            lambda: said(bench, "ours", ours(bench.options.seconds)),
            lambda: said(bench, "pgbench", _pgbench_round(opponent, script, users, bench.options.seconds)),
        )


def said(bench: Bench, side: str, measured: Round) -> Round:
    """The round as it is, with a word about it."""
    latency = measured.latency
    p99 = f", p99 {latency.percentile_ms(99):.1f} ms" if latency.count else ""
    bench.say(f"  {side}: {measured.per_second:,.0f}/s{p99}  {measured.note}")
    return measured


def _pgbench_round(opponent: Pgbench, script: str, users: int, seconds: float) -> Round:
    measured = opponent.round(script, users, seconds)
    return Round(measured.transactions_per_second, measured.latency)


def _their_p99(duel: Duel) -> float:
    return all_latencies(duel.theirs).percentile_ms(99)


def compare(case: str, title: str, duel: Duel, opponent: str, unit: str = "commands/s") -> CaseResult:
    """The figures of a duel; target and verdict are the case's own."""
    latency = all_latencies(duel.ours)
    return CaseResult(
        case=case,
        title=title,
        unit=unit,
        target="",
        ours=typical(duel.ours),
        p50_ms=latency.percentile_ms(50),
        p99_ms=latency.percentile_ms(99),
        opponent=typical(duel.theirs),
        opponent_name=opponent,
        opponent_p99_ms=_their_p99(duel),
        ratio=duel.ratio,
        ratio_spread=duel.spread,
        note=f"last round: {duel.ours[-1].note}",
    )


def sell_out(bench: Bench, result: CaseResult, units: int = 1_000) -> None:
    """Twice as many buyers as units of a fresh SKU: exactly that many may get one."""
    fresh = Items(f"SOLD-{bench.fresh_name()}", 0, 1)
    bench.stocked(fresh, units)
    load = bench.run_to_end(Reserve(fresh, dwell=1, requests=2 * units), HOT_USERS)
    held = load.streams["all"].statuses.get("201", 0)
    bench.oversold += max(0, held - units)
    result.note += f"; sell-out: {held:,} holds of {units:,} units for {2 * units:,} buyers"
    if held != units:
        result.met = False
