"""Publishing part of the log again, or to the end of it, and waiting until that is done: for an operator."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

from infra.event_store.append_lock import CHANNEL
from infra.event_store.log_reader import LogReader
from infra.event_store.relay_checkpoints import Checkpoint, CheckpointMoved, RelayCheckpoints
from infra.postgres import ConnectionLost, StatementFailed
from write_side.relay import Relay, RelayOptions, adopt
from write_side.relay_publisher import prepare_topic

LOOK_S: Final = 0.1


class BeyondHead(Exception):
    """There is no such position in the log yet."""


class Published(NamedTuple):
    """From where publishing went on, and up to where (positions; the first is not included) it was waited for."""

    after: int
    upto: int


async def publish_to_head(
    options: RelayOptions,
    after: int | None = None,
    begun: Callable[[Published], Callable[[int], object]] = lambda _goal: lambda _passed: None,
) -> Published:
    """Publish what follows position ``after`` (``None``: what is not published yet) up to the head of this moment.

    Whoever leads does it: a relay that runs, else this call. ``begun`` hears from where to where it goes, once that is
    settled; what it gives hears how many positions were passed. Nothing is moved unless the brokers can be reached.
    Raises BeyondHead; BrokerAway or what else ``prepare_topic`` raises; ConnectionLost and StatementFailed if PostgreSQL is
    away at the beginning. Later it waits until either is back.
    """
    await prepare_topic(options.kafka_servers, options.topic, options.replication)
    goal = await _begin(options, after)
    advance = begun(goal)
    stop = asyncio.Event()
    relaying = asyncio.create_task(Relay(options).run(stop))
    watch = _Watch(options)
    position = goal.after
    try:
        while position < goal.upto:
            await asyncio.wait([relaying], timeout=LOOK_S)
            if relaying.done():
                await relaying
            reached = max(position, min(await watch.position(), goal.upto))
            advance(reached - position)
            position = reached
    finally:
        stop.set()
        await watch.close()
        await relaying
    return goal


async def _begin(options: RelayOptions, after: int | None) -> Published:
    """Move the checkpoint; what is to be published then."""
    log = await LogReader.connect(options.event_store_url, timeout_s=options.connect_timeout_s)
    try:
        head = await log.head()
        if after is not None and after > head:
            raise BeyondHead(f"the log ends at position {head}")
        checkpoints = await _connect(options)
        try:
            start = await _adopted(checkpoints, log)
            if after is not None:
                start = await checkpoints.rewind(after, CHANNEL)
            return Published(start.position, head)
        finally:
            await checkpoints.close()
    finally:
        await log.close()


async def _adopted(checkpoints: RelayCheckpoints, log: LogReader) -> Checkpoint:
    while True:
        with suppress(CheckpointMoved):  # by a leader, at this moment
            return await adopt(checkpoints, log)


async def _connect(options: RelayOptions) -> RelayCheckpoints:
    return await RelayCheckpoints.connect(
        options.event_store_url, options.topic.name, timeout_s=options.connect_timeout_s
    )


class _Watch:
    """Looks where the checkpoint is, on a connection that is made again when it is lost."""

    def __init__(self, options: RelayOptions) -> None:
        self._options = options
        self._checkpoints: RelayCheckpoints | None = None

    async def position(self) -> int:
        """-1 while PostgreSQL is away."""
        try:
            if self._checkpoints is None:
                self._checkpoints = await _connect(self._options)
            return (await self._checkpoints.load()).position
        except (ConnectionLost, StatementFailed):
            await self.close()
            return -1

    async def close(self) -> None:
        checkpoints, self._checkpoints = self._checkpoints, None
        if checkpoints is not None:
            await checkpoints.close()
