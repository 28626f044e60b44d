"""Items whose stock fell below their promises, with the reservations whose units may not be there."""

from itertools import groupby
from typing import Any, Final, LiteralString

from domain.values import Sku, WarehouseCode
from infra.documents import encode
from projections.tables import HOLD_SELECT, hold_from
from read_api.clock import ReadClock
from read_api.current import Current
from read_api.cursors import decode_cursor
from read_api.database import Row, joined
from read_api.levels import LEVEL_COLUMNS, document, level_of
from read_api.pages import PageSizes, cut, page_body
from read_api.parameters import ShortagesQuery
from read_api.shapes import hold_document

AT_RISK_MAX: Final = 100
"""Reservations shown of one item, the newest first: those are the first to be broken."""

_HOLD_SIZE: Final = HOLD_SELECT.count(",") + 1
_SHORTAGES: Final = """
WITH s AS (
    SELECT s.* FROM (SELECT {columns} FROM {{views}}.stock_levels l {inner}) s
    WHERE s.reserved - s.due + s.committed > s.on_hand + s.backorder_limit
    ORDER BY s.sku, s.warehouse LIMIT %(rows)s
)
SELECT s.*, h.* FROM s LEFT JOIN LATERAL (
    SELECT {holds}, r.created_at AS reserved_at
    FROM {{views}}.holds h LEFT JOIN {{views}}.reservations r ON r.reservation_id = h.reservation_id
    WHERE h.sku = s.sku AND h.warehouse = s.warehouse AND (h.active > 0 OR h.committed > 0)
        AND (h.committed > 0 OR h.due_at IS NULL OR h.due_at > %(now)s)
    ORDER BY r.created_at DESC NULLS FIRST, h.reservation_id DESC LIMIT {at_risk_max}
) h ON true
ORDER BY s.sku, s.warehouse, h.reserved_at DESC NULLS FIRST, h.reservation_id DESC
"""


class ShortageReader:
    def __init__(self, current: Current, clock: ReadClock, sizes: PageSizes) -> None:
        self._current = current
        self._clock = clock
        self._sizes = sizes

    async def page(self, query: ShortagesQuery) -> bytes:
        """A page of the items that are short, each with the open holds on it."""
        size, now = self._sizes.of(query), self._clock.now()
        params: dict[str, Any] = {"rows": size + 1, "now": now, "warehouse": query.warehouse}
        inner: list[LiteralString] = [] if query.warehouse is None else ["l.warehouse = %(warehouse)s"]
        if query.cursor is not None:
            params["sku_after"], params["warehouse_after"] = decode_cursor(query.cursor, tuple[Sku, WarehouseCode])
            inner.append("(l.sku, l.warehouse) > (%(sku_after)s, %(warehouse_after)s)")
        statement = _SHORTAGES.format(
            columns=LEVEL_COLUMNS, inner=joined(inner), holds=HOLD_SELECT, at_risk_max=str(AT_RISK_MAX)
        )
        rows = await self._current.rows(statement, params)
        items = [list(group) for _, group in groupby(rows, key=lambda row: level_of(row[: -_HOLD_SIZE - 1])[0])]
        page, cursor = cut(items, size, _key)
        return page_body([_short_level(item, now) for item in page], cursor)


def _key(item: list[Row]) -> tuple[str, str]:
    level, _ = level_of(item[0][: -_HOLD_SIZE - 1])
    return level.sku, level.warehouse


def _short_level(item: list[Row], now: Any) -> bytes:
    level, due = level_of(item[0][: -_HOLD_SIZE - 1])
    rows = [row[-_HOLD_SIZE - 1 : -1] for row in item]
    holds = [hold_document(hold_from(row).as_seen(now)) for row in rows if row[0] is not None]
    return document(level, due)[:-1] + b',"reservations":' + encode(holds) + b"}"
