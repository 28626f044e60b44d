"""Reads rows of the views back, for whoever has to bring the cache up to date with them."""
# ruff: noqa: S608  (every name that is put into a statement here is this program's own)

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, Self

from infra.event_store.wire import INT2_ARRAY, INT8, TEXT, TEXT_ARRAY, int2_array, int8
from infra.postgres import Call, PipelineConnection, Statement
from infra.result_rows import rows_of
from projections import binary
from projections.batches import Item
from projections.redis_layout import microseconds
from projections.redis_views import WHOLE, LevelPush
from projections.share import Share
from projections.statements import CURSOR_COLUMNS, Cursor, common_cursor
from projections.tables import LEVEL_SELECT, WAREHOUSE_SELECT, level_from, warehouse_from
from projections.views.warehouses import WarehouseRow

# One statement, hence one snapshot: a level and its holds are of the same version.
_DUE = """ARRAY(SELECT h.{} FROM holds h
    WHERE h.sku = l.sku AND h.warehouse = l.warehouse AND (h.active > 0 OR h.committed > 0) AND h.due_at IS NOT NULL
    ORDER BY h.due_at, h.reservation_id)"""
_WHOLE_LEVEL = f"{LEVEL_SELECT}, {_DUE.format('due_at')}, {_DUE.format('active')}, {_DUE.format('reservation_id')}"

_CURSOR = Statement(
    b"cursor", f"SELECT {CURSOR_COLUMNS} FROM cursors WHERE partition = ANY($1)".encode(), (INT2_ARRAY,)
)
_NEWER = Statement(
    b"newer",
    f"""SELECT {_WHOLE_LEVEL} FROM stock_levels l
        WHERE l.revision > $1 AND (l.sku, l.warehouse) > ($2, $3) ORDER BY l.sku, l.warehouse LIMIT $4""".encode(),
    (INT8, TEXT, TEXT, INT8),
)
_WHOLE = Statement(
    b"whole",
    f"""SELECT {_WHOLE_LEVEL} FROM unnest($1, $2) AS k (sku, warehouse)
        JOIN stock_levels l ON l.sku = k.sku AND l.warehouse = k.warehouse""".encode(),
    (TEXT_ARRAY, TEXT_ARRAY),
)
_WAREHOUSES = Statement(
    b"warehouses", f"SELECT {WAREHOUSE_SELECT} FROM warehouses w WHERE w.revision > $1".encode(), (INT8,)
)
_STATEMENTS = (_CURSOR, _NEWER, _WHOLE, _WAREHOUSES)
_SESSION = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_sort": "off",
    "jit": "off",
    "application_name": "stockhold-cache-filler",
}
EVERYTHING: Final = -1
"""A revision before every row's."""


class RowReader:
    """A connection of its own, beside the writer's: what it finds is of the share's partitions.

    Calls raise ``infra.postgres.ConnectionLost``.
    """

    def __init__(self, connection: PipelineConnection, share: Share) -> None:
        self._connection = connection
        self._share = share

    @classmethod
    async def connect(cls, url: str, schema: str, share: Share = Share(), *, timeout_s: float = 5.0) -> Self:  # noqa: B008  (immutable)
        """Raises ConnectionLost; StatementFailed if ``schema`` holds no generation."""
        session = _SESSION | {"search_path": schema}
        return cls(await PipelineConnection.connect(url, _STATEMENTS, session, timeout_s), share)

    async def close(self) -> None:
        await self._connection.close()

    async def cursor(self) -> Cursor:
        """Where the partitions are together. Raises LookupError if there is none of them."""
        rows = await self._rows(Call(_CURSOR, (int2_array(self._share.partitions),)))
        if not rows:
            raise LookupError("the generation has no cursor")
        return common_cursor([Cursor(*row) for row in rows])

    async def newer(self, revision: int, page: int) -> AsyncIterator[list[LevelPush]]:
        """The levels written after ``revision``, each with all of its active holds, in pages of ``page`` rows."""
        after: Item = ("", "")
        while True:
            params = (int8(revision), after[0].encode(), after[1].encode(), int8(page))
            found = [_push(row) for row in await self._rows(Call(_NEWER, params))]
            if pushes := [push for push in found if self._share.has_sku(push.level.sku)]:
                yield pushes
            if len(found) < page:
                return
            after = (found[-1].level.sku, found[-1].level.warehouse)

    async def whole(self, items: Sequence[Item]) -> list[LevelPush]:
        """The levels of ``items``, each with all of its active holds."""
        params = tuple(binary.array(binary.TEXT, [item[i] for item in items]) for i in range(2))
        return [_push(row) for row in await self._rows(Call(_WHOLE, params))]

    async def warehouses(self, revision: int) -> list[WarehouseRow]:
        """The warehouses written after ``revision``."""
        found = [warehouse_from(row) for row in await self._rows(Call(_WAREHOUSES, (int8(revision),)))]
        return [warehouse for warehouse in found if self._share.has_warehouse(warehouse.code)]

    async def _rows(self, call: Call) -> list[tuple[Any, ...]]:
        return rows_of((await self._connection.run([call]))[0])


def _push(row: tuple[Any, ...]) -> LevelPush:
    *level, ends, units, reservations = row
    added: list[int | str] = []
    for end, active, reservation_id in zip(ends, units, reservations, strict=True):
        added += (microseconds(end), f"{active}:{reservation_id}")
    return LevelPush(level_from(tuple(level)), WHOLE, (), added)
