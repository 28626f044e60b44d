"""How long things took, as the client saw them."""

from collections import defaultdict
from collections.abc import Iterable
from math import ceil


class Timings:
    """Seconds by name. A year's worth is some million floats: kept whole, so that percentiles are exact."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = defaultdict(list)

    def note(self, name: str, seconds: float) -> None:
        self._seconds[name].append(seconds)

    def count(self, names: Iterable[str]) -> int:
        return sum(len(self._seconds[name]) for name in names)

    def percentile_ms(self, names: Iterable[str], percent: float) -> float | None:
        """Over all of `names` together; None if there was nothing."""
        return percentile_ms([seconds for name in names for seconds in self._seconds[name]], percent)


def percentile_ms(seconds: Iterable[float], percent: float) -> float | None:
    """The smallest of the figures that at least `percent` percent of them do not exceed, in milliseconds."""
    ordered = sorted(seconds)
    if not ordered:
        return None
    rank = max(1, ceil(len(ordered) * percent / 100))
    return round(ordered[rank - 1] * 1000, 2)
