"""Clients of a running stack that keep books: every command that was sent, with its key, and what was answered.

    async with connected(up.facts["command_url"]) as door:
        reply = await door.post("/v1/reservations", {"order_id": "o-1", "lines": [...]}, key="k-1")

A `Door` never repeats by itself: what was not answered stays so until the test sends it again. `Books` send through
doors, and tell afterwards which commands were answered and which were not.
"""

import asyncio
import logging
import os
import random
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import msgspec
import psutil

from tests.command_api import Connection, Reply

log = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 30.0
"""Longer than a command may be tried, and than a killed process takes to be back."""


BATCH = 1_000
"""Orders in one request at most."""
THINK_S = 0.2
"""The longest that a customer thinks before an order: what is tested is what happens to them, not how many there can be."""


class Unanswered(Exception):
    """The connection ended, or time ran out, before an answer came: whatever was sent may have happened or not."""


class Door:
    """One connection to an API, opened when it is needed and again after it broke."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)
        self._connection: Connection | None = None

    async def ask(
        self,
        method: str,
        target: str,
        body: Any = None,
        *,
        key: str | None = None,
        headers: Sequence[tuple[str, str]] = (),
    ) -> Reply:
        """The answer to one request; `body` is bytes as they are, or made into JSON. Raises Unanswered."""
        content = body if body is None or isinstance(body, bytes) else msgspec.json.encode(body)
        named = [*headers, *([("idempotency-key", key)] if key is not None else [])]
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                reply = await (await self._connected()).ask(method, target, content, named)
        except (OSError, EOFError, TimeoutError) as error:  # EOFError: asyncio.IncompleteReadError is one
            await self.close()
            raise Unanswered(f"{method} {target}: {error!r}") from error
        if reply.headers.get("connection") == "close":
            await self.close()
        return reply

    async def get(self, target: str) -> Reply:
        return await self.ask("GET", target)

    async def post(self, target: str, body: Any = None, *, key: str | None = None) -> Reply:
        return await self.ask("POST", target, body, key=key)

    async def put(self, target: str, body: Any, *, key: str | None = None) -> Reply:
        return await self.ask("PUT", target, body, key=key)

    async def _connected(self) -> Connection:
        if self._connection is None:
            host, port = self._address.hostname, self._address.port
            self._connection = Connection(*await asyncio.open_connection(host, port, limit=1 << 26))
        return self._connection

    def served_by(self, pids: Iterable[int]) -> int | None:
        """Which of these processes has accepted the connection; None if none of them has."""
        if self._connection is None:
            return None
        port = self._connection.writer.get_extra_info("sockname")[1]
        for pid in pids:
            if any(one.raddr and one.raddr.port == port for one in psutil.Process(pid).net_connections("tcp")):
                return pid
        return None

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
            with suppress(OSError):
                await connection.writer.wait_closed()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Door]:
    """A door that is closed at the end of the block."""
    door = Door(url)
    try:
        yield door
    finally:
        await door.close()


@asynccontextmanager
async def doors_to_each(url: str, pids: Sequence[int], attempts: int = 400) -> AsyncIterator[list[Door]]:
    """A door to each of the processes that share an address: connections are opened until every one has accepted some."""
    async with AsyncExitStack() as opened:
        found: dict[int, Door] = {}
        for _ in range(attempts):
            door = await opened.enter_async_context(connected(url))
            assert (await door.get("/healthz")).status == 200
            pid = door.served_by(pids)
            if pid is not None:
                found.setdefault(pid, door)
            if len(found) == len(pids):
                break
        assert len(found) == len(pids), f"only {len(found)} of {len(pids)} processes accept connections"
        yield [found[pid] for pid in pids]


def seed() -> int:
    """What a test draws its chances from: always the same, unless STOCKHOLD_TEST_SEED names another."""
    number = int(os.environ.get("STOCKHOLD_TEST_SEED", "20261121"))
    log.warning("seed %d", number)
    return number


# Books -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Entry:
    """One command and what came of it. `reply` is None, or a 503, as long as nobody knows."""

    key: str
    method: str
    target: str
    body: Any
    reply: Reply | None = None

    @property
    def answered(self) -> bool:
        """Whether the outcome of a decision came back, and for a batch that of every item."""
        if self.reply is None or self.reply.status == 503:
            return False
        return not self.is_batch or all(result["status"] != 503 for result in self.reply.json["results"])

    @property
    def is_batch(self) -> bool:
        return self.target.endswith(":batch")


@dataclass
class Books:
    """Everything that was sent. `name` begins every key, so that books of several tests do not meet."""

    name: str
    entries: list[Entry] = field(default_factory=list)

    async def send(self, door: Door, method: str, target: str, body: Any = None) -> Entry:
        """Send one command, once, and write down what was answered, if anything was."""
        entry = Entry(f"{self.name}-{len(self.entries) + 1}", method, target, body)
        self.entries.append(entry)
        await self._try(door, entry)
        return entry

    async def _try(self, door: Door, entry: Entry) -> None:
        with suppress(Unanswered):
            entry.reply = await door.ask(entry.method, entry.target, entry.body, key=entry.key)

    @property
    def answered(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.answered]

    @property
    def unanswered(self) -> list[Entry]:
        return [entry for entry in self.entries if not entry.answered]

    async def settle(self, door: Door) -> list[Entry]:
        """Send every unanswered command again, under its key, until it is answered; those commands."""
        again = self.unanswered
        for entry in again:
            async with asyncio.timeout(60):
                while not entry.answered:
                    await self._try(door, entry)
        return again


# A shop ----------------------------------------------------------------------------------------------


@dataclass
class Shop:
    """A few items at a few warehouses, and customers who order, pay, change their minds, and look.

    What a customer does is drawn from `draw`, whose seed the test prints; when it happens is the machine's.
    """

    books: Books
    command_url: str
    read_url: str
    skus: Sequence[str]
    warehouses: Sequence[str]
    draw: random.Random
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    reads: int = 0
    reads_refused: int = 0

    async def open(self, units: int) -> None:
        """Build the warehouses and stock every item in each."""
        async with connected(self.command_url) as door:
            for code in self.warehouses:
                entry = await self.books.send(door, "PUT", f"/v1/warehouses/{code}", {"name": f"House {code}"})
                assert entry.reply is not None
                assert entry.reply.status in {200, 201}, entry.reply.raw
            for sku in self.skus:
                for code in self.warehouses:
                    await self._restock(door, sku, code, units)

    @asynccontextmanager
    async def busy(self, customers: int) -> AsyncIterator[None]:
        """Customers for as long as the block lasts; at its end each finishes what is under way.

        What a customer was surprised by is raised there.
        """
        shopping = asyncio.create_task(self._run(customers))
        try:
            yield
        finally:
            self.stop.set()
            await shopping

    async def _run(self, customers: int) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(customers):
                group.create_task(self._shop(random.Random(self.draw.random())))

    async def rush(self, sku: str) -> None:
        """As many orders for one item as the batch door takes, in one request."""
        orders = [
            {
                "order_id": f"{self.books.name}-rush",
                "lines": [{"sku": sku, "warehouse": self.draw.choice(self.warehouses), "quantity": 1}],
            }
            for _ in range(BATCH)
        ]
        async with connected(self.command_url) as door:
            await self.books.send(door, "POST", "/v1/reservations:batch", {"reservations": orders})

    async def _restock(self, door: Door, sku: str, code: str, units: int) -> None:
        await self.books.send(door, "POST", f"/v1/stock/{sku}/{code}/restock", {"quantity": units})

    async def _shop(self, draw: random.Random) -> None:
        async with connected(self.command_url) as door, connected(self.read_url) as window:
            while not self.stop.is_set():
                await asyncio.sleep(draw.uniform(0, THINK_S))
                if draw.random() < 0.1:
                    await self._restock(door, draw.choice(self.skus), draw.choice(self.warehouses), draw.randint(1, 5))
                else:
                    await self._order(door, window, draw)

    async def _order(self, door: Door, window: Door, draw: random.Random) -> None:
        lines = [
            {"sku": sku, "quantity": draw.randint(1, 3)}
            | ({"warehouse": draw.choice(self.warehouses)} if draw.random() < 0.5 else {})
            for sku in draw.sample(self.skus, draw.randint(1, min(3, len(self.skus))))
        ]
        number = len(self.books.entries) + 1
        body = {"order_id": f"{self.books.name}-o{number}", "ttl_seconds": draw.randint(1, 3), "lines": lines}
        if draw.random() < 0.5:
            body["reservation_id"] = f"{self.books.name}-r{number}"
        made = await self.books.send(door, "POST", "/v1/reservations", body)
        if made.reply is None or made.reply.status != 201:
            return
        await self._look(window, made.reply.json)
        target = f"/v1/reservations/{made.reply.json['reservation_id']}"
        for step in draw.choice([(), ("commit", "ship"), ("commit", "cancel"), ("release",), ("extend", "commit")]):
            said = {"ttl_seconds": 2} if step == "extend" else None
            await self.books.send(door, "POST", f"{target}/{step}", said)

    async def _look(self, window: Door, made: dict[str, Any]) -> None:
        """A customer who asks for what was just made gets it, or an honest 503: nothing older, and never a 404."""
        versions = versions_of(made)
        wanted = "&".join(f"min_version={item}:{version}" for item, version in versions.items())
        with suppress(Unanswered):
            reply = await window.get(f"/v1/reservations/{made['reservation_id']}?{wanted}")
            self.reads += 1
            if reply.status == 503:
                self.reads_refused += 1
                return
            assert reply.status == 200, reply.raw
            seen = versions_of(reply.json)
            assert all(seen[item] >= version for item, version in versions.items()), (versions, seen)


def versions_of(reservation: dict[str, Any]) -> dict[str, int]:
    """The version that each item of a reservation had when it was last touched, as `min_version` names it."""
    return {
        f"{line['sku']}@{part['warehouse']}": part["version"]
        for line in reservation["lines"]
        for part in line["allocations"]
    }
