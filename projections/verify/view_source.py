"""One generation of the views as it lies in Postgres, read in chunks of items.

Each chunk is one transaction with one snapshot: an item's level, its holds and its movements in it are of
one version.
"""
# ruff: noqa: S608  (every name that is put into a statement here is this program's own)

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, Self

import psycopg

from projections.verify.expected import HEADER_COLUMNS, HOLD_COLUMNS, LEVEL_COLUMNS, MOVEMENT_COLUMNS
from projections.verify.log_source import connect, cursor_rows

VIEWS_SCHEMA: Final = "stockhold_views"
Item = tuple[str, str]
"""(SKU, warehouse)."""

_JSON = {"metadata", "shipments", "lines", "allocations", "shortages", "choices", "details"}


def _columns(names: Sequence[str], alias: str) -> str:
    return ", ".join(f"{alias}.{name}::text" if name in _JSON else f"{alias}.{name}" for name in names)


_KEYS = "unnest(%s::text[], %s::text[]) WITH ORDINALITY AS k (sku, warehouse, place)"
_LEVELS = f"""
    SELECT l.sku, l.warehouse, p.policy::text, {_columns(LEVEL_COLUMNS, "l")} FROM {_KEYS}
    JOIN stock_levels l ON l.sku = k.sku AND l.warehouse = k.warehouse
    LEFT JOIN policies p ON p.sku = k.sku AND p.warehouse = k.warehouse
"""
# The subqueries have an order of their own, so that the planner cannot flatten them: item after item, by the index.
_MOVEMENTS = f"""
    SELECT k.place, m.* FROM {_KEYS}, LATERAL (
        SELECT {_columns(MOVEMENT_COLUMNS, "m")} FROM movements m
        WHERE m.sku = k.sku AND m.warehouse = k.warehouse ORDER BY m.version OFFSET 0
    ) AS m
"""
_HOLDS = f"""
    SELECT k.place, h.* FROM {_KEYS}, LATERAL (
        SELECT h.reservation_id, {_columns(HOLD_COLUMNS, "h")} FROM holds h
        WHERE h.sku = k.sku AND h.warehouse = k.warehouse ORDER BY h.reservation_id OFFSET 0
    ) AS h
"""
_HEADERS = (
    f"SELECT r.reservation_id, {_columns(HEADER_COLUMNS, 'r')} FROM reservations r WHERE r.reservation_id = ANY(%s)"
)
_WAREHOUSES = """
    SELECT code, version, status, country, created_at, updated_at, stale, details::text FROM warehouses ORDER BY code
"""
_NEXT_ITEMS = """
    SELECT sku, warehouse FROM stock_levels WHERE (sku, warehouse) > (%s, %s) ORDER BY sku, warehouse LIMIT %s
"""
_OF_NO_ITEM = (
    "{table} t WHERE NOT EXISTS (SELECT FROM stock_levels l WHERE l.sku = t.sku AND l.warehouse = t.warehouse)"
)
_STRAYS: Final = (
    ("movements", "sku || '@' || warehouse || '#' || version", _OF_NO_ITEM),
    ("holds", "reservation_id || ' ' || sku || '@' || warehouse", _OF_NO_ITEM),
    ("policies", "sku || '@' || warehouse", _OF_NO_ITEM),
    (
        "reservations",
        "reservation_id",
        "{table} t WHERE NOT EXISTS (SELECT FROM holds h WHERE h.reservation_id = t.reservation_id)",
    ),
)


class GenerationName(NamedTuple):
    """Where a generation lies: its schema in Postgres, the prefix of its keys in Redis."""

    schema: str
    redis_prefix: str


class ViewedLevel(NamedTuple):
    """A row of ``stock_levels``, and the JSON of the item's policy."""

    policy: str | None
    row: dict[str, Any]


class Places:
    """Rows that come item after item, each beginning with the ordinal of its item."""

    def __init__(self, rows: Iterator[Any]) -> None:
        self._rows = rows
        self._next = next(rows, None)

    def peek(self, place: int) -> Any | None:
        """The next row, if it is of the item at ``place`` or of one before it."""
        return self._next if self._next is not None and self._next[0] <= place else None

    def take(self, place: int) -> Any | None:
        """The same, and go on to the one after it."""
        row = self.peek(place)
        if row is not None:
            self._next = next(self._rows, None)
        return row


class ViewChunk:
    """Some items, within one snapshot."""

    def __init__(self, connection: psycopg.Connection[Any], items: Sequence[Item]) -> None:
        self._connection = connection
        keys = ([sku for sku, _ in items], [warehouse for _, warehouse in items])
        self.levels: dict[Item, ViewedLevel] = {}
        with connection.cursor(binary=True) as cursor:
            for sku, warehouse, policy, *level in cursor.execute(_LEVELS, keys):
                self.levels[sku, warehouse] = ViewedLevel(policy, dict(zip(LEVEL_COLUMNS, level, strict=True)))
        self.movements = Places(cursor_rows(connection, "movements", _MOVEMENTS, keys))
        self.holds = Places(cursor_rows(connection, "holds", _HOLDS, keys))

    def headers(self, reservation_ids: Sequence[str]) -> dict[str, tuple[Any, ...]]:
        """The reservations' rows, by id, in the order of HEADER_COLUMNS."""
        with self._connection.cursor(binary=True) as cursor:
            return {row[0]: row[1:] for row in cursor.execute(_HEADERS, [list(reservation_ids)])}


class ViewSource:
    """One connection to the read model, on one generation."""

    def __init__(self, url: str, generation: GenerationName) -> None:
        self.generation = generation
        self._connection = connect(url, generation.schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def position(self) -> int:
        """Up to here the log is in the tables, by every partition."""
        return int(self._rows("SELECT coalesce(min(pg_position), 0) FROM cursors")[0][0])

    def partitions(self) -> list[int]:
        return [row[0] for row in self._rows("SELECT partition FROM cursors")]

    @contextmanager
    def chunk(self, items: Sequence[Item]) -> Iterator[ViewChunk]:
        """These items, in a transaction of their own."""
        with self._connection.transaction():
            yield ViewChunk(self._connection, items)

    def warehouses(self) -> dict[str, dict[str, Any]]:
        """The rows of ``warehouses``, by code."""
        names = ("version", "status", "country", "created_at", "updated_at", "stale", "details")
        return {row[0]: dict(zip(names, row[1:], strict=True)) for row in self._rows(_WAREHOUSES)}

    def dead_letters(self) -> list[tuple[str, int, str]]:
        """Streams that stand still: (stream, version, error)."""
        return self._rows("SELECT stream, version, error FROM dead_letters ORDER BY stream")

    def items(self, page: int) -> Iterator[list[Item]]:
        """Every item that has a level, in pages."""
        after: Item = ("", "")
        while found := [(row[0], row[1]) for row in self._rows(_NEXT_ITEMS, *after, page)]:
            yield found
            after = found[-1]

    def strays(self, limit: int) -> Iterator[tuple[str, str]]:
        """Rows that belong to no row of another table, as they must: (table, key)."""
        for table, key, condition in _STRAYS:
            query = f"SELECT {key} FROM {condition.format(table=table)} LIMIT %s"
            for row in self._rows(query, limit):
                yield table, row[0]

    def _rows(self, query: str, *params: Any) -> list[Any]:
        with self._connection.transaction():
            return self._connection.execute(query, params).fetchall()


def live_generation(url: str) -> GenerationName | None:
    """The generation that is read; None if there are no views (yet). Raises psycopg.OperationalError."""
    with connect(url, VIEWS_SCHEMA) as connection:
        try:
            row = connection.execute(
                "SELECT schema_name, redis_prefix FROM pointer JOIN generations USING (generation)"
            ).fetchone()
        except psycopg.errors.UndefinedTable:
            return None
        return GenerationName(*row) if row is not None else None
