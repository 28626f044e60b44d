"""Public messages in memory: what a history makes of them, and a publisher's tables as dictionaries.

shop = played(history)
tell(shop.log)                    # -> messages, in the order of the log
by_topic(messages)["inventory.reserved"]
"""

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import psycopg

from domain.events import Event, StockEvent
from infra.event_store.log_reader import LogReader
from projections.public.cloud_events import Envelopes, PublicMessage
from projections.public.messages import messages_of
from projections.public.publisher import MessageRefused, Publisher
from projections.public.refusals import RefusalReader
from projections.public.store import PublicStore
from projections.public.stream_fold import StreamFold

ENVELOPES = Envelopes("/stockhold")


def tell(events: Iterable[Event], envelopes: Envelopes = ENVELOPES) -> list[PublicMessage]:
    """What others are told of ``events``, each stream from its beginning."""
    folds: dict[str, StreamFold] = {}
    told: list[PublicMessage] = []
    for event in events:
        if isinstance(event, StockEvent):
            told += messages_of(folds.setdefault(event.originator_id, StreamFold()).apply(event), envelopes)
    return told


def body(message: PublicMessage) -> dict[str, Any]:
    """The CloudEvent as a consumer reads it."""
    decoded: dict[str, Any] = json.loads(message.value)
    return decoded


def by_topic(messages: Iterable[PublicMessage]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for message in messages:
        found.setdefault(message.topic, []).append(body(message))
    return found


def first_of_each(messages: Iterable[PublicMessage]) -> list[PublicMessage]:
    """As a consumer that drops what it has seen, by source and id, sees them."""
    seen: dict[tuple[str, str], PublicMessage] = {}
    for message in messages:
        seen.setdefault((message.source, message.id), message)
    return list(seen.values())


def of_each_item(messages: Iterable[PublicMessage]) -> dict[str, list[PublicMessage]]:
    """Those of each stock item, in their order. (Those of an order may come from several items, in any order of these.)"""
    found: dict[str, list[PublicMessage]] = {}
    for message in messages:
        item, separator, _ = message.id.partition("#")
        if separator and item.startswith("stock:"):
            found.setdefault(item, []).append(message)
    return found


class Recorder:
    """A sink that keeps what it is sent. ``refused``: ids of messages that it never takes.

    ``dies``: whoever sends to it never hears that it has taken all.
    """

    def __init__(self) -> None:
        self.sent: list[PublicMessage] = []
        self.refused: set[str] = set()
        self.dies = False

    async def publish(self, messages: Sequence[PublicMessage]) -> None:
        for message in messages:
            if message.id in self.refused:
                raise MessageRefused(f"{message.id} is too large")
            self.sent.append(message)
        if self.dies:
            raise ConnectionError("gone")

    @property
    def updates(self) -> list[str]:
        """The items' versions as they were told: ``stock:A@W1#3``."""
        return [message.id for message in self.sent if message.topic == "inventory.stock-updated"]


class PublicRig:
    """A publisher on a real log and real tables that does nothing unless it is told to; its messages stay here."""

    def __init__(self, url: str, partitions: int = 4) -> None:
        self.url = url
        self.partitions = partitions
        self.sink = Recorder()
        self._open = AsyncExitStack()
        self.store: PublicStore
        self.publisher: Publisher

    async def start(self, *, epoch: int = 1) -> None:
        """Begin a term: everything is read from the tables."""
        log = await LogReader.connect(self.url)
        self._open.push_async_callback(log.close)
        refusals = await RefusalReader.connect(self.url)
        self._open.push_async_callback(refusals.close)
        self.store = await PublicStore.connect(self.url)
        self._open.push_async_callback(self.store.close)
        self.publisher = Publisher(
            log,
            refusals,
            self.store,
            self.sink,
            Envelopes("/stockhold", epoch),
            epoch=epoch,
            partitions=self.partitions,
        )
        await self.publisher.own(frozenset(range(self.partitions)))

    async def stop(self) -> None:
        """As a crash would: nothing is finished."""
        await self._open.aclose()
        self._open = AsyncExitStack()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def execute(self, statement: str, *params: Any) -> list[Any]:
        """Run a statement in the publisher's schema, by somebody else's connection."""
        with psycopg.connect(self.url, options="-c search_path=stockhold_public") as connection:
            cursor = connection.execute(statement, params or None)
            return cursor.fetchall() if cursor.description else []


@asynccontextmanager
async def public_rig(url: str, **more: Any) -> AsyncIterator[PublicRig]:
    rig = PublicRig(url, **more)
    try:
        await rig.start()
        yield rig
    finally:
        await rig.stop()
