"""How often each call was asked for, how it was answered and how fast, for Prometheus.

Counted in plain numbers and turned into metrics when somebody asks for them: a counter of the client
library costs more per request than reading the request does.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Meter:
    """The answers of one operation."""

    __slots__ = ("by_bound", "by_status", "seconds")

    def __init__(self) -> None:
        self.by_status: dict[int, int] = {}
        self.by_bound = [0] * (len(BOUNDS_S) + 1)
        self.seconds = 0.0

    def note(self, status: int, seconds: float) -> None:
        """One more answer, ``seconds`` after its request was read."""
        self.by_status[status] = self.by_status.get(status, 0) + 1
        self.by_bound[bisect_left(BOUNDS_S, seconds)] += 1
        self.seconds += seconds


class Meters(Collector):
    """A meter per operation. ``process`` tells processes that answer on one port apart."""

    def __init__(self, operations: Iterable[str], process: str) -> None:
        self._process = process
        self.by_operation: Mapping[str, Meter] = {operation: Meter() for operation in operations}

    def collect(self) -> Iterator[Metric]:
        """Requests by operation and status, and how long they took by operation."""
        requests = CounterMetricFamily(
            "stockhold_command_requests",
            "Answers of the command API.",
            labels=("process", "operation", "status"),
        )
        seconds = HistogramMetricFamily(
            "stockhold_command_request_seconds",
            "From a request's last byte to its answer.",
            labels=("process", "operation"),
        )
        for operation, meter in self.by_operation.items():
            for status, count in meter.by_status.items():
                requests.add_metric((self._process, operation, str(status)), count)
            bounds = [*map(str, BOUNDS_S), "+Inf"]
            counts = accumulate(meter.by_bound)
            seconds.add_metric((self._process, operation), list(zip(bounds, counts, strict=True)), meter.seconds)
        yield requests
        yield seconds
