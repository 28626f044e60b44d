"""Ends a process that is stuck where no supervisor does: in a container, whose engine starts again only what has ended."""

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from infra.health import Health

logger = logging.getLogger(__name__)

EXIT_STUCK: Final = 76
EVERY_S: Final = 1.0
LAST_WORDS_S: Final = 1.0
CERTAIN: Final = 2
"""Looks in a row that must find it stuck: after a pause of the whole container everything is late once."""


def watch(health: Health, silence_max_s: float) -> Callable[[], None]:
    """Until the function that is returned is called: end this process, with EXIT_STUCK, once ``health`` says that it is
    stuck, or the running event loop has not turned for ``silence_max_s``.
    """
    over = threading.Event()
    loop = asyncio.get_running_loop()
    every_s = min(EVERY_S, silence_max_s / 4)
    # Counted in looks of our own, not in time that may have passed while all of this process was asleep.
    unanswered = 0
    stuck_in_a_row = 0

    def look() -> None:
        nonlocal unanswered, stuck_in_a_row
        unanswered = 0
        why = health.stuck
        stuck_in_a_row = stuck_in_a_row + 1 if why else 0
        if why and stuck_in_a_row >= CERTAIN:
            _end(why)

    def run() -> None:
        nonlocal unanswered
        while not over.wait(every_s):
            if unanswered * every_s >= silence_max_s:
                _end(f"the event loop has not turned for {silence_max_s:g} s")
            unanswered += 1
            with suppress(RuntimeError):  # the loop has come to its end
                loop.call_soon_threadsafe(look)

    threading.Thread(target=run, name="watchdog", daemon=True).start()
    return over.set


def _end(why: str) -> None:
    """No draining: it does not get on with anything, and what was not committed has not been promised."""
    # In a thread of its own: whatever hangs may hang while it writes to the log.
    speaking = threading.Thread(target=logger.critical, args=("this process is stuck and ends: %s", why), daemon=True)
    speaking.start()
    speaking.join(LAST_WORDS_S)
    os._exit(EXIT_STUCK)
