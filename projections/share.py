"""The partitions of a generation that one runner writes: the follower all of them, a worker those it was assigned."""

from typing import NamedTuple, Self

from infra.kafka.partitions import partition_of, partition_of_sku


class Share(NamedTuple):
    """``partitions``, in ascending order, of a generation that has ``of``."""

    partitions: tuple[int, ...] = (0,)
    of: int = 1

    @classmethod
    def everything(cls, of: int) -> Self:
        return cls(tuple(range(of)), of)

    @property
    def is_whole(self) -> bool:
        return len(self.partitions) == self.of

    def has_stream(self, stream: str) -> bool:
        """Whether ``stream``, a stock item's or a warehouse's, is one of these partitions'."""
        return self.is_whole or partition_of(stream, self.of) in self.partitions

    def has_sku(self, sku: str) -> bool:
        return self.is_whole or partition_of_sku(sku, self.of) in self.partitions

    def has_warehouse(self, code: str) -> bool:
        """Whether the warehouse's own stream is one of these partitions'."""
        return self.is_whole or partition_of_sku(code, self.of) in self.partitions
