"""Starts one program so that it cannot outlive the process that asked for it.

Run as a script, by its path, with nothing but the standard library:

    python -I -S guard.py --parent PID --death-signal N [--user UID:GID] [--lifeline FD] -- PROGRAM [ARGUMENT...]

A step of its own, and not a `preexec_fn`, because code between fork and exec may deadlock in a parent that has threads.
On Linux the kernel is asked to send the death signal when the parent dies, and the program takes this process's place, so
the process id that the parent knows is the program's own. Elsewhere this process stays as the program's keeper: it holds
the reading end of a pipe whose writing end only the parent has, and end-of-file there means that the parent is gone.
"""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1
EXIT_ORPHANED = 75
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


def main(arguments: Sequence[str]) -> None:
    separator = arguments.index("--")
    options = dict(zip(arguments[:separator:2], arguments[1:separator:2], strict=True))
    program = list(arguments[separator + 1 :])
    death_signal = int(options["--death-signal"])
    become(options.get("--user"))
    # Python ignores SIGPIPE, and what is ignored stays ignored in the program that takes our place.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if "--lifeline" in options:
        keep(program, int(options["--lifeline"]), death_signal)
    else:
        die_with_parent(int(options["--parent"]), death_signal)
        os.execv(program[0], program)  # noqa: S606  (replacing this process is what this program is for)


def become(user: str | None) -> None:
    """Drop root for `UID:GID`; the order matters, since without root no group could be changed."""
    if user is None:
        return
    uid, gid = (int(part) for part in user.split(":"))
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def die_with_parent(parent_pid: int, death_signal: int) -> None:
    """Ask the kernel for `death_signal` when the parent dies (Linux).

    After any change of user, which would clear the request. A parent that died before the request is noticed by its
    id: then this process has been given to another one.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        sys.exit(EXIT_ORPHANED)


def keep(program: list[str], lifeline_fd: int, death_signal: int) -> None:
    """Run `program` as a child, pass signals on to it, end it when the lifeline ends, and exit as it exits."""
    child_pid = os.fork()
    if child_pid == 0:
        os.close(lifeline_fd)
        os.execv(program[0], program)  # noqa: S606  (the keeper's child becomes the program)
    for number in FORWARDED:
        signal.signal(number, lambda received, _frame: os.kill(child_pid, received))

    def watch() -> None:
        while os.read(lifeline_fd, 1):
            pass
        os.kill(child_pid, death_signal)

    threading.Thread(target=watch, daemon=True).start()
    _, status = os.waitpid(child_pid, 0)
    code = os.waitstatus_to_exitcode(status)
    # os._exit: the watching thread may be inside read(), and must not hold the exit up.
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main(sys.argv[1:])
