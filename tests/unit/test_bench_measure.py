"""Rounds in turn, ratios of rounds that ran beside each other, and which cases run."""

import pytest

from benchmarks.cases.expiry import sweep_of
from benchmarks.errors import UnknownCaseError
from benchmarks.load.histogram import Histogram
from benchmarks.load.plan import LoadResult, StreamResult
from benchmarks.measure import Duel, Round, all_latencies, alternate, typical
from benchmarks.registry import CASES
from benchmarks.runner import chosen


def _round(per_second: float, *durations_s: float) -> Round:
    latency = Histogram()
    latency.record_all(durations_s)
    return Round(per_second, latency)


def test_sides_take_turns_and_so_does_going_first():
    order: list[str] = []

    def turn(side: str) -> Round:
        order.append(side)
        return _round(float(len(order)))

    duel = alternate(3, lambda: turn("ours"), lambda: turn("theirs"))
    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert [one.per_second for one in duel.ours] == [1, 4, 5]
    assert [one.per_second for one in duel.theirs] == [2, 3, 6]


def test_the_ratio_is_that_of_neighbouring_rounds():
    duel = Duel(ours=(_round(100.0), _round(900.0), _round(40.0)), theirs=(_round(50.0), _round(300.0), _round(10.0)))
    assert duel.ratio == 3.0
    assert duel.spread == (2.0, 4.0)
    assert typical(duel.ours) == 100.0


def test_latencies_of_all_rounds_are_one_distribution():
    rounds = (_round(1.0, 0.001, 0.001), _round(1.0, 0.5, 0.5))
    assert all_latencies(rounds).count == 4
    assert all_latencies(rounds).percentile_ms(99) == 500
    assert all_latencies(rounds).percentile_ms(50) == pytest.approx(1, rel=0.02)


def test_refusals_are_no_throughput():
    stream = StreamResult(statuses={"201": 30, "409": 60, "503": 10})
    load = LoadResult(seconds=2.0, cpu_seconds=0.001, streams={"all": stream})
    assert load.per_second("all") == 15
    assert load.client_us_per_request == pytest.approx(10)


def test_a_sweep_lasts_from_its_first_fall_to_the_first_zero():
    seen = [(0.0, 100), (1.0, 100), (2.0, 60), (3.0, 10), (4.0, 0), (5.0, 0)]
    sweep = sweep_of(seen)
    assert (sweep.begun_at, sweep.over_at, sweep.holds) == (1.0, 4.0, 100)
    assert sweep.per_second == pytest.approx(100 / 3)


def test_cases_run_in_their_own_order_whatever_was_typed():
    assert chosen(("r1", "W2", "W1")) == ["W1", "W2", "R1"]
    assert chosen(()) == list(CASES)


def test_an_unknown_case_is_an_error():
    with pytest.raises(UnknownCaseError, match="W99"):
        chosen(("W1", "W99"))


def test_every_case_of_the_issue_is_there():
    assert set(CASES) >= {f"W{n}" for n in range(1, 8)} | {"E1", "R1", "R2", "R3", "P2", "P3", "FLOORS"}
