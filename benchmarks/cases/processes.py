"""W5: four command API processes on one store, everybody on one SKU. Correct and live, not faster."""

from benchmarks.bench import Bench
from benchmarks.cases.writes import HOT, HOT_USERS, compare, said, sell_out
from benchmarks.load.requests import Reserve
from benchmarks.measure import Round, alternate
from benchmarks.report import CaseResult
from benchmarks.stack import WRITE_SIDE

_PROCESSES = 4
_WARM_UP_S = 1.0
_RATIO = 0.5


def w5_processes(bench: Bench) -> list[CaseResult]:
    if bench.options.attached is not None:
        bench.say("W5 is left out: it restarts the stack with other numbers of processes")
        return []
    duel = alternate(
        bench.options.rounds, lambda: _hot_round(bench, _PROCESSES), lambda: _hot_round(bench, processes=1)
    )
    result = compare("W5", f"flash sale, {_PROCESSES} command processes", duel, "one process")
    result.target = "≥ 0.5 x one process, no livelock, nothing oversold"
    result.met = duel.ratio >= _RATIO
    bench.use_stack(WRITE_SIDE, _PROCESSES)
    sell_out(bench, result)
    return [result]


def _hot_round(bench: Bench, processes: int) -> Round:
    bench.use_stack(WRITE_SIDE, processes)
    requests = Reserve(bench.stocked(HOT))
    bench.round(requests, HOT_USERS, _WARM_UP_S)
    return said(bench, f"{processes} process(es)", bench.round(requests, HOT_USERS))
