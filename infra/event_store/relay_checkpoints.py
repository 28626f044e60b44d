"""How far the log has been published to a topic: where that is kept, and who may move it.

The connection that moves the checkpoint also holds the topic's leader lock, and moves it only from where it left it. So
whoever lost the connection cannot move it any more, and whoever still has it but has been overtaken (an operator moved it
back, the log was restored) finds out at the next move.
"""

from datetime import datetime
from hashlib import blake2b
from typing import Any, NamedTuple, Self

import msgspec

from infra.event_store.append_lock import SCHEMA
from infra.event_store.wire import INT8, TEXT, int8
from infra.postgres import Call, PipelineConnection, Statement
from infra.result_rows import rows_of


class Checkpoint(NamedTuple):
    """Every event up to ``position`` of the log of ``epoch`` is on the topic."""

    position: int
    epoch: int


class Lag(NamedTuple):
    """How far a checkpoint is behind ``head``, the log's last position; ``seconds``: how long its next event has waited."""

    position: int
    head: int
    seconds: float

    @property
    def events(self) -> int:
        """In positions of the log, of which a few may be empty."""
        return max(0, self.head - self.position)


class CheckpointMoved(Exception):
    """The checkpoint is not where this writer left it, or the log is another: what was published last does not count."""


_TRY_LEAD = Statement(b"relay_try_lead", b"SELECT pg_try_advisory_lock($1)", (INT8,))
_ENSURE = Statement(
    b"relay_ensure",
    b"""INSERT INTO relay_checkpoints (name, position, epoch) SELECT $1, 0, epoch FROM log_epoch
        ON CONFLICT (name) DO NOTHING""",
    (TEXT,),
)
_FIND = Statement(b"relay_find", b"SELECT position, epoch FROM relay_checkpoints WHERE name = $1", (TEXT,))
_MOVE = Statement(
    b"relay_move",
    b"""UPDATE relay_checkpoints SET position = $4, epoch = $5, moved_at = clock_timestamp()
        WHERE name = $1 AND position = $2 AND epoch = $3 AND EXISTS (SELECT FROM log_epoch AS l WHERE l.epoch = $5)
        RETURNING position""",
    (TEXT, INT8, INT8, INT8, INT8),
)
_HOLDS = Statement(
    b"relay_holds",
    b"""SELECT FROM relay_checkpoints AS c JOIN log_epoch AS l ON l.epoch = c.epoch
        WHERE c.name = $1 AND c.position = $2 AND c.epoch = $3""",
    (TEXT, INT8, INT8),
)
_REWIND = Statement(
    b"relay_rewind",
    b"""UPDATE relay_checkpoints SET position = least(position, $2), moved_at = clock_timestamp()
        WHERE name = $1 RETURNING position, epoch""",
    (TEXT, INT8),
)
_NOTIFY = Statement(b"relay_notify", b"SELECT pg_notify($1, '')", (TEXT,))
_LAG = Statement(
    b"relay_lag",
    b"""SELECT c.position, (SELECT coalesce(max(notification_id), 0) FROM stored_events), clock_timestamp(),
        (SELECT state FROM stored_events WHERE notification_id > c.position ORDER BY notification_id LIMIT 1)
        FROM relay_checkpoints AS c WHERE c.name = $1""",
    (TEXT,),
)
_STATEMENTS = (_TRY_LEAD, _ENSURE, _FIND, _MOVE, _HOLDS, _REWIND, _NOTIFY, _LAG)

_SESSION = {
    # Prepared once, perhaps while the log was empty: only what an index serves may be planned.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "application_name": "stockhold-relay",
    # A leader whose machine has vanished says nothing: the server must find out in seconds, not in two hours.
    "tcp_keepalives_idle": "2",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "3",
}
# A move that a crash of the server forgets is events published twice, which they may be; a sync of the disk for each
# would be taken from the commands.
_LEADER_SESSION = {"synchronous_commit": "off"}


class RelayCheckpoints:
    """A connection to the checkpoint of the topic ``name``. One call at a time.

    Calls raise ``infra.postgres.ConnectionLost`` when the server is away; then everything begins anew with :meth:`connect`.
    """

    def __init__(self, connection: PipelineConnection, name: str) -> None:
        self._connection = connection
        self._name = name.encode()
        self._lock_key = leader_lock_key(name)

    @classmethod
    async def connect(cls, url: str, name: str, *, leader: bool = False, timeout_s: float = 5.0) -> Self:
        """Raises ConnectionLost; StatementFailed if there are no tables. ``leader``: its moves need not be durable."""
        session = _SESSION | {"search_path": SCHEMA} | (_LEADER_SESSION if leader else {})
        return cls(await PipelineConnection.connect(url, _STATEMENTS, session, timeout_s), name)

    async def close(self) -> None:
        """Let go of the connection, and of the leader lock with it."""
        await self._connection.close()

    async def try_lead(self) -> bool:
        """Whether this connection is now the one that may move the checkpoint; it stays so until it ends."""
        return bool((await self._rows(Call(_TRY_LEAD, (int8(self._lock_key),))))[0][0])

    async def load(self) -> Checkpoint:
        """Where it is; at the beginning of the log if there was none."""
        await self._rows(Call(_ENSURE, (self._name,)))
        return Checkpoint(*(await self._rows(Call(_FIND, (self._name,))))[0])

    async def move(self, before: Checkpoint, after: Checkpoint) -> None:
        """Raises CheckpointMoved if it is not at ``before``, or the log's epoch is not that of ``after``."""
        params = (self._name, *map(int8, before), *map(int8, after))
        if not await self._rows(Call(_MOVE, params)):
            raise CheckpointMoved("the checkpoint has been moved by somebody else, or the log has been restored")

    async def confirm(self, checkpoint: Checkpoint) -> None:
        """Raises CheckpointMoved unless it is at ``checkpoint``, and that of the log's epoch."""
        found = await self._connection.run([Call(_HOLDS, (self._name, *map(int8, checkpoint)))])
        if not found[0].ntuples:
            raise CheckpointMoved("the checkpoint has been moved by somebody else, or the log has been restored")

    async def rewind(self, position: int, channel: str) -> Checkpoint:
        """Move it back to ``position`` if it is further, whoever leads, and tell ``channel``; where it is now."""
        await self._rows(Call(_ENSURE, (self._name,)))
        rows = await self._rows(Call(_REWIND, (self._name, int8(position))))
        await self._rows(Call(_NOTIFY, (channel.encode(),)))
        return Checkpoint(*rows[0])

    async def lag(self) -> Lag | None:
        """How far it is behind; None if it was never made."""
        rows = await self._rows(Call(_LAG, (self._name,)))
        if not rows:
            return None
        position, head, now, state = rows[0]
        return Lag(position, head, 0.0 if state is None else _age_s(state, now))

    async def _rows(self, call: Call) -> list[tuple[Any, ...]]:
        return rows_of((await self._connection.run([call]))[0])


def leader_lock_key(name: str) -> int:
    """The key of the advisory lock that the one relay of a topic holds: a signed 64-bit number."""
    return int.from_bytes(blake2b(f"{SCHEMA}.relay.{name}".encode(), digest_size=8).digest(), "big", signed=True)


class _Dated(msgspec.Struct):
    timestamp: datetime


_decode_dated = msgspec.json.Decoder(_Dated).decode


def _age_s(state: bytes, now: datetime) -> float:
    """Seconds since an event occurred; 0 if it does not say when (such an event is somebody else's trouble)."""
    try:
        return max(0.0, (now - _decode_dated(state).timestamp).total_seconds())
    except (msgspec.MsgspecError, TypeError):  # no such JSON, or a time without its zone
        return 0.0
