"""Waiting that ends when it is time to stop: for loops that try again, and for whoever sleeps at a bell."""

import asyncio
from collections.abc import Callable
from contextlib import suppress


async def ring_at_stop(stop: asyncio.Event, ring: Callable[[], None]) -> None:
    """Wake whoever sleeps at a bell when it is time to stop."""
    await stop.wait()
    ring()


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Sleep, but not beyond ``stop``."""
    if seconds <= 0:
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


class Backoff:
    """Pauses that double as long as terms end without having worked."""

    def __init__(self, least_s: float = 0.05, most_s: float = 1.0) -> None:
        self._least_s = least_s
        self._most_s = most_s
        self._next_s = least_s

    def worked(self) -> None:
        self._next_s = self._least_s

    async def pause(self, stop: asyncio.Event) -> None:
        await pause(stop, self._next_s)
        self._next_s = min(self._most_s, self._next_s * 2)
