"""PostgreSQL's binary format, for the few types that the write path sends and reads.

Layouts as in the server's ``array_send``, ``int8send`` and ``timestamptz_send``.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
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
_INT8_ELEMENT = Struct("!iq")
_NULL = _LENGTH.pack(-1)
_INTERVAL = Struct("!qii")


def int8(value: int) -> bytes:
    return _INT8.pack(value)


def timestamptz(value: datetime) -> bytes:
    """Microseconds since 2000-01-01 UTC."""
    return _INT8.pack((value - _EPOCH) // _MICROSECOND)


def interval(value: timedelta) -> bytes:
    return _INTERVAL.pack(value // _MICROSECOND, 0, 0)


def text_array(values: Sequence[str | None]) -> bytes:
    return _array(TEXT, [None if value is None else value.encode() for value in values])


def bytea_array(values: Sequence[bytes | None]) -> bytes:
    return _array(BYTEA, values)


def int8_array(values: Iterable[int]) -> bytes:
    elements = [_INT8_ELEMENT.pack(8, value) for value in values]
    return _HEADER.pack(1, 0, INT8, len(elements), 1) + b"".join(elements)


def int2_array(values: Iterable[int]) -> bytes:
    elements = [_INT2_ELEMENT.pack(2, value) for value in values]
    return _HEADER.pack(1, 0, INT2, len(elements), 1) + b"".join(elements)


def timestamptz_array(values: Iterable[datetime | None]) -> bytes:
    return _array(TIMESTAMPTZ, [None if value is None else timestamptz(value) for value in values])


def _array(element_type: int, values: Sequence[bytes | None]) -> bytes:
    header = _HEADER.pack(1, 1, element_type, len(values), 1)
    if None in values:
        elements = (_NULL if value is None else _LENGTH.pack(len(value)) + value for value in values)
        return header + b"".join(elements)
    present = cast("Sequence[bytes]", values)  # the check above; a copy would be the dearest line here
    return header + b"".join(chain.from_iterable(zip(map(_LENGTH.pack, map(len, present)), present, strict=True)))


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
