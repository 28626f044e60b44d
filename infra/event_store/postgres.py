"""The event store in PostgreSQL: the write path's transactions, each in two round trips or in one.

Two connections: one for the transaction, one for what may be read or kept beside it. Both are remade
when they break; a batch that was under way then fails with StoreUnavailable, and whoever sent it asks
again under the lock, where the idempotency keys tell what had been applied.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from datetime import datetime
from typing import TypeVar

import msgspec
from psycopg.pq.abc import PGresult

from domain.hold import Hold
from domain.reservation import ReservationHeader
from domain.stock_item import StockItemState
from infra.event_store import statements as sql
from infra.event_store import wire
from infra.event_store.append_lock import SCHEMA, append_lock_key
from infra.event_store.port import (
    STALE_AFTER,
    Conflict,
    Loaded,
    LockTimeout,
    Needs,
    Outcome,
    Rejected,
    SnapshotRow,
    StoredRow,
    StoreError,
    StoreUnavailable,
    WarehouseRow,
    Writes,
    by_age,
)
from infra.postgres import Call, ConnectionLost, PipelineConnection, Statement, StatementFailed

_T = TypeVar("_T")

_encode = msgspec.json.Encoder().encode
_decode_header = msgspec.json.Decoder(ReservationHeader).decode
_decode_hold = msgspec.json.Decoder(Hold).decode


class PostgresEventStore:
    """One writer's way to the log in PostgreSQL (see :class:`infra.event_store.port.EventStore`)."""

    def __init__(
        self, url: str, *, lock_timeout_ms: int, idle_in_transaction_timeout_ms: int, connect_timeout_s: float
    ) -> None:
        self._url = url
        self._connect_timeout_s = connect_timeout_s
        self._lock_timeout_ms = lock_timeout_ms
        self._idle_timeout_ms = idle_in_transaction_timeout_ms
        self._lock_call = Call(sql.LOCK, (wire.int8(append_lock_key()),))
        self._writer: PipelineConnection | None = None
        self._reader: PipelineConnection | None = None
        self._reader_turn = asyncio.Lock()

    async def open(self) -> None:
        """Connect (again). Raises StoreUnavailable."""
        await self.close()
        try:
            self._writer = await self._connect("stockhold-writer", (*sql.LOADING, *sql.WRITING))
            self._reader = await self._connect_reader()
        except (ConnectionLost, StatementFailed) as error:
            await self.close()
            raise StoreUnavailable(str(error)) from error
        except asyncio.CancelledError:  # not in time: a writer without its reader would never be given another
            await self.close()
            raise

    async def _connect_reader(self) -> PipelineConnection:
        return await self._connect("stockhold-reader", (*sql.LOADING, sql.PUT_SNAPSHOTS))

    async def _connect(self, name: str, statements: Sequence[Statement]) -> PipelineConnection:
        return await PipelineConnection.connect(
            self._url,
            statements,
            {
                "search_path": SCHEMA,
                # A trip without BEGIN too must see, statement by statement, what was committed before its lock.
                "default_transaction_isolation": "read committed",
                "lock_timeout": str(self._lock_timeout_ms),
                "idle_in_transaction_session_timeout": str(self._idle_timeout_ms),
                # A plan made while a table is empty must not stay a sequential scan when it has grown.
                "plan_cache_mode": "force_generic_plan",
                "enable_seqscan": "off",
                "jit": "off",
                "application_name": name,
            },
            self._connect_timeout_s,
        )

    async def close(self) -> None:
        """Let go of both connections; an open transaction is rolled back by the server."""
        writer, reader = self._writer, self._reader
        self._writer = self._reader = None
        for connection in (writer, reader):
            if connection is not None:
                await connection.close()

    # Reading -------------------------------------------------------------------------------------

    async def read(self, needs: Needs, warehouses_after: int) -> Loaded:
        """Load outside the lock, beside a transaction. Raises StoreUnavailable."""
        calls = _load_calls(needs, warehouses_after)
        async with self._reader_turn:
            return await _loading(self._beside(calls), calls, needs)

    async def _beside(self, calls: Sequence[Call]) -> list[PGresult]:
        """A trip on the second connection."""
        await self._mend_reader()
        reader = self._reader
        try:
            return await self._run(reader, calls)
        except asyncio.CancelledError:
            if reader is not None:
                await reader.close()  # its answer is still on the way: who comes next must not take it for theirs
            raise

    def lock_and_load(self, needs: Needs, warehouses_after: int) -> Awaitable[Loaded]:
        """Begin, lock, load: one round trip, sent before this returns. Raises StoreUnavailable, LockTimeout."""
        calls = _load_calls(needs, warehouses_after)
        sent = self._run(self._writer, [Call(sql.BEGIN), self._lock_call, *calls])
        return self._or_abandon(_loading(sent, calls, needs, skip=2))

    def load_more(self, needs: Needs, warehouses_after: int) -> Awaitable[Loaded]:
        """Load more in the open transaction. Raises StoreUnavailable."""
        calls = _load_calls(needs, warehouses_after)
        return self._or_abandon(_loading(self._run(self._writer, calls), calls, needs))

    # Writing -------------------------------------------------------------------------------------

    def append(self, writes: Writes) -> Awaitable[datetime]:
        """Append and commit the open transaction in one round trip, sent before this returns."""
        sent = self._run(self._writer, [*_write_calls(writes), Call(sql.CLOCK), Call(sql.COMMIT)])
        return self._or_abandon(_clock(sent, from_end=2))

    def append_unseen(self, writes: Writes, warehouses_after: int) -> Awaitable[datetime]:
        """Lock, check, append and commit in one round trip (one Sync: one implicit transaction)."""
        check = Call(
            sql.ASSERT_UNCHANGED,
            (
                wire.text_array(list(writes.read)),
                wire.int8_array(writes.read.values()),
                wire.int8(warehouses_after),
                wire.timestamptz(writes.now),
                wire.interval(STALE_AFTER),
            ),
        )
        checks = [check]
        if writes.orders:
            counts = (wire.text_array(list(writes.orders)), wire.int8_array(writes.orders.values()))
            checks.append(Call(sql.ASSERT_ORDERS, counts))
        sent = self._run(self._writer, [self._lock_call, *checks, *_write_calls(writes), Call(sql.CLOCK)])
        return _clock(sent, from_end=1)

    async def abandon(self) -> None:
        """Roll the open transaction back. Raises StoreUnavailable."""
        try:
            await self._run(self._writer, [Call(sql.ROLLBACK)])
        except (ConnectionLost, StatementFailed) as error:
            raise StoreUnavailable(str(error)) from error

    async def write_snapshots(self, snapshots: Sequence[SnapshotRow]) -> None:
        """Keep these states, unless newer ones are kept already. Raises StoreUnavailable."""
        snapshots = sorted(snapshots)  # one order for all processes, or two of them could lock each other out
        call = Call(
            sql.PUT_SNAPSHOTS,
            (
                wire.text_array([row.stream for row in snapshots]),
                wire.int8_array(row.version for row in snapshots),
                wire.int8_array(row.state_version for row in snapshots),
                wire.bytea_array([row.state for row in snapshots]),
            ),
        )
        async with self._reader_turn:
            try:
                await self._beside([call])
            except (ConnectionLost, StatementFailed) as error:
                raise StoreUnavailable(str(error)) from error

    async def _mend_reader(self) -> None:
        """Connect the reader again if it alone was lost: a writer that works never asks for it. Raises StoreUnavailable."""
        lost, writer = self._reader, self._writer
        if lost is None or not lost.lost or writer is None or writer.lost:
            return
        try:
            reader = await self._connect_reader()
        except (ConnectionLost, StatementFailed) as error:
            raise StoreUnavailable(str(error)) from error
        if self._reader is not lost:  # opened anew meanwhile
            await reader.close()
            return
        self._reader = reader
        await lost.close()

    def _run(self, connection: PipelineConnection | None, calls: Sequence[Call]) -> asyncio.Future[list[PGresult]]:
        if connection is None or connection.lost:
            future: asyncio.Future[list[PGresult]] = asyncio.get_running_loop().create_future()
            future.set_exception(ConnectionLost("not connected"))
            return future
        return connection.run(calls)

    async def _or_abandon(self, work: Awaitable[_T]) -> _T:
        """A statement that failed leaves its transaction open and useless: end it before anybody hears of it."""
        try:
            return await work
        except StoreUnavailable:
            raise
        except StoreError:
            await self.abandon()
            raise


def _load_calls(needs: Needs, warehouses_after: int) -> list[Call]:
    calls = [Call(sql.CLOCK), Call(sql.CHANGED_WAREHOUSES, (wire.int8(warehouses_after),))]
    if needs.cached:
        ids, versions = list(needs.cached), needs.cached.values()
        calls.append(Call(sql.LATER_EVENTS, (wire.text_array(ids), wire.int8_array(versions))))
    if needs.cold:
        state_version = wire.int8(StockItemState.STATE_VERSION)
        calls.append(Call(sql.WHOLE_STREAMS, (wire.text_array(list(needs.cold)), state_version)))
    if needs.keys:
        keys = list(needs.keys)
        calls.append(Call(sql.OUTCOMES, (wire.text_array([s for s, _ in keys]), wire.text_array([k for _, k in keys]))))
    if needs.reservations:
        reservation_ids = wire.text_array(list(needs.reservations))
        calls += [Call(sql.HEADERS, (reservation_ids,)), Call(sql.HOLDS, (reservation_ids,))]
    if needs.orders:
        orders = (wire.text_array(list(needs.orders)),)
        calls += [Call(sql.HEADERS_OF_ORDERS, orders), Call(sql.HOLDS_OF_ORDERS, orders)]
    if needs.skus:
        calls.append(Call(sql.PLACES, (wire.text_array(list(needs.skus)),)))
    return calls


async def _loading(sent: Awaitable[list[PGresult]], calls: Sequence[Call], needs: Needs, skip: int = 0) -> Loaded:
    results = (await _answered(sent))[skip:]
    loaded = Loaded(now=wire.read_time(results[0].get_value(0, 0)))
    loaded.places = {sku: [] for sku in needs.skus}
    for call, result in zip(calls, results, strict=True):
        take = _TAKE.get(call.statement)
        if take is not None and result.ntuples:
            take(loaded, result)
    for holds in loaded.holds.values():
        holds.sort(key=_part)
    if needs.orders:
        _sort_by_orders(loaded, needs)
    return loaded


def _sort_by_orders(loaded: Loaded, needs: Needs) -> None:
    loaded.orders = {order_id: [] for order_id in needs.orders}
    for header in sorted(loaded.headers.values(), key=by_age):
        if header.order_id in loaded.orders:
            loaded.orders[header.order_id].append(header.reservation_id)


def _part(hold: Hold) -> int:
    return hold.part


def _take_rows(loaded: Loaded, result: PGresult) -> None:
    get = result.get_value
    loaded.rows += [
        StoredRow(
            wire.read_text(get(i, 0)),
            wire.read_int(get(i, 1)),
            wire.read_text(get(i, 2)),
            wire.read_bytes(get(i, 3)),
        )
        for i in range(result.ntuples)
    ]


def _take_outcomes(loaded: Loaded, result: PGresult) -> None:
    get = result.get_value
    for i in range(result.ntuples):
        outcome = Outcome(
            wire.read_text(get(i, 0)),
            wire.read_text(get(i, 1)),
            wire.read_bytes(get(i, 2)),
            wire.read_int(get(i, 3)),
            wire.read_bytes(get(i, 4)),
        )
        loaded.outcomes[outcome.scope, outcome.key] = outcome


def _take_headers(loaded: Loaded, result: PGresult) -> None:
    for i in range(result.ntuples):
        header = _decode_header(wire.read_bytes(result.get_value(i, 0)))
        loaded.headers[header.reservation_id] = header


def _take_holds(loaded: Loaded, result: PGresult) -> None:
    for i in range(result.ntuples):
        hold = _decode_hold(wire.read_bytes(result.get_value(i, 0)))
        loaded.holds.setdefault(hold.reservation_id, []).append(hold)


def _take_holds_of_orders(loaded: Loaded, result: PGresult) -> None:
    """A reservation that was asked for by its own id too must not have its holds twice."""
    of_orders = Loaded(loaded.now)
    _take_holds(of_orders, result)
    loaded.holds |= of_orders.holds


def _take_places(loaded: Loaded, result: PGresult) -> None:
    for i in range(result.ntuples):
        loaded.places[wire.read_text(result.get_value(i, 0))].append(wire.read_text(result.get_value(i, 1)))


def _take_warehouses(loaded: Loaded, result: PGresult) -> None:
    get = result.get_value
    loaded.warehouses = [
        WarehouseRow(wire.read_text(get(i, 0)), wire.read_int(get(i, 1)), wire.read_int(get(i, 2)))
        for i in range(result.ntuples)
    ]


_TAKE = {
    sql.LATER_EVENTS: _take_rows,
    sql.WHOLE_STREAMS: _take_rows,
    sql.OUTCOMES: _take_outcomes,
    sql.HEADERS: _take_headers,
    sql.HOLDS: _take_holds,
    sql.HEADERS_OF_ORDERS: _take_headers,
    sql.HOLDS_OF_ORDERS: _take_holds_of_orders,
    sql.PLACES: _take_places,
    sql.CHANGED_WAREHOUSES: _take_warehouses,
}


def _write_calls(writes: Writes) -> list[Call]:
    calls = []
    if writes.events:
        calls.append(Call(sql.APPEND_EVENTS, _event_params(writes.events)))
    if writes.headers:
        calls.append(Call(sql.APPEND_HEADERS, _header_params(writes.headers)))
    if writes.holds:
        calls.append(Call(sql.PUT_HOLDS, _hold_params(writes.holds)))
    if writes.outcomes:
        calls.append(Call(sql.APPEND_OUTCOMES, (*_outcome_params(writes.outcomes), wire.timestamptz(writes.now))))
    if writes.items:
        skus, warehouses = zip(*writes.items, strict=True)
        calls.append(Call(sql.PUT_ITEMS, (wire.text_array(skus), wire.text_array(warehouses))))
    if writes.warehouses:
        codes, versions = zip(*writes.warehouses, strict=True)
        calls.append(Call(sql.PUT_WAREHOUSES, (wire.text_array(codes), wire.int8_array(versions))))
    if writes.refusals:
        operations, codes, orders, actors, problems, *others = zip(*writes.refusals, strict=True)
        refusals = (
            *(wire.text_array(column) for column in (operations, codes, orders, actors)),
            wire.bytea_array(problems),
            *(wire.text_array(column) for column in others),
            wire.timestamptz(writes.now),
        )
        calls.append(Call(sql.APPEND_REFUSALS, refusals))
    return calls


def _event_params(rows: Sequence[StoredRow]) -> tuple[bytes, ...]:
    return (
        wire.text_array([row.stream for row in rows]),
        wire.int8_array([row.version for row in rows]),
        wire.text_array([row.topic for row in rows]),
        wire.bytea_array([row.state for row in rows]),
    )


def _outcome_params(outcomes: Sequence[Outcome]) -> tuple[bytes, ...]:
    return (
        wire.text_array([outcome.scope for outcome in outcomes]),
        wire.text_array([outcome.key for outcome in outcomes]),
        wire.bytea_array([outcome.digest for outcome in outcomes]),
        wire.int2_array([outcome.status for outcome in outcomes]),
        wire.bytea_array([outcome.body for outcome in outcomes]),
    )


def _header_params(headers: Sequence[ReservationHeader]) -> tuple[bytes, ...]:
    return (
        wire.text_array([h.reservation_id for h in headers]),
        wire.text_array([h.order_id for h in headers]),
        wire.bytea_array([_encode(h) for h in headers]),
    )


def _hold_params(holds: Sequence[Hold]) -> tuple[bytes, ...]:
    return (
        wire.text_array([h.reservation_id for h in holds]),
        wire.text_array([h.sku for h in holds]),
        wire.text_array([h.warehouse for h in holds]),
        wire.int8_array(h.active for h in holds),
        wire.timestamptz_array([h.expires_at for h in holds]),
        wire.bytea_array([_encode(h) for h in holds]),
    )


async def _clock(sent: Awaitable[list[PGresult]], from_end: int) -> datetime:
    results = await _answered(sent)
    return wire.read_time(results[-from_end].get_value(0, 0))


async def _answered(sent: Awaitable[list[PGresult]]) -> list[PGresult]:
    """The results, or what went wrong in the port's own terms."""
    try:
        return await sent
    except ConnectionLost as error:
        raise StoreUnavailable(str(error)) from error
    except StatementFailed as error:
        raise _in_port_terms(error) from error
    finally:
        del sent  # it holds the error, whose traceback holds this frame


UNIQUE_VIOLATION, LOCK_NOT_AVAILABLE, STALE, LATE, ORDER_GREW = "23505", "55P03", "SH409", "SH408", "SH410"
_ROLLBACK = "40"
"""SQLSTATE class of a transaction that the server gave up for another's sake, as in a deadlock."""
_SERVER_TROUBLE = {"08", "53", "57", "58", "25"}
"""SQLSTATE classes of a server that is going down, full or in recovery, or that has ended our transaction."""


def _in_port_terms(error: StatementFailed) -> StoreError:
    state, detail = error.sqlstate, str(error)
    if state == UNIQUE_VIOLATION:
        return Conflict(detail, stale=error.constraint == "stored_events_pkey")
    if state in {STALE, LATE, ORDER_GREW} or state.startswith(_ROLLBACK):
        return Conflict(detail, stale=state == STALE)
    if state == LOCK_NOT_AVAILABLE:
        return LockTimeout(detail)
    if state[:2] in _SERVER_TROUBLE:
        return StoreUnavailable(detail)
    return Rejected(detail)
