"""Waiting for a NOTIFY, on a connection of its own that is made again whenever it is lost."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Self

import psycopg
from psycopg import sql

logger = logging.getLogger(__name__)

RECONNECT_S_MIN: Final = 0.05
RECONNECT_S_MAX: Final = 2.0


class Bell:
    """Rings when one of ``channels`` is notified, and once after each connect: something may have been missed.

    A notice can be lost with its connection, so :meth:`wait` takes the time after which to look anyway.
    """

    def __init__(self, url: str, channels: Sequence[str], *, connect_timeout_s: float = 5.0) -> None:
        self._url = url
        self._channels = tuple(channels)
        self._connect_timeout_s = connect_timeout_s
        self._rung = asyncio.Event()
        self._listener: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._listener = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        self._listener.cancel()
        with suppress(asyncio.CancelledError):
            await self._listener

    def ring(self) -> None:
        """Wake whoever waits, as a notice would."""
        self._rung.set()

    async def wait(self, timeout_s: float) -> bool:
        """Return when it rings, true, or after ``timeout_s``, false. What rang before the call counts."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()
        rang = self._rung.is_set()
        self._rung.clear()
        return rang

    async def _listen(self) -> None:
        pause_s = RECONNECT_S_MIN
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._url, autocommit=True, connect_timeout=max(1, int(self._connect_timeout_s))
                ) as connection:
                    for channel in self._channels:
                        await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                    pause_s = RECONNECT_S_MIN
                    self.ring()
                    async for _ in connection.notifies():
                        self.ring()
            except (psycopg.Error, OSError) as error:
                logger.info("not listening for notices", extra={"channels": self._channels, "error": str(error)})
            await asyncio.sleep(pause_s)
            pause_s = min(RECONNECT_S_MAX, pause_s * 2)
