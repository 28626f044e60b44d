"""What the projection tells Prometheus, per generation."""

from collections.abc import Callable, Hashable, Iterable

from prometheus_client import Counter, Gauge, Histogram

_BY = ("generation",)


class Worst:
    """A gauge of a generation that several shares of it tell, each of its own: it shows what the worst of them says."""

    def __init__(self, gauge: Gauge, worst: Callable[[Iterable[float]], float]) -> None:
        self._gauge = gauge
        self._worst = worst
        self._told: dict[str, dict[Hashable, float]] = {}

    def set(self, generation: str, share: Hashable, value: float) -> None:
        told = self._told.setdefault(generation, {})
        told[share] = value
        self._gauge.labels(generation).set(self._worst(told.values()))

    def leave(self, generation: str, share: Hashable) -> None:
        """``share`` is not kept here any more. What the last one said stands until the generation is forgotten."""
        told = self._told.get(generation, {})
        told.pop(share, None)
        if told:
            self._gauge.labels(generation).set(self._worst(told.values()))

    def remove(self, generation: str) -> None:
        self._told.pop(generation, None)
        self._gauge.remove(generation)


LAG_EVENTS = Worst(
    Gauge(
        "stockhold_projection_lag_events", "Positions of the log that the views in PostgreSQL are behind its head.", _BY
    ),
    max,
)
LAG_SECONDS = Worst(
    Gauge(
        "stockhold_projection_lag_seconds",
        "For how long the oldest event that the views lack has been seen to wait; else 0.",
        _BY,
    ),
    max,
)
BATCHES = Counter("stockhold_projection_batches", "Batches written to PostgreSQL.", _BY)
EVENTS = Counter("stockhold_projection_events", "Events applied to the views.", _BY)
SKIPPED = Counter("stockhold_projection_skipped_events", "Events that the views had already.", _BY)
HEALED = Counter("stockhold_projection_healed_streams", "Streams brought up to date from the log out of turn.", _BY)
PARKED = Counter("stockhold_projection_parked_streams", "Streams that came to stand still at a poison event.", _BY)
STALE = Gauge("stockhold_projection_stale_streams", "Streams that stand still at a poison event now.", _BY)
BATCH_SECONDS = Histogram(
    "stockhold_projection_batch_seconds",
    "Time of a batch in PostgreSQL, from reading its rows to its commit.",
    _BY,
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
)
UNREADABLE_MESSAGES = Counter(
    "stockhold_projection_unreadable_messages", "Messages from Kafka that are no batch of events.", _BY
)
COMMIT_TO_VISIBLE = Histogram(
    "stockhold_projection_commit_to_visible_seconds",
    "From the time of an item's newest event in a batch until the batch is in PostgreSQL.",
    _BY,
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
CACHE_UP = Worst(Gauge("stockhold_projection_cache_up", "1 while Redis takes what PostgreSQL has.", _BY), min)
CACHE_REFILLS = Counter("stockhold_projection_cache_refills", "Times that Redis was filled whole.", _BY)
CACHE_CATCH_UPS = Counter("stockhold_projection_cache_catch_ups", "Times that Redis was given what it had missed.", _BY)

_OF_A_GENERATION = (
    *(LAG_EVENTS, LAG_SECONDS, BATCHES, EVENTS, SKIPPED, HEALED, PARKED, STALE, BATCH_SECONDS, UNREADABLE_MESSAGES),
    *(COMMIT_TO_VISIBLE, CACHE_UP, CACHE_REFILLS, CACHE_CATCH_UPS),
)


def leave(generation: str, share: Hashable) -> None:
    """``share`` of ``generation`` is kept elsewhere from now on."""
    for metric in (LAG_EVENTS, LAG_SECONDS, CACHE_UP):
        metric.leave(generation, share)


def forget(generation: str) -> None:
    """Of a generation that nobody keeps here any more: what was last said of it would stand, and wake somebody, for ever."""
    for metric in _OF_A_GENERATION:
        metric.remove(generation)
