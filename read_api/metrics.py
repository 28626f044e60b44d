"""Figures for Prometheus, cheap enough for a route that takes forty microseconds: plain integers until asked."""

import logging
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Final

from prometheus_client import Metric
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from domain.errors import DomainError
from infra.http_app import HttpProblem, problem_of
from infra.problems import InvalidRequest

logger = logging.getLogger(__name__)

BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Measured:
    """Of one request; 0: it was given up before it was answered."""

    status = 0


class ReadMetrics(Collector):
    """Requests by route and status, their durations, and which view answered how many SKUs.

    ``process`` tells processes that answer on one port apart.
    """

    def __init__(self, process: str) -> None:
        self._process = process
        self._answers: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._durations: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(BOUNDS_S) + 1))
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._sources: defaultdict[bytes, int] = defaultdict(int)

    def served(self, route: str, status: int, seconds: float) -> None:
        """A request to ``route`` was answered after ``seconds``."""
        self._answers[route, status] += 1
        self._durations[route][bisect_left(BOUNDS_S, seconds)] += 1
        self._seconds[route] += seconds

    @contextmanager
    def measured(self, route: str) -> "Iterator[Measured]":
        """Around the serving of a request, which sets the status; an exception has the status of its problem."""
        measured, begun_s = Measured(), perf_counter()
        try:
            yield measured
        except Exception as error:
            measured.status = problem_of(error)[0]
            raise
        finally:
            self.served(route, measured.status, perf_counter() - begun_s)

    def answered_by(self, source: bytes, skus: int) -> None:
        """``source`` knew about so many SKUs."""
        self._sources[source] += skus

    @staticmethod
    def log_unexpected(error: Exception) -> None:
        """What no caller can have caused belongs in the log."""
        if not isinstance(error, HttpProblem | InvalidRequest | DomainError):
            logger.error("a read failed", exc_info=error)

    def collect(self) -> Iterator[Metric]:
        answers = CounterMetricFamily(
            "stockhold_reads", "Requests answered by the read API.", labels=("process", "route", "status")
        )
        for (route, status), count in self._answers.items():
            answers.add_metric((self._process, route, str(status)), count)
        yield answers
        durations = HistogramMetricFamily(
            "stockhold_read_seconds", "How long a read took.", labels=("process", "route")
        )
        for route, counts in self._durations.items():
            durations.add_metric((self._process, route), list(_cumulated(counts)), self._seconds[route])
        yield durations
        sources = CounterMetricFamily(
            "stockhold_levels_answered", "SKUs by the view that knew.", labels=("process", "source")
        )
        for source, count in self._sources.items():
            sources.add_metric((self._process, source.decode()), count)
        yield sources


def _cumulated(counts: list[int]) -> Iterator[tuple[str, float]]:
    total = 0
    for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), counts, strict=True):
        total += count
        yield bound, total
