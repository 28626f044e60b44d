"""Sees each message to its end: applied, refused as an order may be, left to wait, or given up.

What keeps a wake from being lost, with any number of processes: a message that came too early is written
down, and *then* everything that waits for its order is tried once more. Whoever applies a message looks
for what waits for its order *after* that is in the log. Whichever of the two was later sees the other.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from operator import attrgetter
from typing import Final, NamedTuple, Protocol, TypeVar

import msgspec

from write_side.intake.lanes import Lanes
from write_side.intake.messages import Message, Received, Unreadable, read
from write_side.intake.metrics import MESSAGES
from write_side.intake.store import DeadMessage, IntakeStore, Name, StoreAway, Wait, Waiting, dead, unreadable
from write_side.submission import Answer

log = logging.getLogger(__name__)

T = TypeVar("T")

AT_A_TIME: Final = 500
"""Waiting messages that are tried together."""
PAUSE_FIRST_S: Final = 0.1
PAUSE_MAX_S: Final = 2.0
_REFUSED: Final = 400
_FAILED: Final = 500


class Outlet(Protocol):
    """Where messages that were given up are published."""

    async def publish(self, messages: Sequence[DeadMessage]) -> None:
        """Return when the brokers have them, however long that takes."""


class End(Enum):
    """What becomes of a message."""

    DONE = 0
    WAITS = 1
    DEAD = 2


class _Problem(msgspec.Struct):
    code: str
    detail: str


_decode_problem = msgspec.json.Decoder(_Problem).decode


class Verdict(NamedTuple):
    end: End
    outcome: str
    code: str = ""
    detail: str = ""

    @property
    def applied(self) -> bool:
        """Whether the log has it now, or had it before."""
        return self.end is End.DONE and not self.code


_RANK: Final = attrgetter("kind.rank")
_APPLIED: Final = Verdict(End.DONE, "applied")
_REPLAYED: Final = Verdict(End.DONE, "replayed")


def judge(message: Message, answer: Answer) -> Verdict:
    """What ``answer`` means for ``message``."""
    if answer.status < _REFUSED:
        return _REPLAYED if answer.replayed else _APPLIED
    code, detail = msgspec.structs.astuple(_decode_problem(answer.body))
    if answer.premature or answer.status >= _FAILED:
        return Verdict(End.WAITS, "waiting", code, detail)
    if message.kind.stands and code != "idempotency-key-reused":
        return Verdict(End.DONE, "rejected", code, detail)
    return Verdict(End.DEAD, "dead", code, detail)


@dataclass(slots=True)
class _Ledger:
    """What is to be written down together at the end."""

    gone: set[Name] = field(default_factory=set)
    given_up: list[DeadMessage] = field(default_factory=list)
    revived: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.gone or self.given_up or self.revived)


class Clerk:
    """``on_trouble`` is told of a store that is away, at every try, and None when it is back."""

    def __init__(
        self, lanes: Lanes, store: IntakeStore, outlet: Outlet, on_trouble: Callable[[str | None], None] | None = None
    ) -> None:
        self._lanes = lanes
        self._store = store
        self._outlet = outlet
        self._on_trouble = on_trouble or (lambda _: None)

    # What has come -------------------------------------------------------------------------------

    async def settle(self, batch: Sequence[Received]) -> None:
        """See all of these to their end. When this returns, all of it is durable."""
        ledger = _Ledger()
        await self._take(batch, ledger, {})
        await self._write_down(ledger)

    async def _take(self, batch: Sequence[Received], ledger: _Ledger, revived: Mapping[Received, str]) -> None:
        """``revived``: ids of those that were dead, and are no more unless they are given up again."""
        messages = self._understood(batch, ledger)
        messages.sort(key=_RANK)  # stable: what one topic says of an order stays in its order
        answers = await self._lanes.decide(messages)
        early: list[Wait] = []
        moved: set[str] = set()
        counts: Counter[tuple[str, str]] = Counter()
        for message, answer in zip(messages, answers, strict=True):
            verdict = judge(message, answer)
            counts[message.kind.topic, verdict.outcome] += 1
            if verdict.end is End.DEAD:
                ledger.given_up.append(dead(message.received, verdict.code, verdict.detail, message))
                continue
            if message.received in revived:
                ledger.revived.append(revived[message.received])
            if verdict.end is End.WAITS:
                early.append(Wait(message, verdict.code, verdict.detail))
            elif verdict.applied and message.order_id is not None:
                moved.add(message.order_id)
        for (topic, outcome), count in counts.items():
            MESSAGES.labels(topic, outcome).inc(count)
        if early:
            moved |= await self._leave_waiting(early, ledger)
        if moved:
            await self._wake(moved, ledger)

    def _understood(self, batch: Sequence[Received], ledger: _Ledger) -> list[Message]:
        messages = []
        for received in batch:
            try:
                messages.append(read(received))
            except Unreadable as error:
                MESSAGES.labels(received.topic, "dead").inc()
                ledger.given_up.append(unreadable(received, error))
        return messages

    async def _leave_waiting(self, early: Sequence[Wait], ledger: _Ledger) -> set[str]:
        """Write them down; the orders that they are about."""
        taken = await self._patiently(partial(self._store.keep, early))
        for message, *_ in early:
            if message.name in taken:
                detail = "another message of this source and id waits already"
                ledger.given_up.append(dead(message.received, "idempotency-key-reused", detail, message))
        return {message.order_id for message, *_ in early if message.order_id is not None}

    async def _wake(self, order_ids: set[str], ledger: _Ledger) -> None:
        waiting = await self._patiently(partial(self._store.waiting_for, order_ids))
        if waiting:
            await self._try_again(waiting, ledger)

    # What waits ----------------------------------------------------------------------------------

    async def look_after(self) -> bool:
        """Try what has waited long, and what an operator wants tried; whether there may be more of it."""
        if not await self._store.lead():
            return False
        ledger = _Ledger()
        due = await self._store.due(AT_A_TIME)
        if due:
            await self._try_again(due, ledger)
        wanted = await self._store.retried(AT_A_TIME)
        if wanted:
            await self._take([received for _, received in wanted], ledger, {r: name for name, r in wanted})
        await self._write_down(ledger)
        return len(due) == AT_A_TIME or len(wanted) == AT_A_TIME

    async def _try_again(self, waiting: Sequence[Waiting], ledger: _Ledger) -> None:
        """In the order of an order's life, and again as long as something moves."""
        left = self._read_again(waiting, ledger)
        while left:
            left.sort(key=lambda each: each[0].kind.rank)
            answers = await self._lanes.decide([message for message, _ in left])
            moved: set[str | None] = set()
            still: list[tuple[Message, Waiting]] = []
            for (message, row), answer in zip(left, answers, strict=True):
                verdict = judge(message, answer)
                if verdict.end is End.WAITS:
                    if row.overdue:
                        detail = f"waited since {row.since:%Y-%m-%d %H:%M:%S} in vain: {verdict.detail}"
                        self._give_up(dead(message.received, verdict.code, detail, message), message.name, ledger)
                    else:
                        still.append((message, row))
                elif verdict.end is End.DEAD:
                    self._give_up(dead(message.received, verdict.code, verdict.detail, message), message.name, ledger)
                else:
                    # Two that have woken it at the same moment both get an answer: one of them is a repeat.
                    repeated = verdict.outcome == "replayed"
                    MESSAGES.labels(message.kind.topic, "replayed" if repeated else "retried").inc()
                    ledger.gone.add(message.name)
                    moved.add(message.order_id)
            left = [(message, row) for message, row in still if message.order_id in moved - {None}]

    def _read_again(self, waiting: Sequence[Waiting], ledger: _Ledger) -> list[tuple[Message, Waiting]]:
        found = []
        for row in waiting:
            try:
                found.append((read(row.received), row))
            except Unreadable as error:  # it was kept by another release
                self._give_up(unreadable(row.received, error), row.name, ledger)
        return found

    @staticmethod
    def _give_up(message: DeadMessage, name: Name, ledger: _Ledger) -> None:
        MESSAGES.labels(message.received.topic, "dead").inc()
        ledger.given_up.append(message)
        ledger.gone.add(name)

    # Writing down --------------------------------------------------------------------------------

    async def _write_down(self, ledger: _Ledger) -> None:
        if not ledger:
            return
        if ledger.given_up:
            await self._outlet.publish(ledger.given_up)
        await self._patiently(partial(self._store.settle, ledger.gone, ledger.given_up, ledger.revived))

    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Until the store is there; who ends the process cancels this."""
        pause_s = PAUSE_FIRST_S
        while True:
            try:
                done = await work()
            except StoreAway as error:
                log.warning("messages that wait or are given up cannot be written down: %s", error)
                self._on_trouble(str(error))
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, PAUSE_MAX_S)
            else:
                if pause_s != PAUSE_FIRST_S:
                    self._on_trouble(None)
                return done
