"""PostgreSQL's binary format, for the few types that the write path sends and reads.

Layouts as in the server's ``array_send``, ``int8send`` and ``timestamptz_send``.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from itertools import chain
from struct import Struct
from typing import cast

TEXT, BYTEA, INT8, INT2, TIMESTAMPTZ, INTERVAL = 25, 17, 20, 21, 1184, 1186
TEXT_ARRAY, BYTEA_ARRAY, INT8_ARRAY, INT2_ARRAY, TIMESTAMPTZ_ARRAY = 1009, 1001, 1016, 1005, 1185

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_HEADER = Struct("!iiiii")
_LENGTH = Struct("!i")
_INT8 = Struct("!q")
_INT2_ELEMENT = Struct("!ih")
_NULL = _LENGTH.pack(-1)
_INTERVAL = Struct("!qii")
_CHUNK = 128


def int8(value: int) -> bytes:
    return _INT8.pack(value)


def microseconds(value: datetime) -> int:
    """Since 2000-01-01 UTC."""
    return (value - _EPOCH) // _MICROSECOND


@lru_cache(8_192)
def timestamptz(value: datetime) -> bytes:
    """Kept, because what is written together mostly says the same instant."""
    return _INT8.pack(microseconds(value))


def interval(value: timedelta) -> bytes:
    return _INTERVAL.pack(value // _MICROSECOND, 0, 0)


def text_array(values: Sequence[str | None]) -> bytes:
    if None in values:
        return bytea_array([None if value is None else value.encode() for value in values], TEXT)
    return _header(TEXT, len(values)) + elements(list(map(str.encode, cast("Sequence[str]", values))))


def bytea_array(values: Sequence[bytes | None], element_type: int = BYTEA) -> bytes:
    header = _header(element_type, len(values))
    if None in values:
        return header + b"".join([_NULL if value is None else _LENGTH.pack(len(value)) + value for value in values])
    return header + elements(cast("Sequence[bytes]", values))


def int8_array(values: Iterable[int]) -> bytes:
    numbers = list(values)
    return _header(INT8, len(numbers)) + int8_elements(numbers)


def int2_array(values: Iterable[int]) -> bytes:
    numbers = [_INT2_ELEMENT.pack(2, value) for value in values]
    return _header(INT2, len(numbers)) + b"".join(numbers)


def timestamptz_array(values: Iterable[datetime | None]) -> bytes:
    return bytea_array([None if value is None else timestamptz(value) for value in values], TIMESTAMPTZ)


def elements(values: Sequence[bytes]) -> bytes:
    """``values`` as elements of an array, each behind its length."""
    lengths = list(map(len, values))
    if lengths and lengths.count(lengths[0]) == len(lengths):  # ids mostly are of one length
        length = _LENGTH.pack(lengths[0])
        return length + length.join(values)
    return b"".join(chain.from_iterable(zip(map(_LENGTH.pack, lengths), values, strict=True)))


def int8_elements(values: Sequence[int]) -> bytes:
    """``values`` as elements of an array, many in one call: one for each would cost more than all the rest."""
    pairs = [8] * (2 * len(values))
    pairs[1::2] = values
    chunks = [pairs[at : at + 2 * _CHUNK] for at in range(0, len(pairs), 2 * _CHUNK)]
    return b"".join([_int8_elements(len(chunk) // 2).pack(*chunk) for chunk in chunks])


@cache
def _int8_elements(count: int) -> Struct:
    """Of a chunk at most: a Struct takes 64 bytes for each element, and is kept."""
    return Struct("!" + "iq" * count)


def _header(element_type: int, count: int) -> bytes:
    return _HEADER.pack(1, 1, element_type, count, 1)


def read_int(value: bytes | None) -> int:
    """A smallint, integer or bigint. The column is NOT NULL."""
    assert value is not None
    return int.from_bytes(value, "big", signed=True)


def read_text(value: bytes | None) -> str:
    """A text that is NOT NULL."""
    assert value is not None
    return value.decode()


def read_bytes(value: bytes | None) -> bytes:
    assert value is not None
    return value


def read_time(value: bytes | None) -> datetime:
    """A timestamptz that is NOT NULL, in UTC."""
    return _EPOCH + read_int(value) * _MICROSECOND  # a sixth of what timedelta(microseconds=…) takes
