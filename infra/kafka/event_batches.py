"""A message of the internal topic: events of one partition as they are stored, in the order of the log.

MessagePack: ``[format, epoch, first, last, [[position, stream, version, topic, state], ...]]``. ``state`` is the stored
bytes, untouched; null for an event too large for a message, which the reader then takes from the log.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from infra.event_store.log_reader import LogRow

FORMAT: Final = 1


class MessageRow(NamedTuple):
    """A row of the log on its way; ``state`` None: look it up."""

    position: int
    stream: str
    version: int
    topic: str
    state: bytes | None


class EventBatch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The events of one message; ``first`` and ``last`` are their positions, ``epoch`` the log's."""

    format: int
    epoch: int
    first: int
    last: int
    rows: list[MessageRow]


class UnreadableMessage(Exception):
    """Bytes that are no event batch, or one of a format that this code does not know."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(EventBatch).decode


def encode_batch(epoch: int, rows: Sequence[LogRow | MessageRow]) -> bytes:
    """The message of ``rows``, of which there is at least one."""
    return _encode((FORMAT, epoch, rows[0].position, rows[-1].position, rows))


def decode_batch(value: bytes | None) -> EventBatch:
    """Raises UnreadableMessage."""
    try:
        batch = _decode(value or b"")
    except msgspec.MsgspecError as error:
        raise UnreadableMessage(str(error)) from error
    if batch.format != FORMAT:
        raise UnreadableMessage(f"format {batch.format} is not known here")
    return batch
