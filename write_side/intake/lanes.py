"""Messages on their way through the executor: those of one order one after another, all others side by side."""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from write_side.intake.messages import Message
from write_side.submission import Answer, Overloaded, Submission

UNSURE: Final = 503
"""The outcome is not known, or nothing was admitted: the same again, with the same key."""
PAUSE_S: Final = 0.1


class Executor(Protocol):
    """What the intake needs of :class:`write_side.executor.CommandExecutor`."""

    def submit(self, submission: Submission) -> None:
        """Admit one command. Raises Overloaded."""


class Lanes:
    """One for a process: messages of all its batches go through it."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._lanes: dict[str, list[_Errand]] = {}
        self._closed = False

    async def decide(self, messages: Sequence[Message]) -> list[Answer]:
        """The answer to each of them: applied or refused, never unsure. Those of one lane are decided in their order."""
        if not messages:
            return []
        visit = _Visit(len(messages))
        for number, message in enumerate(messages):
            self._join(_Errand(self, message, visit, number))
        return await visit.done

    def close(self) -> None:
        """Nothing is tried any more: who waits for an answer gets none."""
        self._closed = True

    def _join(self, errand: "_Errand") -> None:
        name = errand.message.lane
        lane = self._lanes.get(name)
        if lane is not None:
            lane.append(errand)
            return
        self._lanes[name] = [errand]
        self.send(errand)

    def send(self, errand: "_Errand") -> None:
        """Submit the errand at the head of its lane, now or a little later."""
        if self._closed:
            return
        try:
            self._executor.submit(errand.submission())
        except Overloaded:
            self.send_later(errand)

    def send_later(self, errand: "_Errand") -> None:
        asyncio.get_running_loop().call_later(PAUSE_S, self.send, errand)

    def leave(self, errand: "_Errand") -> None:
        """The errand at the head of its lane is done."""
        name = errand.message.lane
        lane = self._lanes[name]
        del lane[0]
        if lane:
            self.send(lane[0])
        else:
            del self._lanes[name]


class _Visit:
    """What :meth:`Lanes.decide` waits for."""

    __slots__ = ("_answers", "_missing", "done")

    def __init__(self, size: int) -> None:
        self._answers: list[Answer] = [_NONE] * size
        self._missing = size
        self.done: asyncio.Future[list[Answer]] = asyncio.get_running_loop().create_future()

    def take(self, number: int, answer: Answer) -> None:
        self._answers[number] = answer
        self._missing -= 1
        if not self._missing and not self.done.done():
            self.done.set_result(self._answers)


_NONE: Final = Answer(0, b"")


class _Errand(msgspec.Struct, eq=False):
    """One message, until its answer is sure. ``number``: its place in the visit."""

    lanes: Lanes
    message: Message
    visit: _Visit
    number: int

    def submission(self) -> Submission:
        """What is submitted, anew each time: kept here it would be a cycle, for it names who is answered."""
        message = self.message
        return Submission(
            message.command,
            message.digest,
            message.id,
            self._answered,
            scope=message.source,
            actor=message.source,
            correlation_id=message.correlation_id,
            causation_id=message.id,
            wants_document=False,
            refusal_stands=message.kind.stands,
        )

    def _answered(self, answer: Answer) -> None:
        if answer.status == UNSURE:
            self.lanes.send_later(self)
            return
        self.visit.take(self.number, answer)
        self.lanes.leave(self)
