"""The views of one generation in PostgreSQL: load what a batch names, write what it did, in two round trips.

The connection that writes also holds the generation's leader lock, so whoever lost the connection, and
with it the lock, cannot write any more: there is never a second writer.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime
from hashlib import blake2b
from struct import error as struct_error
from typing import Any, NamedTuple, Self

from infra.event_store.wire import int2_array, int8, int8_array
from infra.postgres import Call, PipelineConnection, Statement, StatementFailed
from infra.result_rows import rows_of
from projections import binary
from projections import statements as sql
from projections.batches import Arrivals, DeadLetter, Found, Item, Named, Outcome, named_by
from projections.binary import Table
from projections.share import Share
from projections.statements import Cursor
from projections.tables import (
    HOLDS,
    MOVEMENTS,
    POLICIES,
    RESERVATIONS,
    WAREHOUSES,
    hold_from,
    hold_row,
    level_from,
    level_row,
    movement_row,
    policy_row,
    reservation_row,
    warehouse_from,
    warehouse_row,
)

_DATA_ERRORS = ("22", "23")


class RowRefused(Exception):
    """The tables do not take a row, such as one with a NUL in a text: whose, is to be found out."""


class LostLeadership(Exception):
    """The cursor is not where this writer left it: somebody else has written."""


class Watermarks(NamedTuple):
    """``versions`` by stream; a stream that the views do not know is not in it. ``parked``: those that stand still."""

    versions: Mapping[str, int]
    parked: AbstractSet[str]


class PostgresViews:
    """The writer's connection to the tables of one generation, for the partitions of its share.

    Calls raise ``infra.postgres.ConnectionLost`` when the server is away; then everything begins anew with
    :meth:`connect` and :meth:`lead`.
    """

    def __init__(self, connection: PipelineConnection, schema: str, share: Share) -> None:
        self._connection = connection
        self._count = len(share.partitions)
        self._partitions = int2_array(share.partitions)
        self._lock_keys = int8_array([leader_lock_key(schema, partition) for partition in share.partitions])

    @classmethod
    async def connect(cls, url: str, schema: str, share: Share = Share(), *, timeout_s: float = 5.0) -> Self:  # noqa: B008  (immutable)
        """Raises ConnectionLost; StatementFailed if ``schema`` holds no generation."""
        session = sql.SESSION | {"search_path": schema}
        return cls(await PipelineConnection.connect(url, sql.ALL, session, timeout_s), schema, share)

    async def close(self) -> None:
        """Let go of the connection, and of the leader lock with it."""
        await self._connection.close()

    async def try_lead(self) -> bool:
        """Whether this connection is now the one that may write; it stays so until it ends."""
        leads = bool((await self._rows(Call(sql.TRY_LEAD, (self._lock_keys,))))[0][0])
        if not leads:
            await self._connection.run([Call(sql.LET_GO)])
        return leads

    async def cursor(self) -> Cursor:
        """Where the partitions are together, which from now on is where each of them is.

        Raises LostLeadership if one has no cursor.
        """
        cursors = [Cursor(*row) for row in await self._rows(Call(sql.LOCK_CURSORS, (self._partitions,)))]
        if len(cursors) != self._count:
            raise LostLeadership("the generation has no cursor")
        common = sql.common_cursor(cursors)
        if set(cursors) != {common}:
            await self.move(common)
        return common

    async def begin(self, arrivals: Arrivals, cursor: Cursor) -> Found:
        """Begin a transaction and load, locked, what ``arrivals`` name. Raises LostLeadership if the cursor has moved.

        Then :meth:`commit` or :meth:`rollback`.
        """
        named = named_by(arrivals)
        loads = _loads(named)
        begin, lock = Call(sql.BEGIN), Call(sql.LOCK_CURSORS, (self._partitions,))
        results = await self._connection.run([begin, lock, *loads.values()])
        if rows_of(results[1]) != [cursor] * self._count:
            await self.rollback()
            raise LostLeadership("the cursor has been moved by somebody else")
        return _found(dict(zip(loads, map(rows_of, results[2:]), strict=True)))

    async def commit(self, outcome: Outcome, cursor: Cursor) -> dict[Item, datetime | None]:
        """Write ``outcome``, move the cursor to ``cursor``, whose revision stamps the rows, and commit.

        The exact ``next_due_at`` of the items whose level left it open. Raises RowRefused, rolled back.
        """
        try:
            calls = [*_writes(outcome, cursor.pg_revision), self._move(cursor), Call(sql.COMMIT)]
        except (ArithmeticError, ValueError, struct_error) as error:
            await self.rollback()
            raise RowRefused(str(error)) from error
        try:
            results = await self._connection.run(calls)
        except StatementFailed as error:
            await self.rollback()
            if error.sqlstate.startswith(_DATA_ERRORS):
                raise RowRefused(str(error)) from error
            raise
        if all(item.due_is_exact for item in outcome.items):
            return {}
        levels = next(result for call, result in zip(calls, results, strict=True) if call.statement is sql.WRITE_LEVELS)
        return {(sku, warehouse): next_due_at for sku, warehouse, next_due_at in rows_of(levels)}

    async def rollback(self) -> None:
        await self._connection.run([Call(sql.ROLLBACK)])

    async def move(self, cursor: Cursor) -> None:
        """Move the cursor, and nothing else."""
        await self._connection.run([self._move(cursor)])

    async def watermarks(self, streams: Iterable[str]) -> Watermarks:
        """How far ``streams`` are in the views."""
        named = named_by(dict.fromkeys(streams, ()))
        params = (*_columns_of(named.items, 2), _texts(named.codes))
        parked = Call(sql.FIND_PARKED, (_texts(named.streams),))
        versions, parked_rows = map(rows_of, await self._connection.run([Call(sql.WATERMARKS, params), parked]))
        return Watermarks({row[0]: row[1] for row in versions}, {row[0] for row in parked_rows})

    async def retries(self) -> list[str]:
        """The parked streams that somebody wants to be tried again."""
        return [row[0] for row in await self._rows(Call(sql.RETRIES))]

    async def dead_letter_count(self) -> int:
        count: int = (await self._rows(Call(sql.DEAD_LETTERS)))[0][0]
        return count

    def _move(self, cursor: Cursor) -> Call:
        return Call(sql.MOVE_CURSORS, (self._partitions, *map(int8, cursor)))

    async def _rows(self, call: Call) -> list[tuple[Any, ...]]:
        return rows_of((await self._connection.run([call]))[0])


def leader_lock_key(schema: str, partition: int) -> int:
    """The key of the advisory lock that the one writer of a generation's partition holds."""
    name = f"{schema}.follower.{partition}".encode()
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "big", signed=True)


def _loads(named: Named) -> dict[str, Call]:
    """The statements that find what is named, leaving out those that would find nothing."""
    calls = {"parked": Call(sql.FIND_PARKED, (_texts(named.streams),))}
    if named.items:
        calls["levels"] = Call(sql.FIND_LEVELS, _columns_of(named.items, 2))
    if named.holds:
        calls["holds"] = Call(sql.FIND_HOLDS, _columns_of(named.holds, 3))
    if named.codes:
        calls["warehouses"] = Call(sql.FIND_WAREHOUSES, (_texts(named.codes),))
    return calls


def _found(rows: Mapping[str, list[tuple[Any, ...]]]) -> Found:
    found = Found(parked={row[0] for row in rows["parked"]})
    for row in rows.get("levels", ()):
        level = level_from(row)
        found.levels[level.sku, level.warehouse] = level
    for row in rows.get("holds", ()):
        hold = hold_from(row)
        found.holds.setdefault((hold.sku, hold.warehouse), []).append(hold)
    for row in rows.get("warehouses", ()):
        warehouse = warehouse_from(row)
        found.warehouses[warehouse.code] = warehouse
    return found


def _writes(outcome: Outcome, revision: int) -> list[Call]:
    """The statements that write ``outcome``. The holds come before the levels, which look at them."""
    written = [item for item in outcome.items if item.write]
    warehouses = [warehouse for warehouse in outcome.warehouses if warehouse.write]
    tables: list[tuple[Statement, Table, list[tuple[Any, ...]]]] = [
        (sql.WRITE_HOLDS, HOLDS, [hold_row(hold) for item in written for hold in item.holds.values()]),
        (
            sql.WRITE_LEVELS,
            sql.LEVEL_PARAMS,
            [(*level_row(item.level, revision), item.due_is_exact) for item in written],
        ),
        (sql.WRITE_POLICIES, POLICIES, [policy_row(i.level, i.policy, i.policy_version) for i in written if i.policy]),
        (sql.WRITE_RESERVATIONS, RESERVATIONS, [reservation_row(header) for header in outcome.reservations]),
        (sql.WRITE_MOVEMENTS, MOVEMENTS, [movement_row(movement) for movement in outcome.movements]),
        (sql.WRITE_WAREHOUSES, WAREHOUSES, [warehouse_row(w.row, revision, w.stale) for w in warehouses]),
    ]
    calls = [Call(statement, table.params(rows)) for statement, table, rows in tables if rows]
    calls += [Call(sql.PARK, _park_params(letter)) for letter in outcome.parked]
    if outcome.unparked:
        calls.append(Call(sql.UNPARK, (_texts(outcome.unparked),)))
    if warehouses:
        calls.append(Call(sql.NOTIFY))
    return calls


def _park_params(letter: DeadLetter) -> tuple[bytes | None, ...]:
    return (
        letter.stream.encode(),
        int8(letter.version),
        None if letter.position is None else int8(letter.position),
        None if letter.topic is None else letter.topic.encode(),
        letter.error.encode(),
    )


def _texts(values: Iterable[str]) -> bytes:
    return binary.array(binary.TEXT, list(values))


def _columns_of(rows: list[Any], width: int) -> tuple[bytes, ...]:
    return tuple(_texts(row[i] for row in rows) for i in range(width))
