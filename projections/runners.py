"""Who keeps a generation up to date: seen by the locks that its runners hold, whichever process and release they are of."""

import asyncio
import time
from typing import Final

from psycopg import AsyncConnection

from projections.generations import Generation
from projections.postgres_views import leader_lock_key

POLL_S: Final = 0.1

_HELD: Final = """
SELECT classid::bigint << 32 | objid::bigint FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 1 AND granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


async def kept_partitions(connection: AsyncConnection, generation: Generation) -> frozenset[int]:
    """The partitions of ``generation`` that somebody keeps up to date at this moment."""
    rows = await connection.execute(_HELD)
    held = {row[0] for row in await rows.fetchall()}
    return frozenset(
        partition for partition in range(generation.partitions) if leader_lock_key(generation.schema, partition) in held
    )


async def taken_over(connection: AsyncConnection, generation: Generation, timeout_s: float) -> bool:
    """Whether all of ``generation`` is kept up to date, at the latest after ``timeout_s``."""
    deadline_s = time.monotonic() + timeout_s
    while len(await kept_partitions(connection, generation)) < generation.partitions:
        if time.monotonic() > deadline_s:
            return False
        await asyncio.sleep(POLL_S)
    return True
