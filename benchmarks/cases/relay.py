"""P1R: the relay catching up with a log that went on without it."""

from statistics import median

from benchmarks.bench import Bench
from benchmarks.cases.backlog import make_backlog, relay_backlog
from benchmarks.log import LogEnd
from benchmarks.report import CaseResult
from benchmarks.stack import KAFKA_LOG

_RATE = 50_000.0
_EVENTS_PER_ITEM = 2


def p1r_relay(bench: Bench) -> list[CaseResult]:
    if bench.options.attached is not None:
        bench.say("P1R is left out: it starts a relay of its own")
        return []
    bench.use_stack(KAFKA_LOG)
    items = bench.cold_items()
    if not bench.relayed:
        relay_backlog(bench, LogEnd(0, 0))
        bench.relayed = True
    rounds = [make_backlog(bench, items, _EVENTS_PER_ITEM * bench.options.items) for _ in range(bench.options.rounds)]
    rate, last = median(one.relayed.per_second for one in rounds), rounds[-1]
    return [
        CaseResult(
            case="P1R",
            title=f"relay catching up with {last.events:,} events",
            unit="events/s",
            target="≥ 50,000 events/s",
            ours=rate,
            met=rate >= _RATE,
            note=(
                f"{last.events / last.messages:.0f} events per message; from the first acknowledged flush to the last; "
                f"{last.relayed.cpu_us:.1f} µs of processor for each in the relay"
            ),
        )
    ]
