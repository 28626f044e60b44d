"""The data folder of one stack: who may use it, where things are in it, and its passwords.

DIR/lock            held by the supervisor for as long as its stack runs; its id is inside
DIR/secrets.json    the servers' passwords, made once
DIR/running.json    the addresses of the stack that runs now
DIR/postgres, DIR/valkey, DIR/kafka, DIR/logs

A folder that holds other things and none of these is not made one: they would lie among each other.
"""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from infra.embedded.errors import DataFolderError, DataFolderInUseError
from infra.embedded.service_user import ServiceUser, let_reach, service_user

PASSWORD_BYTES = 24
LOG_BYTES_KEPT = 8 * 2**20
_OURS = frozenset({"lock", "secrets.json", "logs", "postgres", "postgres.new", "valkey", "kafka"})
_OF_NOBODY = frozenset({"lost+found"})
"""What a disk that is mounted there brings along."""


@dataclass(frozen=True)
class Secrets:
    """Passwords of the embedded servers: PostgreSQL's superuser, the role that Stockhold works as, and Valkey."""

    postgres_superuser: str
    postgres: str
    valkey: str


def default_data_dir() -> Path:
    """`stockhold` in the user's state folder."""
    from platformdirs import user_state_path

    return user_state_path("stockhold", appauthor=False)


class DataFolder:
    """Everything below `path`; made when it is first opened. Only the holder of `locked()` may start servers in it."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()
        self.user: ServiceUser | None = None

    def open(self) -> None:
        """Make the folder if it is missing, and see to it that the servers' account gets in.

        Raises DataFolderError if it cannot be made or entered, or is somebody else's.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            names = {entry.name for entry in self.path.iterdir()} - _OF_NOBODY
            if names and not names & _OURS:
                raise DataFolderError(
                    f"the data folder {self.path} holds other things ({min(names)}): name a new or an empty one"
                )
            self.user = service_user(self.path / "postgres")
            # Under root the servers' account must pass through; what it must not read is closed by itself.
            if self.path.stat().st_uid == os.geteuid():
                self.path.chmod(0o700 if self.user is None else 0o711)
            (self.path / "logs").mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise DataFolderError(f"the data folder {self.path} cannot be used: {error.strerror}") from error
        if self.user is not None:
            let_reach(self.user, self.path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder against every other stack; the lock ends with this process, however it ends.

        Raises DataFolderInUseError, DataFolderError.
        """
        self.open()
        # Not inherited by children: one that outlived us for a moment would hold the folder.
        try:
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DataFolderError(f"the data folder {self.path} is not ours to use: {error.strerror}") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataFolderInUseError(self.path, self.holder_pid()) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            # What a stack that was killed left behind says nothing about this one.
            self._running_path.unlink(missing_ok=True)
            try:
                yield
            finally:
                self._running_path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def holder_pid(self) -> int | None:
        """Process id written by the last stack that took the lock."""
        with suppress(OSError, ValueError):
            return int((self.path / "lock").read_text())
        return None

    def secrets(self) -> Secrets:
        """The folder's passwords, made at the first call. Only under the lock."""
        path = self.path / "secrets.json"
        if not path.exists():
            made = Secrets(*(secrets.token_urlsafe(PASSWORD_BYTES) for _ in range(3)))
            write_private(path, json.dumps(asdict(made)))
        try:
            return Secrets(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise DataFolderError(f"the passwords in {path} cannot be read: {error}") from error

    def server_folder(self, name: str) -> Path:
        """The folder of one server, made if missing, the account's own."""
        folder = self.path / name
        folder.mkdir(mode=0o700, exist_ok=True)
        self.give(folder)
        return folder

    def give(self, path: Path) -> None:
        """Make the servers' account the owner of `path`."""
        if self.user is not None and path.stat().st_uid != self.user.uid:
            os.chown(path, self.user.uid, self.user.gid)

    def log_path(self, name: str) -> Path:
        """Where a server's log goes. A long one from earlier runs is put aside first."""
        path = self.path / "logs" / f"{name}.log"
        with suppress(FileNotFoundError):
            if path.stat().st_size > LOG_BYTES_KEPT:
                path.replace(path.with_suffix(".log.1"))
        return path

    @property
    def _running_path(self) -> Path:
        return self.path / "running.json"

    def write_running(self, facts: dict[str, object]) -> None:
        """Leave the addresses of the running stack for other commands; removed when the lock is given back."""
        write_private(self._running_path, json.dumps(facts))

    def read_running(self) -> dict[str, object] | None:
        """What the stack that runs in this folder now wrote; None if none runs."""
        if not self.is_locked():
            return None
        try:
            facts: dict[str, object] = json.loads(self._running_path.read_text())
        except (OSError, ValueError):
            return None
        return facts

    def holds_data(self) -> bool:
        """Whether a stack has ever run in this folder."""
        return (self.path / "lock").exists()

    def is_locked(self) -> bool:
        """Whether a stack runs in this folder now."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False


def write_private(path: Path, text: str) -> None:
    """Replace `path` by `text` whole, readable by its owner alone."""
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
