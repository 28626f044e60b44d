"""Latencies in logarithmic buckets."""

import math
import random

import pytest

from benchmarks.load.histogram import Histogram


def _of(durations_s: list[float]) -> Histogram:
    histogram = Histogram()
    histogram.record_all(durations_s)
    return histogram


def _exact_ms(durations_s: list[float], percent: float) -> float:
    ordered = sorted(durations_s)
    return ordered[math.ceil(len(ordered) * percent / 100) - 1] * 1e3


@pytest.mark.parametrize("percent", [1, 50, 90, 99, 99.9, 100])
def test_percentiles_are_never_low_and_at_most_one_percent_high(percent):
    chooser = random.Random(7)
    durations_s = [chooser.lognormvariate(-6, 1.5) for _ in range(5_000)]
    exact_ms = _exact_ms(durations_s, percent)
    assert exact_ms <= _of(durations_s).percentile_ms(percent) * (1 + 1e-9)
    assert _of(durations_s).percentile_ms(percent) <= exact_ms * 1.0101


def test_an_empty_one_says_zero():
    assert Histogram().percentile_ms(99) == 0
    assert Histogram().count == 0


def test_no_percentile_is_above_the_longest():
    histogram = _of([0.010_001])
    assert histogram.percentile_ms(50) == histogram.max_ms == pytest.approx(10.001)


def test_what_is_shorter_or_longer_than_every_bucket_is_still_counted():
    histogram = _of([0.0, 1e-9, 1e6])
    assert histogram.count == 3
    assert histogram.max_ms == 1e9


def test_merged_is_as_if_recorded_together():
    first, second = [0.001, 0.002, 0.4], [0.003, 0.9]
    merged = _of(first)
    merged.merge(_of(second))
    together = _of(first + second)
    assert merged.to_sparse() == together.to_sparse()
    assert merged.max_ms == 900


def test_it_survives_its_journey_between_processes():
    histogram = _of([0.001, 0.05, 0.05, 2.0])
    there_and_back = Histogram.from_sparse(histogram.to_sparse())
    assert there_and_back.to_sparse() == histogram.to_sparse()
    assert there_and_back.percentile_ms(75) == histogram.percentile_ms(75)
