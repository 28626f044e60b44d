"""What was: one item's log folded up to an instant or a version, by the folds that make the views."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import datetime
from functools import partial
from typing import Final, TypeVar

from domain.events import Event
from domain.hold import Hold
from domain.values import stock_stream
from infra.documents import encode
from infra.event_store.log_reader import LogReader, LogRow
from infra.event_store.mapper import EventMapper, UnreadableEvent
from infra.http_app import HttpProblem
from infra.postgres import ConnectionLost, StatementFailed
from projections.item_fold import ItemFold
from projections.views.errors import ImpossibleEvent
from projections.views.stock_levels import Level
from read_api.database import unavailable
from read_api.levels import stands_still
from read_api.shapes import hold_document

Found = TypeVar("Found")

_CHUNK: Final = 500
"""Events folded between two turns of the event loop: a few milliseconds."""


class Log:
    """Reads streams on a connection of its own, made at the first call and again when it was lost."""

    def __init__(self, url: str, mapper: EventMapper, *, timeout_s: float) -> None:
        self._url = url
        self._mapper = mapper
        self._timeout_s = timeout_s
        self._reader: LogReader | None = None
        self._connecting = asyncio.Lock()

    async def close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()

    async def events(self, stream: str, upto: int | None = None) -> AsyncGenerator[Event]:
        """The events of ``stream``, in order, up to version ``upto``.

        Raises UnreadableEvent at one that cannot be read, ConnectionLost.
        """
        coming = asyncio.create_task(self._read(stream, 0, upto))
        try:
            while True:
                rows = await coming
                more = len(rows) == _CHUNK
                if more:
                    # The next ones are on their way while these are folded.
                    coming = asyncio.create_task(self._read(stream, rows[-1].version, upto))
                for row in rows:
                    yield self._mapper.decode(row.topic, row.state)
                if not more:
                    return
                # They may be here already, and then waiting for them would let nobody else have a turn.
                await asyncio.sleep(0)
        finally:
            coming.cancel()
            # Whoever broke off does not want to know any more what became of it.
            coming.add_done_callback(lambda read: read.cancelled() or read.exception())

    async def _read(self, stream: str, after: int, upto: int | None) -> list[LogRow]:
        return await self._asked(partial(LogReader.read_stream, stream=stream, after=after, upto=upto, limit=_CHUNK))

    async def head(self) -> int:
        """The position of the last event. Raises ConnectionLost."""
        return await self._asked(LogReader.head)

    async def _asked(self, question: Callable[[LogReader], Awaitable[Found]]) -> Found:
        async with self._connecting:
            reader = self._reader or await LogReader.connect(self._url, timeout_s=self._timeout_s)
            self._reader = reader
        try:
            return await question(reader)
        except ConnectionLost:
            if self._reader is reader:
                await self.close()
            raise


def _not_then(sku: str, warehouse: str, moment: str) -> HttpProblem:
    detail = f"there was no stock of {sku} at {warehouse} as of {moment}"
    return HttpProblem("unknown-stock-item", detail, sku=sku, warehouse=warehouse)


class Replay:
    """Levels as they were. Every call raises HttpProblem: ``unknown-stock-item``, ``unavailable``."""

    def __init__(self, log: Log) -> None:
        self._log = log

    async def at(self, sku: str, warehouse: str, instant: datetime) -> bytes:
        """The level at ``instant``, without the holds that had ended by then."""
        fold = await self._fold(sku, warehouse, until=instant)
        if fold.level is None:
            raise _not_then(sku, warehouse, instant.isoformat())
        return _document(fold.level, fold.due_units(instant), [h for h in _held(fold) if not h.is_due(instant)])

    async def version(self, sku: str, warehouse: str, version: int) -> bytes:
        """The level right after ``version``, as its events alone make it."""
        fold = await self._fold(sku, warehouse, upto=version)
        if fold.level is None or fold.version != version:
            raise _not_then(sku, warehouse, f"version {version}")
        return _document(fold.level, 0, _held(fold))

    async def _fold(
        self, sku: str, warehouse: str, *, upto: int | None = None, until: datetime | None = None
    ) -> ItemFold:
        fold = ItemFold()
        try:
            async with aclosing(self._log.events(stock_stream(sku, warehouse), upto)) as events:
                async for event in events:
                    if until is not None and event.timestamp > until:
                        break
                    fold.apply(event)
        except (UnreadableEvent, ImpossibleEvent) as error:
            raise stands_still((sku, warehouse)) from error
        except (ConnectionLost, StatementFailed) as error:
            raise unavailable("the event store is away") from error
        return fold


def _held(fold: ItemFold) -> list[Hold]:
    return [hold for hold in fold.holds.values() if hold.active > 0]


def _document(level: Level, due: int, holds: Sequence[Hold]) -> bytes:
    described = encode([hold_document(hold) for hold in holds])
    return encode(level.document(due))[:-1] + b',"holds":' + described + b"}"
