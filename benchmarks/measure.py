"""Rounds that alternate, and what they say when set against each other."""

from collections.abc import Callable
from statistics import median

import msgspec

from benchmarks.load.histogram import Histogram


class Round(msgspec.Struct, frozen=True):
    """One side for a few seconds: how much per second, and how long each took."""

    per_second: float
    latency: Histogram
    note: str = ""


Side = Callable[[], Round]


class Duel(msgspec.Struct, frozen=True):
    """Both sides' rounds; round n of one ran beside round n of the other."""

    ours: tuple[Round, ...]
    theirs: tuple[Round, ...]

    @property
    def ratios(self) -> list[float]:
        return [mine.per_second / yours.per_second for mine, yours in zip(self.ours, self.theirs, strict=True)]

    @property
    def ratio(self) -> float:
        return median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        return min(self.ratios), max(self.ratios)


def alternate(rounds: int, ours: Side, theirs: Side) -> Duel:
    """Who goes first changes from round to round, so that a machine that gets slower wrongs neither."""
    mine, yours = list[Round](), list[Round]()
    for number in range(rounds):
        turns = [(mine, ours), (yours, theirs)]
        for results, side in turns if number % 2 == 0 else reversed(turns):
            results.append(side())
    return Duel(tuple(mine), tuple(yours))


def typical(rounds: tuple[Round, ...]) -> float:
    """The median throughput."""
    return median(one.per_second for one in rounds)


def all_latencies(rounds: tuple[Round, ...]) -> Histogram:
    merged = Histogram()
    for one in rounds:
        merged.merge(one.latency)
    return merged
