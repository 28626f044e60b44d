"""What the publisher tells Prometheus."""

from prometheus_client import Counter, Gauge, Histogram

MESSAGES = Counter("stockhold_publisher_messages", "Public messages that the brokers have acknowledged.", ["topic"])
EVENTS = Counter("stockhold_publisher_events", "Events of stock items that were published.")
SKIPPED = Counter("stockhold_publisher_skipped_events", "Events that came again after they had been published.")
HEALED = Counter("stockhold_publisher_healed_streams", "Streams brought up to date from the log out of turn.")
PARKED = Counter("stockhold_publisher_parked_streams", "Streams that came to stand still at a poison event.")
STALE = Gauge("stockhold_publisher_stale_streams", "Streams that stand still at a poison event now.")
UNREADABLE = Counter("stockhold_publisher_unreadable_messages", "Messages of the internal topic that say nothing.")
LAG_EVENTS = Gauge("stockhold_publisher_lag_events", "Positions of the log that the public topics are behind its head.")
LAG_SECONDS = Gauge(
    "stockhold_publisher_lag_seconds", "Age of the newest event that was published while newer ones wait; else 0."
)
DELAY_SECONDS = Histogram(
    "stockhold_publisher_delay_seconds",
    "From an event's time to the brokers' acknowledgement of its messages.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60),
)
BATCH_SECONDS = Histogram(
    "stockhold_publisher_batch_seconds",
    "Time of a batch, from reading what is known of it to its commit.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
