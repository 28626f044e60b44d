"""PostgreSQL and Valkey alone, for whoever needs no processes of ours: tests, and commands on a stopped stack."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.embedded.child import Child
from infra.embedded.folder import DataFolder
from infra.embedded.ports import free_server_port
from infra.embedded.postgres import PostgresServer
from infra.embedded.valkey import ValkeyServer


@dataclass(frozen=True)
class ServerUrls:
    """Addresses of what a stack keeps its state in. The event store and the read model may be the same database.

    `kafka_servers` is empty in a stack without Kafka.
    """

    event_store_url: str
    read_model_url: str
    redis_url: str
    kafka_servers: str = ""


@contextmanager
def embedded_servers(data_dir: Path, *, durable: bool = True) -> Iterator[ServerUrls]:
    """Run both servers on the folder for as long as the block lasts; they are not restarted when they die.

    Applies no migrations. `durable=False`: what was written does not survive a crash of the machine; for tests.
    The calling thread must outlive the block. Raises StackError and its kin.
    """
    folder = DataFolder(data_dir)
    with folder.locked(), ExitStack() as running:
        postgres = PostgresServer(folder, free_server_port(), durable)
        valkey = ValkeyServer(folder, free_server_port())
        for spec in (postgres.spec(), valkey.spec()):
            spec.prepare()
            child = Child(spec)
            running.callback(child.stop)
            child.wait_ready()
        yield ServerUrls(postgres.url, postgres.url, valkey.url)
