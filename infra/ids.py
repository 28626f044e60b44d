"""Identifiers made here: UUIDv7 as text (RFC 9562, section 5.7), which sort by the time they were made."""

import os
from random import Random
from time import time_ns
from typing import Final

_NS_PER_MS: Final = 1_000_000
_TAIL_BITS: Final = 74
"""What a UUIDv7 has beside its milliseconds, version and variant."""
_STEP_BITS: Final = 32


class Uuid7:
    """Makes identifiers, each greater than the one before; for one thread at a time.

    Within a millisecond, or when the clock steps back, the tail counts on by a random step, as method 2
    of RFC 9562, section 6.2, has it.
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
        self._tail = 0

    def __call__(self) -> str:
        """The next identifier."""
        moment_ms = time_ns() // _NS_PER_MS
        if moment_ms > self._moment_ms:
            self._begin(moment_ms)
        else:
            self._tail += self._random_bits(_STEP_BITS) + 1
            if self._tail >> _TAIL_BITS:  # the clock has been standing still for weeks
                self._begin(self._moment_ms + 1)
        tail = self._tail
        return f"{self._prefix}{tail >> 62:03x}-{0x8000 | tail >> 48 & 0x3FFF:04x}-{tail & 0xFFFF_FFFF_FFFF:012x}"

    def _begin(self, moment_ms: int) -> None:
        self._moment_ms = moment_ms
        text = f"{moment_ms:012x}"
        self._prefix = f"{text[:8]}-{text[8:]}-7"
        # The top bit stays clear: room to count on.
        self._tail = self._random_bits(_TAIL_BITS - 1)


new_id: Final = Uuid7()
"""``new_id()``: a UUIDv7 in lower-case text, greater than every one that this process made before.

From one thread only: the event loop's.
"""

# A forked child would otherwise make its parent's identifiers over again.
os.register_at_fork(after_in_child=new_id.start_over)
