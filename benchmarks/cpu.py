"""Processor time of the processes under test, out of /proc: what a throughput figure was paid with."""

import os
import time
from pathlib import Path
from typing import Self

from benchmarks.options import StackFacts

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far, and of its children that have ended; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(ticks) for ticks in fields[11:15]) / _TICKS_PER_SECOND


def family(pid: int) -> list[int]:
    """The process and its direct children (Postgres has one per connection)."""
    members = [pid]
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            members.append(int(stat.parent.name))
    return members


class CpuMeter:
    """How busy each named process (with its direct children) was between two moments."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._members = {name: family(pid) for name, pid in pids.items()}
        self._started = time.perf_counter()
        self._before = self._now()

    @classmethod
    def of(cls, facts: StackFacts) -> Self:
        return cls({process.name: process.pid for process in facts.processes})

    def _now(self) -> dict[str, float]:
        return {name: sum(map(cpu_seconds, members)) for name, members in self._members.items()}

    def used_seconds(self) -> dict[str, float]:
        return {name: used - self._before[name] for name, used in self._now().items()}

    def shares(self) -> dict[str, float]:
        """Of one core, since this meter was made."""
        elapsed = time.perf_counter() - self._started
        return {name: used / elapsed for name, used in self.used_seconds().items()}
