"""Streams of which nothing more is published, because of an event that could not be: what they are, and trying them again."""

import asyncio
import time
from datetime import datetime
from typing import Final, NamedTuple

from psycopg import AsyncConnection

from projections.public.store import SCHEMA

RETRY_TIMEOUT_S: Final = 60.0
POLL_S: Final = 0.05

_PARKED = """SELECT stream, version, position, topic, error, attempts, parked_at FROM dead_letters
             ORDER BY parked_at, stream"""


class ParkedPublication(NamedTuple):
    """A stream that is not published on. ``version``: of the event at which it stands still."""

    stream: str
    version: int
    position: int | None
    topic: str | None
    error: str
    attempts: int
    parked_at: datetime


class NobodyPublishes(Exception):
    """No publisher has tried the streams again in time: none runs."""


async def parked_publications(read_model_url: str) -> list[ParkedPublication]:
    """Every stream that is not published on; none in a database in which nothing was ever published."""
    async with await _connect(read_model_url) as connection:
        return await _parked(connection)


async def retry_publications(
    read_model_url: str, *, timeout_s: float = RETRY_TIMEOUT_S
) -> tuple[int, list[ParkedPublication]]:
    """Have them all tried again by the running publisher: how many go on, and those that still do not.

    Raises NobodyPublishes; they are then tried as soon as a publisher runs.
    """
    async with await _connect(read_model_url) as connection:
        if not await _has_tables(connection):
            return 0, []
        rows = await connection.execute("UPDATE dead_letters SET retry_requested = true RETURNING stream")
        requested = {row[0] for row in await rows.fetchall()}
        deadline_s = time.monotonic() + timeout_s
        while await _waiting(connection):
            if time.monotonic() > deadline_s:
                raise NobodyPublishes(f"no publisher has tried {len(requested)} streams again within {timeout_s:g} s")
            await asyncio.sleep(POLL_S)
        left = await _parked(connection)
        return len(requested - {parked.stream for parked in left}), left


async def _connect(url: str) -> AsyncConnection:
    return await AsyncConnection.connect(
        url, autocommit=True, connect_timeout=5, options=f"-c search_path={SCHEMA} -c application_name=stockhold"
    )


async def _has_tables(connection: AsyncConnection) -> bool:
    found = await connection.execute("SELECT to_regclass(%s)", [f"{SCHEMA}.dead_letters"])
    return await found.fetchone() != (None,)


async def _parked(connection: AsyncConnection) -> list[ParkedPublication]:
    if not await _has_tables(connection):
        return []
    rows = await connection.execute(_PARKED)
    return [ParkedPublication(*row) for row in await rows.fetchall()]


async def _waiting(connection: AsyncConnection) -> bool:
    rows = await connection.execute("SELECT FROM dead_letters WHERE retry_requested LIMIT 1")
    return await rows.fetchone() is not None
