"""What the intake counts, for Prometheus."""

from prometheus_client import Counter, Gauge, Histogram

MESSAGES = Counter(
    "stockhold_intake_messages",
    "Messages by topic and what became of them: applied, replayed, rejected (an order that cannot be held: an ordinary"
    " answer), waiting, retried (applied after having waited), dead.",
    ["topic", "outcome"],
)
BATCH_SECONDS = Histogram(
    "stockhold_intake_batch_seconds",
    "From having a batch of messages to its being durable.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
BATCH_MESSAGES = Histogram(
    "stockhold_intake_batch_messages",
    "Messages taken together.",
    buckets=(1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000),
)
WAITING = Gauge("stockhold_intake_waiting_messages", "Messages that wait for what must come before them.")
OLDEST_WAITING_S = Gauge("stockhold_intake_oldest_waiting_seconds", "How long the oldest of them has waited.")
DEAD = Gauge("stockhold_intake_dead_messages", "Messages given up, until they are replayed.")
LAG = Gauge("stockhold_intake_lag_messages", "Messages in the topic that are not durable yet.", ["topic"])
"""Of the partitions that this process has."""
REBALANCES = Counter(
    "stockhold_intake_rebalances", "Times that partitions were given to this process or taken from it."
)
