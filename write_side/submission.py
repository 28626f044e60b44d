"""What a door hands to the executor, and what it gets back: the same for HTTP, the intake and the sweeper."""

from collections.abc import Callable
from hashlib import blake2b
from typing import Final

import msgspec
from msgspec.structs import replace

from domain.commands import Command, Restock

ANONYMOUS: Final = "anonymous"
"""The scope of keys, and the actor, of a caller that nobody has authenticated."""

# A metadata object is the same whatever the order of its members.
_encode = msgspec.json.Encoder(order="deterministic", decimal_format="string").encode


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The outcome of a command: HTTP status, JSON body (a document, or a problem from 400 on).

    ``replayed`` says that it was recorded under the command's idempotency key before. ``premature``: refused, and
    nothing was recorded; what is missing may still come (:class:`domain.errors.DomainError`).
    """

    status: int
    body: bytes
    replayed: bool = False
    premature: bool = False


class Submission(msgspec.Struct, eq=False):
    """A command on its way into the executor.

    ``answer`` is called once, in the event loop, after the commit (or with a 503 `unavailable` when the
    outcome is unknown); it must not raise. ``digest`` is :func:`request_digest`'s.
    """

    command: Command
    digest: bytes
    key: str
    answer: Callable[[Answer], None]
    scope: str = ANONYMOUS
    actor: str = ANONYMOUS
    correlation_id: str | None = None
    """None: the command's own id."""
    causation_id: str | None = None
    wants_document: bool = True
    """Whether anybody reads the document of the answer. False: it is null, and recorded so; a refusal says all the same."""
    refusal_stands: bool = True
    """Whether a refusal is recorded under the key, and is the answer for ever. False: the same key may be tried again,
    and is never refused on memory alone."""


class Overloaded(Exception):
    """The executor's queue is full (503 `overloaded`): nothing of what was submitted has been admitted."""


def request_digest(operation: str, command: Command) -> bytes:
    """16 bytes that tell requests apart: the operation, and everything that path and body say.

    Two requests have the same digest iff they mean the same: the order of an object's members, white
    space, defaults given explicitly and trailing zeros of a cost make no difference. It is compared
    with digests in the log and in records up to their retention: a changed encoding makes honest
    repeats look like other requests.
    """
    if type(command) is Restock and command.unit_cost is not None:
        command = replace(command, unit_cost=(command.unit_cost + 0).normalize())
    return blake2b(b"%b\n%b" % (operation.encode(), _encode(command)), digest_size=16).digest()
