"""The composition root: what a process is made of. Nothing else reads settings or opens a connection.

Each function runs one process of the stack until it is told to stop, then lets what is in flight finish.
"""

import asyncio
import gc
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from infra.event_store.postgres import PostgresEventStore
from infra.health import Health
from infra.http_server import bound_socket, listening_socket, serve
from infra.kafka.clients import quiet_kafka_loggers
from infra.kafka.topics import Topics
from infra.monitor import monitored, works
from infra.process import announce_ready, until_stopped
from infra.redis import connect_redis
from infra.settings import Settings
from projections import projector
from projections.follower import FollowerOptions
from projections.lane import Ready, Servers
from read_api.app import open_read_api
from write_side.api.app import create_command_api
from write_side.executor import CommandExecutor
from write_side.sweeper import Sweeper

if TYPE_CHECKING:
    from write_side.relay import RelayOptions

_GC_BATCHES = (25_000, 5, 10)
"""What a batch makes is gone when it has been dealt with: looked at before, it would be walked in vain, twice."""
_GC_CACHES = (10_000, 1, 1)

KeepViews = Callable[[Servers, asyncio.Event, Ready, FollowerOptions, Health], Coroutine[Any, Any, None]]


def create_executor(settings: Settings) -> CommandExecutor:
    """An executor on the event store that the settings name; ``start`` it, and ``drain`` it at the end."""
    store = PostgresEventStore(
        settings.event_store_url,
        lock_timeout_ms=settings.lock_timeout_ms,
        idle_in_transaction_timeout_ms=settings.idle_in_transaction_timeout_ms,
        connect_timeout_s=settings.connect_timeout_s,
    )
    return CommandExecutor(store, settings)


async def run_command_api(settings: Settings) -> None:
    """The command API: HTTP in front of an executor."""
    executor = create_executor(settings)
    await executor.start()
    api = create_command_api(executor, settings)
    settle_memory(caches=True)
    await serve(
        api.app,
        _listener(settings, settings.command_port),
        until=until_stopped(),
        fast_routes=api.fast_routes,
        on_ready=lambda: announce_ready(settings),
        grace_s=settings.drain_timeout_s,
    )
    with suppress(TimeoutError):
        async with asyncio.timeout(settings.drain_timeout_s):
            await executor.drain()


async def run_sweeper(settings: Settings) -> None:
    """The sweeper, which releases what has expired."""
    async with monitored(settings) as health:
        executor = create_executor(settings)
        await executor.start()
        sweeper = Sweeper(executor, settings, settings)
        sweeping = asyncio.ensure_future(sweeper.run(works(settings, health), health))
        await _until_stopped_or_failed(sweeping)
        await executor.drain()


async def run_projector(settings: Settings) -> None:
    """The projection: follows the log and keeps the views."""
    await _keep_views(settings, projector.run_projector)


async def run_worker(settings: Settings) -> None:
    """A worker: keeps its share of the views, as Kafka assigns it."""
    from projections import worker  # with Faust, which nobody but a worker and a publisher should have to load

    quiet_kafka_loggers()
    feed = worker.Feed(
        servers=settings.kafka_servers,
        topics=_topics(settings),
        replication=settings.kafka_replication,
        client_id=settings.process_name,
        stall_s=settings.stall_s,
    )
    await _keep_views(settings, partial(worker.run_worker, feed=feed))


async def _keep_views(settings: Settings, run: KeepViews) -> None:
    """Run a projector or a worker until it is told to stop."""
    stop = asyncio.Event()
    async with monitored(settings) as health, connect_redis(settings.redis_url) as redis:
        servers = Servers(
            settings.event_store_url,
            settings.read_model_url,
            redis,
            settings.connect_timeout_s,
            settings.kafka_partitions,
        )
        options = FollowerOptions(
            batch=settings.projection_batch,
            poll_s=settings.projection_poll_ms / 1000,
            reconcile_s=settings.reconcile_interval_ms / 1000,
            reconcile_lag_s=settings.reconcile_lag_ms / 1000,
            refill_rows=settings.refill_batch,
        )
        settle_memory()
        await _in_peace(run(servers, stop, works(settings, health), options, health), stop)


async def run_intake(settings: Settings) -> None:
    """The saga's intake: messages from Kafka into an executor of its own."""
    # Here, so that its metrics are shown by no other process.
    from write_side.intake.intake import Intake, IntakeOptions
    from write_side.intake.postgres_store import PostgresIntakeStore

    stop = asyncio.Event()
    async with monitored(settings) as health:
        store = PostgresIntakeStore(
            settings.event_store_url,
            retry_s=settings.intake_retry_ms / 1000,
            wait_s=settings.intake_wait_hours * 3600,
            connect_timeout_s=settings.connect_timeout_s,
        )
        options = IntakeOptions(
            kafka_servers=settings.kafka_servers,
            topics=_topics(settings),
            replication=settings.kafka_replication,
            client_id=settings.process_name,
            batch=settings.intake_batch,
            drain_s=settings.drain_timeout_s,
        )
        executor = create_executor(settings)
        await executor.start()
        settle_memory(caches=True)
        try:
            await _in_peace(Intake(executor, store, options, health).run(stop, works(settings, health)), stop)
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(settings.drain_timeout_s):
                    await executor.drain()
            await store.close()


async def run_read_api(settings: Settings) -> None:
    """The read API over the views."""
    async with open_read_api(settings) as api:
        settle_memory(caches=True)
        await serve(
            api.app,
            _listener(settings, settings.read_port),
            until=until_stopped(),
            fast_routes=api.fast_routes,
            on_ready=lambda: announce_ready(settings),
            grace_s=settings.drain_timeout_s,
        )


async def sweep_now(settings: Settings) -> int:
    """Release everything that is due; how many holds that was."""
    executor = create_executor(settings)
    await executor.start()
    try:
        return await Sweeper(executor, settings, settings).sweep_all()
    finally:
        await executor.drain()


def relay_options(settings: Settings) -> "RelayOptions":
    """Which log the relay of these settings publishes, and to which topic."""
    from write_side.relay import RelayOptions

    topics = _topics(settings)
    return RelayOptions(
        event_store_url=settings.event_store_url,
        kafka_servers=settings.kafka_servers,
        topic=topics.spec_of(topics.stock_events),
        replication=settings.kafka_replication,
        batch_events=settings.relay_batch_events,
        batch_bytes=settings.relay_batch_bytes,
        poll_s=settings.relay_poll_ms / 1000,
        connect_timeout_s=settings.connect_timeout_s,
    )


async def run_relay(settings: Settings) -> None:
    """The relay: publishes the log to Kafka, or stands by while another one does."""
    # Here, so that its metrics are shown by no other process.
    from write_side.relay import Relay
    from write_side.relay_metrics import watch_lag

    quiet_kafka_loggers()
    options = relay_options(settings)
    stop = asyncio.Event()
    async with monitored(settings) as health:
        watching = asyncio.ensure_future(
            watch_lag(options.event_store_url, options.topic.name, timeout_s=options.connect_timeout_s)
        )
        await _in_peace(Relay(options, health).run(stop, works(settings, health)), stop, watching)
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def run_publisher(settings: Settings) -> None:
    """The publisher: derives the public topics from the log."""
    from projections.public import runner  # with Faust, which nobody but a publisher and a worker should have to load
    from projections.public.publisher import PublisherOptions

    publisher = runner.PublisherSettings(
        event_store_url=settings.event_store_url,
        read_model_url=settings.read_model_url,
        kafka_servers=settings.kafka_servers,
        topics=_topics(settings),
        replication=settings.kafka_replication,
        client_id=f"stockhold-{settings.process_name}",
        source=settings.public_source,
        connect_timeout_s=settings.connect_timeout_s,
        stall_s=settings.stall_s,
        options=PublisherOptions(
            reconcile_s=settings.reconcile_interval_ms / 1000, reconcile_lag_s=settings.reconcile_lag_ms / 1000
        ),
    )
    quiet_kafka_loggers()
    stop = asyncio.Event()
    async with monitored(settings) as health:
        settle_memory()
        await _in_peace(runner.run_publisher(publisher, stop, works(settings, health), health), stop)


async def _in_peace(work: Coroutine[Any, Any, None], stop: asyncio.Event, *beside: asyncio.Future[None]) -> None:
    """Work until a signal comes, or the work or what runs ``beside`` it ends by itself; then ``stop`` lets it finish.

    Raises what the work died of.
    """
    working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(until_stopped())
    await asyncio.wait([working, stopping, *beside], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    stop.set()
    await working


async def _until_stopped_or_failed(task: asyncio.Future[None]) -> None:
    """Until a signal comes; a task that ends by itself has failed, and so has the process."""
    stopping = asyncio.ensure_future(until_stopped())
    await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if task.done():
        task.result()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _topics(settings: Settings) -> Topics:
    return Topics(settings.kafka_prefix, settings.kafka_partitions)


def settle_memory(*, caches: bool = False) -> None:
    """What was loaded at the start stays: the collector need never look at it again.

    ``caches``: nor at anything twice. What is still there when it has looked are cached aggregates for the most part, and
    to walk all of those would stall every request for half a second; cycles are made by none of our own objects.
    """
    gc.collect()
    gc.freeze()
    if caches:
        gc.callbacks.append(_freeze_what_is_left)
    gc.set_threshold(*(_GC_CACHES if caches else _GC_BATCHES))


def _freeze_what_is_left(phase: str, _: dict[str, int]) -> None:
    if phase == "stop":
        gc.freeze()


def _listener(settings: Settings, port: int) -> socket.socket:
    if settings.listen_fd is not None:
        return listening_socket(settings.listen_fd)
    return bound_socket(settings.host, port)
