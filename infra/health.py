"""What a background process says of itself: what it lacks, and whether it gets on with its work.

Its loops are handed one `Health` and tell it as they go; the monitor shows it, and the supervisor acts on it:

    health.say("kafka", "the brokers are away")    # at every try, and None once they are back: not ready, not to blame
    health.beat("sweep")                           # the next beat is due within `stall_s` ...
    health.rest("sweep")                           # ... unless it says that it waits for something
    health.at("events", position, goal)            # short of the goal, the position must change within `stall_s`
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class _Work:
    """Something that must get on: ``at`` which place, of which end, since when; ``due``: whether it must now."""

    place: object
    goal: object
    since_s: float
    due: bool


class Health:
    """The state of one process, kept in memory; everything here is quick and raises nothing.

    ``stall_s``: how long work may stand still. While the process keeps saying that something it needs is away,
    standing still is no fault of its own: the time begins again when that has passed. A problem that is not said
    again within ``stall_s`` excuses no longer: nobody seems to try any more.
    """

    def __init__(self, stall_s: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        self._stall_s = stall_s
        self._clock = clock
        self._problems: dict[str, str | None] = {}
        self._said_s: dict[str, float] = {}
        self._work: dict[str, _Work] = {}

    def say(self, name: str, problem: str | None) -> None:
        """What is wrong with ``name``, or ``None``: nothing any more."""
        excused = self._is_excused
        now_s = self._clock()
        self._problems[name], self._said_s[name] = problem, now_s
        if excused and not self._is_excused:
            for work in self._work.values():
                work.since_s = now_s

    def beat(self, name: str = "progress") -> None:
        """It has come round once more, and is expected again."""
        self._work[name] = _Work(None, None, self._clock(), due=True)

    def rest(self, name: str = "progress") -> None:
        """Nothing is expected of it until its next beat."""
        self._work[name] = _Work(None, None, self._clock(), due=False)

    def at(self, name: str, place: object, goal: object) -> None:
        """It stands at ``place`` and there is work up to ``goal`` (equal: none)."""
        before, due = self._work.get(name), place != goal
        if before is not None and before.due and due and before.place == place:
            before.goal = goal
        else:
            self._work[name] = _Work(place, goal, self._clock(), due)

    def forget(self, name: str) -> None:
        """``name`` is no concern of this process any more."""
        self.say(name, None)
        self._problems.pop(name)
        self._work.pop(name, None)

    @property
    def stuck(self) -> str | None:
        """Why this process should be started again; ``None`` if it should not."""
        return None if self._is_excused else next(filter(None, map(self._stall_of, self._work)), None)

    def checks(self) -> dict[str, str | None]:
        """By name: ``None``, or what is wrong."""
        found = dict(self._problems)
        for name in self._work:
            found[name] = found.get(name) or (None if self._is_excused else self._stall_of(name))
        return found

    @property
    def _is_excused(self) -> bool:
        now_s = self._clock()
        return any(
            problem is not None and now_s - self._said_s[name] <= self._stall_s
            for name, problem in self._problems.items()
        )

    def _stall_of(self, name: str) -> str | None:
        work = self._work[name]
        still_s = self._clock() - work.since_s
        if not work.due or still_s <= self._stall_s:
            return None
        if work.place is None and work.goal is None:
            return f"{name} has not come round for {still_s:.0f} s"
        return f"{name} stands at {work.place} of {work.goal} for {still_s:.0f} s"
