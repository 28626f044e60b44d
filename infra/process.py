"""What a process of the stack owes to the supervisor that started it."""

import asyncio
import os
import signal
import threading

from infra.settings import ProcessSettings

EXIT_ORPHANED = 75
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def announce_ready(settings: ProcessSettings) -> None:
    """Tell the supervisor that this process serves or works; without a supervisor, nothing. Harmless if repeated."""
    if settings.ready_fd is not None:
        os.write(settings.ready_fd, b"ready\n")


def step_back(settings: ProcessSettings) -> None:
    """Where processors are scarce, customers' answers come first: for a process that no customer waits for."""
    os.nice(settings.background_niceness)


async def until_stopped() -> None:
    """Return at the first SIGTERM or SIGINT. From its first call on this process no longer dies of them by itself.

    Main thread only. A second signal while the process drains does nothing more: the supervisor has the last word.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()


def end_with_supervisor(settings: ProcessSettings) -> None:
    """End this process at once when the supervisor is gone, however it went; call it early, once.

    The supervisor holds the other end of the pipe and never writes: reading returns when it has died. The kernel's own
    parent-death signal exists on Linux alone, and there it comes on top.
    """
    lifeline_fd = settings.lifeline_fd
    if lifeline_fd is None:
        return

    def watch() -> None:
        while os.read(lifeline_fd, 1):
            pass
        # No draining: the servers are going down as well, and what was not committed has not been promised.
        os._exit(EXIT_ORPHANED)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
