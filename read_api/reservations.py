"""Reservations: their headers and holds from Postgres, a due hold shown as expired."""

from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, Final, LiteralString

import msgspec

from domain.errors import Shortage, UnknownReservation
from domain.events import RequestedLine
from domain.reservation import ReservationHeader
from domain.values import EntityId, HoldKind, ReservationStatus
from infra.documents import ReservationDocument, encode, reservation_document
from projections.tables import HOLD_SELECT, hold_from
from read_api.clock import ReadClock
from read_api.current import Current
from read_api.cursors import decode_cursor
from read_api.database import Row, joined
from read_api.pages import PageSizes, cut, page_of
from read_api.parameters import ReservationsQuery

_HEADER: Final = (
    "r.reservation_id, r.order_id, r.kind, r.customer_ref, r.lines, r.shortages, r.created_at, r.created_by, r.digest"
)
_HEADER_SIZE: Final = _HEADER.count(",") + 1
# One statement, hence one snapshot: what a status was chosen by is what is shown.
_PAGE: Final = """
WITH r AS (
    SELECT * FROM {{views}}.reservations r {where} ORDER BY r.reservation_id LIMIT %(rows)s
)
SELECT {header}, {holds} FROM r JOIN {{views}}.holds h ON h.reservation_id = r.reservation_id
ORDER BY r.reservation_id, h.part
"""

STATUS_OF_HOLDS: Final = """
CASE
    WHEN sum(h.active) FILTER (WHERE h.due_at IS NULL OR h.due_at > %(now)s) > 0
        THEN CASE WHEN sum(h.committed) > 0 THEN 'PARTIALLY_COMMITTED' ELSE 'ACTIVE' END
    WHEN sum(h.committed) > 0 THEN CASE WHEN sum(h.shipped) > 0 THEN 'PARTIALLY_SHIPPED' ELSE 'COMMITTED' END
    WHEN sum(h.shipped) > 0 THEN CASE WHEN sum(h.returned) = sum(h.shipped) THEN 'RETURNED' ELSE 'SHIPPED' END
    WHEN bool_or(h.expired OR (h.active > 0 AND h.due_at <= %(now)s)) THEN 'EXPIRED'
    WHEN bool_or(h.cancelled) THEN 'CANCELLED'
    ELSE 'RELEASED'
END
"""
"""``domain.hold.overall_status`` over the rows of ``h``, a due hold counted as expired."""

_OPEN: Final = frozenset(
    {
        ReservationStatus.ACTIVE,
        ReservationStatus.PARTIALLY_COMMITTED,
        ReservationStatus.COMMITTED,
        ReservationStatus.PARTIALLY_SHIPPED,
    }
)
_HAS_STATUS: Final = STATUS_OF_HOLDS.join(
    ("(SELECT ", " FROM {views}.holds h WHERE h.reservation_id = r.reservation_id) = %(status)s")
)
# An index of its own has what is open, which is little beside what ever was.
_IS_OPEN: Final = (
    "r.reservation_id IN (SELECT h.reservation_id FROM {views}.holds h WHERE h.active > 0 OR h.committed > 0)"
)
_OF_SKU: Final = "r.reservation_id IN (SELECT h.reservation_id FROM {views}.holds h WHERE h.sku = %(sku)s)"
_OF_WAREHOUSE: Final = (
    "r.reservation_id IN (SELECT h.reservation_id FROM {views}.holds h WHERE h.warehouse = %(warehouse)s)"
)
_OF_ITEM: Final = (
    "r.reservation_id IN (SELECT h.reservation_id FROM {views}.holds h "
    "WHERE h.sku = %(sku)s AND h.warehouse = %(warehouse)s)"
)
_EXPIRES: Final = (
    "r.reservation_id IN (SELECT h.reservation_id FROM {views}.holds h "
    "WHERE h.due_at > %(now)s AND h.due_at < %(expires_before)s)"
)

_lines = msgspec.json.Decoder(tuple[RequestedLine, ...])
_shortages = msgspec.json.Decoder(tuple[Shortage, ...])


class ReservationReader:
    def __init__(self, current: Current, clock: ReadClock, sizes: PageSizes) -> None:
        self._current = current
        self._clock = clock
        self._sizes = sizes

    async def one(self, reservation_id: str) -> bytes:
        """The reservation's JSON. Raises UnknownReservation, HttpProblem ``unavailable``."""
        params = {"reservation_id": reservation_id, "rows": 1}
        documents = await self._documents(["r.reservation_id = %(reservation_id)s"], params, self._clock.now())
        if not documents:
            raise UnknownReservation(reservation_id)
        return encode(documents[0])

    async def page(self, query: ReservationsQuery) -> bytes:
        """A page of the reservations that fit all that ``query`` names, in the order of their ids."""
        now, size = self._clock.now(), self._sizes.of(query)
        params = {
            "now": now,
            "rows": size + 1,
            "order_id": query.order_id,
            "sku": query.sku,
            "warehouse": query.warehouse,
            "status": query.status,
            "expires_before": query.expires_before,
        }
        conditions = _conditions(query)
        if query.cursor is not None:
            (params["after"],) = decode_cursor(query.cursor, tuple[EntityId])
            conditions.append("r.reservation_id > %(after)s")
        documents = await self._documents(conditions, params, now)
        page, cursor = cut(documents, size, lambda document: (document.reservation_id,))
        return page_of(page, cursor)

    async def _documents(
        self, conditions: Sequence[LiteralString], params: dict[str, Any], now: datetime
    ) -> list[ReservationDocument]:
        statement = _PAGE.format(where=joined(conditions), header=_HEADER, holds=HOLD_SELECT)
        rows = await self._current.rows(statement, params)
        return [
            reservation_document(_header(next(iter(several))), [hold_from(row[_HEADER_SIZE:]) for row in several], now)
            for several in (list(group) for _, group in groupby(rows, key=lambda row: row[0]))
        ]


def _conditions(query: ReservationsQuery) -> list[LiteralString]:
    conditions: list[LiteralString] = []
    if query.order_id is not None:
        conditions.append("r.order_id = %(order_id)s")
    if query.sku is not None and query.warehouse is not None:
        conditions.append(_OF_ITEM)
    elif query.sku is not None:
        conditions.append(_OF_SKU)
    elif query.warehouse is not None:
        conditions.append(_OF_WAREHOUSE)
    if query.expires_before is not None:
        conditions.append(_EXPIRES)
    if query.status is not None:
        conditions += [_IS_OPEN, _HAS_STATUS] if query.status in _OPEN else [_HAS_STATUS]
    return conditions


def _header(row: Row) -> ReservationHeader:
    reservation_id, order_id, kind, customer_ref, lines, shortages, created_at, created_by, digest = row[:_HEADER_SIZE]
    return ReservationHeader(
        reservation_id=reservation_id,
        order_id=order_id,
        kind=HoldKind(kind),
        customer_ref=customer_ref,
        lines=_lines.decode(lines),
        shortages=() if shortages is None else _shortages.decode(shortages),
        created_at=created_at,
        created_by=created_by,
        digest=digest,
    )
