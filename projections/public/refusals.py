"""Refused reservations: they are not in the log but in the write side's table of refusals, from every door."""

from datetime import datetime
from typing import Any, NamedTuple, Self

import msgspec

from domain.errors import Shortage
from infra.event_store.append_lock import SCHEMA
from infra.event_store.wire import INT8, int8
from infra.postgres import Call, PipelineConnection, Statement
from infra.result_rows import rows_of

CREATE = "reservation.create"
"""The operation whose refusals are published."""

# The table is written under the append lock, like the log: the order of its ids is the order of its commits.
_AFTER = Statement(
    b"refusals_after",
    b"""SELECT refusal_id, at, operation, code, order_id, actor, problem, command_id, reservation_id, correlation_id,
               causation_id
        FROM refusals WHERE refusal_id > $1 ORDER BY refusal_id LIMIT $2""",
    (INT8, INT8),
)
_SESSION = {
    "search_path": SCHEMA,
    "plan_cache_mode": "force_generic_plan",
    "application_name": "stockhold-refusals-reader",
}


class RefusedCreate(NamedTuple):
    """A reservation that was refused."""

    refusal_id: int
    at: datetime
    code: str
    order_id: str | None
    actor: str
    problem: dict[str, Any]
    command_id: str | None = None
    reservation_id: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None

    @property
    def message_id(self) -> str:
        """The command's id; refusals of old releases have none."""
        return self.command_id or f"refusal:{self.refusal_id}"

    @property
    def shortages(self) -> list[Shortage]:
        """What was short, if that is why."""
        return msgspec.convert(self.problem.get("shortages", []), list[Shortage])


class RefusalReader:
    """A connection of its own. Calls raise ``infra.postgres.ConnectionLost`` when the server is away."""

    def __init__(self, connection: PipelineConnection) -> None:
        self._connection = connection

    @classmethod
    async def connect(cls, url: str, *, timeout_s: float = 5.0) -> Self:
        """Raises ConnectionLost; StatementFailed if the database holds no refusals."""
        return cls(await PipelineConnection.connect(url, (_AFTER,), _SESSION, timeout_s))

    async def close(self) -> None:
        await self._connection.close()

    async def read_after(self, refusal_id: int, limit: int) -> tuple[list[RefusedCreate], int]:
        """What was refused after ``refusal_id``, of at most ``limit`` rows, and how far that is."""
        rows = rows_of((await self._connection.run([Call(_AFTER, (int8(refusal_id), int8(limit)))]))[0])
        refused = [
            RefusedCreate(number, at, code, order_id, actor, msgspec.json.decode(problem), *others)
            for number, at, operation, code, order_id, actor, problem, *others in rows
            if operation == CREATE
        ]
        return refused, rows[-1][0] if rows else refusal_id
