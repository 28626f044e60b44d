"""Processes that an earlier stack left in a data folder.

The holder of the folder's lock is the only rightful user of it. So a server that still works in there belongs to a stack
that was killed a moment ago and is on its way out, or did not notice; it must be gone before the next one starts.
"""

import contextlib
import logging
import time
from pathlib import Path

import psutil

from infra.embedded.errors import StartFailedError

POLL_S = 0.02

log = logging.getLogger(__name__)


def processes_in(folder: Path, program: str) -> list[psutil.Process]:
    """Every process of `program` whose working folder is `folder`, which is where a server's processes stand."""
    found = []
    for process in psutil.process_iter(["name"]):
        with contextlib.suppress(psutil.Error, OSError):
            if process.info["name"] == program and process.cwd() == str(folder):
                found.append(process)
    return found


def wait_until_left(folder: Path, program: str, *, patience_s: float = 5.0, kill_after_s: float = 0.5) -> None:
    """Block until no process of `program` stands in `folder`; who is still there after `kill_after_s` is killed.

    Raises StartFailedError when one does not even go then.
    """
    started_s = time.monotonic()
    killed = False
    while processes := processes_in(folder, program):
        waited_s = time.monotonic() - started_s
        if waited_s > patience_s:
            raise StartFailedError(f"process {processes[0].pid} of an earlier stack does not leave {folder}")
        if waited_s > kill_after_s and not killed:
            killed = True
            for process in processes:
                log.warning("killing process %d, left over in %s", process.pid, folder)
                with contextlib.suppress(psutil.Error):
                    process.kill()
        time.sleep(POLL_S)
