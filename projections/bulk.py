"""Fills the tables of a new generation from the log, by whole streams, in parallel processes and without indexes.

A stream is folded from its beginning in memory, so nothing is read back and every row is written once.
A part of the log is a range of stream ids; a process does one part at a time, with a COPY open into each
table. If the process or a server dies, the generation stays under construction and is dropped later.
"""

import asyncio
import gc
import os
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import partial
from itertools import groupby
from operator import attrgetter
from queue import SimpleQueue
from struct import error as struct_error
from typing import Any, Final, NamedTuple, Self

import msgspec
import psycopg
from msgspec.structs import replace
from psycopg import Copy, sql
from psycopg.rows import args_row

from infra.event_store.append_lock import SCHEMA as LOG_SCHEMA
from infra.event_store.log_reader import LogRow
from infra.event_store.mapper import EventMapper, UnreadableEvent
from projections import bulk_cache
from projections.batches import DeadLetter, dead_letter, decoded, fold_warehouse_arrival
from projections.binary import COPY_HEADER, COPY_TRAILER, Table
from projections.item_fold import ItemFold
from projections.redis_views import LevelPush
from projections.tables import (
    HOLDS,
    MOVEMENTS,
    POLICIES,
    RESERVATIONS,
    STOCK_LEVELS,
    WAREHOUSES,
    Row,
    hold_row,
    level_row,
    movement_row,
    policy_row,
    reservation_row,
    warehouse_row,
)
from projections.views.errors import ImpossibleEvent
from projections.views.movements import Movement
from projections.views.warehouses import WarehouseRow, is_warehouse_stream

CHUNK_ROWS: Final = 500
"""Rows of the log that are read together."""
BUFFER_ROWS: Final = 512
"""Rows gathered before they are handed to a connection."""
SAMPLED_EVENTS: Final = 50_000
EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1
TABLES: Final = (STOCK_LEVELS, POLICIES, RESERVATIONS, HOLDS, MOVEMENTS, WAREHOUSES)

_NOT_STORABLE = (struct_error, ArithmeticError, ValueError)
"""What encoding a row raises that no table could take."""


class Part(NamedTuple):
    """The streams from ``low`` to before ``high`` (``None``: to the last), up to position ``head``, into ``schema``."""

    event_store_url: str
    read_model_url: str
    schema: str
    low: str
    high: str | None
    head: int
    revision: int
    cache: bulk_cache.Target | None = None


class Filled(NamedTuple):
    """What a part came to."""

    events: int
    streams: int
    dead_letters: int
    cached: bool
    """Whether the cache has it, too."""


class Connections:
    """The open connections of this process: what one part is done with, the next one takes.

    A part needs seven of them: to open them anew for each took a tenth of the filling.
    """

    def __init__(self) -> None:
        self._idle: dict[tuple[str, str], list[psycopg.Connection]] = {}

    @contextmanager
    def borrow(self, url: str, options: str) -> Iterator[psycopg.Connection]:
        """For one transaction, which is committed at the end; after an error rolled back, and the connection closed."""
        idle = self._idle.setdefault((url, options), [])
        connection = idle.pop() if idle else psycopg.connect(url, options=options)
        with ExitStack() as until_sound:
            until_sound.callback(connection.close)
            yield connection
            connection.commit()
            until_sound.pop_all()
        idle.append(connection)


def fill_part(part: Part, connections: Connections) -> Filled:
    """Fold ``part`` of the log into the tables. Raises psycopg.Error if a server is away."""
    try:
        return _fill(part, connections, careful=False)
    except (*_NOT_STORABLE, psycopg.DataError):
        # Rare enough to do the part once more, looking at every row before it is written.
        return _fill(part, connections, careful=True)


def _fill(part: Part, connections: Connections, *, careful: bool) -> Filled:
    views = partial(connections.borrow, part.read_model_url, f"-c search_path={part.schema} -c synchronous_commit=off")
    with ExitStack() as stack:
        log = stack.enter_context(connections.borrow(part.event_store_url, f"-c search_path={LOG_SCHEMA}"))
        tables = {table.name: stack.enter_context(_TableWriter(views, table)) for table in TABLES}
        filler = _Filler(tables, part.revision, careful=careful, keeps=part.cache is not None)
        # Closed by hand: a query that is left in the middle keeps its connection from ever being closed.
        events = stack.enter_context(closing(_read(log, part)))
        for stream, rows in groupby(events, key=attrgetter("stream")):
            filler.take(stream, rows)
        for writer in tables.values():
            writer.finish()
        if filler.dead_letters:
            _write_dead_letters(stack.enter_context(views()), filler.dead_letters)
    # Not before the tables have it: what is put once is not taken back, and the tables may refuse a row.
    cached = part.cache is not None and asyncio.run(bulk_cache.put(part.cache, filler.levels, filler.warehouses))
    return Filled(filler.events, filler.streams, len(filler.dead_letters), cached)


def _read(log: psycopg.Connection, part: Part) -> Generator[LogRow]:
    """The part's events, stream by stream, each in order."""
    # By the chunk, which takes half of what a COPY takes here to become rows.
    yield from log.cursor(row_factory=args_row(LogRow)).stream(
        """SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events
        WHERE originator_id >= %(low)s AND (%(high)s::text IS NULL OR originator_id < %(high)s)
        AND notification_id <= %(head)s ORDER BY originator_id, originator_version""",
        {"low": part.low, "high": part.high, "head": part.head},
        binary=True,
        size=CHUNK_ROWS,
    )


class _TableWriter:
    """A COPY into one table, on a connection of its own: all of them are open at the same time."""

    def __init__(self, connect: Callable[[], AbstractContextManager[psycopg.Connection]], table: Table) -> None:
        self._buffer: list[Row] = []
        self._connected = ExitStack()
        self._copying = ExitStack()
        self._connect = connect
        self._table = table
        self._copy: Copy

    def __enter__(self) -> Self:
        connection = self._connected.enter_context(self._connect())
        columns = sql.SQL(", ").join(map(sql.Identifier, self._table.names))
        statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(sql.Identifier(self._table.name), columns)
        self._copy = self._copying.enter_context(connection.cursor().copy(statement))
        self._copy.write(COPY_HEADER)
        return self

    def __exit__(self, *error: object) -> None:
        """Commit, or after an error roll back."""
        try:
            self._copying.__exit__(*error)  # type: ignore[arg-type]  # three of them, as always
        finally:
            self._connected.__exit__(*error)  # type: ignore[arg-type]  # as above

    def encode(self, row: Row) -> bytes:
        """``row`` as COPY takes it. Raises one of _NOT_STORABLE."""
        return self._table.copy_rows([row])

    def write(self, row: Row) -> None:
        """Raises one of _NOT_STORABLE, sooner or later."""
        self._buffer.append(row)
        if len(self._buffer) >= BUFFER_ROWS:
            self.flush()

    def flush(self) -> None:
        if self._buffer:
            self._copy.write(self._table.copy_rows(self._buffer))
            self._buffer.clear()

    def finish(self) -> None:
        """End the COPY, still in its transaction. Raises one of _NOT_STORABLE, psycopg.DataError if the table refuses a row."""
        self.flush()
        self._copy.write(COPY_TRAILER)
        self._copying.close()


class _Filler:
    """Folds streams and writes their rows. ``careful``: nothing is written that a table might refuse.

    ``keeps``: the levels and warehouses are kept as well, for the cache.
    """

    def __init__(self, tables: dict[str, _TableWriter], revision: int, *, careful: bool, keeps: bool) -> None:
        self._tables = tables
        self._movements = tables[MOVEMENTS.name]
        self._revision = revision
        self._careful = careful
        self._keeps = keeps
        self._mapper = EventMapper()
        self.events = 0
        self.streams = 0
        self.dead_letters: list[DeadLetter] = []
        self.levels: list[LevelPush] = []
        self.warehouses: list[WarehouseRow] = []

    def take(self, stream: str, rows: Iterator[LogRow]) -> None:
        """Fold one stream, all of it."""
        self.streams += 1
        if is_warehouse_stream(stream):
            self._take_warehouse(rows)
            return
        letter = None
        if self._careful:
            checked = list(rows)
            letter = self._first_refused(checked)
            rows = iter(checked)
        fold = ItemFold()
        stale = False
        for row in rows:
            self.events += 1
            stale = stale or (letter is not None and letter.version == row.version)
            if stale:
                continue
            try:
                movement = fold.apply(self._event(row, fold.version))
            except (ImpossibleEvent, UnreadableEvent) as error:
                letter = dead_letter(row, str(error))
                stale = True
                continue
            if movement is not None:
                self._movements.write(movement_row(movement))
        if letter is not None:
            self.dead_letters.append(letter)
        self._finish_item(fold, stale=stale)

    def _event(self, row: LogRow, have: int) -> Any:
        if row.version != have + 1:
            raise ImpossibleEvent(f"the log has nothing between version {have} and {row.version}")
        event = decoded(row, self._mapper)
        if isinstance(event, UnreadableEvent):
            raise event
        return event

    def _finish_item(self, fold: ItemFold, *, stale: bool) -> None:
        fold.settle()
        if fold.level is None:
            return
        level = replace(fold.level, stale=stale)
        self._tables[STOCK_LEVELS.name].write(level_row(level, self._revision))
        if fold.policy is not None:
            self._tables[POLICIES.name].write(policy_row(level, fold.policy, fold.policy_version))
        for header in fold.reservations:
            self._tables[RESERVATIONS.name].write(reservation_row(header))
        for hold in fold.holds.values():
            self._tables[HOLDS.name].write(hold_row(hold))
        if self._keeps:
            self.levels.append(bulk_cache.whole_level(level, fold.holds.values()))

    def _take_warehouse(self, rows: Iterator[LogRow]) -> None:
        warehouse: WarehouseRow | None = None
        stale = False
        for row in rows:
            self.events += 1
            if stale:
                continue
            try:
                event = self._event(row, warehouse.version if warehouse is not None else 0)
                after = fold_warehouse_arrival(warehouse, event)
                if self._careful:
                    self._probe(WAREHOUSES, warehouse_row(after, self._revision, stale=False))
                warehouse = after
            except (ImpossibleEvent, UnreadableEvent) as error:
                self.dead_letters.append(dead_letter(row, str(error)))
                stale = True
        if warehouse is not None:
            self._tables[WAREHOUSES.name].write(warehouse_row(warehouse, self._revision, stale=stale))
            if self._keeps:
                self.warehouses.append(warehouse)

    def _first_refused(self, rows: list[LogRow]) -> DeadLetter | None:
        """The first of ``rows`` that cannot be folded, or whose event makes a row that no table takes."""
        fold = ItemFold()
        for row in rows:
            try:
                movement = fold.apply(self._event(row, fold.version))
                self._probe_item(fold, movement)
            except (ImpossibleEvent, UnreadableEvent) as error:
                return dead_letter(row, str(error))
        return None

    def _probe_item(self, fold: ItemFold, movement: Movement | None) -> None:
        assert fold.level is not None
        self._probe(STOCK_LEVELS, level_row(fold.level, self._revision))
        if movement is not None:
            self._probe(MOVEMENTS, movement_row(movement))
        for reservation_id in fold.touched:
            self._probe(HOLDS, hold_row(fold.holds[reservation_id]))
        for header in fold.reservations:
            self._probe(RESERVATIONS, reservation_row(header))
        fold.touched.clear()
        fold.reservations.clear()

    def _probe(self, table: Table, row: Row) -> None:
        """Raise UnreadableEvent if ``table`` would not take ``row``."""
        try:
            self._tables[table.name].encode(row)
        except _NOT_STORABLE as error:
            raise UnreadableEvent(f"a row of it was refused: {error}") from error
        if any(isinstance(value, str) and "\x00" in value for value in row):
            raise UnreadableEvent("a row of it was refused: a text with a NUL")


def _write_dead_letters(connection: psycopg.Connection, letters: list[DeadLetter]) -> None:
    connection.cursor().executemany(
        "INSERT INTO dead_letters (stream, version, position, topic, error) VALUES (%s, %s, %s, %s, %s)", letters
    )


def part_bounds(connection: psycopg.Connection, head: int, parts: int) -> list[tuple[str, str | None]]:
    """Ranges of stream ids that together are everything, of about as many events each; ``parts`` at most.

    From a sample of the log: streams differ too much in length for anything that only counts them.
    """
    percent = min(100.0, 100.0 * SAMPLED_EVENTS / max(1, head))
    fractions = [number / parts for number in range(1, parts)]
    row = connection.execute(
        sql.SQL(
            "SELECT percentile_disc(%s::float8[]) WITHIN GROUP (ORDER BY originator_id)"
            " FROM {} TABLESAMPLE BERNOULLI ({})"
        ).format(sql.Identifier(LOG_SCHEMA, "stored_events"), sql.Literal(percent)),
        [fractions],
    ).fetchone()
    cuts = sorted(set(row[0] or ())) if row is not None else []
    return list(zip(["", *cuts], [*cuts, None], strict=True))


def main() -> None:
    """A worker: parts come as lines of JSON on standard input, what each came to goes out the same way.

    When the input ends, so does this process, at once: nothing outlives the rebuild, however that ends.
    """
    # Rows are made and dropped by the million and none is part of a cycle.
    gc.disable()
    parts: SimpleQueue[bytes] = SimpleQueue()

    def receive() -> None:
        for line in sys.stdin.buffer:
            parts.put(line)
        os._exit(EXIT_DONE)

    threading.Thread(target=receive, name="parts", daemon=True).start()
    connections = Connections()
    try:
        while True:
            filled = fill_part(msgspec.json.decode(parts.get(), type=Part), connections)
            sys.stdout.buffer.write(msgspec.json.encode(filled) + b"\n")
            sys.stdout.buffer.flush()
    except Exception as error:  # noqa: BLE001  (whatever it is, it is told and ends the process)
        traceback.print_exc()
        sys.stderr.write(f"{type(error).__name__}: {' '.join(str(error).split())}\n")
        sys.stderr.flush()
        # An orderly exit would wait for the thread that reads, which has nothing to read.
        os._exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
