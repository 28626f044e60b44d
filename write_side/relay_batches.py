"""From rows of the log to messages of the internal topic: by partition, in the log's order, within bounds. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from infra.event_store.log_reader import LogRow
from infra.kafka.event_batches import MessageRow, encode_batch
from infra.kafka.partitions import partition_of
from infra.kafka.topics import MESSAGE_BYTES_MAX

ROW_BYTES: Final = 40
"""What a row takes beside its texts and its state, at most: two numbers, and the lengths of all of it."""
MESSAGE_BYTES: Final = 48
"""What a message takes beside its rows, at most."""
_FRAME_BYTES: Final = 256
"""What Kafka puts around a message, generously."""


class Batcher:
    """Cuts what a read of the log found into messages of at most ``events_max`` rows and ``bytes_max`` bytes of rows.

    An event that alone is larger than that goes without its state, and its readers take it from the log.
    """

    def __init__(self, partitions: int, events_max: int, bytes_max: int) -> None:
        self._partitions = partitions
        self._events_max = events_max
        self._bytes_max = min(bytes_max, MESSAGE_BYTES_MAX - MESSAGE_BYTES - _FRAME_BYTES)

    def messages(self, epoch: int, rows: Iterable[LogRow]) -> dict[int, list[bytes]]:
        """By partition its messages, in the order in which they must be sent. Each row is in exactly one of them."""
        shares: dict[int, list[LogRow]] = {}
        for row in rows:
            shares.setdefault(partition_of(row.stream, self._partitions), []).append(row)
        return {
            partition: [encode_batch(epoch, part) for part in self._parts(share)] for partition, share in shares.items()
        }

    def _parts(self, share: Sequence[LogRow]) -> Iterator[list[LogRow | MessageRow]]:
        part: list[LogRow | MessageRow] = []
        part_bytes = 0
        for row in share:
            fitting, row_bytes = self._fitting(row)
            if part and (len(part) == self._events_max or part_bytes + row_bytes > self._bytes_max):
                yield part
                part, part_bytes = [], 0
            part.append(fitting)
            part_bytes += row_bytes
        if part:
            yield part

    def _fitting(self, row: LogRow) -> tuple[LogRow | MessageRow, int]:
        """The row as it can be sent, and the bytes that it then takes at most."""
        bare = ROW_BYTES + len(row.stream.encode()) + len(row.topic.encode())
        if bare + len(row.state) <= self._bytes_max:
            return row, bare + len(row.state)
        return MessageRow(row.position, row.stream, row.version, row.topic, None), bare
