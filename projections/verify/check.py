"""One stock item: its stream replayed event by event, and at the right versions held against every row about it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from domain.events import Event, Reserved
from domain.hold import Hold
from domain.policy import Policy
from domain.stock_item import StockItemState
from infra.event_store.mapper import EventMapper, UnreadableEvent
from projections.verify import expected
from projections.verify.cache_source import CachedLevel
from projections.verify.log_source import IndexHold, LogChunk, LogEvent
from projections.verify.replay import ItemReplay
from projections.verify.report import Report
from projections.verify.view_source import Places, ViewChunk, ViewedLevel

KEYS_PER_TRIP = 2_000
"""Rows that are looked up by their keys in one round trip."""
_decode_policy = msgspec.json.Decoder(Policy).decode
_decode_hold = msgspec.json.Decoder(Hold).decode
_decode_state = msgspec.json.Decoder(StockItemState).decode


@dataclass(frozen=True, slots=True)
class ItemRows:
    """What is kept about one item outside the log. ``place``: its ordinal in the chunk. ``cached``: None means that
    the cache is not looked at; ``level`` and ``snapshot`` None, that there is none.
    """

    place: int
    level: ViewedLevel | None
    cached: CachedLevel | None
    snapshot: tuple[int, bytes] | None
    indexed: bool


class Lookups:
    """Rows that are looked up by key, collected until a round trip is worth it."""

    def __init__(self, log: LogChunk, views: ViewChunk | None, report: Report) -> None:
        self._log = log
        self._views = views
        self._report = report
        self._holds: dict[tuple[str, str, str], Hold] = {}
        self._headers: dict[str, tuple[Reserved, bool]] = {}

    def hold(self, hold: Hold) -> None:
        """``hold`` must be in the write side's index just so."""
        self._holds[hold.reservation_id, hold.sku, hold.warehouse] = hold
        if len(self._holds) >= KEYS_PER_TRIP:
            self._check_holds()

    def header(self, event: Reserved, *, in_views: bool) -> None:
        """What ``event`` says of its reservation must be in the index, and in the views if they are so far."""
        self._headers[event.reservation_id] = (event, in_views)
        if len(self._headers) >= KEYS_PER_TRIP:
            self._check_headers()

    def finish(self) -> None:
        self._check_holds()
        self._check_headers()

    def _check_holds(self) -> None:
        if not self._holds:
            return
        found = {(row.reservation_id, row.sku, row.warehouse): row for row in self._log.holds(list(self._holds))}
        for key, hold in self._holds.items():
            where = f"index.holds {key[0]} {key[1]}@{key[2]}"
            row = found.get(key)
            if row is None:
                self._report.difference(where, "is missing")
            else:
                self._report.compare(where, _indexed(row), {"active": hold.active, "ends": hold.expires_at, "is": hold})
        self._holds.clear()

    def _check_headers(self) -> None:
        if not self._headers:
            return
        indexed = self._log.headers(list(self._headers))
        viewed = self._views.headers(list(self._headers)) if self._views is not None else {}
        for reservation_id, (event, in_views) in self._headers.items():
            where = f"reservations {reservation_id}"
            _compare_index_header(self._report, f"index.{where}", indexed.get(reservation_id), event)
            if in_views:
                _compare_view_header(self._report, where, viewed.get(reservation_id), event)
        self._headers.clear()


def _indexed(row: IndexHold) -> dict[str, Any]:
    try:
        hold: Hold | str = _decode_hold(row.state)
    except msgspec.MsgspecError as error:
        hold = str(error)
    return {"active": row.active, "ends": row.expires_at, "is": hold}


def _compare_index_header(report: Report, where: str, row: tuple[str, bytes] | None, event: Reserved) -> None:
    if row is None:
        report.difference(where, "is missing")
        return
    wanted = expected.plain(expected.reservation_header(event))
    report.compare(
        where, {"order_id": row[0], "state": expected.read_json(row[1])}, {"order_id": event.order_id, "state": wanted}
    )


def _compare_view_header(report: Report, where: str, row: tuple[Any, ...] | None, event: Reserved) -> None:
    if row is None:
        report.difference(where, "is missing")
        return
    found = (*row[:6], *(expected.read_json(column) for column in row[6:]))
    wanted = expected.reservation_row(event)
    columns = expected.HEADER_COLUMNS
    report.compare(where, dict(zip(columns, found, strict=True)), dict(zip(columns, wanted, strict=True)))


class ItemCheck:
    """Takes the events of one stream in order, then :meth:`finish`."""

    def __init__(
        self,
        stream: str,
        rows: ItemRows,
        chunk: ViewChunk | None,
        lookups: Lookups,
        mapper: EventMapper,
        report: Report,
    ) -> None:
        self.name = stream.removeprefix("stock:")
        self.replay = ItemReplay(stream, report.violation)
        self._rows = rows
        self._views = chunk
        self._lookups = lookups
        self._mapper = mapper
        self._report = report
        self._view_version: int = rows.level.row["version"] if rows.level is not None else 0
        self._cache_version: int = rows.cached.head.get("version", 0) if rows.cached is not None else 0
        self._snapshot_version: int = rows.snapshot[0] if rows.snapshot is not None else 0
        self._settled = 0

    def take(self, event: LogEvent, head: int) -> None:
        """The stream's next event; ``head``: the position that the views must have passed."""
        self._report.events += 1
        if event.position <= head:
            self._settled = event.version
        if self.replay.broken:
            return
        try:
            happened = self._mapper.decode(event.topic, event.state)
        except UnreadableEvent as error:
            self.replay.unreadable(event.version, error)
            return
        self.replay.apply(happened, event.position, event.version)
        if not self.replay.broken:
            self._compare(happened, event.version)

    def _compare(self, happened: Event, version: int) -> None:
        viewed = version <= self._view_version
        if type(happened) is Reserved and happened.request is not None:
            self._lookups.header(happened, in_views=viewed)
        if viewed and self._views is not None and expected.moves(happened):
            self._compare_movement(self._views.movements, happened)
        if version == self._view_version and self._views is not None:
            self._compare_level()
            self._compare_holds(self._views.holds)
        if version == self._cache_version:
            self._compare_cache()
        if version == self._snapshot_version:
            self._compare_snapshot()

    # The tables of the views ---------------------------------------------------------------------

    def _compare_movement(self, movements: Places, happened: Event) -> None:
        place, version = self._rows.place, happened.originator_version
        while (row := movements.peek(place)) is not None and row[1] < version:
            movements.take(place)
            self._report.difference(f"movements {self.name}#{row[1]}", "is of no event that moved anything")
        self._report.rows += 1
        if row is None or row[1] != version:
            self._report.difference(f"movements {self.name}#{version}", "is missing")
            return
        movements.take(place)
        wanted = expected.movement_row(happened, self.replay)
        if row[1:] != wanted:
            self._movement_differs(row[1:], wanted, version)

    def _movement_differs(self, row: Sequence[Any], wanted: Sequence[Any], version: int) -> None:
        """Not as the row came: its metadata is still text, and of buckets nobody reads bytes."""
        columns = expected.MOVEMENT_COLUMNS
        found, expects = dict(zip(columns, row, strict=True)), dict(zip(columns, wanted, strict=True))
        found["metadata"] = expected.read_json(found["metadata"])
        for values in (found, expects):
            values |= {name: expected.read_buckets(values[name]) for name in ("before", "after")}
        self._report.rows -= 1  # `compare` counts it
        self._report.compare(f"movements {self.name}#{version}", found, expects)

    def _compare_level(self) -> None:
        level = self._rows.level
        assert level is not None
        self._report.compare(f"stock_levels {self.name}", level.row, expected.level_row(self.replay))
        try:
            policy: Policy | str | None = None if level.policy is None else _decode_policy(level.policy)
        except msgspec.MsgspecError as error:
            policy = str(error)
        self._report.compare(f"policies {self.name}", {"policy": policy}, {"policy": self.replay.item.figures.policy})

    def _compare_holds(self, rows: Places) -> None:
        place, left = self._rows.place, dict(self.replay.holds)
        while (row := rows.take(place)) is not None:
            _, reservation_id, *found = row
            where = f"holds {reservation_id} {self.name}"
            hold = left.pop(reservation_id, None)
            if hold is None:
                self._report.difference(where, "is of no hold in the log")
                continue
            found[-1] = expected.read_json(found[-1])
            wanted = expected.hold_row(hold)
            if tuple(found) == wanted:
                self._report.rows += 1
            else:
                columns = expected.HOLD_COLUMNS
                self._report.compare(
                    where, dict(zip(columns, found, strict=True)), dict(zip(columns, wanted, strict=True))
                )
        for reservation_id in left:
            self._report.difference(f"holds {reservation_id} {self.name}", "is missing")

    # The cache and the snapshot ------------------------------------------------------------------

    def _compare_cache(self) -> None:
        cached = self._rows.cached
        assert cached is not None
        where = f"redis {self.name}"
        self._report.compare(f"{where} (header)", cached.head, expected.level_head(self.replay))
        self._report.compare(f"{where} (document)", cached.document, expected.level_document(self.replay.item))
        self._report.compare(f"{where} (due holds)", dict(cached.due), dict(expected.due_members(self.replay)))

    def _compare_snapshot(self) -> None:
        assert self._rows.snapshot is not None
        try:
            state = _decode_state(self._rows.snapshot[1])
        except msgspec.MsgspecError as error:
            self._report.difference(f"snapshots {self.name}", f"cannot be read: {error}")
            return
        wanted = self.replay.item.to_state()
        self._report.rows += 1
        if state != wanted:
            self._report.difference(
                f"snapshots {self.name}", f"at version {self._snapshot_version} is not the item's state"
            )

    # The end -------------------------------------------------------------------------------------

    def finish(self) -> None:
        """The stream has ended."""
        self._report.items += 1
        self._report.holds += len(self.replay.holds)
        self._drain()
        if not self._rows.indexed:
            self._report.difference(f"index.items {self.name}", "is missing")
        if self.replay.broken:
            self._report.difference(f"stock_levels {self.name}", "cannot be compared: its stream cannot be replayed")
            return
        for hold in self.replay.holds.values():
            self._lookups.hold(hold)
        for where, what in self._behind_or_ahead():
            self._report.difference(where, what)

    def _drain(self) -> None:
        """Rows of the item that no version of it accounted for."""
        if self._views is None:
            return
        for table, rows in (("movements", self._views.movements), ("holds", self._views.holds)):
            while (row := rows.take(self._rows.place)) is not None:
                if not self.replay.broken:
                    self._report.difference(f"{table} {self.name} {row[1]}", "is of no event that its level has seen")

    def _behind_or_ahead(self) -> Iterator[tuple[str, str]]:
        """Rows at versions that they cannot be at."""
        version, cached = self.replay.version, self._rows.cached
        if self._snapshot_version > version:
            yield f"snapshots {self.name}", f"is at version {self._snapshot_version}, the log at {version}"
        if cached is not None and cached.unreadable is not None:
            yield f"redis {self.name}", cached.unreadable
            return
        found = [("stock_levels", self._view_version)] if self._views is not None else []
        found += [("redis", self._cache_version)] if cached is not None else []
        for table, at in found:
            if at > version:
                yield f"{table} {self.name}", f"is at version {at}, the log at {version}"
            elif not at < self._settled:
                continue
            elif at:
                yield f"{table} {self.name}", f"is at version {at}, behind version {self._settled}"
            else:
                yield f"{table} {self.name}", "is missing"
