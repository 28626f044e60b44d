"""What a verification found: counts, and the first of each kind in words."""

from dataclasses import dataclass, field
from typing import Any, Final

DETAILS_MAX: Final = 100
"""Findings of each kind that are kept in words; all are counted."""
OVERSOLD: Final = "oversold"


@dataclass(slots=True)
class Report:
    """``violations``: places where the log itself breaks an invariant. ``differences``: rows that are not what the
    log says, in the write side's index, the views in Postgres or the cache in Redis.

    ``oversold``: those of the violations in which more was promised than was there.
    """

    events: int = 0
    items: int = 0
    warehouses: int = 0
    holds: int = 0
    rows: int = 0
    violations: int = 0
    oversold: int = 0
    differences: int = 0
    violation_details: list[str] = field(default_factory=list)
    difference_details: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not self.violations and not self.differences

    def violation(self, where: str, what: str) -> None:
        """``where``: a stream and version, or a command. ``what`` begins with OVERSOLD if that is it."""
        self.violations += 1
        self.oversold += what.startswith(OVERSOLD)
        _keep(self.violation_details, where, what)

    def difference(self, where: str, what: str) -> None:
        """``where``: a table or a key of the cache, and the row."""
        self.differences += 1
        _keep(self.difference_details, where, what)

    def compare(self, where: str, found: dict[str, Any], expected: dict[str, Any]) -> None:
        """One row, field by field: what differs is one difference."""
        self.rows += 1
        if found != expected:
            wrong = [f"{name} is not there" for name in expected if name not in found]
            wrong += [f"{name} should not be there" for name in found if name not in expected]
            both = ((name, value, expected[name]) for name, value in found.items() if name in expected)
            wrong += [f"{name} is {value!r}, not {wanted!r}" for name, value, wanted in both if value != wanted]
            self.difference(where, "; ".join(wrong))

    def as_json(self) -> dict[str, Any]:
        return {
            "events": self.events,
            "items": self.items,
            "warehouses": self.warehouses,
            "holds": self.holds,
            "rows": self.rows,
            "violations": self.violations,
            "oversold": self.oversold,
            "differences": self.differences,
            "violation_details": self.violation_details,
            "difference_details": self.difference_details,
        }


def _keep(details: list[str], where: str, what: str) -> None:
    if len(details) < DETAILS_MAX:
        details.append(f"{where}: {what}")
