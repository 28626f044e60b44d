"""Servers that a test may kill and start again, each by itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.embedded.child import Child, ChildSpec
from infra.embedded.folder import DataFolder
from infra.embedded.ports import free_server_port
from infra.embedded.postgres import PostgresServer
from infra.embedded.valkey import ValkeyServer


class Server:
    """One server on its port; it keeps that over restarts."""

    def __init__(self, spec: ChildSpec) -> None:
        self._spec = spec
        self._child: Child | None = None

    def start(self) -> None:
        self._spec.prepare()
        self._child = Child(self._spec)
        self._child.wait_ready()

    def kill(self) -> None:
        """As kill -9 does: nothing is written any more. The rest of it leaves by the next start."""
        if self._child is not None:
            self._child.kill()
        self._child = None

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()
        self._child = None


class OwnServers:
    """PostgreSQL and Valkey on a folder."""

    def __init__(self, folder: DataFolder) -> None:
        postgres = PostgresServer(folder, free_server_port(), durable=True)
        valkey = ValkeyServer(folder, free_server_port())
        self.postgres_url, self.redis_url = postgres.url, valkey.url
        self.postgres, self.valkey = Server(postgres.spec()), Server(valkey.spec())


@contextmanager
def own_servers(data_dir: Path) -> Iterator[OwnServers]:
    """Both, started; stopped at the end, whatever the test has done to them."""
    folder = DataFolder(data_dir)
    with folder.locked():
        servers = OwnServers(folder)
        try:
            servers.postgres.start()
            servers.valkey.start()
            yield servers
        finally:
            servers.valkey.stop()
            servers.postgres.stop()
