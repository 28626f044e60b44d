"""What every read needs at once: which generation is read, and the table of warehouses, kept in memory."""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, LiteralString, Self

import psycopg

from domain.commands import Coordinates
from domain.values import WarehouseStatus
from infra.documents import WarehouseDocument, encode
from infra.http_app import HttpProblem
from infra.notices import Bell
from projections import versions
from projections.redis_layout import RedisKeys, microseconds
from projections.tables import WAREHOUSE_SELECT, warehouse_from
from read_api.clock import ReadClock
from read_api.database import VIEWS_SCHEMA, Row, ViewDatabase, unavailable

logger = logging.getLogger(__name__)

CHANNEL: Final = "stockhold_views"
_NO_VIEWS = "the views have not been built yet"

_OF_ANOTHER_SHAPE: Final = "the views have another shape than this release reads: run `stockhold rebuild`"

# The generation that the pointer names, if this code can read it. While one release takes over from another, each reads
# what was last meant for readers of its own shape.
_POINTER: Final = """
SELECT clock_timestamp(), g.generation, g.schema_name, g.redis_prefix, g.partitions, g.fold_version, g.shape_version
FROM {views}.generations g LEFT JOIN {views}.pointer p USING (generation)
WHERE p.generation IS NOT NULL OR (g.state = 'live' AND g.pointed_at IS NOT NULL)
ORDER BY g.shape_version <> %(shape)s, p.generation IS NULL, g.pointed_at DESC
LIMIT 1
"""
_WAREHOUSES: Final = f"SELECT {WAREHOUSE_SELECT} FROM {{views}}.warehouses w"  # noqa: S608  # constants alone


class Views:
    """The generation that the pointer names. ``fold_version``: see :mod:`projections.versions`."""

    __slots__ = ("_key_end", "_key_start", "_key_width", "fold_version", "generation", "keys", "partitions", "schema")

    def __init__(self, generation: int, schema: str, keys: RedisKeys, partitions: int, fold_version: int) -> None:
        self.generation = generation
        self.fold_version = fold_version
        self.schema = schema
        self.keys = keys
        self.partitions = partitions
        start, end = keys.stock("|").split("|")
        self._key_start, self._key_end = start.encode(), end.encode()
        self._key_width = len(start) + len(end)

    def levels_command(self, sku: str) -> bytes:
        """The packed command for all levels of ``sku``: composed by hand, since every hot read sends it."""
        name = sku.encode()
        return b"*2\r\n$7\r\nHGETALL\r\n$%d\r\n%b%b%b\r\n" % (
            self._key_width + len(name),
            self._key_start,
            name,
            self._key_end,
        )


class Warehouse:
    """A warehouse as an availability shows it.

    ``place``: its number in the order in which warehouses are served. ``name``: what goes on a level's open
    JSON, ``closing``: the same and the last brace.
    """

    __slots__ = ("active", "closing", "coordinates", "name", "place")

    def __init__(self, place: int, name: str | None, coordinates: Coordinates | None, active: bool) -> None:
        self.place = place
        self.active = active
        self.name = b',"name":' + encode(name)
        self.closing = self.name + b"}"
        self.coordinates = coordinates

    @classmethod
    def of(cls, place: int, document: WarehouseDocument) -> Self:
        coordinates = None
        if document.latitude is not None and document.longitude is not None:
            coordinates = Coordinates(latitude=document.latitude, longitude=document.longitude)
        return cls(place, document.name, coordinates, active=document.status is WarehouseStatus.ACTIVE)

    @classmethod
    def stranger(cls, place: int) -> Self:
        """One that the view does not show (its stream stands still): nobody knows that it may sell."""
        return cls(place, None, None, active=False)


def ranked(documents: Iterable[WarehouseDocument]) -> dict[bytes, Warehouse]:
    """By code, the warehouses in the order in which they are served: priority 1 first."""
    in_order = sorted(documents, key=lambda document: (document.priority, document.code))
    return {document.code.encode(): Warehouse.of(place, document) for place, document in enumerate(in_order)}


class Current:
    """Keeps :attr:`warehouses` and the pointer fresh: on every notice, every ``interval_s``, and when asked."""

    def __init__(self, database: ViewDatabase, url: str, clock: ReadClock, interval_s: float) -> None:
        self._database = database
        self._bell = Bell(url, [CHANNEL])
        self._clock = clock
        self._interval_s = interval_s
        self._views: Views | None = None
        self._none_because = _NO_VIEWS
        self._one_at_a_time = asyncio.Lock()
        self._begun = 0
        self._succeeded = 0
        self._keeper: asyncio.Task[None] | None = None
        self.warehouses: Mapping[bytes, Warehouse] = {}

    @property
    def views(self) -> Views:
        """Raises HttpProblem ``unavailable`` as long as there are none."""
        if self._views is None:
            raise unavailable(self._none_because)
        return self._views

    @property
    def views_or_none(self) -> Views | None:
        return self._views

    async def __aenter__(self) -> Self:
        await self._bell.__aenter__()
        await self._try_to_refresh()
        self._keeper = asyncio.create_task(self._keep_fresh())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._keeper is not None
        self._keeper.cancel()
        with suppress(asyncio.CancelledError):
            await self._keeper
        await self._bell.__aexit__(None, None, None)

    async def rows(self, statement: LiteralString, params: Mapping[str, Any] | None = None) -> list[Row]:
        """The rows of a statement on the tables of the generation that is read.

        Raises HttpProblem ``unavailable``.
        """
        try:
            return await self._database.rows(self.views.schema, statement, params)
        except psycopg.errors.UndefinedTable:
            # The pointer has moved and the old generation was dropped, between two looks.
            await self.refresh()
        try:
            return await self._database.rows(self.views.schema, statement, params)
        except psycopg.errors.UndefinedTable as error:
            raise unavailable(_NO_VIEWS) from error

    async def refresh(self) -> None:
        """Look again. Whoever asks while a look is under way waits for one that begins after it, together.

        Raises HttpProblem ``unavailable`` if the database is away or holds no views.
        """
        begun_before = self._begun
        async with self._one_at_a_time:
            if self._succeeded > begun_before:
                return
            self._begun += 1
            await self._refresh()
            self._succeeded = self._begun

    async def _refresh(self) -> None:
        try:
            before_us = self._clock.machine_us()
            found = await self._database.rows(VIEWS_SCHEMA, _POINTER, {"shape": versions.SHAPE_VERSION})
            after_us = self._clock.machine_us()
            if not found:
                raise unavailable(_NO_VIEWS)
            at, generation, schema, prefix, partitions, fold_version, shape_version = found[0]
            if shape_version != versions.SHAPE_VERSION:
                self._views, self._none_because = None, _OF_ANOTHER_SHAPE
                raise unavailable(_OF_ANOTHER_SHAPE)
            self._clock.observe(before_us, microseconds(at), after_us)
            rows = await self._database.rows(schema, _WAREHOUSES)
        except psycopg.errors.UndefinedTable as error:
            raise unavailable(_NO_VIEWS) from error
        self.warehouses = ranked(warehouse_from(row).document() for row in rows)
        if self._views is None or self._views.generation != generation:
            self._views = Views(generation, schema, RedisKeys(prefix), partitions, fold_version)

    async def _try_to_refresh(self) -> None:
        try:
            await self.refresh()
        except HttpProblem as problem:
            logger.info("no fresh warehouses: %s", problem.detail)
        except psycopg.Error:
            logger.exception("no fresh warehouses")

    async def _keep_fresh(self) -> None:
        while True:
            await self._bell.wait(self._interval_s)
            await self._try_to_refresh()
