"""Where the publisher keeps what it has told: the schema ``stockhold_public`` of the read model's database.

Every write is guarded by the version that was read, so that two publishers that both believe to own a partition, as they
may for a moment, cannot mix their states: the second one is told :class:`Overtaken`, and looks again.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple, Self

import msgspec

from domain.hold import Hold
from infra.documents import encode
from infra.event_store.wire import INT8, INT8_ARRAY, INTERVAL, TEXT, TEXT_ARRAY, int8, int8_array, interval, text_array
from infra.postgres import Call, PipelineConnection, Statement, StatementFailed
from infra.result_rows import rows_of
from projections import binary, versions
from projections.batches import DeadLetter
from projections.public.batches import ChangedStream, Known, PublicOutcome
from projections.views.stock_levels import Level

SCHEMA: Final = "stockhold_public"

_SESSION: Final = {
    "search_path": SCHEMA,
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "jit": "off",
    "application_name": "stockhold-publisher",
}
_JSON_ARRAY: Final = binary.JSON.array_oid


def _statement(name: str, text: str, *types: int) -> Statement:
    return Statement(name.encode(), text.encode(), types)


_BEGIN = _statement("begin", "BEGIN")
# One snapshot for all that is read of a stream: a level from before another publisher's commit and holds from after it
# would look like an event that cannot have happened.
_BEGIN_READING = _statement("begin_reading", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
_COMMIT = _statement("commit", "COMMIT")
_ROLLBACK = _statement("rollback", "ROLLBACK")
_STREAMS = _statement("streams", "SELECT stream, version, fold, level FROM streams WHERE stream = ANY($1)", TEXT_ARRAY)
# Key by key: `OFFSET 0` keeps the planner from turning the join around while it believes the table empty.
_HOLDS = _statement(
    "holds",
    """SELECT h.stream, h.hold FROM unnest($1, $2) AS k (stream, reservation_id)
       CROSS JOIN LATERAL (
           SELECT * FROM holds WHERE stream = k.stream AND reservation_id = k.reservation_id OFFSET 0
       ) AS h""",
    *(TEXT_ARRAY, TEXT_ARRAY),
)
_PARKED = _statement("parked", "SELECT stream FROM dead_letters WHERE stream = ANY($1)", TEXT_ARRAY)
_VERSIONS = _statement("versions", "SELECT stream, version FROM streams WHERE stream = ANY($1)", TEXT_ARRAY)
# A row that is not where it was read is left alone, and so not returned: somebody else has written it. In the order of
# the streams, so that two writers cannot wait for each other in a circle.
_PUT_STREAMS = _statement(
    "put_streams",
    """INSERT INTO streams (stream, version, previous, fold, level)
       SELECT * FROM unnest($1, $2, $3, $4::integer[], $5::json[])
       ON CONFLICT (stream) DO UPDATE SET
           version = excluded.version, previous = excluded.previous, fold = excluded.fold, level = excluded.level
       WHERE streams.version = excluded.previous
       RETURNING stream""",
    *(TEXT_ARRAY, INT8_ARRAY, INT8_ARRAY, binary.INT8.array_oid, _JSON_ARRAY),
)
_PUT_HOLDS = _statement(
    "put_holds",
    """INSERT INTO holds (stream, reservation_id, hold) SELECT * FROM unnest($1, $2, $3::json[])
       ON CONFLICT (stream, reservation_id) DO UPDATE SET hold = excluded.hold""",
    *(TEXT_ARRAY, TEXT_ARRAY, _JSON_ARRAY),
)
_DROP_HOLDS = _statement(
    "drop_holds",
    """DELETE FROM holds USING unnest($1, $2) AS k (stream, reservation_id)
       WHERE holds.stream = k.stream AND holds.reservation_id = k.reservation_id""",
    *(TEXT_ARRAY, TEXT_ARRAY),
)
_DROP_ALL_HOLDS = _statement("drop_all_holds", "DELETE FROM holds WHERE stream = $1", TEXT)
_PARK = _statement(
    "park",
    """INSERT INTO dead_letters (stream, version, position, topic, error) VALUES ($1, $2, $3, $4, $5)
       ON CONFLICT (stream) DO UPDATE SET version = excluded.version, position = excluded.position,
           topic = excluded.topic, error = excluded.error, attempts = dead_letters.attempts + 1,
           retry_requested = false""",
    *(TEXT, INT8, INT8, TEXT, TEXT),
)
_UNPARK = _statement("unpark", "DELETE FROM dead_letters WHERE stream = ANY($1)", TEXT_ARRAY)
_RETRIES = _statement("retries", "SELECT stream FROM dead_letters WHERE retry_requested ORDER BY stream")
_COUNT_PARKED = _statement("count_parked", "SELECT count(*) FROM dead_letters")
_PROGRESS = _statement("progress", "SELECT log_epoch, refusal_id FROM progress")
# Whoever comes first says of which log this is; nobody else after that but by hand.
_CLAIM = _statement("claim", "UPDATE progress SET log_epoch = $1 WHERE log_epoch IS NULL", INT8)
_MOVE_REFUSALS = _statement("move_refusals", "UPDATE progress SET refusal_id = $1 WHERE refusal_id < $1", INT8)
_RECONCILED = _statement(
    "reconciled", "SELECT partition, reconciled_position FROM partitions WHERE partitions = $1::integer", INT8
)
_MOVE_RECONCILED = _statement(
    "move_reconciled",
    """INSERT INTO partitions (partitions, partition, reconciled_position)
       SELECT $1::integer, p, $3 FROM unnest($2::integer[]) AS p ORDER BY p
       ON CONFLICT (partitions, partition) DO UPDATE SET reconciled_position = excluded.reconciled_position
       WHERE partitions.reconciled_position < excluded.reconciled_position""",
    *(INT8, INT8_ARRAY, INT8),
)
_TEND = _statement(
    "tend",
    """INSERT INTO partitions (partitions, partition, reconciled_position)
       SELECT $1::integer, p, 0 FROM unnest($2::integer[]) AS p ORDER BY p
       ON CONFLICT (partitions, partition) DO UPDATE SET tended_at = clock_timestamp()""",
    *(INT8, INT8_ARRAY),
)
_TENDED = _statement(
    "tended",
    "SELECT count(*) FROM partitions WHERE partitions = $1::integer AND tended_at > clock_timestamp() - $2",
    *(INT8, INTERVAL),
)
_STATEMENTS: Final = (
    *(
        _BEGIN,
        _BEGIN_READING,
        _COMMIT,
        _ROLLBACK,
        _STREAMS,
        _HOLDS,
        _PARKED,
        _VERSIONS,
        _PUT_STREAMS,
        _PUT_HOLDS,
        _DROP_HOLDS,
    ),
    *(_DROP_ALL_HOLDS, _PARK, _UNPARK, _RETRIES, _COUNT_PARKED, _PROGRESS, _CLAIM, _MOVE_REFUSALS, _RECONCILED),
    *(_MOVE_RECONCILED, _TEND, _TENDED),
)

_DATA_ERRORS: Final = ("22", "23")

_decode_level = msgspec.json.Decoder(Level).decode
_decode_hold = msgspec.json.Decoder(Hold).decode


class StateRefused(Exception):
    """The tables do not take a state, whoever writes it and when."""


class Overtaken(Exception):
    """Somebody else has published of a stream since it was read."""


class Progress(NamedTuple):
    """``log_epoch``: of the log that the states follow; ``refusal_id``: of the last refusal that was published."""

    log_epoch: int
    refusal_id: int


class Marks(NamedTuple):
    """How far streams have been published; one that was never is not in ``versions``. ``parked`` stand still."""

    versions: Mapping[str, int]
    parked: Collection[str]


class PublicStore:
    """One connection. Calls raise ``infra.postgres.ConnectionLost`` when the server is away; then connect anew."""

    def __init__(self, connection: PipelineConnection) -> None:
        self._connection = connection

    @classmethod
    async def connect(cls, url: str, *, timeout_s: float = 5.0) -> Self:
        """Raises ConnectionLost; StatementFailed if the migrations have not been applied."""
        return cls(await PipelineConnection.connect(url, _STATEMENTS, _SESSION, timeout_s))

    async def close(self) -> None:
        await self._connection.close()

    async def load(self, streams: Sequence[str], holds: Sequence[tuple[str, str]]) -> tuple[Known, dict[str, int]]:
        """What is known of ``streams`` and of these (stream, reservation) holds of theirs.

        Beside it the streams whose state another fold has made, with their versions: to be folded again from the log.
        """
        names = text_array(streams)
        wanted = (text_array([stream for stream, _ in holds]), text_array([name for _, name in holds]))
        reads = [Call(_STREAMS, (names,)), Call(_PARKED, (names,)), Call(_HOLDS, wanted)]
        results = await self._connection.run([Call(_BEGIN_READING), *reads, Call(_COMMIT)])
        rows, parked, hold_rows = map(rows_of, results[1:-1])
        known = Known(parked={row[0] for row in parked})
        outdated: dict[str, int] = {}
        for stream, version, fold, level in rows:
            if fold == versions.FOLD_VERSION:
                known.levels[stream] = _decode_level(level)
            else:
                outdated[stream] = version
        for stream, hold in hold_rows:
            known.holds.setdefault(stream, []).append(_decode_hold(hold))
        return known, outdated

    async def commit(self, outcome: PublicOutcome) -> None:
        """Write what ``outcome`` leaves, all or nothing. Raises Overtaken, StateRefused: rolled back."""
        changed = sorted(outcome.changed)
        calls = [Call(_BEGIN), *_writes(changed)]
        calls += [Call(_PARK, _park_params(letter)) for letter in outcome.parked]
        if outcome.unparked:
            calls.append(Call(_UNPARK, (text_array(outcome.unparked),)))
        await self._write(calls, len(changed))

    async def refold(self, stream: str, level: Level, holds: Iterable[Hold]) -> None:
        """Put in the place of a state the same one as the present fold makes it. Raises Overtaken."""
        anew = ChangedStream(stream, level.version, level, {hold.reservation_id: hold for hold in holds})
        writes = _writes([anew])
        await self._write([Call(_BEGIN), writes[0], Call(_DROP_ALL_HOLDS, (stream.encode(),)), *writes[1:]], 1)

    async def versions(self, streams: Iterable[str]) -> Marks:
        """How far ``streams`` have been published."""
        names = text_array(list(streams))
        results = await self._connection.run([Call(_VERSIONS, (names,)), Call(_PARKED, (names,))])
        found, parked = map(rows_of, results)
        return Marks(dict(found), {row[0] for row in parked})

    async def progress(self, log_epoch: int) -> Progress:
        """How far this is. The first one to ask says of which log (``log_epoch``) all of it is."""
        results = await self._connection.run([Call(_CLAIM, (int8(log_epoch),)), Call(_PROGRESS)])
        return Progress(*rows_of(results[1])[0])

    async def move_refusals(self, refusal_id: int) -> None:
        await self._connection.run([Call(_MOVE_REFUSALS, (int8(refusal_id),))])

    async def reconciled(self, partitions: int) -> dict[int, int]:
        """By partition of so many, up to which position of the log it has been compared."""
        return dict(await self._rows(Call(_RECONCILED, (int8(partitions),))))

    async def move_reconciled(self, partitions: int, owned: Iterable[int], position: int) -> None:
        params = (int8(partitions), int8_array(sorted(owned)), int8(position))
        await self._connection.run([Call(_MOVE_RECONCILED, params)])

    async def tend(self, partitions: int, owned: Iterable[int]) -> None:
        """Say that somebody is at the partitions in ``owned``."""
        await self._connection.run([Call(_TEND, (int8(partitions), int8_array(sorted(owned))))])

    async def is_tended(self, partitions: int, within_s: float) -> bool:
        """Whether somebody was at each of so many partitions within this time."""
        rows = await self._rows(Call(_TENDED, (int8(partitions), interval(timedelta(seconds=within_s)))))
        count: int = rows[0][0]
        return count >= partitions

    async def retries(self) -> list[str]:
        """The parked streams that somebody wants to be tried again."""
        return [row[0] for row in await self._rows(Call(_RETRIES))]

    async def parked_count(self) -> int:
        count: int = (await self._rows(Call(_COUNT_PARKED)))[0][0]
        return count

    async def _write(self, calls: list[Call], streams: int) -> None:
        """Run ``calls``, then commit if so many streams were written."""
        try:
            results = await self._connection.run(calls)
        except StatementFailed as error:
            await self._connection.run([Call(_ROLLBACK)])
            if error.sqlstate.startswith(_DATA_ERRORS):
                raise StateRefused(str(error)) from error
            raise
        written = sum(r.ntuples for call, r in zip(calls, results, strict=True) if call.statement is _PUT_STREAMS)
        await self._connection.run([Call(_COMMIT if written == streams else _ROLLBACK)])
        if written != streams:
            raise Overtaken(f"{streams - written} streams have been published by somebody else meanwhile")

    async def _rows(self, call: Call) -> list[tuple[Any, ...]]:
        return rows_of((await self._connection.run([call]))[0])


def _writes(changed: Sequence[ChangedStream]) -> list[Call]:
    """The statements that write ``changed``; the first one writes the streams."""
    if not changed:
        return []
    kept = [(each.stream, name, hold) for each in changed for name, hold in each.holds.items() if hold is not None]
    closed = [(each.stream, name) for each in changed for name, hold in each.holds.items() if hold is None]
    streams = (
        text_array([each.stream for each in changed]),
        int8_array(each.level.version for each in changed),
        int8_array(each.before for each in changed),
        int8_array(versions.FOLD_VERSION for _ in changed),
        binary.array(binary.JSON, [encode(each.level) for each in changed]),
    )
    calls = [Call(_PUT_STREAMS, streams)]
    if kept:
        names, reservations, holds = zip(*kept, strict=True)
        values = binary.array(binary.JSON, [encode(hold) for hold in holds])
        calls.append(Call(_PUT_HOLDS, (text_array(names), text_array(reservations), values)))
    if closed:
        names, reservations = zip(*closed, strict=True)
        calls.append(Call(_DROP_HOLDS, (text_array(names), text_array(reservations))))
    return calls


def _park_params(letter: DeadLetter) -> tuple[bytes | None, ...]:
    return (
        letter.stream.encode(),
        int8(letter.version),
        None if letter.position is None else int8(letter.position),
        None if letter.topic is None else letter.topic.encode(),
        letter.error.encode(),
    )
