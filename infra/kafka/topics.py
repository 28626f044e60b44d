"""The topics: their names, their settings, and which of them are somebody else's contract.

``Topics`` puts the prefix of an installation before each name, so that several can share a cluster.
"""

from typing import Final, NamedTuple

STOCK_EVENTS: Final = "stockhold.stock-events"
"""Internal: every stored event, in batches per partition. A change of its format or its partitions is a new name."""
DEAD_LETTERS: Final = "stockhold.dead-letters"
"""Messages that can never be applied, with the reason."""

ORDER_TOPICS: Final = (
    "order.placed",
    "payment.authorized",
    "payment.failed",
    "order.cancelled",
    "order.shipped",
    "order.returned",
)
"""In, keyed by order."""
WAREHOUSE_TOPICS: Final = ("warehouse.received", "warehouse.counted", "warehouse.shipped")
"""In, from a warehouse management system; keyed by SKU, shipments by order."""
RESERVATION_TOPICS: Final = (
    "inventory.reserved",
    "inventory.reservation-rejected",
    "inventory.committed",
    "inventory.released",
    "inventory.reservation-expired",
    "inventory.refunded",
)
"""Out, keyed by order."""
STOCK_TOPICS: Final = (
    "inventory.stock-updated",
    "inventory.status-changed",
    "inventory.low-stock",
    "inventory.restocked",
    "inventory.movements",
)
"""Out, keyed by SKU."""
INTAKE_TOPICS: Final = ORDER_TOPICS + WAREHOUSE_TOPICS
PUBLIC_TOPICS: Final = RESERVATION_TOPICS + STOCK_TOPICS
MESSAGE_BYTES_MAX: Final = 1_048_576
"""The largest message that any of our topics takes."""
_DAY_MS: Final = 86_400_000


class TopicSpec(NamedTuple):
    """A topic as it shall be; ``settings`` are the broker's topic settings."""

    name: str
    partitions: int
    settings: dict[str, str]


class Topics:
    """The names in one installation, and what each topic shall be."""

    def __init__(self, prefix: str, partitions: int) -> None:
        self.prefix = prefix
        self.partitions = partitions
        self.stock_events = prefix + STOCK_EVENTS
        self.dead_letters = prefix + DEAD_LETTERS

    def named(self, topic: str) -> str:
        return self.prefix + topic

    def spec_of(self, name: str) -> TopicSpec:
        """What the topic of that whole name shall be. Raises LookupError if it is none of ours."""
        for spec in self.specs():
            if spec.name == name:
                return spec
        raise LookupError(name)

    def specs(self) -> list[TopicSpec]:
        """All of them."""
        settings = {"cleanup.policy": "delete", "max.message.bytes": str(MESSAGE_BYTES_MAX)}
        week = settings | {"retention.ms": str(7 * _DAY_MS)}
        names = (STOCK_EVENTS, *INTAKE_TOPICS, *PUBLIC_TOPICS)
        specs = [TopicSpec(self.named(name), self.partitions, week) for name in names]
        return [*specs, TopicSpec(self.dead_letters, 1, settings | {"retention.ms": str(90 * _DAY_MS)})]
