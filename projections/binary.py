"""PostgreSQL's binary format for the columns of the views.

A field (its length, then its bytes) looks the same as an element of an array and as a column of a COPY,
so a table is described once and written both ways. Encoders return whole fields.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import chain, repeat
from struct import Struct
from typing import Any, Final, NamedTuple

from infra.event_store.wire import elements, int8_elements

BUCKETS: Final = 7

_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LENGTH = Struct("!i").pack
_INT8 = Struct("!iq").pack
_ARRAY_HEADER = Struct("!iiiii").pack
_BUCKETS = Struct("!" + "iq" * BUCKETS).pack
_NUMERIC_HEADER = Struct("!hhHH").pack
_DIGIT_GROUP = Struct("!h").pack

NULL: Final = _LENGTH(-1)
_TRUE, _FALSE = _LENGTH(1) + b"\x01", _LENGTH(1) + b"\x00"
_INT8_OID = 20
_BUCKETS_HEADER = _LENGTH(20 + 12 * BUCKETS) + _ARRAY_HEADER(1, 0, _INT8_OID, BUCKETS, 1)
_DIGITS_PER_GROUP = 4
_NEGATIVE = 0x4000
_EXPONENT_MAX = 4_000

Encoder = Callable[[Any], bytes]


class Kind(NamedTuple):
    """A type of column: its SQL name, its OID, its array's OID, and how a value, or several, become fields."""

    sql: str
    oid: int
    array_oid: int
    encode: Encoder
    encode_all: Callable[[Sequence[Any]], bytes]


def _int8(value: int | None) -> bytes:
    return NULL if value is None else _INT8(8, value)


def _int8s(values: Sequence[int | None]) -> bytes:
    return b"".join(map(_int8, values)) if None in values else int8_elements(values)  # type: ignore[arg-type]  # no None


@lru_cache(8_192)
def _microseconds(value: datetime) -> int:
    """Since 2000. Kept, because an event's time goes into many columns, and rows are written in the same instant."""
    return (value - _EPOCH) // _MICROSECOND


def _time(value: datetime | None) -> bytes:
    return NULL if value is None else _INT8(8, _microseconds(value))


def _times(values: Sequence[datetime | None]) -> bytes:
    return _int8s([None if value is None else _microseconds(value) for value in values])


def _bool(value: bool) -> bytes:
    return _TRUE if value else _FALSE


def _text(value: str | None) -> bytes:
    if value is None:
        return NULL
    encoded = value.encode()
    return _LENGTH(len(encoded)) + encoded


def _texts(values: Sequence[str | None]) -> bytes:
    return b"".join(map(_text, values)) if None in values else elements(list(map(str.encode, values)))  # type: ignore[arg-type]  # no None


def _json(value: bytes | None) -> bytes:
    return NULL if value is None else _LENGTH(len(value)) + value


def _jsons(values: Sequence[bytes | None]) -> bytes:
    return b"".join(map(_json, values)) if None in values else elements(values)  # type: ignore[arg-type]  # no None


def _buckets(value: Sequence[int]) -> bytes:
    on_hand, reserved, committed, damaged, quarantined, in_transit, incoming = value
    return _BUCKETS_HEADER + _BUCKETS(
        *(8, on_hand, 8, reserved, 8, committed, 8, damaged, 8, quarantined, 8, in_transit, 8, incoming)
    )


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


def _each(encode: Encoder) -> Callable[[Sequence[Any]], bytes]:
    return lambda values: b"".join(map(encode, values))


INT8 = Kind("bigint", 20, 1016, _int8, _int8s)
TIME = Kind("timestamptz", 1184, 1185, _time, _times)
BOOL = Kind("boolean", 16, 1000, _bool, _each(_bool))
TEXT = Kind("text", 25, 1009, _text, _texts)
JSON = Kind("json", 114, 199, _json, _jsons)
NUMERIC = Kind("numeric", 1700, 1231, _numeric, _each(_numeric))
SEVEN = Kind("bigint[]", 1016, 1016, _buckets, _each(_buckets))
"""The seven buckets. An array of arrays cannot be unnested, so as a parameter they come flat, seven per row."""


def array(kind: Kind, values: Sequence[Any]) -> bytes:
    """``values`` as one array parameter."""
    if kind is SEVEN:
        return array(INT8, list(chain.from_iterable(values)))
    header = _ARRAY_HEADER(1, 1, kind.oid, len(values), 1)
    if not values:
        return header
    return header + (kind.encode(values[0]) * len(values) if _all_alike(kind, values) else kind.encode_all(values))


def _all_alike(kind: Kind, values: Sequence[Any]) -> bool:
    """Whether one field does for all of them, as in half of the columns of a batch."""
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
        alike = [(number, column) for number, column in enumerate(columns, 1) if column.kind is not SEVEN]
        values = {column.name: f"r.{column.name}" for _, column in alike}
        for number, column in enumerate(self.columns, 1):
            if column.kind is SEVEN:
                values[column.name] = f"(${number}::bigint[])[(r.n - 1) * {BUCKETS} + 1 : r.n * {BUCKETS}]"
        values |= instead
        arrays = ", ".join(f"${number}::{column.kind.sql}[]" for number, column in alike)
        names = ", ".join(column.name for _, column in alike)
        return (
            f"INSERT INTO {self.name} ({', '.join(self.names)}) "  # noqa: S608  (names from this program alone)
            f"SELECT {', '.join(values[name] for name in self.names)} "
            f"FROM unnest({arrays}) WITH ORDINALITY AS r({names}, n)"
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
            fields += _in_rows(column.kind, values)
        return b"".join(chain.from_iterable(zip(*fields, strict=False)))  # the first has no end


def _in_rows(kind: Kind, values: Sequence[Any]) -> list[Iterable[bytes]]:
    """The field of each of ``values``, as one iterable, or as two of which it takes one piece each."""
    if _all_alike(kind, values):
        return [repeat(kind.encode(values[0]), len(values))]
    if None not in values:
        if kind is TEXT:
            encoded = list(map(str.encode, values))
            return [map(_LENGTH, map(len, encoded)), encoded]
        if kind is INT8:
            return [map(_INT8, repeat(8), values)]
        if kind is TIME:
            return [map(_INT8, repeat(8), map(_microseconds, values))]
        if kind is JSON:
            return [map(_LENGTH, map(len, values)), values]
    return [map(kind.encode, values)]


COPY_HEADER: Final = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
COPY_TRAILER: Final = b"\xff\xff"
