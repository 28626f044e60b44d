"""The two ways in: over HTTP, and by messages through Kafka. The script, the books and the audit are the same for both."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from demo.baskets import Item
from demo.ledger import Ledger
from demo.restocking import Delivery
from demo.script import Action, Order


class Told(NamedTuple):
    """An answer: `status` of the order's reservation, None where the answer does not say.

    `item`, one of those that were moved, is at `version` since `since_s` (on the clock `monotonic`) at the latest.
    """

    status: str | None
    item: Item
    version: int
    since_s: float


@dataclass(slots=True)
class Traffic:
    """Messages by topic. `repeated`: heard more than once, and counted once."""

    sent: Counter[str] = field(default_factory=Counter)
    heard: Counter[str] = field(default_factory=Counter)
    repeated: int = 0


class Door(Protocol):
    """Each method returns when the service has answered. DemoError for an answer that a right service does not give."""

    @property
    def traffic(self) -> Traffic | None:
        """None: this door has no messages."""

    async def restock(self, delivery: Delivery) -> Told: ...

    async def act(self, action: Action, order: Order) -> Told | None:
        """None: the reservation was refused, because there is not enough."""

    async def pay_too_late(self, order: Order) -> str | None:
        """For an order whose hold has run out. None if that is refused as it must be, else what was answered."""

    async def differences(self, ledger: Ledger) -> list[str]:
        """In what the service told through this door, all in all, differs from the books."""
