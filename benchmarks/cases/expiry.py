"""E1: a hundred thousand holds that fall due together. How fast they go, and what the others feel of it.

Write side and sweeper run, the views do not. The holds fall due within a second of an instant that lies far enough
ahead for all of them to be made before it.
"""

import threading
import time
from datetime import UTC, datetime
from typing import Self

import msgspec
import psycopg

from benchmarks.bench import Bench
from benchmarks.errors import BenchFailedError
from benchmarks.items import Items
from benchmarks.load.histogram import Histogram
from benchmarks.load.requests import Reserve, ReserveBatch
from benchmarks.report import CaseResult
from benchmarks.stack import WRITE_SIDE_AND_SWEEPER

_HOLDS, _BATCH, _ITEMS = 100_000, 500, 1_000
_MAKERS = 4
_FOREGROUND_RATE, _FOREGROUND_USERS = 500.0, 16
_SLICE_S = 1.0
_FEW, _A_DAY_S = 5_000, 86_400
_SPARE, _BEFORE_S = 1.3, 6.0
_SWEEP_S_MAX = 120.0
_POLL_S = 0.1
_RATE, _HARM = 5_000.0, 2.0
# Holds due at our instant or a little later (their second is rounded); the foreground's live for minutes.
_LEFT = "SELECT count(*) FROM stockhold.holds WHERE active > 0 AND expires_at <= %s"


class _Watch:
    """Counts what is left of the due holds, ten times a second, on a connection of its own.

    `is_over` raises what ended the counting, if something did.
    """

    def __init__(self, url: str, due_at: float) -> None:
        self.seen: list[tuple[float, int]] = []
        self._url, self._due_at = url, due_at
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._error: psycopg.Error | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._count()
        except psycopg.Error as error:
            self._error = error

    def _count(self) -> None:
        latest = datetime.fromtimestamp(self._due_at + 5, UTC)
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self._stopped.wait(_POLL_S):
                row = connection.execute(_LEFT, (latest,)).fetchone()
                self.seen.append((time.time(), int(row[0]) if row else 0))

    @property
    def is_over(self) -> bool:
        if self._error is not None:
            raise BenchFailedError(f"the holds could not be counted: {self._error}")
        return bool(self.seen) and self.seen[-1][1] == 0


class _Sweep(msgspec.Struct, frozen=True):
    """`begun_at`, `over_at`: unix times between which the count fell."""

    begun_at: float
    over_at: float
    holds: int

    @property
    def per_second(self) -> float:
        return self.holds / (self.over_at - self.begun_at)


def sweep_of(seen: list[tuple[float, int]]) -> _Sweep:
    """From (time, left) samples: from the last one before the first fall to the first zero."""
    most = max(left for _, left in seen)
    begun_at = max(at for at, left in seen if left == most)
    over_at = min(at for at, left in seen if left == 0 and at > begun_at)
    return _Sweep(begun_at, over_at, most)


def e1_expiry(bench: Bench) -> list[CaseResult]:
    bench.use_stack(WRITE_SIDE_AND_SWEEPER)
    name = bench.fresh_name()
    foreground = bench.stocked(Items(f"{name}-F", 0, _ITEMS))
    due = bench.stocked(Items(f"{name}-D", 0, _ITEMS))
    due_at = _make_holds(bench, due)
    with _Watch(bench.facts.event_store_url, due_at) as watch:
        slices = _foreground_slices(bench, Reserve(foreground), watch, due_at)
    sweep = sweep_of(watch.seen)
    return [_result(sweep, slices, due_at)]


def _make_holds(bench: Bench, items: Items) -> float:
    """The unix time at which they all fall due: late enough, at the rate seen with a few, for all to be made before."""
    few = bench.finish("a few", ReserveBatch(items, _BATCH, time.time() + _A_DAY_S, requests=_FEW // _BATCH), _MAKERS)
    seconds = _SPARE * few.seconds * _HOLDS / _FEW + _BEFORE_S
    bench.say(f"making {_HOLDS:,} holds that fall due in {seconds:.0f} s")
    due_at = time.time() + seconds
    bench.finish("holds", ReserveBatch(items, _BATCH, due_at, requests=_HOLDS // _BATCH), _MAKERS)
    if time.time() > due_at - _BEFORE_S / 2:
        raise BenchFailedError("the holds were not made before they fell due: this machine has other work")
    return due_at


class _Slice(msgspec.Struct, frozen=True):
    began_at: float
    ended_at: float
    latency: Histogram


def _foreground_slices(bench: Bench, requests: Reserve, watch: _Watch, due_at: float) -> list[_Slice]:
    """Commands on other items at a fixed rate, second by second, until the last hold is gone."""
    slices: list[_Slice] = []
    while not watch.is_over:
        if time.time() > due_at + _SWEEP_S_MAX:
            raise BenchFailedError(f"{watch.seen[-1][1]:,} due holds are left after {_SWEEP_S_MAX:.0f} s")
        began_at = time.time()
        load = bench.load(bench.stream(requests), users=_FOREGROUND_USERS, seconds=_SLICE_S, rate=_FOREGROUND_RATE)
        slices.append(_Slice(began_at, time.time(), load.streams["all"].histogram()))
    return slices


def _merged(slices: list[_Slice]) -> Histogram:
    merged = Histogram()
    for one in slices:
        merged.merge(one.latency)
    return merged


def _result(sweep: _Sweep, slices: list[_Slice], due_at: float) -> CaseResult:
    before = _merged([one for one in slices[1:] if one.ended_at < due_at])
    during = _merged([one for one in slices if one.ended_at > sweep.begun_at and one.began_at < sweep.over_at])
    before_ms, during_ms = before.percentile_ms(99), during.percentile_ms(99)
    return CaseResult(
        case="E1",
        title=f"expiry of {sweep.holds:,} holds due at once",
        unit="holds/s",
        target="≥ 5,000 holds/s, foreground p99 ≤ 2 x",
        ours=sweep.per_second,
        p50_ms=during.percentile_ms(50),
        p99_ms=during_ms,
        met=sweep.per_second >= _RATE and during_ms <= _HARM * before_ms,
        note=(
            f"foreground {_FOREGROUND_RATE:.0f} reservations/s on other items: p99 {before_ms:.1f} ms before, "
            f"{during_ms:.1f} ms during ({during_ms / before_ms:.1f} x); the sweep began within "
            f"{max(0.0, sweep.begun_at - due_at):.1f} s"
        ),
    )
