"""Producers and consumers as all of our processes make them, what a broker that is away looks like, and quiet logs.

quiet_kafka_loggers()
async with running(lambda: producer(servers, "stockhold-relay")) as sender: ...   # waits for the broker
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Protocol, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError, KafkaTimeoutError, ProducerClosed

from infra.kafka.topics import MESSAGE_BYTES_MAX

PAUSE_FIRST_S: Final = 0.1
PAUSE_MAX_S: Final = 5.0
BATCH_BYTES: Final = 262_144
"""Messages that gather for a partition while the one before is on its way; a larger message goes alone."""
LET_GO_S: Final = 1.0
LINES_FIRST: Final = 3
LINES_EVERY_S: Final = 10.0

log = logging.getLogger(__name__)


class BrokerAway(Exception):
    """No broker answers, or none that can do what was asked; it may be there in a moment."""


class Startable(Protocol):
    """What aiokafka's clients have in common."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


T = TypeVar("T")
C = TypeVar("C", bound=Startable)


def producer(servers: str, client_id: str, **more: Any) -> AIOKafkaProducer:
    """Not started. A message that it acknowledged is with every copy, once, and in the order in which it was sent."""
    options: dict[str, Any] = {
        "enable_idempotence": True,
        "acks": "all",
        "linger_ms": 0,
        "max_batch_size": BATCH_BYTES,
        "max_request_size": MESSAGE_BYTES_MAX,
    }
    return AIOKafkaProducer(bootstrap_servers=servers, client_id=client_id, **(options | more))


def consumer(servers: str, group: str | None, client_id: str, **more: Any) -> AIOKafkaConsumer:
    """Not started and not subscribed. It begins at the oldest message and commits nothing by itself."""
    options: dict[str, Any] = {
        "enable_auto_commit": False,
        "auto_offset_reset": "earliest",
        "session_timeout_ms": 10_000,
        "heartbeat_interval_ms": 3_000,
    }
    return AIOKafkaConsumer(bootstrap_servers=servers, group_id=group, client_id=client_id, **(options | more))


def is_away(error: BaseException) -> bool:
    """Whether the same may succeed when it is tried again: the broker, its leader or its coordinator is not there."""
    if isinstance(error, KafkaError):
        return error.retriable or isinstance(error, KafkaTimeoutError)
    return isinstance(error, BrokerAway | OSError | TimeoutError)


async def until_reachable(attempt: Callable[[], Awaitable[T]], servers: str, *, pause_s: float = PAUSE_FIRST_S) -> T:
    """What `attempt` gives, tried again after growing pauses (`pause_s` to 5 s) for as long as the broker is away.

    Says so once, and when it is over. Every other error is raised. Ends early only by being cancelled.
    """
    away_since_s = None
    while True:
        try:
            result = await attempt()
        except Exception as error:
            if not is_away(error):
                raise
            if away_since_s is None:
                away_since_s = time.monotonic()
                log.warning(
                    "Kafka at %s (STOCKHOLD_KAFKA_SERVERS) is away, trying again until it is there: %s", servers, error
                )
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSE_MAX_S)
        else:
            if away_since_s is not None:
                log.info("Kafka at %s is there after %.1f s", servers, time.monotonic() - away_since_s)
            return result


@asynccontextmanager
async def running(make: Callable[[], C], servers: str) -> AsyncIterator[C]:
    """A client of ours, started as soon as a broker is there, stopped at the end of the block."""

    async def started() -> C:
        client = make()
        try:
            await client.start()
        except BaseException:
            await end(client)
            raise
        return client

    client = await until_reachable(started, servers)
    try:
        yield client
    except BaseException:
        # Nobody waits for what is still on its way.
        await (let_go(client) if isinstance(client, AIOKafkaProducer) else end(client))
        raise
    await end(client)


async def end(client: Startable) -> None:
    """Stop a client, also one whose broker is away; a producer then waits until its messages are acknowledged.

    A consumer's own ``stop`` falls over a fetch that it has cancelled itself, and leaves its connections open.
    """
    stopping = asyncio.ensure_future(client.stop())
    await asyncio.wait([stopping])
    if stopping.cancelled() and isinstance(client, AIOKafkaConsumer):
        if fetches := client._fetcher._pending_tasks:
            for fetch in fetches:
                fetch.cancel()
            await asyncio.wait(fetches)
        await client._client.close()
    else:
        stopping.result()


async def let_go(sender: AIOKafkaProducer) -> None:
    """Stop a producer now, acknowledged or not.

    Its own ``stop`` waits until everything is acknowledged, for ever if need be, and tries on meanwhile.
    """
    sending = sender._sender.sender_task
    while sending is not None and not sending.done():
        sending.cancel()  # the first time it waits for the request that is under way, the second it does not
        await asyncio.wait([sending], timeout=LET_GO_S)
    sender._message_accumulator.fail_all(ProducerClosed())
    with suppress(KafkaError):
        await sender.stop()


async def all_or_first_error(sends: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run all of them to their ends, side by side, and then raise the first of their errors, if there is one."""
    for result in await asyncio.gather(*sends, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


class RateLimit(logging.Filter):
    """Lets the first lines of each log statement pass, then one in a while, with the number of those left out."""

    def __init__(
        self, first: int = LINES_FIRST, every_s: float = LINES_EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._first, self._every_s, self._clock = first, every_s, clock
        self.left_out = 0
        """In all."""
        self._passed: dict[tuple[str, int], tuple[float, int, int]] = {}
        """By statement: when its last line passed, lines that passed in this burst, lines left out since."""

    def filter(self, record: logging.LogRecord) -> bool:
        statement, now_s = (record.pathname, record.lineno), self._clock()
        last_s, passed, left_out = self._passed.get(statement, (now_s, 0, 0))
        quiet = now_s - last_s >= self._every_s
        if passed >= self._first and not quiet:
            self._passed[statement] = (last_s, passed, left_out + 1)
            self.left_out += 1
            return False
        if left_out:
            record.msg, record.args = f"{record.getMessage()} (and {left_out:,} more like it)", None
        # A statement that was silent for so long begins a burst of its own; one that was held back does not.
        self._passed[statement] = (now_s, 1 if quiet and not left_out else passed + 1, 0)
        return True


KAFKA_LINES: Final = RateLimit()


def quiet_kafka_loggers() -> None:
    """Limit what aiokafka and Faust's transport write: without a broker they write ten thousand lines a second.

    For every logger of theirs that exists, since a filter does not reach the loggers below its own. May be called twice.
    What Faust tells of its own parts, starting and stopping one by one, is for those who ask for DEBUG.
    """
    for name in sorted(logging.root.manager.loggerDict):
        if name.partition(".")[0] in {"aiokafka", "faust"}:
            logging.getLogger(name).addFilter(KAFKA_LINES)
    if not logging.root.isEnabledFor(logging.DEBUG):
        for name in ("faust", "mode"):
            logging.getLogger(name).setLevel(logging.WARNING)
