"""The one lock that every writer of the log takes, so that the log's order is its commit order.

It is an advisory lock, not a lock on the table (which would fight autovacuum), and it is held until the
transaction ends: positions are handed out and become visible in the same order, and a reader that
tails the log by position never skips an event that commits later.
"""

from hashlib import blake2b

SCHEMA = "stockhold"
CHANNEL = "stockhold_log"
"""Where each append says that there is something new; the notice carries nothing else."""
REFUSALS_CHANNEL = "stockhold_refusals"
"""The same for refused commands, which are not in the log."""


def append_lock_key(schema: str = SCHEMA) -> int:
    """The key of the append lock of the log in ``schema``: a signed 64-bit number."""
    return int.from_bytes(blake2b(f"{schema}.append".encode(), digest_size=8).digest(), "big", signed=True)
