"""What a look at something found."""

from datetime import timedelta
from typing import NamedTuple


class Finding(NamedTuple):
    """``well``: nothing needs to be done about it."""

    check: str
    well: bool
    seen: str


def duration(seconds: float) -> str:
    """``0.4 s``, or from a minute on ``1:02:03``."""
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))  # noqa: PLR2004  (a minute)


def behind(what: str, positions: int, waiting_s: float | None) -> str:
    """How far ``what`` is behind the log."""
    if positions <= 0:
        return f"{what}: nothing is missing"
    waits = "" if waiting_s is None else f", the oldest event waits for {duration(waiting_s)}"
    return f"{what}: {positions:,} positions behind the log{waits}"
