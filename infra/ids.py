"""Identifiers made here: UUIDv7 as text (RFC 9562, section 5.7), which sort by the time they were made."""

import os
from random import Random
from time import time_ns
from typing import Final

_NS_PER_MS: Final = 1_000_000
_COUNT_MAX: Final = 0xFFF
_RANDOM_BITS: Final = 62
_VARIANT: Final = 0b10 << _RANDOM_BITS


class Uuid7:
    """Makes identifiers, each greater than the one before; for one thread at a time.

    Within a millisecond, or when the clock steps back, the twelve bits after the version count on, as method 1
    of RFC 9562, section 6.2, has it; when they are used up, so does the millisecond.
    """

    def __init__(self) -> None:
        self.start_over()

    def start_over(self) -> None:
        """Forgets the identifiers made so far."""
        # Uniqueness is wanted, not secrecy: asking the system for entropy each time costs several times
        # as much as this generator, which is seeded from it once.
        self._random_bits = Random().getrandbits  # noqa: S311 - see above
        self._moment_ms = 0
        self._prefix = ""
        self._count = 0

    def __call__(self) -> str:
        """The next identifier."""
        moment_ms = time_ns() // _NS_PER_MS
        if moment_ms > self._moment_ms:
            self._begin(moment_ms)
        elif self._count == _COUNT_MAX:
            self._begin(self._moment_ms + 1)
        else:
            self._count += 1
        tail = "%016x" % (_VARIANT | self._random_bits(_RANDOM_BITS))
        return f"{self._prefix}{self._count:03x}-{tail[:4]}-{tail[4:]}"

    def _begin(self, moment_ms: int) -> None:
        self._moment_ms = moment_ms
        text = f"{moment_ms:012x}"
        self._prefix = f"{text[:8]}-{text[8:]}-7"
        # The top bit stays clear: room to count on.
        self._count = self._random_bits(11)


new_id: Final = Uuid7()
"""``new_id()``: a UUIDv7 in lower-case text, greater than every one that this process made before.

From one thread only: the event loop's.
"""

# A forked child would otherwise make its parent's identifiers over again.
os.register_at_fork(after_in_child=new_id.start_over)
