"""Movements: what moved, the newest first, of one item or of whatever a search names."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, LiteralString

import msgspec
from msgspec import Meta

from domain.errors import UnknownStockItem
from domain.values import Reference, Sku, Version, WarehouseCode
from projections.binary import buckets_from
from projections.views.movements import Movement, MovementDocument, MovementType
from read_api.clock import ReadClock
from read_api.current import Current
from read_api.cursors import decode_cursor
from read_api.database import Row, joined
from read_api.pages import PageSizes, cut, page_of
from read_api.parameters import HistoryQuery, MovementsQuery

SEARCH_DAYS: Final = 30
"""How far back a search looks that does not say from when."""

_FIELDS: Final = tuple(name for name in Movement.__struct_fields__ if name != "reference")
_MOVEMENTS: Final = "SELECT {columns} FROM {{views}}.movements m {where} ORDER BY {order} LIMIT %(rows)s"
_COLUMNS: Final = ", ".join(f"m.{name}" for name in _FIELDS) + ", m.reference_type, m.reference_id"
_KNOWN: Final = "SELECT FROM {views}.stock_levels l WHERE l.sku = %(sku)s AND l.warehouse = %(warehouse)s"
_OF_RESERVATION: Final = (
    "m.reservation_id = %(reservation_id)s AND m.order_id = "
    "(SELECT r.order_id FROM {views}.reservations r WHERE r.reservation_id = %(reservation_id)s)"
)
# An id may have colons, and so may a type: every way of taking the text apart counts.
_OF_REFERENCE: Final = (
    "(m.reference_id = %(reference)s OR (m.reference_type, m.reference_id) IN "
    "(SELECT * FROM unnest(%(reference_types)s::text[], %(reference_ids)s::text[])))"
)

SearchKey = tuple[Annotated[datetime, Meta(tz=True)], Sku, WarehouseCode, Version]

_metadata = msgspec.json.Decoder(dict[str, Any])


class MovementReader:
    def __init__(self, current: Current, clock: ReadClock, sizes: PageSizes) -> None:
        self._current = current
        self._clock = clock
        self._sizes = sizes

    async def history(self, sku: str, warehouse: str, query: HistoryQuery) -> bytes:
        """A page of one item's movements, the newest first. Raises UnknownStockItem."""
        size = self._sizes.of(query)
        params: dict[str, Any] = {"rows": size + 1, "sku": sku, "warehouse": warehouse}
        conditions: list[LiteralString] = ["m.sku = %(sku)s", "m.warehouse = %(warehouse)s"]
        _between(query.since, query.until, conditions, params)
        if query.cursor is not None:
            (params["before"],) = decode_cursor(query.cursor, tuple[Version])
            conditions.append("m.version < %(before)s")
        movements = await self._movements(conditions, "m.version DESC", params)
        if not movements and not await self._current.rows(_KNOWN, params):
            raise UnknownStockItem(sku, warehouse)
        page, cursor = cut(movements, size, lambda movement: (movement.version,))
        return page_of(page, cursor)

    async def search(self, query: MovementsQuery) -> bytes:
        """A page of the movements that fit all that ``query`` names, the newest first."""
        size = self._sizes.of(query)
        since = query.since
        if since is None:
            since = _before(query.until or self._clock.now())
        params: dict[str, Any] = {"rows": size + 1}
        conditions = _conditions(query, params)
        _between(since, query.until, conditions, params)
        if query.cursor is not None:
            at, sku, warehouse, version = decode_cursor(query.cursor, SearchKey)
            params |= {"key_at": at, "key_sku": sku, "key_warehouse": warehouse, "key_version": version}
            conditions.append(
                "(m.at, m.sku, m.warehouse, m.version) < (%(key_at)s, %(key_sku)s, %(key_warehouse)s, %(key_version)s)"
            )
        order = "m.at DESC, m.sku DESC, m.warehouse DESC, m.version DESC"
        movements = await self._movements(conditions, order, params)
        page, cursor = cut(movements, size, lambda found: (found.at, found.sku, found.warehouse, found.version))
        return page_of(page, cursor)

    async def _movements(
        self, conditions: Sequence[LiteralString], order: LiteralString, params: dict[str, Any]
    ) -> list[MovementDocument]:
        statement = _MOVEMENTS.format(columns=_COLUMNS, where=joined(conditions), order=order)
        return [movement_from(row).document() for row in await self._current.rows(statement, params)]


def movement_from(row: Row) -> Movement:
    """Of a row of the columns above."""
    *values, reference_type, reference_id = row
    fields = dict(zip(_FIELDS, values, strict=True))
    fields["type"] = MovementType(fields["type"])
    fields["before"], fields["after"] = buckets_from(fields["before"]), buckets_from(fields["after"])
    fields["metadata"] = None if fields["metadata"] is None else _metadata.decode(fields["metadata"])
    reference = None if reference_id is None else Reference(type=reference_type, id=reference_id)
    return Movement(**fields, reference=reference)


def _before(instant: datetime) -> datetime | None:
    try:
        return instant - timedelta(days=SEARCH_DAYS)
    except OverflowError:
        return None  # at the beginning of time there is nothing before


def _between(
    since: datetime | None, until: datetime | None, conditions: list[LiteralString], params: dict[str, Any]
) -> None:
    if since is not None:
        conditions.append("m.at >= %(since)s")
        params["since"] = since
    if until is not None:
        conditions.append("m.at < %(until)s")
        params["until"] = until


def _conditions(query: MovementsQuery, params: dict[str, Any]) -> list[LiteralString]:
    named: list[tuple[str, Any, LiteralString]] = [
        ("sku", query.sku, "m.sku = %(sku)s"),
        ("warehouse", query.warehouse, "m.warehouse = %(warehouse)s"),
        ("order_id", query.order_id, "m.order_id = %(order_id)s"),
        ("reservation_id", query.reservation_id, _OF_RESERVATION),
        ("actor", query.actor, "m.actor = %(actor)s"),
        ("type", query.type, "m.type = %(type)s"),
        ("reference", query.reference, _OF_REFERENCE),
    ]
    if query.reference is not None:
        text = query.reference
        parts = [(text[:at], text[at + 1 :]) for at, character in enumerate(text) if character == ":"]
        params["reference_types"] = [kind for kind, _ in parts]
        params["reference_ids"] = [name for _, name in parts]
    params |= {name: value for name, value, _ in named if value is not None}
    return [condition for _, value, condition in named if value is not None]
