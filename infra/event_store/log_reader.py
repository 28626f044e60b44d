"""Reading the log by position or by stream, for whatever follows it.

Positions are in commit order, because every writer holds the append lock, so reading on from the last
position seen never skips an event. They may have holes. To be woken when there is something new:
``Bell(url, [CHANNEL])`` with the channel of :mod:`infra.event_store.append_lock`.
"""

import asyncio
from typing import Any, NamedTuple, Self

from infra.event_store.append_lock import SCHEMA
from infra.event_store.wire import INT8, TEXT, int8
from infra.postgres import Call, PipelineConnection, Statement
from infra.result_rows import rows_of


class LogRow(NamedTuple):
    """An event as it is stored, at its place in the log. Rows compare by that place."""

    position: int
    stream: str
    version: int
    topic: str
    state: bytes


_COLUMNS = b"notification_id, originator_id, originator_version, topic, state"

_HEAD = Statement(b"log_head", b"SELECT coalesce(max(notification_id), 0) FROM stored_events")
_EPOCH = Statement(b"log_epoch", b"SELECT epoch FROM log_epoch")
_AFTER = Statement(
    b"log_after",
    b"SELECT " + _COLUMNS + b" FROM stored_events WHERE notification_id > $1 ORDER BY notification_id LIMIT $2",
    (INT8, INT8),
)
# What a state takes is known without fetching it, so the server leaves out what would be too much.
_AFTER_BOUNDED = Statement(
    b"log_after_bounded",
    b"SELECT "
    + _COLUMNS
    + b""" FROM (
        SELECT *, sum(octet_length(state)) OVER (ORDER BY notification_id ROWS UNBOUNDED PRECEDING) AS bytes,
            row_number() OVER (ORDER BY notification_id) AS place
        FROM (SELECT """
    + _COLUMNS
    + b""" FROM stored_events WHERE notification_id > $1 ORDER BY notification_id LIMIT $2) AS following
    ) AS summed WHERE bytes <= $3 OR place = 1 ORDER BY notification_id""",
    (INT8, INT8, INT8),
)
_VERSIONS = Statement(
    b"log_versions",
    b"""SELECT originator_id, max(originator_version) FROM stored_events
        WHERE notification_id > $1 AND notification_id <= $2 GROUP BY originator_id""",
    (INT8, INT8),
)
_STREAM = Statement(
    b"log_stream",
    b"SELECT "
    + _COLUMNS
    + b""" FROM stored_events
        WHERE originator_id = $1 AND originator_version > $2 AND originator_version <= $3
        ORDER BY originator_version LIMIT $4""",
    (TEXT, INT8, INT8, INT8),
)
_STATEMENTS = (_HEAD, _EPOCH, _AFTER, _AFTER_BOUNDED, _VERSIONS, _STREAM)

_SESSION = {
    # Prepared once, perhaps while the table was empty: only what an index serves may be planned.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "jit": "off",
    "application_name": "stockhold-log-reader",
}
_NO_END = 2**63 - 1


class LogReader:
    """One connection that reads the log. Calls may come from several tasks: they take turns.

    Every call raises ``infra.postgres.ConnectionLost`` when the server is away; then :meth:`connect` anew.
    """

    def __init__(self, connection: PipelineConnection) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()

    @classmethod
    async def connect(cls, url: str, *, timeout_s: float = 5.0, schema: str = SCHEMA) -> Self:
        """Raises ConnectionLost if the server is away, StatementFailed if it holds no log."""
        session = _SESSION | {"search_path": schema}
        return cls(await PipelineConnection.connect(url, _STATEMENTS, session, timeout_s))

    async def close(self) -> None:
        await self._connection.close()

    async def head(self) -> int:
        """The position of the last event; 0: there is none."""
        return await self._number(Call(_HEAD))

    async def epoch(self) -> int:
        """Raised by every restore: under another epoch a version may have other content."""
        return await self._number(Call(_EPOCH))

    async def read_after(self, position: int, limit: int) -> list[LogRow]:
        """At most ``limit`` events after ``position``, in the log's order."""
        return [LogRow._make(row) for row in await self._rows(Call(_AFTER, (int8(position), int8(limit))))]

    async def read_bounded(self, position: int, limit: int, bytes_max: int) -> list[LogRow]:
        """The same, with at most ``bytes_max`` bytes of state in all; the first event comes in any case."""
        params = (int8(position), int8(limit), int8(bytes_max))
        return [LogRow._make(row) for row in await self._rows(Call(_AFTER_BOUNDED, params))]

    async def latest_versions(self, after: int, upto: int) -> dict[str, int]:
        """By stream, the version of its last event among positions ``after`` (not included) to ``upto``."""
        rows: list[tuple[Any, ...]] = await self._rows(Call(_VERSIONS, (int8(after), int8(upto))))
        return {row[0]: row[1] for row in rows}

    async def read_stream(
        self, stream: str, after: int = 0, upto: int | None = None, limit: int | None = None
    ) -> list[LogRow]:
        """The events of ``stream`` with versions ``after`` (not included) to ``upto``, in order, at most ``limit``."""
        params = (
            stream.encode(),
            int8(after),
            int8(_NO_END if upto is None else upto),
            None if limit is None else int8(limit),
        )
        return [LogRow._make(row) for row in await self._rows(Call(_STREAM, params))]

    async def _number(self, call: Call) -> int:
        rows = await self._rows(call)
        number: int = rows[0][0]
        return number

    async def _rows(self, call: Call) -> list[tuple[Any, ...]]:
        async with self._turn:
            trip = self._connection.run([call])
            try:
                results = await asyncio.shield(trip)
            except asyncio.CancelledError:
                # The answer is still on its way: who comes next must not take it for theirs.
                await asyncio.wait([trip])
                raise
        return rows_of(results[0])
