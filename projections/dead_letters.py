"""Streams that stand still at an event that could not be applied: what they are, and trying them again."""

import asyncio
import time
from datetime import datetime
from typing import Final, NamedTuple

from psycopg import AsyncConnection, sql

from projections import generations
from projections.generations import Generation
from projections.lane import Servers
from projections.projector import following
from projections.runners import kept_partitions

RETRY_TIMEOUT_S: Final = 60.0
POLL_S: Final = 0.05

_COLUMNS = "stream, version, position, topic, error, attempts, parked_at"


class ParkedStream(NamedTuple):
    """A row of ``dead_letters``. ``version``: of the event at which the stream stands still."""

    generation: int
    stream: str
    version: int
    position: int | None
    topic: str | None
    error: str
    attempts: int
    parked_at: datetime


class RetryTimeout(Exception):
    """Nobody has tried the streams again in time."""


async def parked_streams(servers: Servers) -> list[ParkedStream]:
    """Every parked stream of every live generation."""
    async with await generations.connect(servers.read_model_url) as connection:
        return [parked for generation in await _live(connection) for parked in await _parked(connection, generation)]


async def retry_parked(servers: Servers, *, timeout_s: float = RETRY_TIMEOUT_S) -> tuple[int, list[ParkedStream]]:
    """Have every parked stream tried again: how many were healed, and those that are parked still.

    Whoever leads does it: the projector if one runs, else this process. Raises RetryTimeout.
    """
    healed = 0
    still: list[ParkedStream] = []
    async with await generations.connect(servers.read_model_url) as connection:
        for generation in await _live(connection):
            if not generation.is_of_this_code and not await kept_partitions(connection, generation):
                continue  # nobody here could: it is another release's, which does not run
            requested = await _request(connection, generation)
            if not requested:
                continue
            async with following(servers, generation):
                await _answered(connection, generation, timeout_s)
            left = await _parked(connection, generation)
            still += left
            healed += len(requested - {parked.stream for parked in left})
    return healed, still


async def _live(connection: AsyncConnection) -> list[Generation]:
    return [each for each in await generations.generations(connection) if each.state == "live"]


async def _parked(connection: AsyncConnection, generation: Generation) -> list[ParkedStream]:
    query = sql.SQL("SELECT {} FROM {} ORDER BY parked_at, stream").format(
        sql.SQL(_COLUMNS), sql.Identifier(generation.schema, "dead_letters")
    )
    rows = await connection.execute(query)
    return [ParkedStream(generation.number, *row) for row in await rows.fetchall()]


async def _request(connection: AsyncConnection, generation: Generation) -> set[str]:
    query = sql.SQL("UPDATE {} SET retry_requested = true RETURNING stream")
    rows = await connection.execute(query.format(sql.Identifier(generation.schema, "dead_letters")))
    return {row[0] for row in await rows.fetchall()}


async def _answered(connection: AsyncConnection, generation: Generation, timeout_s: float) -> None:
    query = sql.SQL("SELECT count(*) FROM {} WHERE retry_requested").format(
        sql.Identifier(generation.schema, "dead_letters")
    )
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        rows = await connection.execute(query)
        if await rows.fetchone() == (0,):
            return
        await asyncio.sleep(POLL_S)
    raise RetryTimeout(f"no projector has tried the streams of {generation.schema} again within {timeout_s:g} s")
