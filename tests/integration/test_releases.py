"""Two releases side by side on the same servers: each keeps the views of its own fold, and readers notice nothing."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from http.client import HTTPConnection

import psycopg
import pytest
from redis.asyncio import Redis

from infra.embedded.ports import free_server_port
from infra.redis import connect_redis
from projections import generations, versions
from projections.dead_letters import parked_streams, retry_parked
from projections.generations import Generation
from projections.lane import Servers
from projections.rebuild import rebuild, retire
from projections.runners import kept_partitions
from read_api.app import open_read_api
from tests.command_api import Connection
from tests.support import eventually_async, is_running
from tests.support_domain import registered, restocked
from tests.support_read_api import read_settings, serving
from tests.support_views import LogWriter, read_cache, read_views

# A release as it is started, but for what is changed of it here.
RELEASE = """
import os, signal, sys
{changes}
import infra.cli.rebuild
from infra.cli.main import main
infra.cli.rebuild.HANDOVER_S = 0.5
sys.argv = ["stockhold", *{arguments!r}]
main()
"""
NEXT_FOLD = versions.FOLD_VERSION + 1
MARK = 77
NEXT_RELEASE = f"""
import msgspec
import projections.item_fold, projections.versions
projections.versions.FOLD_VERSION = {NEXT_FOLD}
this_fold = projections.item_fold.fold_level
projections.item_fold.fold_level = lambda level, event: msgspec.structs.replace(this_fold(level, event), incoming={MARK})
"""


@dataclass
class Stack:
    """The servers, and processes of both releases on them."""

    url: str
    redis_url: str
    redis: Redis
    runner: str = "projector"
    environment: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *arguments: str, changes: str = "", **environment: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-c", RELEASE.format(changes=changes, arguments=arguments)],
            env={
                **os.environ,
                "STOCKHOLD_EVENT_STORE_URL": self.url,
                "STOCKHOLD_READ_MODEL_URL": self.url,
                "STOCKHOLD_REDIS_URL": self.redis_url,
                **self.environment,
                **environment,
            },
            stdout=subprocess.PIPE,
        )
        self.started.append(process)
        return process

    async def finished(self, *arguments: str, changes: str = "") -> dict[str, object]:
        """The answer of a command that must do its work."""
        out, _ = await asyncio.to_thread(self.start(*arguments, "--json", changes=changes).communicate, timeout=100)
        facts: dict[str, object] = json.loads(out.splitlines()[-1])
        return facts

    async def keeper(self, changes: str = "") -> subprocess.Popen[bytes]:
        """Whoever keeps the views, a projector or a worker, ready: it follows, or stands by."""
        return await self.process(self.runner, changes)

    async def process(self, name: str, changes: str = "") -> subprocess.Popen[bytes]:
        port = free_server_port()
        process = self.start("process", name, changes=changes, STOCKHOLD_MONITOR_PORT=str(port))

        async def ready() -> bool:
            assert process.poll() is None
            return await asyncio.to_thread(_status, port, "/readyz") == 200

        await eventually_async(ready, timeout_s=60, what=f"{name} being ready")
        return process

    async def generations(self) -> list[Generation]:
        async with await generations.connect(self.url) as connection:
            return await generations.generations(connection)

    async def read(self) -> Generation | None:
        async with await generations.connect(self.url) as connection:
            return await generations.current(connection)

    async def level(self, generation: Generation) -> tuple[int, int] | None:
        """(on hand, what the next release's fold writes) of the one item."""
        rows = read_views(self.url, generation.schema)["stock_levels"]
        return (rows[0]["on_hand"], rows[0]["incoming"]) if rows else None


def _status(port: int, path: str) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


@pytest.fixture
async def stack(database_url: str, redis_url: str) -> AsyncIterator[Stack]:
    async with connect_redis(redis_url) as redis:
        stack = Stack(database_url, redis_url, redis)
        try:
            yield stack
        finally:
            for process in stack.started:
                process.kill()
                process.communicate()


class Reading:
    """Somebody who reads the item again and again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._over = asyncio.Event()
        self.answers: list[tuple[int, int]] = []

    async def run(self) -> None:
        connection = Connection(*await asyncio.open_connection("127.0.0.1", self._port))
        while not self._over.is_set():
            reply = await connection.ask("GET", "/v1/availability/A")
            self.answers.append((reply.status, reply.json["warehouses"][0]["on_hand"] if reply.status == 200 else -1))
        await connection.close()

    async def has_gone_on(self) -> None:
        before = len(self.answers)
        await eventually_async(lambda: len(self.answers) > before + 20)

    def end(self) -> None:
        self._over.set()


@pytest.mark.parametrize("runner", ["projector", pytest.param("worker-1", marks=pytest.mark.kafka)])
async def test_a_changed_fold_is_deployed_beside_the_old_one_while_reads_go_on(
    stack: Stack, runner: str, request: pytest.FixtureRequest
) -> None:
    if runner == "worker-1":
        stack.runner = runner
        stack.environment["STOCKHOLD_KAFKA_SERVERS"] = request.getfixturevalue("kafka")
        stack.environment["STOCKHOLD_KAFKA_PREFIX"] = request.getfixturevalue("kafka_prefix")
        await stack.process("relay")
    log = LogWriter(stack.url)
    log.happened("A", "W1", registered(), restocked(1))
    old = await stack.keeper()
    (first,) = await stack.generations()
    await eventually_async(lambda: stack.level(first), what="the first views")
    new = await stack.keeper(NEXT_RELEASE)  # it stands by: what there is is not of its fold
    assert await stack.generations() == [first]
    async with open_read_api(read_settings(stack.url, stack.redis_url)) as api, serving(api, api.fast_routes) as port:
        reading = Reading(port)
        task = asyncio.create_task(reading.run())
        await reading.has_gone_on()

        built = await stack.finished("rebuild", "--no-verify", "--jobs", "1", changes=NEXT_RELEASE)
        assert built["generation"] == 2
        second = await stack.read()
        assert second is not None
        assert (second.number, second.fold_version, first.fold_version) == (2, NEXT_FOLD, versions.FOLD_VERSION)
        log.happened("A", "W1", restocked(1))
        await each_has(stack, {first: (2, 0), second: (2, MARK)})
        await reading.has_gone_on()

        old.kill()
        old.wait()
        log.happened("A", "W1", restocked(1))
        await each_has(stack, {first: (2, 0), second: (3, MARK)})  # nobody but its own release writes it
        await stack.keeper()
        await each_has(stack, {first: (3, 0), second: (3, MARK)})
        assert (await stack.finished("rebuild", "--switch-back", changes=NEXT_RELEASE))["generation"] == 1
        assert await stack.read() == first
        assert (await stack.finished("rebuild", "--switch-back"))["generation"] == 2
        await reading.has_gone_on()
        assert await stack.finished("rebuild", "--retire", changes=NEXT_RELEASE) == {"generation": 2, "retired": [1]}
        log.happened("A", "W1", restocked(1))
        await each_has(stack, {second: (4, MARK)})

        async def seen() -> bool:
            return reading.answers[-1] == (200, 4)

        await eventually_async(seen, what="the reader seeing what the new release wrote")
        reading.end()
        await task
    assert {status for status, _ in reading.answers} == {200}
    assert is_running(new.pid)
    assert await stack.generations() == [second]


async def each_has(stack: Stack, wanted: dict[Generation, tuple[int, int]]) -> None:
    async def found() -> bool:
        return {generation: await stack.level(generation) for generation in wanted} == wanted

    await eventually_async(found, timeout_s=30, what=f"{list(wanted.values())}")


async def test_views_that_nobody_keeps_are_not_switched_back_to(stack: Stack) -> None:
    log = LogWriter(stack.url)
    log.happened("A", "W1", registered(), restocked(1))
    await stack.finished("rebuild", "--no-verify", "--jobs", "1", changes=NEXT_RELEASE)
    await stack.keeper()
    assert (await stack.finished("rebuild", "--no-verify", "--jobs", "1"))["generation"] == 2
    log.happened("A", "W1", restocked(1))
    changes = "import projections.rebuild; projections.rebuild.SWITCH_PATIENCE_S = 0.3"
    refused = stack.start("rebuild", "--switch-back", changes=changes)
    assert await asyncio.to_thread(refused.wait, 60) == 1
    read = await stack.read()
    assert read is not None
    assert read.number == 2
    nonetheless = await stack.finished("rebuild", "--switch-back", "--no-verify")
    assert nonetheless["generation"] == 1


KILLED = """
import projections.{module} as module
original = module.{function}
async def killed(*arguments, **keywords):
    {when}
    os.kill(os.getpid(), signal.SIGKILL)
module.{function} = killed
"""


@pytest.mark.parametrize(
    ("module", "function", "after"),
    [
        ("rebuild", "_fill", True),
        ("rebuild", "_caught_up", True),  # live, in both stores, and never verified
        ("generations", "remove_generation", False),  # in the middle of dropping what was read before
        ("generations", "remove_generation", True),
    ],
)
async def test_a_rebuild_that_was_killed_leaves_nothing_to_the_next(
    stack: Stack, module: str, function: str, after: bool
) -> None:
    log = LogWriter(stack.url)
    for number in range(30):
        log.happened(f"S{number}", "W1", registered(), restocked(1))
    servers = Servers(stack.url, stack.url, stack.redis)
    first = (await rebuild(servers, jobs=1)).generation
    when = "await original(*arguments, **keywords)" if after else ""
    changes = KILLED.format(module=module, function=function, when=when)
    wanted = ["rebuild", "--no-verify", "--jobs", "1"]
    if function == "remove_generation":
        wanted += ["--build", "--retire"]
    process = stack.start(*wanted, changes=changes)
    assert await asyncio.to_thread(process.wait, 60) == -9
    assert len(await stack.generations()) == 2

    async def again() -> Generation | None:
        try:
            return (await rebuild(servers, jobs=1)).generation
        except generations.RebuildRunning:  # the server has not noticed yet that the other one is dead
            return None

    built = await eventually_async(again, timeout_s=60)
    assert built is not None
    assert await stack.read() == built
    await retire(servers)
    assert await stack.generations() == [built]
    assert first != built
    with psycopg.connect(stack.url) as connection:
        schemas = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'stockhold_views_g%'")
        assert schemas.fetchall() == [(built.schema,)]
    keys = [key.decode() async for key in stack.redis.scan_iter()]
    assert {key.split(":")[0] for key in keys} == {built.redis_prefix}
    assert len((await read_cache(stack.redis, built.redis_prefix)).levels) == 30


async def test_who_keeps_a_generation_is_seen_by_its_locks(stack: Stack) -> None:
    projector = await stack.keeper()
    (first,) = await stack.generations()
    async with await generations.connect(stack.url) as connection:
        assert await kept_partitions(connection, first) == set(range(first.partitions))
        projector.kill()
        projector.wait()

        async def nobody() -> bool:
            return await kept_partitions(connection, first) == frozenset()

        await eventually_async(nobody)


async def test_a_retry_passes_over_what_only_a_release_that_is_gone_could_do(stack: Stack) -> None:
    log = LogWriter(stack.url)
    log.happened("A", "W1", registered(), restocked(1))
    log.append_poison("stock:A@W1")
    await stack.finished("rebuild", "--no-verify", "--jobs", "1", changes=NEXT_RELEASE)
    servers = Servers(stack.url, stack.url, stack.redis)
    await rebuild(servers, jobs=1)
    healed, still = await retry_parked(servers, timeout_s=30)
    assert (healed, [parked.generation for parked in still]) == (0, [2])
    assert {parked.generation for parked in await parked_streams(servers)} == {1, 2}


async def test_keys_that_could_not_be_removed_are_removed_by_the_next_run(stack: Stack) -> None:
    servers = Servers(stack.url, stack.url, stack.redis)
    LogWriter(stack.url).happened("A", "W1", registered())
    first = (await rebuild(servers, jobs=1)).generation
    second = (await rebuild(servers, jobs=1)).generation
    async with connect_redis("redis://127.0.0.1:1/0") as nowhere:
        assert await retire(Servers(stack.url, stack.url, nowhere)) == [first]
    assert [(each.number, each.state) for each in await stack.generations()] == [(1, "dropping"), (2, "live")]
    assert (await read_cache(stack.redis, first.redis_prefix)).filled
    await retire(servers)
    assert await stack.generations() == [second]
    assert {key.decode().split(":")[0] async for key in stack.redis.scan_iter()} == {second.redis_prefix}
