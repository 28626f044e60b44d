"""How the demo says where it is; the command line decides how that looks."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


class Bar(Protocol):
    def advance(self, amount: int = 1) -> None: ...


@dataclass(frozen=True, slots=True)
class Reporter:
    """`stage` shows a part of the work with so many steps for as long as its block lasts."""

    say: Callable[[str], None]
    stage: Callable[[str, int], AbstractContextManager[Bar]]
