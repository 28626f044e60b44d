"""Arrays in PostgreSQL's binary format, beyond what a server reads of them elsewhere."""

import struct
import tracemalloc

import pytest

from infra.event_store import wire


@pytest.mark.parametrize("count", [0, 1, 127, 128, 129, 255, 256, 257, 1_000])
def test_numbers_keep_their_order_however_many_there_are(count: int) -> None:
    values = range(-5, count - 5)
    assert wire.int8_elements(values) == b"".join(struct.pack("!iq", 8, value) for value in values)


def test_arrays_of_every_length_leave_nothing_behind() -> None:
    wire.int8_array(range(1_000))
    tracemalloc.start()
    try:
        for count in range(1, 1_000):
            wire.int8_array(range(count))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2_000_000
