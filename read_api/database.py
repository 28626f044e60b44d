"""Statements on the views' tables in Postgres, whichever generation is read."""

import asyncio
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from infra.http_app import HttpProblem

Pool = AsyncConnectionPool[psycopg.AsyncConnection[tuple[Any, ...]]]
Row = tuple[Any, ...]

_CONNECTION_WAIT_S = 1.0
_GRACE_S: Final = 1.0
"""How much longer than the server may take we wait to hear of it."""

AWAY = (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, OSError)
"""What a statement raises when the server is away, restarting, or does not answer in time."""

VIEWS_SCHEMA = "stockhold_views"
"""Where the pointer and the table of generations are."""


def unavailable(what: str) -> HttpProblem:
    return HttpProblem("unavailable", what)


class _JsonAsSent(Loader):
    """JSON stays bytes: who reads it knows its struct, and decodes it with that."""

    def load(self, data: Buffer) -> bytes:
        return bytes(data)


async def _configure(connection: psycopg.AsyncConnection[Any]) -> None:
    connection.adapters.register_loader("json", _JsonAsSent)


def create_pool(url: str, size_max: int, statement_timeout_ms: int) -> Pool:
    """A pool, to be opened, that connects in the background and lets a caller wait no longer than a second."""
    return AsyncConnectionPool(
        url,
        min_size=1,
        max_size=size_max,
        timeout=_CONNECTION_WAIT_S,
        open=False,
        configure=_configure,
        kwargs={
            "autocommit": True,
            "options": f"-c statement_timeout={statement_timeout_ms} -c timezone=UTC -c default_transaction_read_only=on",
            "application_name": "stockhold-read-api",
        },
    )


class ViewDatabase:
    """Runs statements that name the tables of the generation as ``{views}.stock_levels``.

    The server ends a statement after ``statement_timeout_ms`` (0: never); if not even that is heard, it counts as away.
    """

    def __init__(self, pool: Pool, statement_timeout_ms: int) -> None:
        self._pool = pool
        self._patience_s = statement_timeout_ms / 1e3 + _GRACE_S if statement_timeout_ms else None

    async def rows(self, schema: str, statement: LiteralString, params: Mapping[str, Any] | None = None) -> list[Row]:
        """All rows. Raises HttpProblem ``unavailable`` if the database is away.

        Raises psycopg.errors.UndefinedTable if the generation in ``schema`` has been dropped.
        """
        try:
            async with self._pool.connection() as connection:
                with _cut_after(connection, self._patience_s):
                    cursor = await connection.execute(_rendered(statement, schema), params)
                    return await cursor.fetchall()
        except AWAY as error:
            raise unavailable("the views' database is away") from error


@contextmanager
def _cut_after(connection: psycopg.AsyncConnection[Any], seconds: float | None) -> Iterator[None]:
    """A server that hangs, or a network that has forgotten us, looks like one that has closed the connection.

    To cancel the statement would not do: psycopg then waits for the server to say that it is cancelled.
    """
    if seconds is None:
        yield
        return
    handle = asyncio.get_running_loop().call_later(seconds, _cut, connection)
    try:
        yield
    finally:
        handle.cancel()


def _cut(connection: psycopg.AsyncConnection[Any]) -> None:
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as line:
        line.shutdown(socket.SHUT_RDWR)


@lru_cache(maxsize=512)
def _rendered(statement: LiteralString, schema: str) -> bytes:
    # Rendered once: composing on every call costs more than many of these statements.
    return sql.SQL(statement).format(views=sql.Identifier(schema)).as_bytes(None)


def joined(conditions: Sequence[LiteralString]) -> LiteralString:
    """A WHERE clause of all conditions, or nothing."""
    return "WHERE " + " AND ".join(conditions) if conditions else ""
