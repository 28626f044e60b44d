"""Identifiers made here: UUIDv7 as text (RFC 9562, section 5.7), which sort by the time they were made."""

import os
from random import Random
from time import time_ns
from typing import Final

_NS_PER_MS: Final = 1_000_000
_VARIANT: Final = 0b10
_COUNTER_BITS: Final = 48


class Uuid7:
    """Makes identifiers, each greater than the one before; for one thread at a time.

    All bits after the moment are random once for each millisecond; within it, or when the clock steps back, the last
    48 of them count on, as method 2 of RFC 9562, section 6.2, has it.
    """

    def __init__(self) -> None:
        self.start_over()

    def start_over(self) -> None:
        """Forgets the identifiers made so far."""
        # Uniqueness is wanted, not secrecy: asking the system for entropy each time costs several times
        # as much as this generator, which is seeded from it once.
        self._random_bits = Random().getrandbits  # noqa: S311 - see above
        self._ends_ns = 0
        self._prefix = ""
        self._count = 0

    def __call__(self) -> str:
        """The next identifier."""
        now_ns = time_ns()
        if now_ns >= self._ends_ns:
            self._begin(now_ns // _NS_PER_MS)
        else:
            self._count += 1
        return f"{self._prefix}{self._count:012x}"

    def _begin(self, moment_ms: int) -> None:
        self._ends_ns = (moment_ms + 1) * _NS_PER_MS
        moment = f"{moment_ms:012x}"
        group = _VARIANT << 14 | self._random_bits(14)
        self._prefix = f"{moment[:8]}-{moment[8:]}-7{self._random_bits(12):03x}-{group:04x}-"
        # The top bit stays clear: room to count on, for longer than any process lives.
        self._count = self._random_bits(_COUNTER_BITS - 1)


new_id: Final = Uuid7()
"""``new_id()``: a UUIDv7 in lower-case text, greater than every one that this process made before.

From one thread only: the event loop's.
"""

# A forked child would otherwise make its parent's identifiers over again.
os.register_at_fork(after_in_child=new_id.start_over)
