"""What time it is in the store, without asking it."""

import time
from datetime import UTC, datetime, timedelta

LEAD_MAX = timedelta(milliseconds=50)
"""How far our guess may run ahead of what the store says: the trip of its answer explains that much."""


class StoreClock:
    """The store's clock, as near as one round trip tells: it does not go back unless the store's does."""

    def __init__(self) -> None:
        self._said = datetime.min.replace(tzinfo=UTC)
        self._at = 0.0

    def heard(self, now: datetime) -> None:
        """The store has just said what time it is."""
        guess = self.now()
        self._said = guess if now < guess < now + LEAD_MAX else now
        self._at = time.monotonic()

    def now(self) -> datetime:
        """What the store would say now."""
        return self._said + timedelta(seconds=time.monotonic() - self._at)
