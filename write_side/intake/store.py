"""What the intake keeps beside the log: messages that wait, and messages that were given up."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Final, NamedTuple, Protocol

from infra.kafka.topics import MESSAGE_BYTES_MAX
from write_side.intake.messages import Message, Received, Unreadable

Name = tuple[str, str]
"""A message's source and id."""
BACKOFF_MAX: Final = 64
"""How many times the first pause between two tries may become."""
DETAIL_CHARACTERS_MAX: Final = 1_000


class StoreAway(Exception):
    """The database does not answer; what was asked may or may not have been done, and bears repeating."""


class Wait(NamedTuple):
    """A message that is to wait, and why."""

    message: Message
    code: str
    detail: str


class Waiting(NamedTuple):
    """A message that waits. ``overdue``: it has waited as long as it may."""

    received: Received
    name: Name
    since: datetime
    overdue: bool


class DeadMessage(NamedTuple):
    """A message that was given up. ``source``, ``id`` and ``order_id`` as far as it could be read."""

    received: Received
    code: str
    detail: str
    source: str | None = None
    id: str | None = None
    order_id: str | None = None

    @property
    def message_id(self) -> str:
        """The same for the same bytes on the same topic."""
        name = blake2b(self.received.topic.encode(), digest_size=16)
        return blake2b(self.received.value or b"", digest_size=16, key=name.digest()).hexdigest()

    @property
    def body(self) -> bytes | None:
        """What is kept of it: all, or nothing."""
        value = self.received.value
        return value if value is not None and len(value) <= MESSAGE_BYTES_MAX else None

    @property
    def size(self) -> int:
        return len(self.received.value or b"")


def dead(received: Received, code: str, detail: str, message: Message | None = None) -> DeadMessage:
    """``detail`` may quote the message: what cannot be stored of it is replaced."""
    told = detail.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
    told = told[:DETAIL_CHARACTERS_MAX]
    if message is None:
        return DeadMessage(received, code, told)
    return DeadMessage(received, code, told, message.source, message.id, message.order_id)


def unreadable(received: Received, error: Unreadable) -> DeadMessage:
    """A message that can never become a command."""
    source, name = error.name or (None, None)
    return dead(received, error.code, error.detail)._replace(source=source, id=name)


class Listed(NamedTuple):
    """A dead message as an operator sees it."""

    message_id: str
    topic: str
    partition: int
    offset: int
    source: str | None
    id: str | None
    order_id: str | None
    code: str
    detail: str
    size: int
    times: int
    first_at: datetime
    last_at: datetime


class Figures(NamedTuple):
    """How much waits, and since how many seconds the oldest of it; how much was given up."""

    waiting: int
    oldest_s: float
    dead: int


class IntakeStore(Protocol):
    """Everything here bears repeating, and raises StoreAway."""

    async def keep(self, waits: Sequence[Wait]) -> set[Name]:
        """Let them wait. The names under which another message waits already: those were not kept."""

    async def waiting_for(self, order_ids: Iterable[str]) -> list[Waiting]:
        """What waits for these orders, in the order in which it came."""

    async def settle(self, gone: Iterable[Name], given_up: Sequence[DeadMessage], revived: Iterable[str] = ()) -> None:
        """Of what waits, ``gone`` waits no more; ``given_up`` is dead; dead messages with the ids ``revived`` are no more."""

    async def lead(self) -> bool:
        """Whether this process is the one that looks after what has waited long (asked before each look)."""

    async def due(self, limit: int) -> list[Waiting]:
        """What is to be tried again now, at most ``limit``; its next try is put off further each time."""

    async def retried(self, limit: int) -> list[tuple[str, Received]]:
        """Dead messages that an operator wants tried again, by their ids; those without a body are answered here."""

    async def figures(self) -> Figures: ...

    async def close(self) -> None: ...
