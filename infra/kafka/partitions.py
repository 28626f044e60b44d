"""Which partition a stream of the log belongs to: the same for the relay, the views and whoever reads them."""

from zlib import crc32


def partition_of(stream: str, partitions: int) -> int:
    """The partition, from 0, of a stream: all warehouses of a SKU in one, a warehouse's own stream by its code."""
    kind, _, name = stream.partition(":")
    key = name.rpartition("@")[0] if kind == "stock" else name
    return crc32(key.encode()) % partitions


def partition_of_sku(sku: str, partitions: int) -> int:
    """The partition of every stock item of ``sku``."""
    return crc32(sku.encode()) % partitions
