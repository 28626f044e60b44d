"""A command over several stock items is several events: which part of it each one is."""

from collections.abc import Sequence
from itertools import starmap

import msgspec

from domain.events import Allocated


class Part(msgspec.Struct, frozen=True, gc=False):
    """Which part of its command a hold event is; part 1 names the allocations of all."""

    number: int = 1
    of: int = 1
    allocations: tuple[Allocated, ...] = ()


WHOLE = Part()
"""The only part of its command."""


def parts_of(moves: Sequence[tuple[str, str, int]]) -> list[Part]:
    """The parts of a command that moves these (sku, warehouse, quantity): the first one names them all."""
    if not moves:
        return []
    of = len(moves)
    first = Part(1, of, tuple(starmap(Allocated, moves)))
    return [first, *[Part(number, of) for number in range(2, of + 1)]]
