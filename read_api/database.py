"""Statements on the views' tables in Postgres, whichever generation is read."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from infra.http_app import HttpProblem

Pool = AsyncConnectionPool[psycopg.AsyncConnection[tuple[Any, ...]]]
Row = tuple[Any, ...]

_CONNECTION_WAIT_S = 1.0

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
    """Runs statements that name the tables of the generation as ``{views}.stock_levels``."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def rows(self, schema: str, statement: LiteralString, params: Mapping[str, Any] | None = None) -> list[Row]:
        """All rows. Raises HttpProblem ``unavailable`` if the database is away.

        Raises psycopg.errors.UndefinedTable if the generation in ``schema`` has been dropped.
        """
        try:
            async with self._pool.connection() as connection:
                cursor = await connection.execute(_rendered(statement, schema), params)
                return await cursor.fetchall()
        except AWAY as error:
            raise unavailable("the views' database is away") from error


@lru_cache(maxsize=512)
def _rendered(statement: LiteralString, schema: str) -> bytes:
    # Rendered once: composing on every call costs more than many of these statements.
    return sql.SQL(statement).format(views=sql.Identifier(schema)).as_bytes(None)


def joined(conditions: Sequence[LiteralString]) -> LiteralString:
    """A WHERE clause of all conditions, or nothing."""
    return "WHERE " + " AND ".join(conditions) if conditions else ""
