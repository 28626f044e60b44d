"""The intake's store in PostgreSQL, beside the log: one connection, made again when it breaks."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import msgspec
import psycopg
from psycopg.rows import TupleRow

from infra.event_store.append_lock import SCHEMA, append_lock_key
from write_side.intake.messages import Received
from write_side.intake.store import (
    BACKOFF_MAX,
    DeadMessage,
    Figures,
    Listed,
    Name,
    StoreAway,
    Wait,
    Waiting,
)

_json = msgspec.json.Encoder().encode

Connection = psycopg.AsyncConnection[TupleRow]

_KEEP = """
    INSERT INTO waiting_messages AS w (
        source, id, order_id, topic, message_partition, message_offset, key, body, digest, code, detail, next_try
    )
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, clock_timestamp() + make_interval(secs => %s))
    ON CONFLICT (source, id) DO UPDATE SET code = excluded.code, detail = excluded.detail
        WHERE w.digest = excluded.digest
    RETURNING source
"""
_ROW = "topic, message_partition, message_offset, key, body, source, id, since, clock_timestamp() - since >= make_interval(secs => %s)"
# OFFSET 0 keeps the planner from a scan of the whole table while it believes it empty. The ids come as JSON, because
# psycopg makes an array in Python, text by text: for a batch that took as long as everything else about this question.
_FOR_ORDERS = f"""
    SELECT w.* FROM json_array_elements_text(%s::json) AS k (order_id) CROSS JOIN LATERAL (
        SELECT {_ROW} FROM waiting_messages WHERE order_id = k.order_id OFFSET 0
    ) AS w ORDER BY w.since, w.message_offset
"""  # noqa: S608  column names of ours
_DUE = f"""
    UPDATE waiting_messages SET
        tries = tries + 1,
        next_try = clock_timestamp() + make_interval(secs => %s * least(2::float8 ^ tries, {BACKOFF_MAX}))
    WHERE (source, id) IN (
        SELECT source, id FROM waiting_messages WHERE next_try <= clock_timestamp() ORDER BY next_try LIMIT %s
    )
    RETURNING {_ROW}
"""  # noqa: S608  column names of ours
_GONE = "DELETE FROM waiting_messages WHERE source = %s AND id = %s"
_REVIVED = "DELETE FROM dead_messages WHERE message_id = ANY (%s)"
_GIVEN_UP = """
    INSERT INTO dead_messages AS d (
        message_id, topic, message_partition, message_offset, key, body, size, source, id, order_id, code, detail
    )
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
    ON CONFLICT (message_id) DO UPDATE SET
        code = excluded.code, detail = excluded.detail, times = d.times + 1, last_at = clock_timestamp(),
        message_partition = excluded.message_partition, message_offset = excluded.message_offset,
        retry_requested = false
"""
_WANTED = """
    SELECT message_id, topic, message_partition, message_offset, key, body FROM dead_messages
    WHERE retry_requested ORDER BY message_id LIMIT %s
"""
_FIGURES = """
    SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(since)), 0)::float8,
           (SELECT count(*) FROM dead_messages)
    FROM waiting_messages
"""
_LISTED = """
    SELECT message_id, topic, message_partition, message_offset, source, id, order_id, code, detail, size, times,
           first_at, last_at
    FROM dead_messages ORDER BY last_at, message_id
"""
RETRY_TIMEOUT_S: Final = 60.0
POLL_S: Final = 0.05
_LEADER: Final = append_lock_key(f"{SCHEMA}.intake")


async def connect(url: str, connect_timeout_s: float, name: str = "stockhold-intake") -> Connection:
    """Raises psycopg.Error."""
    return await psycopg.AsyncConnection.connect(
        url,
        autocommit=True,
        options=f"-c search_path={SCHEMA} -c application_name={name}",
        connect_timeout=max(1, int(connect_timeout_s)),
    )


class PostgresIntakeStore:
    """See :class:`write_side.intake.store.IntakeStore`.

    ``retry_s``, ``wait_s``: the pause before the second try; how long a message may wait. ``answer_s``: how long the
    server may take over one thing before it counts as away.
    """

    def __init__(
        self, url: str, *, retry_s: float, wait_s: float, connect_timeout_s: float = 5.0, answer_s: float = 30.0
    ) -> None:
        self._url = url
        self._retry_s = retry_s
        self._wait_s = wait_s
        self._connect_timeout_s = connect_timeout_s
        self._answer_s = answer_s
        self._turn = asyncio.Lock()
        self._connection: Connection | None = None

    async def keep(self, waits: Sequence[Wait]) -> set[Name]:
        # In one order for all processes, or two of them could lock each other out.
        waits = sorted(waits, key=lambda wait: wait.message.name)
        rows = [
            (*message.name, message.order_id, *message.received, message.digest, code, detail, self._retry_s)
            for message, code, detail in waits
        ]
        taken = set()
        async with self._at_work() as connection, connection.transaction(), connection.cursor() as cursor:
            await cursor.executemany(_KEEP, rows, returning=True)
            for message, *_ in waits:
                if not cursor.rowcount:
                    taken.add(message.name)
                cursor.nextset()
        return taken

    async def waiting_for(self, order_ids: Iterable[str]) -> list[Waiting]:
        async with self._at_work() as connection:
            cursor = await connection.execute(_FOR_ORDERS, (_json(list(order_ids)).decode(), self._wait_s))
            return [_waiting(row) for row in await cursor.fetchall()]

    async def settle(self, gone: Iterable[Name], given_up: Sequence[DeadMessage], revived: Iterable[str] = ()) -> None:
        async with self._at_work() as connection, connection.transaction():
            names, revived = sorted(gone), list(revived)
            async with connection.cursor() as cursor:
                if names:
                    await cursor.executemany(_GONE, names)
                if revived:
                    await cursor.execute(_REVIVED, (revived,))
                if given_up:
                    rows = sorted({each.message_id: each for each in given_up}.items())
                    await cursor.executemany(_GIVEN_UP, [_dead_row(each) for _, each in rows])

    async def lead(self) -> bool:
        async with self._at_work() as connection:
            # Of a session that has it, once more is once more to be given back: it is asked for only by who has it not.
            query = (
                "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
                " AND ((classid::bigint << 32) | objid::bigint) = %s) OR pg_try_advisory_lock(%s)"
            )
            row = await (await connection.execute(query, (_LEADER, _LEADER))).fetchone()
            assert row is not None
            return bool(row[0])

    async def due(self, limit: int) -> list[Waiting]:
        async with self._at_work() as connection:
            cursor = await connection.execute(_DUE, (self._retry_s, limit, self._wait_s))
            rows = [_waiting(row) for row in await cursor.fetchall()]
            return sorted(rows, key=lambda each: each.since)

    async def retried(self, limit: int) -> list[tuple[str, Received]]:
        async with self._at_work() as connection:
            await connection.execute(
                "UPDATE dead_messages SET retry_requested = false WHERE retry_requested AND body IS NULL"
            )
            rows = await (await connection.execute(_WANTED, (limit,))).fetchall()
            return [(row[0], Received(*row[1:])) for row in rows]

    async def figures(self) -> Figures:
        async with self._at_work() as connection:
            row = await (await connection.execute(_FIGURES)).fetchone()
            assert row is not None
            return Figures(*row)

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    @asynccontextmanager
    async def _at_work(self) -> AsyncIterator[Connection]:
        """The connection, for one thing at a time. Raises StoreAway; the next one then begins with a new connection."""
        async with self._turn:
            try:
                async with asyncio.timeout(self._answer_s):
                    if self._connection is None or self._connection.closed:
                        self._connection = await connect(self._url, self._connect_timeout_s)
                    yield self._connection
            except (psycopg.OperationalError, psycopg.InterfaceError, TimeoutError, OSError) as error:
                with suppress(psycopg.Error):
                    await self.close()
                raise StoreAway(str(error) or "no answer in time") from error


def _waiting(row: tuple[Any, ...]) -> Waiting:
    topic, partition, offset, key, body, source, message_id, since, overdue = row
    return Waiting(Received(topic, partition, offset, key, body), (source, message_id), since, overdue)


def _dead_row(message: DeadMessage) -> tuple[Any, ...]:
    topic, partition, offset, key, _ = message.received
    return (
        message.message_id,
        topic,
        partition,
        offset,
        key,
        message.body,
        message.size,
        message.source,
        message.id,
        message.order_id,
        message.code,
        message.detail,
    )


# For an operator -------------------------------------------------------------------------------------


class NobodyReplays(Exception):
    """No intake has tried the messages again in time: none runs."""


async def dead_messages(url: str, *, connect_timeout_s: float = 5.0) -> list[Listed]:
    """What was given up, the oldest first. Raises psycopg.Error."""
    async with await connect(url, connect_timeout_s, "stockhold-cli") as connection:
        return [Listed(*row) for row in await (await connection.execute(_LISTED)).fetchall()]


async def retry_dead(url: str, *, timeout_s: float = RETRY_TIMEOUT_S, connect_timeout_s: float = 5.0) -> int:
    """Have every dead message tried again by the intake that runs: how many of them are dead no more.

    Raises NobodyReplays (they are then tried as soon as an intake runs), psycopg.Error.
    """
    async with await connect(url, connect_timeout_s, "stockhold-cli") as connection:
        query = "UPDATE dead_messages SET retry_requested = true WHERE body IS NOT NULL RETURNING message_id"
        wanted = [row[0] for row in await (await connection.execute(query)).fetchall()]
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        while await _count(connection, wanted, "retry_requested"):
            if loop.time() > deadline_s:
                raise NobodyReplays(f"no intake has tried {len(wanted):,} messages again within {timeout_s:g} s")
            await asyncio.sleep(POLL_S)
        return len(wanted) - await _count(connection, wanted, "true")


async def _count(connection: Connection, message_ids: list[str], condition: str) -> int:
    query = f"SELECT count(*) FROM dead_messages WHERE message_id = ANY (%s) AND {condition}"  # noqa: S608  ours
    row = await (await connection.execute(query.encode(), (message_ids,))).fetchone()
    assert row is not None
    return int(row[0])
