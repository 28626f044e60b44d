"""PostgreSQL's binary format for the columns of the views.

A field (its length, then its bytes) looks the same as an element of an array and as a column of a COPY,
so a table is described once and written both ways. Encoders return whole fields.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import chain, repeat
from struct import Struct
from typing import Any, Final, NamedTuple

from infra.event_store.wire import elements, int8_elements, microseconds

_LENGTH = Struct("!i").pack
_INT8 = Struct("!iq").pack
_ARRAY_HEADER = Struct("!iiiii").pack
_BUCKETS = Struct("!7q")
_NUMERIC_HEADER = Struct("!hhHH").pack
_DIGIT_GROUP = Struct("!h").pack

NULL: Final = _LENGTH(-1)
_TRUE, _FALSE = _LENGTH(1) + b"\x01", _LENGTH(1) + b"\x00"
_BUCKETS_LENGTH = _LENGTH(_BUCKETS.size)
_DIGITS_PER_GROUP = 4
_NEGATIVE = 0x4000
_EXPONENT_MAX = 4_000

Encoder = Callable[[Any], bytes]


class Kind(NamedTuple):
    """A type of column: its SQL name, its OID, its array's OID, and how values become fields.

    ``encode``: one, which may be null. Many that are not: ``join`` them for an array, or give the ``parts`` of each for a
    row, as one iterable or as two of which every field takes one piece each.
    """

    sql: str
    oid: int
    array_oid: int
    encode: Encoder
    join: Callable[[Sequence[Any]], bytes]
    parts: Callable[[Sequence[Any]], list[Iterable[bytes]]]


def _int8(value: int | None) -> bytes:
    return NULL if value is None else _INT8(8, value)


def _int8_parts(values: Iterable[int]) -> list[Iterable[bytes]]:
    return [map(_INT8, repeat(8), values)]


def _time(value: datetime | None) -> bytes:
    return NULL if value is None else _INT8(8, microseconds(value))


def _bool(value: bool) -> bytes:
    return _TRUE if value else _FALSE


def _text(value: str | None) -> bytes:
    if value is None:
        return NULL
    encoded = value.encode()
    return _LENGTH(len(encoded)) + encoded


def _json(value: bytes | None) -> bytes:
    return NULL if value is None else _LENGTH(len(value)) + value


def _bytes_parts(values: Sequence[bytes]) -> list[Iterable[bytes]]:
    lengths = list(map(len, values))
    if lengths.count(lengths[0]) == len(lengths):  # ids mostly are of one length
        return [repeat(_LENGTH(lengths[0])), values]
    return [map(_LENGTH, lengths), values]


def _buckets(value: Sequence[int]) -> bytes:
    return _BUCKETS_LENGTH + _BUCKETS.pack(*value)


def buckets_from(stored: bytes) -> tuple[int, ...]:
    """The seven buckets of a column of SEVEN."""
    return _BUCKETS.unpack(stored)


def _numeric(value: Decimal | None) -> bytes:
    """Groups of four decimal digits, the first of weight ``weight`` (powers of 10,000)."""
    if value is None:
        return NULL
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or abs(exponent) > _EXPONENT_MAX:
        raise OverflowError(f"{value} does not fit into a column")
    scale = max(0, -exponent)
    text = "".join(map(str, digits)) + "0" * (exponent + scale)
    text += "0" * (-scale % _DIGITS_PER_GROUP)
    text = text.zfill(-(-len(text) // _DIGITS_PER_GROUP) * _DIGITS_PER_GROUP)
    groups = [int(text[i : i + _DIGITS_PER_GROUP]) for i in range(0, len(text), _DIGITS_PER_GROUP)]
    weight = len(groups) - 1 - -(-scale // _DIGITS_PER_GROUP)
    body = _NUMERIC_HEADER(len(groups), weight, _NEGATIVE if sign else 0, scale) + b"".join(map(_DIGIT_GROUP, groups))
    return _LENGTH(len(body)) + body


def _encoded(values: Sequence[str]) -> list[bytes]:
    return list(map(str.encode, values))


def _one_by_one(sql: str, oid: int, array_oid: int, encode: Encoder) -> Kind:
    return Kind(
        *(sql, oid, array_oid, encode),
        lambda values: b"".join(map(encode, values)),
        lambda values: [map(encode, values)],
    )


INT8 = Kind("bigint", 20, 1016, _int8, int8_elements, _int8_parts)
TIME = Kind(
    *("timestamptz", 1184, 1185, _time),
    lambda values: int8_elements(list(map(microseconds, values))),
    lambda values: _int8_parts(map(microseconds, values)),
)
TEXT = Kind(
    *("text", 25, 1009, _text),
    lambda values: elements(_encoded(values)),
    lambda values: _bytes_parts(_encoded(values)),
)
JSON = Kind("json", 114, 199, _json, elements, _bytes_parts)
BOOL = _one_by_one("boolean", 16, 1000, _bool)
NUMERIC = _one_by_one("numeric", 1700, 1231, _numeric)
SEVEN = _one_by_one("bytea", 17, 1001, _buckets)
"""The seven buckets, 8 bytes each: an array would cost the server more to take in than the rest of the row."""


def array(kind: Kind, values: Sequence[Any]) -> bytes:
    """``values`` as one array parameter."""
    return _ARRAY_HEADER(1, 1, kind.oid, len(values), 1) + _elements(kind, values)


def _elements(kind: Kind, values: Sequence[Any]) -> bytes:
    if _all_alike(kind, values):
        return kind.encode(values[0]) * len(values)
    return b"".join(map(kind.encode, values)) if None in values else kind.join(values)


def _parts(kind: Kind, values: Sequence[Any]) -> list[Iterable[bytes]]:
    if _all_alike(kind, values):
        return [repeat(kind.encode(values[0]), len(values))]
    return [map(kind.encode, values)] if None in values else kind.parts(values)


def _all_alike(kind: Kind, values: Sequence[Any]) -> bool:
    """Whether one field does for all of them, as in half of the columns of a batch."""
    if not values:
        return False
    first = values[0]
    # Equal numerics may differ: 1.0 and 1.00 are kept as they were written.
    return (kind is not NUMERIC or first is None) and first == values[-1] and values.count(first) == len(values)


class Column(NamedTuple):
    name: str
    kind: Kind


class Table(NamedTuple):
    """A table and its columns in the order of a row's values."""

    name: str
    columns: tuple[Column, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def types(self) -> tuple[int, ...]:
        """The OIDs of the parameters that :meth:`params` gives."""
        return tuple(column.kind.array_oid for column in self.columns)

    def params(self, rows: Sequence[Sequence[Any]]) -> list[bytes]:
        """``rows`` (at least one) as one array per column."""
        return [
            array(column.kind, values) for column, values in zip(self.columns, zip(*rows, strict=True), strict=True)
        ]

    def unnested(self, extra: Sequence[Column] = (), **instead: str) -> str:
        """``INSERT INTO … SELECT …`` of those parameters as rows ``r``.

        ``extra``: parameters after them that no column takes; ``instead``: SQL in place of a column's value.
        """
        columns = (*self.columns, *extra)
        arrays = ", ".join(f"${number}::{column.kind.sql}[]" for number, column in enumerate(columns, 1))
        return (
            f"INSERT INTO {self.name} ({', '.join(self.names)}) "  # noqa: S608  (names from this program alone)
            f"SELECT {', '.join(instead.get(name, f'r.{name}') for name in self.names)} "
            f"FROM unnest({arrays}) AS r({', '.join(column.name for column in columns)})"
        )

    def overwriting(self, *key: str) -> str:
        """The ``ON CONFLICT`` clause by which a row takes the place of the one with the same key."""
        changes = ", ".join(f"{name} = excluded.{name}" for name in self.names if name not in key)
        return f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes}"

    def copy_rows(self, rows: Sequence[Sequence[Any]]) -> bytes:
        """``rows`` (at least one) as rows of a binary COPY."""
        fields: list[Iterable[bytes]] = [repeat(Struct("!h").pack(len(self.columns)))]
        # By the column, though they lie by the row: a call for each value would be half of the cost of a rebuild.
        for column, values in zip(self.columns, zip(*rows, strict=True), strict=True):
            fields += _parts(column.kind, values)
        return b"".join(chain.from_iterable(zip(*fields, strict=False)))  # the first has no end


COPY_HEADER: Final = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
COPY_TRAILER: Final = b"\xff\xff"
