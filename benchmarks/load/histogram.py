"""Latencies in logarithmic buckets: constant memory, one percent of resolution, mergeable between rounds."""

import math
from collections.abc import Iterable

_GROWTH = 1.01
_SCALE = 1 / math.log(_GROWTH)
_LOWEST_S = 1e-6
_BUCKETS = 2_048  # 1.01 ** 2_048 microseconds: about eleven minutes


class Histogram:
    """Counts durations (seconds). Percentiles are exact to one percent and never below the true one."""

    __slots__ = ("_counts", "_max_s")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self._max_s = 0.0

    def record(self, seconds: float) -> None:
        bucket = int(math.log(seconds * 1e6) * _SCALE) if seconds > _LOWEST_S else 0
        self._counts[bucket if bucket < _BUCKETS else -1] += 1
        self._max_s = max(self._max_s, seconds)

    def record_all(self, durations_s: Iterable[float]) -> None:
        for seconds in durations_s:
            self.record(seconds)

    def merge(self, other: "Histogram") -> None:
        self._counts = [mine + theirs for mine, theirs in zip(self._counts, other._counts, strict=True)]
        self._max_s = max(self._max_s, other._max_s)

    @property
    def count(self) -> int:
        return sum(self._counts)

    @property
    def max_ms(self) -> float:
        return self._max_s * 1e3

    def percentile_ms(self, percent: float) -> float:
        """The smallest bucket bound (milliseconds) that `percent` of all durations do not exceed; 0 when empty."""
        rank = math.ceil(self.count * percent / 100)
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if count and seen >= rank:
                return min(_GROWTH ** (bucket + 1) / 1e3, self.max_ms)
        return 0.0

    def to_sparse(self) -> dict[str, float]:
        """A JSON-ready form: bucket number → count, and `max_s`."""
        sparse: dict[str, float] = {str(bucket): count for bucket, count in enumerate(self._counts) if count}
        sparse["max_s"] = self._max_s
        return sparse

    @classmethod
    def from_sparse(cls, sparse: dict[str, float]) -> "Histogram":
        histogram = cls()
        for bucket, count in sparse.items():
            if bucket != "max_s":
                histogram._counts[int(bucket)] = int(count)
        histogram._max_s = sparse.get("max_s", 0.0)
        return histogram
