"""The whole of Stockhold on one machine: servers, migrations, and the processes that do the work.

`Stack.run` is the thing itself, on an event loop; `running_stack` puts it into a thread, for a command that needs a
stack while it does something else.
"""

import asyncio
import contextlib
import dataclasses
import functools
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from infra.embedded.child import ChildSpec
from infra.embedded.errors import StackError
from infra.embedded.external import check_kafka, check_postgres, check_redis
from infra.embedded.folder import DataFolder
from infra.embedded.kafka import KafkaServer
from infra.embedded.ports import LOOPBACK, free_server_ports, listen
from infra.embedded.postgres import PostgresServer
from infra.embedded.servers import ServerUrls
from infra.embedded.supervisor import ProcessInfo, RestartPolicy, Supervisor
from infra.embedded.valkey import ValkeyServer
from infra.kafka.java import BrokerProgram, broker_program
from infra.migrations.runner import EVENT_STORE, PUBLIC, READ_MODEL, MigrationError, migrate

COMMAND_API, PROJECTOR, SWEEPER, READ_API = "command-api", "projector", "sweeper", "read-api"
RELAY, WORKER, PUBLISHER, INTAKE = "relay", "worker", "publisher", "intake"
KAFKA_ROLES = (RELAY, WORKER, PUBLISHER, INTAKE)
"""They run with Kafka alone; the workers then take the projector's place."""
ROLES = (COMMAND_API, PROJECTOR, SWEEPER, READ_API, *KAFKA_ROLES)
SERVERS = ("postgres", "valkey")
KAFKA = "kafka"
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  (what it stands for, not what we listen on)
# Longer than an API may drain, its requests first and then its executor: the supervisor's patience must not end before the process's own.
API_STOP_TIMEOUT_S = 25.0
READY_TIMEOUT_S = 30.0
# They work once their group has given them partitions, which takes its time when another member has just died.
KAFKA_READY_TIMEOUT_S = 90.0


@dataclass(frozen=True)
class StackOptions:
    """What to run. An empty URL: the embedded server; `read_model_url` empty: the event log's database. Port 0: any.

    `kafka`: with an embedded broker, unless `kafka_servers` names others; without both there is no Kafka. `kafka_jars`:
    the folder with the embedded one's jars; empty: Maven brings them.
    """

    data_dir: Path
    host: str = LOOPBACK
    command_port: int = 8000
    read_port: int = 8001
    command_processes: int = 1
    read_processes: int = 1
    worker_processes: int = 1
    roles: frozenset[str] = frozenset(ROLES)
    event_store_url: str = ""
    read_model_url: str = ""
    redis_url: str = ""
    kafka: bool = False
    kafka_servers: str = ""
    kafka_jars: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    policy: RestartPolicy = field(default_factory=RestartPolicy)


@dataclass(frozen=True)
class StackInfo:
    """A stack that is up. The URL of an API that was left out is None, and so are Kafka's brokers in a stack without."""

    command_url: str | None
    read_url: str | None
    event_store_url: str
    read_model_url: str
    redis_url: str
    kafka: str | None
    processes: tuple[ProcessInfo, ...]

    @property
    def urls(self) -> ServerUrls:
        return ServerUrls(self.event_store_url, self.read_model_url, self.redis_url, self.kafka or "")

    def as_json(self) -> dict[str, Any]:
        facts = dataclasses.asdict(self)
        if self.kafka is None:
            del facts["kafka"]
        processes = [{name: fact for name, fact in one.items() if fact is not None} for one in facts["processes"]]
        return {**facts, "processes": processes}


class Stack:
    """One stack, run once. `on_ready` hears of every process that becomes ready, `on_up` once, when all are."""

    def __init__(
        self,
        options: StackOptions,
        *,
        on_ready: Callable[[ProcessInfo, str | None], None] = lambda _process, _url: None,
        on_up: Callable[[StackInfo], None] = lambda _info: None,
    ) -> None:
        self._options = options
        self._on_ready = on_ready
        self._on_up = on_up
        self._folder = DataFolder(options.data_dir)
        self._sockets: dict[str, socket.socket] = {}
        self._monitors: dict[str, socket.socket] = {}
        self._urls = ServerUrls("", "", "")
        self._up = False

    async def run(self, stop: asyncio.Event, hurry: asyncio.Event | None = None) -> None:
        """Run until `stop` is set; `hurry`, set after it, ends everything at once.

        Returns, and raises, only when nothing runs any more. Raises StackError and its kin.
        """
        with contextlib.ExitStack() as held:
            self._take_ports(held)
            if self._needs_folder:
                held.enter_context(self._folder.locked())
            supervisor = self._supervisor = Supervisor(self._process_ready, self._options.policy)
            ordered: asyncio.Task[Any] = asyncio.create_task(stop.wait())
            failing: asyncio.Task[Any] = asyncio.create_task(supervisor.until_failure())
            starting: asyncio.Task[Any] = asyncio.create_task(self._start())
            try:
                await asyncio.wait({starting, ordered, failing}, return_when=asyncio.FIRST_COMPLETED)
                if starting.done() and not ordered.done():
                    starting.result()
                    self._is_up()
                    await asyncio.wait({ordered, failing}, return_when=asyncio.FIRST_COMPLETED)
                if failing.done():
                    failing.result()
            finally:
                await self._wind_down({starting, ordered, failing}, hurry)

    async def _wind_down(self, tasks: set[asyncio.Task[Any]], hurry: asyncio.Event | None) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        stopping = asyncio.create_task(self._supervisor.stop())
        if hurry is not None:
            impatient = asyncio.create_task(hurry.wait())
            await asyncio.wait({stopping, impatient}, return_when=asyncio.FIRST_COMPLETED)
            if not stopping.done():
                self._supervisor.kill()
            impatient.cancel()
        await stopping

    def _take_ports(self, held: contextlib.ExitStack) -> None:
        """First of all, so that a port that is taken is told before anything was started."""
        options = self._options
        for role, port in ((COMMAND_API, options.command_port), (READ_API, options.read_port)):
            if self._door_processes(role):
                self._sockets[role] = held.enter_context(listen(options.host, port))
        for _, name in self._background_names():
            self._monitors[name] = held.enter_context(listen(LOOPBACK, 0))

    @property
    def _embeds_postgres(self) -> bool:
        return not self._options.event_store_url

    @property
    def _embeds_valkey(self) -> bool:
        return not self._options.redis_url

    @property
    def _needs_folder(self) -> bool:
        return self._embeds_postgres or self._embeds_valkey or self._embeds_kafka

    @property
    def _has_kafka(self) -> bool:
        return self._options.kafka or bool(self._options.kafka_servers)

    @property
    def _embeds_kafka(self) -> bool:
        return self._options.kafka and not self._options.kafka_servers

    async def _start(self) -> None:
        await self._start_servers()
        await asyncio.to_thread(bring_up_to_date, self._urls.event_store_url, self._urls.read_model_url)
        # Side by side, and in this order for the end: the doors close before what works behind them.
        doors = [*self._door_children(COMMAND_API), *self._door_children(READ_API)]
        await asyncio.gather(*(self._supervisor.start(group) for group in (self._background_children(), doors)))

    async def _start_servers(self) -> None:
        options = self._options
        specs: list[ChildSpec] = []
        event_store_url, redis_url, kafka_servers = options.event_store_url, options.redis_url, options.kafka_servers
        ports = iter(free_server_ports(4))
        if self._embeds_kafka:
            kafka = KafkaServer(self._folder, next(ports), next(ports), await self._broker_program())
            specs.append(kafka.spec())
            kafka_servers = kafka.servers
        if self._embeds_postgres:
            postgres = PostgresServer(self._folder, next(ports))
            specs.append(postgres.spec())
            event_store_url = postgres.url
        if self._embeds_valkey:
            valkey = ValkeyServer(self._folder, next(ports))
            specs.append(valkey.spec())
            redis_url = valkey.url
        self._urls = ServerUrls(event_store_url, options.read_model_url or event_store_url, redis_url, kafka_servers)
        await asyncio.to_thread(_check_external, options)
        await self._supervisor.start(specs)

    async def _broker_program(self) -> BrokerProgram:
        """Before any server is started: what is missing on this machine is told at once, and a stop ends the fetching."""
        abandoned = threading.Event()
        try:
            return await asyncio.to_thread(broker_program, self._options.kafka_jars, abandoned)
        finally:
            abandoned.set()

    def _background_children(self) -> list[ChildSpec]:
        return [self._python_child(role, name) for role, name in self._background_names()]

    def _background_names(self) -> list[tuple[str, str]]:
        """(role, name) of every process that no caller waits for."""
        roles = (*(KAFKA_ROLES if self._has_kafka else (PROJECTOR,)), SWEEPER)
        names = {role: [role] for role in roles}
        names[WORKER] = [f"{WORKER}-{number}" for number in range(1, self._options.worker_processes + 1)]
        return [(role, name) for role in roles if role in self._options.roles for name in names[role]]

    def _door_children(self, role: str) -> list[ChildSpec]:
        return [self._python_child(role, f"{role}-{number}") for number in range(1, self._door_processes(role) + 1)]

    def _door_processes(self, role: str) -> int:
        options = self._options
        if role not in options.roles:
            return 0
        return options.command_processes if role == COMMAND_API else options.read_processes

    def _python_child(self, role: str, name: str) -> ChildSpec:
        return ChildSpec(
            name=name,
            # -P: a folder called `domain` where the command was typed must not be taken for ours.
            argv=[sys.executable, "-P", "-m", "infra.cli.main", "process", name],
            env={
                **self._options.environment,
                "STOCKHOLD_PROCESS_NAME": name,
                "STOCKHOLD_EVENT_STORE_URL": self._urls.event_store_url,
                "STOCKHOLD_READ_MODEL_URL": self._urls.read_model_url,
                "STOCKHOLD_REDIS_URL": self._urls.redis_url,
                "STOCKHOLD_KAFKA_SERVERS": self._urls.kafka_servers,
            },
            listen_socket=self._sockets.get(role),
            monitor_socket=self._monitors.get(name),
            needs=(*SERVERS, KAFKA) if role in KAFKA_ROLES else SERVERS,
            outside_answers=functools.partial(_outside_answers, self._options, kafka=role in KAFKA_ROLES),
            ready_timeout_s=KAFKA_READY_TIMEOUT_S if role in KAFKA_ROLES else READY_TIMEOUT_S,
            stop_timeout_s=API_STOP_TIMEOUT_S,
        )

    def _process_ready(self, process: ProcessInfo) -> None:
        role = process.name.rstrip("0123456789").rstrip("-")
        self._on_ready(process, self._door_url(role))
        if self._up:
            self._write_running()

    def _is_up(self) -> None:
        self._up = True
        self._write_running()
        self._on_up(self.info())

    def _write_running(self) -> None:
        if self._needs_folder:
            self._folder.write_running(self.info().as_json())

    def _door_url(self, role: str) -> str | None:
        if role not in self._sockets:
            return None
        host = ANYWHERE.get(self._options.host, self._options.host)
        port = self._sockets[role].getsockname()[1]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def info(self) -> StackInfo:
        return StackInfo(
            command_url=self._door_url(COMMAND_API),
            read_url=self._door_url(READ_API),
            event_store_url=self._urls.event_store_url,
            read_model_url=self._urls.read_model_url,
            redis_url=self._urls.redis_url,
            kafka=self._urls.kafka_servers or None,
            processes=tuple(self._supervisor.processes()),
        )


def _check_external(options: StackOptions, *, kafka: bool = True) -> None:
    """Raises StackError."""
    if options.event_store_url:
        check_postgres("STOCKHOLD_EVENT_STORE_URL", options.event_store_url)
    if options.read_model_url:
        check_postgres("STOCKHOLD_READ_MODEL_URL", options.read_model_url)
    if options.redis_url:
        check_redis("STOCKHOLD_REDIS_URL", options.redis_url)
    if options.kafka_servers and kafka:
        check_kafka("STOCKHOLD_KAFKA_SERVERS", options.kafka_servers)


def _outside_answers(options: StackOptions, *, kafka: bool) -> bool:
    try:
        _check_external(options, kafka=kafka)
    except StackError:
        return False
    return True


def bring_up_to_date(event_store_url: str, read_model_url: str) -> list[str]:
    """Migrate both databases, which may be one; the files applied now, by `schema/file`. Raises StackError."""
    applied = []
    try:
        for url, tables in ((event_store_url, EVENT_STORE), (read_model_url, READ_MODEL), (read_model_url, PUBLIC)):
            applied += [f"{tables.schema}/{name}" for name in migrate(url, tables)]
    except (MigrationError, psycopg.Error) as error:
        raise StackError(f"the database could not be brought up to date: {error}") from error
    return applied


@contextlib.contextmanager
def running_stack(options: StackOptions) -> Iterator[StackInfo]:
    """A stack for as long as the block lasts, run in a thread of its own (which is why the children outlive a call).

    Raises StackError and its kin if it does not come up; a stack that fails later raises at the end of the block.
    """
    up: Future[StackInfo] = Future()
    ended: Future[None] = Future()
    stop_threadsafe: list[Callable[[], object]] = []

    async def run() -> None:
        stop = asyncio.Event()
        stop_threadsafe.append(functools.partial(asyncio.get_running_loop().call_soon_threadsafe, stop.set))
        await Stack(options, on_up=up.set_result).run(stop)

    def main() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:  # noqa: BLE001  (handed to the caller, whatever it is)
            (ended if up.done() else up).set_exception(error)
        else:
            ended.set_result(None)

    thread = threading.Thread(target=main, name="stack")
    thread.start()
    try:
        yield up.result()
    finally:
        with contextlib.suppress(RuntimeError):  # its loop has ended by itself
            stop_threadsafe[0]()
        thread.join()
    ended.result()
