"""Deciding one command of a batch: its recorded outcome, its answer, its refusal, or what must come before it."""

import logging
from dataclasses import dataclass, field

import msgspec

from domain.commands import Command
from domain.errors import DomainError, IdempotencyKeyReused, SweepNeeded
from domain.events import Origin
from infra.documents import encode
from infra.event_store.mapper import UnreadableEvent
from infra.event_store.port import Outcome, Refusal
from infra.ids import new_id
from infra.problems import problem, refusal_problem
from write_side.decision import Decision, NotLoaded, origin_of
from write_side.handlers import NOTHING, Footprint, Handler
from write_side.submission import Answer, Submission

log = logging.getLogger(__name__)

UNAVAILABLE = Answer(*problem("unavailable", "the outcome is unknown: ask again with the same idempotency key"))
INTERNAL = Answer(*problem("internal", "the command could not be decided; nothing was changed"))


class Work(msgspec.Struct, eq=False, gc=False):
    """A submission on its way."""

    submission: Submission
    handler: Handler[Command]
    deadline: float
    footprint: Footprint = NOTHING
    loads: int = 0
    internal: bool = False


@dataclass(slots=True)
class Round:
    """What came of one batch, before it is known to be in the log."""

    answers: list[tuple[Work, Answer]] = field(default_factory=list)
    ahead: dict[str, None] = field(default_factory=dict)
    """Streams to be swept before the commands in ``again``."""
    again: list[Work] = field(default_factory=list)


def decide(work: Work, decision: Decision, done: Round) -> None:
    """Decide ``work`` against what the batch has decided so far; what comes of it goes into ``done``.

    Raises NotLoaded if it turns out to need more (it has changed nothing then); any other error is a fault of ours.
    """
    submission = work.submission
    if not work.internal:
        recorded = decision.outcome(submission.scope, submission.key)
        if recorded is not None:
            done.answers.append((work, _replay(recorded, submission)))
            return
    command = submission.command
    origin = origin_of(
        new_id(),
        submission.actor,
        submission.correlation_id,
        submission.causation_id,
        None if work.internal else submission.key,
        command,
    )
    decision.documents_wanted = submission.wants_document
    try:
        status, document = work.handler.decide(command, submission.digest.hex(), decision, origin)
        body = encode(document)
    except DomainError as refusal:
        if decision.has_triggered:
            raise RuntimeError("a command was refused after it had changed something") from refusal
        status, body = refusal_problem(refusal)
        if not submission.refusal_stands:
            if decision.on_memory_alone:
                raise NotLoaded from None  # nothing would be appended, so nothing would tell that memory is behind
            if not refusal.premature:
                decision.record_refusal(_refused(work, refusal.code, body, origin))
            decision.collect()
            done.answers.append((work, Answer(status, body, premature=refusal.premature)))
            return
        decision.record_refusal(_refused(work, refusal.code, body, origin))
    except SweepNeeded as sweep:
        done.ahead[sweep.stream] = None
        done.again.append(work)
        return
    except UnreadableEvent as unreadable:
        log.error("%s cannot be decided: %s", work.handler.operation, unreadable)  # noqa: TRY400 - told once, in full
        done.answers.append((work, INTERNAL))
        return
    decision.collect()
    if not work.internal:
        decision.record(Outcome(submission.scope, submission.key, submission.digest, status, body))
    done.answers.append((work, Answer(status, body)))


def _refused(work: Work, code: str, problem: bytes, origin: Origin) -> Refusal:
    command = work.submission.command
    return Refusal(
        work.handler.operation,
        code,
        getattr(command, "order_id", None),
        origin.actor,
        problem,
        origin.command_id,
        getattr(command, "reservation_id", None),
        None if work.internal else work.submission.scope,
        origin.correlation_id,
        origin.causation_id,
    )


def _replay(recorded: Outcome, submission: Submission) -> Answer:
    if recorded.digest != submission.digest:
        return Answer(*refusal_problem(IdempotencyKeyReused(submission.key)))
    return Answer(recorded.status, recorded.body, replayed=True)
