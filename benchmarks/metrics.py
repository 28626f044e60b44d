"""What a process of the stack tells Prometheus, read from its monitor, and how fast a counter of it rises."""

import re
import time
from collections.abc import Callable
from typing import NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

from benchmarks.cpu import cpu_seconds
from benchmarks.errors import BenchFailedError

_SAMPLE = re.compile(r"^(?P<name>[a-zA-Z_:]+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_TIMEOUT_S = 10.0
_POLL_S = 0.1  # each look costs the process that it looks at a millisecond or two
_STANDSTILL_S_MAX = 60.0


class Metrics:
    """One page of figures."""

    def __init__(self, page: str) -> None:
        samples = [found for line in page.splitlines() if (found := _SAMPLE.match(line))]
        self._samples = [
            (one["name"], dict(_LABEL.findall(one["labels"] or "")), float(one["value"])) for one in samples
        ]

    @classmethod
    def of(cls, monitor: str) -> "Metrics":
        """Of a process; empty as long as it does not listen."""
        try:
            with urlopen(f"{monitor}/metrics", timeout=_TIMEOUT_S) as answer:  # noqa: S310 - an address of our own
                return cls(answer.read().decode())
        except (URLError, OSError):
            return cls("")

    def total(self, name: str, **labels: str) -> float:
        """Over all samples of that name that have these labels; 0 if there is none."""
        return sum(value for sample, has, value in self._samples if sample == name and labels.items() <= has.items())


class Reading(NamedTuple):
    """A counter at a moment (on the clock `perf_counter`), and the processor time that its process has used by then."""

    at_s: float
    value: float
    cpu_s: float


class Rise(NamedTuple):
    """A counter between two readings."""

    first: Reading
    last: Reading

    @property
    def per_second(self) -> float:
        return (self.last.value - self.first.value) / (self.last.at_s - self.first.at_s)

    @property
    def cpu_us(self) -> float:
        """Processor time for each (microseconds)."""
        return (self.last.cpu_s - self.first.cpu_s) / (self.last.value - self.first.value) * 1e6


def watch(
    counter: Callable[[], float], goal: float, pid: int, *, above: float | None = None, every_s: float = _POLL_S
) -> Rise:
    """A counter of a process on its way to `goal`: from now on, or from when it was first seen above `above`.

    Raises BenchFailedError if it stands still for a minute.
    """

    def read() -> Reading:
        value = counter()
        return Reading(time.perf_counter(), value, cpu_seconds(pid))

    first = last = read()
    moved_s = last.at_s
    while last.value < goal:
        time.sleep(every_s)
        reading = read()
        if reading.value > last.value:
            moved_s = reading.at_s
        elif reading.at_s - moved_s > _STANDSTILL_S_MAX:
            raise BenchFailedError(f"it stands still at {reading.value:,.0f} of {goal:,.0f}")
        if above is not None and first.value <= above:
            # What is over between two looks began after the look before.
            first = reading if reading.value < goal else last
        last = reading
    return Rise(first, last)
