"""PostgreSQL killed (-9) and started again while executors write: what was answered is there, once; the rest whole or not."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from domain.commands import Command, CommitReservation
from infra.embedded.child import Child
from infra.embedded.folder import DataFolder
from infra.embedded.ports import free_server_port
from infra.embedded.postgres import PostgresServer
from infra.migrations.runner import EVENT_STORE, migrate
from tests.support import eventually_async
from tests.support_audit import audit, check_index
from tests.support_write_side import Cluster, PostgresDatabase, ask, order
from write_side.executor import CommandExecutor
from write_side.submission import Answer


class KillableServer:
    """A durable cluster whose server can be killed and started again, from a thread that outlives it."""

    def __init__(self, folder: DataFolder) -> None:
        self.server = PostgresServer(folder, free_server_port())
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._child: Child | None = None

    def start(self) -> None:
        self._thread.submit(self._start).result()

    def _start(self) -> None:
        spec = self.server.spec()
        spec.prepare()
        self._child = Child(spec)
        self._child.wait_ready()

    async def kill_and_restart(self) -> None:
        assert self._child is not None
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._child.kill)
        await loop.run_in_executor(self._thread, self._start)

    def stop(self) -> None:
        if self._child is not None:
            self._thread.submit(self._child.stop).result()
        self._thread.shutdown()


@pytest.fixture
def server(data_dir: Path) -> Iterator[KillableServer]:
    folder = DataFolder(data_dir)
    with folder.locked():
        killable = KillableServer(folder)
        killable.start()
        try:
            migrate(killable.server.url, EVENT_STORE)
            yield killable
        finally:
            killable.stop()


def _has(answered: dict[str, Answer], count: int) -> bool:
    return len(answered) >= count


async def test_killed_under_load(server: KillableServer) -> None:
    database = PostgresDatabase(server.server.url)
    one, two = Cluster(database, optimistic=True), Cluster(database, optimistic=False)
    executors = [await one.executor(request_deadline_ms=5_000), await two.executor(request_deadline_ms=5_000)]
    await one.stock(executors[0], *((sku, code, 1_000_000) for sku in "ABC" for code in ("W1", "W2")))
    answered: dict[str, Answer] = {}
    over = asyncio.Event()

    async def insist(executor: CommandExecutor, command: Command, key: str) -> Answer:
        """As a client does: the same key until there is an answer."""
        while (answer := await ask(executor, command, key)).status == 503:
            pass
        answered[key] = answer
        return answer

    async def client(number: int) -> None:
        n = 0
        while not over.is_set():
            n, executor = n + 1, executors[(number + n) % 2]
            rid = f"r{number}-{n}"
            held = await insist(executor, order(rid, ("A", 1, "W1"), ("BC"[n % 2], 1)), f"hold-{rid}")
            assert held.status in {200, 201}, held
            paid = await insist(executor, CommitReservation(reservation_id=rid), f"pay-{rid}")
            assert paid.status == 200, paid

    clients = [asyncio.ensure_future(client(number)) for number in range(12)]
    for goal in (300, 1_000, 2_000):
        await eventually_async(partial(_has, answered, goal), 30)
        await server.kill_and_restart()
    await eventually_async(partial(_has, answered, len(answered) + 100), 30)
    over.set()
    await asyncio.wait_for(asyncio.gather(*clients), 30)

    items = audit(database.events())
    check_index(items, database.holds(), database.headers())
    holds = {key.removeprefix("hold-") for key in answered if key.startswith("hold-")}
    assert database.headers() == holds
    assert items["stock:A@W1"].promised == len(holds)
    assert items["stock:A@W1"].committed == len(holds)
    recorded = database.outcomes()
    for key, answer in answered.items():
        assert recorded["anonymous", key].body == answer.body
    await one.close()
    await two.close()
