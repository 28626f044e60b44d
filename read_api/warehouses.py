"""Warehouses, their stock, and what runs low: lists of rows that Postgres has as they are shown."""

from collections.abc import Sequence
from typing import Any, Final, LiteralString

from domain.errors import UnknownWarehouse
from domain.values import Sku, WarehouseCode
from infra.documents import encode
from projections.tables import WAREHOUSE_SELECT, warehouse_from
from read_api.clock import ReadClock
from read_api.current import Current
from read_api.cursors import decode_cursor
from read_api.database import joined
from read_api.levels import LEVEL_COLUMNS, document, level_of
from read_api.pages import PageSizes, cut, page_body, page_of
from read_api.parameters import LowStockQuery, WarehousesQuery, WarehouseStockQuery

_WAREHOUSES: Final = "SELECT {columns} FROM {{views}}.warehouses w {where} ORDER BY w.code LIMIT %(rows)s"

# The figures of a level with what is due given back, and then the rule of domain.policy.stock_status.
LEVELS_SHOWN: Final = "SELECT {columns} FROM {{views}}.stock_levels l"
FREE: Final = "(s.on_hand - s.reserved + s.due - s.committed - s.safety_stock)"
STATUS_OF_LEVEL: Final = f"""
CASE
    WHEN s.discontinued THEN 'DISCONTINUED'
    WHEN {FREE} > s.low_stock_threshold THEN 'IN_STOCK'
    WHEN {FREE} > 0 THEN 'LOW_STOCK'
    WHEN {FREE} + s.backorder_limit > 0 THEN 'BACKORDER'
    ELSE 'OUT_OF_STOCK'
END
"""
_LEVELS: Final = "SELECT s.* FROM ({levels} {inner}) s {outer} ORDER BY s.sku, s.warehouse LIMIT %(rows)s"


class WarehouseReader:
    def __init__(self, current: Current, clock: ReadClock, sizes: PageSizes) -> None:
        self._current = current
        self._clock = clock
        self._sizes = sizes

    async def one(self, code: str) -> bytes:
        """The warehouse's JSON. Raises UnknownWarehouse, HttpProblem ``unavailable``."""
        statement = _WAREHOUSES.format(columns=WAREHOUSE_SELECT, where="WHERE w.code = %(code)s")
        rows = await self._current.rows(statement, {"code": code, "rows": 1})
        if not rows:
            raise UnknownWarehouse(code)
        return encode(warehouse_from(rows[0]).document())

    async def page(self, query: WarehousesQuery) -> bytes:
        """A page of warehouses, in the order of their codes."""
        size = self._sizes.of(query)
        params: dict[str, Any] = {"rows": size + 1, "status": query.status, "country": query.country}
        conditions: list[LiteralString] = []
        if query.status is not None:
            conditions.append("w.status = %(status)s")
        if query.country is not None:
            conditions.append("w.country = %(country)s")
        if query.cursor is not None:
            (params["after"],) = decode_cursor(query.cursor, tuple[WarehouseCode])
            conditions.append("w.code > %(after)s")
        rows = await self._current.rows(_WAREHOUSES.format(columns=WAREHOUSE_SELECT, where=joined(conditions)), params)
        page, cursor = cut([warehouse_from(row).document() for row in rows], size, lambda found: (found.code,))
        return page_of(page, cursor)

    async def stock(self, code: str, query: WarehouseStockQuery) -> bytes:
        """A page of the levels at a warehouse. Raises UnknownWarehouse."""
        outer: list[LiteralString] = []
        if query.status is not None:
            outer.append(STATUS_OF_LEVEL + " = %(status)s")
        params = {"warehouse": code, "status": query.status}
        if query.cursor is None:
            await self.one(code)
        return await self._levels(query, ["l.warehouse = %(warehouse)s"], outer, params)

    async def low_stock(self, query: LowStockQuery) -> bytes:
        """A page of the levels that are at or below their threshold."""
        inner: list[LiteralString] = [] if query.warehouse is None else ["l.warehouse = %(warehouse)s"]
        outer: list[LiteralString] = [FREE + " <= s.low_stock_threshold"]
        return await self._levels(query, inner, outer, {"warehouse": query.warehouse})

    async def _levels(
        self,
        query: WarehouseStockQuery | LowStockQuery,
        inner: Sequence[LiteralString],
        outer: Sequence[LiteralString],
        params: dict[str, Any],
    ) -> bytes:
        size = self._sizes.of(query)
        params |= {"rows": size + 1, "now": self._clock.now()}
        conditions = list(inner)
        if query.cursor is not None:
            params["sku_after"], params["warehouse_after"] = decode_cursor(query.cursor, tuple[Sku, WarehouseCode])
            # Of one warehouse the SKU alone tells: only so does its index find the place.
            conditions.append(
                "l.sku > %(sku_after)s"
                if params["warehouse"] is not None
                else "(l.sku, l.warehouse) > (%(sku_after)s, %(warehouse_after)s)"
            )
        levels = LEVELS_SHOWN.format(columns=LEVEL_COLUMNS)
        statement = _LEVELS.format(levels=levels, inner=joined(conditions), outer=joined(outer))
        found = [level_of(row) for row in await self._current.rows(statement, params)]
        page, cursor = cut(found, size, lambda each: (each[0].sku, each[0].warehouse))
        return page_body([document(level, due) for level, due in page], cursor)
