"""A PostgreSQL connection that sends several prepared statements in one round trip.

psycopg's own pipeline waits for the event loop several times a transaction; under load each wait costs
a whole turn of the loop. This one writes a batch of statements to the socket at once, and is woken
once, when the answer to the last of them has come. Parameters are binary, encoded by
:mod:`infra.event_store.wire`.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import psycopg
from psycopg import pq
from psycopg.pq.abc import PGconn, PGresult


class Statement(NamedTuple):
    """A prepared statement: its name on the connection, its text, and the types of its parameters (OIDs)."""

    name: bytes
    sql: bytes
    types: tuple[int, ...] = ()


class Call(NamedTuple):
    """A statement with its parameters, each already in PostgreSQL's binary format (None: NULL)."""

    statement: Statement
    params: Sequence[bytes | None] = ()


class ConnectionLost(Exception):
    """The connection is gone; whether what was sent last was done is not known."""


class StatementFailed(Exception):
    """The server refused a statement; the rest of its round trip was skipped."""

    def __init__(self, sqlstate: str, message: str, constraint: str | None) -> None:
        super().__init__(f"{sqlstate}: {message}")
        self.sqlstate = sqlstate
        self.constraint = constraint


_BINARY = pq.Format.BINARY
_OK = {pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK}


class PipelineConnection:
    """One connection in libpq's pipeline mode, one round trip at a time."""

    def __init__(self, connection: psycopg.AsyncConnection, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection  # owns the socket; closing it closes ours
        self._pgconn: PGconn = connection.pgconn
        self._loop = loop
        self._fd = self._pgconn.socket
        self._waiter: asyncio.Future[list[PGresult]] | None = None
        self._results: list[PGresult] = []
        self._failure: StatementFailed | None = None
        self._expected = 0
        self._writing = False
        loop.add_reader(self._fd, self._readable)

    @classmethod
    async def connect(
        cls, url: str, statements: Sequence[Statement], settings: dict[str, str], timeout_s: float
    ) -> "PipelineConnection":
        """Connect, apply session ``settings`` and prepare ``statements``. Raises ConnectionLost, StatementFailed."""
        try:
            async with asyncio.timeout(timeout_s):  # for everything: libpq's own is for its handshake alone
                return await cls._connect(url, statements, settings)
        except TimeoutError as error:
            raise ConnectionLost(f"no connection within {timeout_s:g} s") from error
        except psycopg.OperationalError as error:
            raise ConnectionLost(str(error)) from error

    @classmethod
    async def _connect(
        cls, url: str, statements: Sequence[Statement], settings: dict[str, str]
    ) -> "PipelineConnection":
        options = " ".join(f"-c {name}={_escaped(value)}" for name, value in settings.items())
        connection = await psycopg.AsyncConnection.connect(url, autocommit=True, options=options)
        connection.pgconn.nonblocking = 1
        connection.pgconn.enter_pipeline_mode()
        pipeline = cls(connection, asyncio.get_running_loop())
        try:
            await pipeline._prepare(statements)
        except BaseException:
            await pipeline.close()
            raise
        return pipeline

    async def _prepare(self, statements: Sequence[Statement]) -> None:
        for statement in statements:
            self._pgconn.send_prepare(statement.name, statement.sql, statement.types)
        await self._sync(len(statements))

    def run(self, calls: Sequence[Call]) -> asyncio.Future[list[PGresult]]:
        """Send ``calls`` and one Sync; the future gives a result for each.

        Without BEGIN they are one implicit transaction. The future raises StatementFailed, ConnectionLost.
        """
        try:
            for statement, params in calls:
                self._pgconn.send_query_prepared(statement.name, params, [_BINARY] * len(params), result_format=_BINARY)
        except psycopg.OperationalError as error:
            self._lose(error)  # half of the trip may be on its way
            return self._fail_at_once(ConnectionLost(str(error)))
        return self._sync(len(calls))

    def _sync(self, expected: int) -> asyncio.Future[list[PGresult]]:
        assert self._waiter is None, "one round trip at a time"
        self._waiter = waiter = self._loop.create_future()
        self._results, self._failure, self._expected = [], None, expected
        try:
            self._pgconn.pipeline_sync()
            self._flush()
        except psycopg.OperationalError as error:
            self._lose(error)
        return waiter

    def _fail_at_once(self, error: ConnectionLost) -> asyncio.Future[list[PGresult]]:
        future: asyncio.Future[list[PGresult]] = self._loop.create_future()
        future.set_exception(error)
        return future

    def _flush(self) -> None:
        pending = self._pgconn.flush()
        if pending and not self._writing:
            self._loop.add_writer(self._fd, self._writable)
        elif not pending and self._writing:
            self._loop.remove_writer(self._fd)
        self._writing = bool(pending)

    def _writable(self) -> None:
        try:
            self._pgconn.consume_input()  # a full socket may be waiting for us to read
            self._flush()
        except psycopg.OperationalError as error:
            self._lose(error)

    def _readable(self) -> None:
        pgconn = self._pgconn
        try:
            pgconn.consume_input()
            if self._writing:
                self._flush()
            while self._waiter is not None and not pgconn.is_busy():
                result = pgconn.get_result()
                if result is not None:
                    self._take(result)
        except psycopg.OperationalError as error:
            self._lose(error)

    def _take(self, result: PGresult) -> None:
        status = result.status
        if status in _OK:
            self._results.append(result)
        elif status == pq.ExecStatus.PIPELINE_SYNC:
            self._finish()
        elif status == pq.ExecStatus.FATAL_ERROR:
            self._failure = _statement_failed(result)

    def _finish(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is None or waiter.done():
            return
        if self._failure is not None:
            waiter.set_exception(self._failure)
        else:
            waiter.set_result(self._results)

    def _lose(self, error: BaseException) -> None:
        self._detach()
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(ConnectionLost(str(error)))

    @property
    def lost(self) -> bool:
        return self._fd < 0

    def _detach(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            self._fd = -1

    async def close(self) -> None:
        """Close the socket; a round trip under way fails with ConnectionLost."""
        self._lose(ConnectionError("closed"))
        self._pgconn.finish()
        await self._connection.close()


def _escaped(value: str) -> str:
    """As a value in libpq's ``options``, where a space ends it."""
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def _statement_failed(result: PGresult) -> StatementFailed:
    def diagnostic(field: pq.DiagnosticField) -> str | None:
        value = result.error_field(field)
        return value.decode("utf-8", "replace") if value else None

    return StatementFailed(
        diagnostic(pq.DiagnosticField.SQLSTATE) or "?????",
        diagnostic(pq.DiagnosticField.MESSAGE_PRIMARY) or "",
        diagnostic(pq.DiagnosticField.CONSTRAINT_NAME),
    )
