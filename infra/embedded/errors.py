"""What can go wrong with a stack on this machine, each with the exit code that the command line gives it."""

from pathlib import Path
from typing import ClassVar


class StackError(Exception):
    """Base of everything here; `exit_code` is what `stockhold` ends with."""

    exit_code: ClassVar[int] = 3


class DataFolderError(StackError):
    """The data folder cannot be used as it is."""


class DataFolderInUseError(DataFolderError):
    """Another stack holds the lock of the folder; `pid` is that stack's supervisor, if it can be told."""

    def __init__(self, path: Path, pid: int | None) -> None:
        holder = f"process {pid}" if pid is not None else "another process"
        super().__init__(
            f"the data folder {path} is in use by {holder}: stop that stack first, or choose another --data"
        )
        self.path = path
        self.pid = pid


class PortTakenError(StackError):
    """A port that was asked for belongs to somebody else."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"port {port} on {host} is taken: choose another one, or 0 for any free one")
        self.host = host
        self.port = port


class StartFailedError(StackError):
    """A process ended, or was not ready in time, while it was being started."""


class ChildKeepsFailingError(StackError):
    """The same child failed again and again, so the stack was stopped."""

    exit_code: ClassVar[int] = 1
