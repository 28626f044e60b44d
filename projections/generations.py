"""The generations of the views, and the pointer that says which one is read.

A generation is a schema of tables, a prefix of keys in Redis, and a runner; nothing is shared between two.
"""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import blake2b
from importlib.resources import files
from typing import Final, Literal, LiteralString, cast

import msgspec
from psycopg import AsyncConnection, sql
from redis.asyncio import Redis

from infra.redis import AWAY
from projections import versions
from projections.redis_views import remove_generation
from projections.statements import CHANNEL

SCHEMA: Final = "stockhold_views"
"""Where the table of generations and the pointer are; a generation's own schema begins with it."""

logger = logging.getLogger(__name__)

_VIEWS = files("projections.views")
_COLUMNS = "generation, state, schema_name, redis_prefix, log_epoch, partitions, fold_version, shape_version"


class Generation(msgspec.Struct, frozen=True):
    """A row of ``generations``.

    ``building``: not complete; ``live``: a runner of its versions keeps it up to date; ``dropping``: being removed.
    """

    number: int
    state: Literal["building", "live", "dropping"]
    schema: str
    redis_prefix: str
    log_epoch: int
    partitions: int = 1
    fold_version: int = 1
    shape_version: int = 1

    @property
    def is_of_this_code(self) -> bool:
        """Whether a runner of this code would write what is in it already."""
        return (self.fold_version, self.shape_version) == (versions.FOLD_VERSION, versions.SHAPE_VERSION)

    @property
    def is_followed_here(self) -> bool:
        """Whether a runner of this code is to keep it up to date."""
        return self.state == "live" and self.is_of_this_code


class RebuildRunning(Exception):
    """Somebody else is making or dropping generations."""


async def connect(url: str, *, timeout_s: float = 5.0) -> AsyncConnection:
    """A connection for the functions here: autocommit, the views' schema on its path."""
    return await AsyncConnection.connect(
        url,
        autocommit=True,
        connect_timeout=max(1, int(timeout_s)),
        options=f"-c search_path={SCHEMA} -c application_name=stockhold-generations",
    )


async def generations(connection: AsyncConnection) -> list[Generation]:
    """All of them, the oldest first. Raises psycopg.errors.UndefinedTable if the views were dropped."""
    rows = await connection.execute(f"SELECT {_COLUMNS} FROM generations ORDER BY generation")  # noqa: S608  (constants)
    return [Generation(*row) for row in await rows.fetchall()]


async def current(connection: AsyncConnection) -> Generation | None:
    """The generation that is read; ``None`` before there is one."""
    rows = await connection.execute(
        f"SELECT {_COLUMNS} FROM pointer JOIN generations USING (generation)"  # noqa: S608  (constants)
    )
    row = await rows.fetchone()
    return Generation(*row) if row is not None else None


@asynccontextmanager
async def changing_generations(connection: AsyncConnection) -> AsyncIterator[None]:
    """Hold the lock under which generations are made and dropped. Raises RebuildRunning if it is taken.

    Whoever holds it and finds a building generation knows that its builder has died.
    """
    key = int.from_bytes(blake2b(f"{SCHEMA}.rebuild".encode(), digest_size=8).digest(), "big", signed=True)
    rows = await connection.execute("SELECT pg_try_advisory_lock(%s)", [key])
    if await rows.fetchone() != (True,):
        raise RebuildRunning("another rebuild is running on these views")
    try:
        yield
    finally:
        if not connection.closed:
            await connection.execute("SELECT pg_advisory_unlock(%s)", [key])


async def create(connection: AsyncConnection, log_epoch: int, partitions: int = 1) -> Generation:
    """A new, empty generation of this code under construction, without its indexes; the lock must be held."""
    async with connection.transaction():
        number = await _next_number(connection)
        schema = f"{SCHEMA}_g{number}"
        # The views may have been dropped by hand, and their numbers begin anew; what Redis still has of them is
        # not of this generation.
        generation = Generation(
            number,
            "building",
            schema,
            f"{schema}_{time.time_ns():x}",
            log_epoch,
            partitions,
            versions.FOLD_VERSION,
            versions.SHAPE_VERSION,
        )
        await connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        await _run_file(connection, generation, "tables.sql")
        await connection.execute(
            sql.SQL("INSERT INTO {} SELECT n, 0, 0, 0, 0, 0 FROM generate_series(0, {}) AS n").format(
                sql.Identifier(schema, "cursors"), sql.Literal(partitions - 1)
            )
        )
        await connection.execute(
            f"INSERT INTO generations ({_COLUMNS}) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",  # noqa: S608  (constants)
            msgspec.structs.astuple(generation),
        )
    return generation


async def make_live(connection: AsyncConnection, generation: Generation) -> Generation:
    """Say that ``generation`` is complete, so that a runner may take it up."""
    await connection.execute("UPDATE generations SET state = 'live' WHERE generation = %s", [generation.number])
    await _announce(connection)
    return msgspec.structs.replace(generation, state="live")


async def point_to(connection: AsyncConnection, generation: Generation) -> None:
    """Let readers read ``generation`` from now on."""
    async with connection.transaction():
        await connection.execute(
            "INSERT INTO pointer (generation) VALUES (%s) ON CONFLICT (singleton)"
            " DO UPDATE SET generation = excluded.generation, moved_at = clock_timestamp()",
            [generation.number],
        )
        await connection.execute(
            "UPDATE generations SET pointed_at = clock_timestamp() WHERE generation = %s", [generation.number]
        )
        await _announce(connection)


async def previous(connection: AsyncConnection) -> Generation | None:
    """The live generation that was read before the one that is read now; ``None`` if there is none."""
    rows = await connection.execute(
        f"SELECT {_COLUMNS} FROM generations"  # noqa: S608  (constants)
        " WHERE state = 'live' AND pointed_at IS NOT NULL AND generation NOT IN (SELECT generation FROM pointer)"
        " ORDER BY pointed_at DESC LIMIT 1"
    )
    row = await rows.fetchone()
    return Generation(*row) if row is not None else None


async def ensure_first(connection: AsyncConnection, log_epoch: int, partitions: int = 1) -> None:
    """Make an empty generation and point to it, unless there is one already. Raises RebuildRunning."""
    if await current(connection) is not None:
        return
    async with changing_generations(connection):
        if await current(connection) is None:
            generation = await create(connection, log_epoch, partitions)
            await build_indexes(connection, generation)
            await point_to(connection, await make_live(connection, generation))


async def build_indexes(connection: AsyncConnection, generation: Generation) -> None:
    """The keys and indexes of ``generation``, one after another."""
    async with connection.transaction():
        await _run_file(connection, generation, "indexes.sql")


def index_statements() -> tuple[list[LiteralString], list[LiteralString]]:
    """What :func:`build_indexes` runs, for whoever runs it side by side: the indexes, then the keys made of them."""
    lines = _VIEWS.joinpath("indexes.sql").read_text(encoding="utf-8").splitlines()
    text = " ".join(line for line in lines if not line.startswith("--"))
    # As literal as what is written into a program: the file is part of it.
    statements = cast("list[LiteralString]", [part.strip() for part in text.split(";") if part.strip()])
    builds = [statement for statement in statements if statement.startswith("CREATE")]
    return builds, statements[len(builds) :]


class StillRead(Exception):
    """A generation that readers read is not dropped."""


async def drop(connection: AsyncConnection, redis: Redis, generation: Generation) -> None:
    """Remove ``generation`` and everything of it. Raises StillRead if the pointer is on it.

    Whatever interrupts it, the next run finds its row and goes on; so does one that finds Redis back again.
    """
    async with connection.transaction():
        read = await current(connection)
        if read is not None and read.number == generation.number:
            raise StillRead(f"generation {generation.number} is the one that is read")
        await connection.execute("UPDATE generations SET state = 'dropping' WHERE generation = %s", [generation.number])
        await _announce(connection)
    # Its runner has been told; whatever it still writes fails.
    await connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(generation.schema)))
    try:
        await remove_generation(redis, generation.redis_prefix)
    except AWAY as error:
        logger.warning("keys are left in Redis", extra={"prefix": generation.redis_prefix, "error": str(error)})
        return
    await connection.execute("DELETE FROM generations WHERE generation = %s", [generation.number])


async def drop_orphans(connection: AsyncConnection, redis: Redis) -> list[str]:
    """Remove what builders that died left behind: generations that never came to be read, and schemas that nothing names.

    The lock must be held. The schemas removed that nothing named.
    """
    rows = await connection.execute(
        f"SELECT {_COLUMNS} FROM generations WHERE (state <> 'live' OR pointed_at IS NULL)"  # noqa: S608  (constants)
        " AND generation NOT IN (SELECT generation FROM pointer)"
    )
    for row in await rows.fetchall():
        await drop(connection, redis, Generation(*row))
    named = {generation.schema for generation in await generations(connection)}
    orphans = [schema for schema in await _schemas(connection) if schema not in named]
    for schema in orphans:
        await connection.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)))
    return orphans


async def _schemas(connection: AsyncConnection) -> list[str]:
    rows = await connection.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ %s", [f"^{SCHEMA}_g[0-9]+$"])
    return [row[0] for row in await rows.fetchall()]


async def _next_number(connection: AsyncConnection) -> int:
    taken = [int(schema.rpartition("_g")[2]) for schema in await _schemas(connection)]
    return max([generation.number for generation in await generations(connection)] + taken, default=0) + 1


async def _run_file(connection: AsyncConnection, generation: Generation, name: str) -> None:
    """Run a file of SQL in the generation's schema; inside a transaction."""
    await connection.execute(sql.SQL("SET LOCAL search_path TO {}").format(sql.Identifier(generation.schema)))
    await connection.execute(_VIEWS.joinpath(name).read_bytes())
    await connection.execute(sql.SQL("SET LOCAL search_path TO {}").format(sql.Identifier(SCHEMA)))


async def _announce(connection: AsyncConnection) -> None:
    await connection.execute("SELECT pg_notify(%s, 'pointer')", [CHANNEL])
