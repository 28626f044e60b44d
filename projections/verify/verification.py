"""Verifies a stack: the log against its invariants, everything else against the log.

The log is replayed with the domain's aggregates, stream by stream in bounded memory (the largest single
item and a chunk of its neighbours), and shares nothing with the folds that made the views. Live stacks
too: within each chunk the views are read first, then the cache, then the log, so that every row is at a
version that the log already has, and is compared at that version.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, NamedTuple, Self

from domain.stock_item import StockItemState
from domain.values import split_stock_stream
from infra.event_store.mapper import EventMapper, UnreadableEvent
from projections.verify import expected
from projections.verify.cache_source import CachedLevel, CacheSource, check_reachable
from projections.verify.check import ItemCheck, ItemRows, Lookups
from projections.verify.commands import CommandParts
from projections.verify.log_source import LogChunk, LogSource
from projections.verify.replay import WarehouseReplay
from projections.verify.report import DETAILS_MAX, Report
from projections.verify.view_source import GenerationName, Item, ViewChunk, ViewSource, live_generation

STREAMS_PER_CHUNK: Final = 500
ITEMS_PER_LOOK: Final = 1_000
WAREHOUSES: Final = "warehouse:"
ITEMS: Final = "stock:"
POLL_S: Final = 0.05
EVENTS_PER_NOTE: Final = 1_000

Advance = Callable[[int], None]
"""Is told how many events have been verified since the last time."""


class _WarehouseRows(NamedTuple):
    """What is kept about warehouses, by code; None: not looked at."""

    viewed: dict[str, dict[str, Any]] | None
    cached: dict[str, dict[str, Any]] | None
    indexed: dict[str, int]


class Verification:
    """One verification, from opening its connections to closing them; use it as a context manager.

    ``generation``: which one of the views; None: the one that is read. ``redis_url`` empty: not the cache.
    ``patience_s``: how long the views may stand still before they have passed the head of the log.
    """

    def __init__(
        self,
        event_store_url: str,
        read_model_url: str,
        redis_url: str,
        *,
        generation: GenerationName | None = None,
        patience_s: float = 15.0,
    ) -> None:
        self._urls = (event_store_url, read_model_url, redis_url)
        self._generation = generation
        self._patience_s = patience_s
        self._report = Report()
        self._mapper = EventMapper()
        self._open = ExitStack()
        self._log: LogSource
        self._views: ViewSource | None = None
        self._cache: CacheSource | None = None

    def __enter__(self) -> Self:
        """Raises psycopg.OperationalError, redis.exceptions.ConnectionError."""
        if self._urls[2]:
            check_reachable(self._urls[2])  # now, and not after everything else has been waited for
        with ExitStack() as opened:
            self._log = opened.enter_context(LogSource(self._urls[0]))
            self._open = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def event_count(self) -> int:
        """How many events there are to replay; on a live stack there may soon be more."""
        return self._log.count()

    def run(self, advance: Advance = lambda _events: None) -> Report:
        """Verify everything. Raises psycopg.OperationalError, redis.exceptions.ConnectionError."""
        head = self._log.head()
        self._await_views(head)
        self._check_commands(head)
        self._check_items(head, advance)
        self._check_warehouses(head, advance)
        self._check_index()
        self._look_for_strays()
        return self._report

    # Waiting -------------------------------------------------------------------------------------

    def _await_views(self, head: int) -> None:
        """Wait until the views have passed ``head``, as long as they get on; say so if they do not."""
        behind: dict[str, int | None] = {"the views are": None}
        last_s, seen = time.monotonic(), dict(behind)
        while behind and time.monotonic() - last_s < self._patience_s:
            behind = {what: at for what, at in self._positions().items() if at is None or at < head}
            if behind != seen:
                last_s, seen = time.monotonic(), dict(behind)
            if behind:
                time.sleep(POLL_S)
        for what, at in behind.items():
            self._report.difference(
                what, "is not there" if at is None else f"stands at position {at}, the log at {head}"
            )

    def _positions(self) -> dict[str, int | None]:
        """How far the tables and the cache are, by name; None: not there."""
        if self._views is None and not self._find_views():
            return {"the generation of the views that is read": None}
        assert self._views is not None
        positions: dict[str, int | None] = {self._views.generation.schema: self._views.position()}
        if self._cache is not None:
            positions[f"the cache {self._views.generation.redis_prefix}"] = self._cache.position(
                self._views.partitions()
            )
        return positions

    def _find_views(self) -> bool:
        generation = self._generation or live_generation(self._urls[1])
        if generation is None:
            return False
        self._views = self._open.enter_context(ViewSource(self._urls[1], generation))
        if self._urls[2]:
            self._cache = self._open.enter_context(CacheSource(self._urls[2], generation.redis_prefix))
        return True

    # The log, and what is about its streams ------------------------------------------------------

    def _check_commands(self, head: int) -> None:
        commands = CommandParts(self._report.violation)
        for topic, state in self._log.parts(head):
            commands.take(topic, state)
        commands.finish()

    def _check_items(self, head: int, advance: Advance) -> None:
        after = ITEMS
        while streams := [s for s in self._log.streams(after, STREAMS_PER_CHUNK) if s.startswith(ITEMS)]:
            items = [split_stock_stream(stream) for stream in streams]
            with self._viewed(items) as views:
                cached = self._cache.levels(items) if self._cache is not None else None
                with self._log.chunk(streams) as log:
                    self._check_chunk(self._rows(items, streams, views, cached, log), views, log, head, advance)
            after = streams[-1]

    @contextmanager
    def _viewed(self, items: list[Item]) -> Iterator[ViewChunk | None]:
        if self._views is None:
            yield None
            return
        with self._views.chunk(items) as chunk:
            yield chunk

    def _rows(
        self,
        items: list[Item],
        streams: list[str],
        views: ViewChunk | None,
        cached: dict[Item, CachedLevel] | None,
        log: LogChunk,
    ) -> dict[str, ItemRows]:
        indexed, snapshots = log.items(items), log.snapshots(StockItemState.STATE_VERSION)
        nothing = CachedLevel({}, {}, {})
        return {
            stream: ItemRows(
                place=place,
                level=views.levels.get(item) if views is not None else None,
                cached=cached.get(item, nothing) if cached is not None else None,
                snapshot=snapshots.get(stream),
                indexed=item in indexed,
            )
            for place, (item, stream) in enumerate(zip(items, streams, strict=True), start=1)
        }

    def _check_chunk(
        self,
        rows: dict[str, ItemRows],
        views: ViewChunk | None,
        log: LogChunk,
        head: int,
        advance: Advance,
    ) -> None:
        lookups = Lookups(log, views, self._report)
        check: ItemCheck | None = None
        stream, noted = "", self._report.events
        for event in log.events():
            if event.stream != stream:
                if check is not None:
                    check.finish()
                stream = event.stream
                # A stream between two of ours began after we had listed them: it is not of this verification.
                check = self._check_of(stream, rows, views, lookups)
            if check is not None:
                check.take(event, head)
                if self._report.events - noted >= EVENTS_PER_NOTE:
                    advance(self._report.events - noted)
                    noted = self._report.events
        if check is not None:
            check.finish()
        lookups.finish()
        advance(self._report.events - noted)

    def _check_of(
        self, stream: str, rows: dict[str, ItemRows], views: ViewChunk | None, lookups: Lookups
    ) -> ItemCheck | None:
        kept = rows.get(stream)
        return None if kept is None else ItemCheck(stream, kept, views, lookups, self._mapper, self._report)

    # Warehouses ----------------------------------------------------------------------------------

    def _check_warehouses(self, head: int, advance: Advance) -> None:
        """They are few: read whole, the views first, so that each row is at a version that the log has."""
        viewed = self._views.warehouses() if self._views is not None else None
        cached = self._cache.warehouses() if self._cache is not None else None
        after, before = WAREHOUSES, self._report.events
        while streams := [s for s in self._log.streams(after, STREAMS_PER_CHUNK) if s.startswith(WAREHOUSES)]:
            with self._log.chunk(streams) as log:
                indexed = log.warehouses([stream.removeprefix(WAREHOUSES) for stream in streams])
                self._replay_warehouses(log, _WarehouseRows(viewed, cached, indexed), head)
            after = streams[-1]
        for where, rows in (("warehouses", viewed), ("redis warehouse", cached)):
            for code in self._unknown([WAREHOUSES + code for code in rows or ()]):
                self._report.difference(f"{where} {code.removeprefix(WAREHOUSES)}", "is not in the log")
        advance(self._report.events - before)

    def _replay_warehouses(self, log: LogChunk, rows: _WarehouseRows, head: int) -> None:
        replay, settled = WarehouseReplay("", self._report.violation), 0
        for event in log.events():
            if event.stream != replay.stream:
                self._finish_warehouse(replay, rows, settled)
                replay, settled = WarehouseReplay(event.stream, self._report.violation), 0
            self._report.events += 1
            settled = event.version if event.position <= head else settled
            if replay.broken:
                continue
            try:
                replay.apply(self._mapper.decode(event.topic, event.state), event.position, event.version)
            except UnreadableEvent as error:
                replay.unreadable(event.version, error)
                continue
            self._compare_warehouse(replay, rows)
        self._finish_warehouse(replay, rows, settled)

    def _compare_warehouse(self, replay: WarehouseReplay, rows: _WarehouseRows) -> None:
        warehouse = replay.warehouse
        row, document = (rows.viewed or {}).get(warehouse.code), (rows.cached or {}).get(warehouse.code)
        if row is not None and row["version"] == warehouse.version:
            found = row | {"details": expected.read_json(row["details"])}
            self._report.compare(f"warehouses {warehouse.code}", found, expected.warehouse_row(warehouse))
        if document is not None and document.get("version") == warehouse.version:
            self._report.compare(f"redis warehouse {warehouse.code}", document, expected.warehouse_document(warehouse))

    def _finish_warehouse(self, replay: WarehouseReplay, rows: _WarehouseRows, settled: int) -> None:
        if not replay.stream:
            return
        self._report.warehouses += 1
        code, version = replay.warehouse.code, replay.version
        if not replay.broken:
            self._report.compare(f"index.warehouses {code}", {"version": rows.indexed.get(code)}, {"version": version})
        for where, kept in ((f"warehouses {code}", rows.viewed), (f"redis warehouse {code}", rows.cached)):
            at = kept.get(code, {}).get("version", 0) if kept is not None else settled
            if at > version or at < settled:
                self._report.difference(where, f"is at version {at}, the log at {version}")

    # What nothing in the log accounts for --------------------------------------------------------

    def _check_index(self) -> None:
        for table, what in self._log.uncounted():
            self._report.difference(f"index.{table}", what)
        for reservation_id in self._log.ends_apart(DETAILS_MAX):
            self._report.violation(f"reservation {reservation_id}", "its active holds end at different times")

    def _look_for_strays(self) -> None:
        """Rows about items that the log does not know. What is known is read first, so that the log knows more."""
        if self._views is None:
            return
        for stream, version, error in self._views.dead_letters():
            self._report.difference(f"dead_letters {stream}", f"stands still at version {version}: {error}")
        for table, key in self._views.strays(DETAILS_MAX):
            self._report.difference(f"{table} {key}", "belongs to nothing")
        for page in self._views.items(ITEMS_PER_LOOK):
            self._report_unknown("stock_levels", page)
        if self._cache is not None:
            for page in _pages(self._cache.items(), ITEMS_PER_LOOK):
                self._report_unknown("redis", page)

    def _report_unknown(self, where: str, items: list[Item]) -> None:
        for stream in self._unknown([f"{ITEMS}{sku}@{warehouse}" for sku, warehouse in items]):
            self._report.difference(f"{where} {stream.removeprefix(ITEMS)}", "is not in the log")

    def _unknown(self, streams: list[str]) -> list[str]:
        return self._log.unknown(streams) if streams else []


def _pages(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    page: list[Item] = []
    for item in items:
        page.append(item)
        if len(page) == size:
            yield page
            page = []
    if page:
        yield page
