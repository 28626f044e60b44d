"""`stockhold up`: the whole stack on this machine until Ctrl-C."""

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli.shared import EXIT_USAGE, JsonOption, Refusal, answer, load_settings

if TYPE_CHECKING:
    from infra.embedded.stack import StackInfo, StackOptions
    from infra.embedded.supervisor import ProcessInfo


def up(
    data: Annotated[Path | None, typer.Option(help="Folder for the data. Default: in your state folder.")] = None,
    host: Annotated[str, typer.Option(help="Address that the APIs listen on.")] = "127.0.0.1",
    command_port: Annotated[int, typer.Option(min=0, max=65_535, help="Port of the command API; 0: any.")] = 8000,
    read_port: Annotated[int, typer.Option(min=0, max=65_535, help="Port of the read API; 0: any.")] = 8001,
    command_processes: Annotated[int, typer.Option(min=0, help="Processes behind the command API; 0: none.")] = 1,
    read_processes: Annotated[int, typer.Option(min=0, help="Processes behind the read API; 0: none.")] = 1,
    kafka: Annotated[
        bool,
        typer.Option("--kafka", help="With Kafka between the log and the views, and orders coming in through it."),
    ] = False,
    worker_processes: Annotated[int, typer.Option(min=1, help="Faust workers that keep the views, with Kafka.")] = 1,
    insecure_listen: Annotated[
        bool,
        typer.Option("--insecure-listen", help="Allow a --host that others can reach: there is no authentication."),
    ] = False,
    without: Annotated[
        list[str] | None,
        typer.Option(help="Leave out a role such as projector or read-api (for benchmarks).", hidden=True),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Run the whole stack on this machine until Ctrl-C.

    PostgreSQL and Valkey are started too, each unless its address is in the environment: STOCKHOLD_EVENT_STORE_URL
    (STOCKHOLD_READ_MODEL_URL if the views are to live elsewhere), STOCKHOLD_REDIS_URL. So is Kafka with --kafka, unless
    STOCKHOLD_KAFKA_SERVERS names its brokers, which are then used with --kafka and without.
    """
    from infra.embedded.folder import default_data_dir
    from infra.embedded.ports import is_loopback
    from infra.embedded.stack import ROLES, StackOptions
    from infra.embedded.supervisor import RestartPolicy
    from infra.telemetry import configure_logging

    unknown = set(without or ()) - set(ROLES)
    if unknown:
        raise Refusal(f"--without knows {', '.join(ROLES)}, not {', '.join(sorted(unknown))}", EXIT_USAGE)
    settings = load_settings()
    if worker_processes > 1 and not (kafka or settings.kafka_servers):
        raise Refusal("--worker-processes goes with --kafka: without it one projector keeps the views")
    if not (insecure_listen or settings.insecure_listen) and not is_loopback(host):
        raise Refusal(
            f"{host} can be reached from other machines and there is no authentication yet: add --insecure-listen"
        )
    configure_logging("supervisor", settings.log_level)
    options = StackOptions(
        data_dir=data or default_data_dir(),
        host=host,
        command_port=command_port,
        read_port=read_port,
        command_processes=command_processes,
        read_processes=read_processes,
        roles=frozenset(ROLES) - set(without or ()),
        event_store_url=settings.event_store_url,
        read_model_url=settings.read_model_url,
        redis_url=settings.redis_url,
        worker_processes=worker_processes,
        kafka=kafka,
        kafka_servers=settings.kafka_servers,
        kafka_jars=settings.kafka_jars,
        policy=RestartPolicy(silence_max_s=settings.stall_s),
    )
    asyncio.run(_run(options, settings.lifeline_fd, as_json=json))


async def _run(options: "StackOptions", lifeline_fd: int | None, *, as_json: bool) -> None:
    from infra.embedded.stack import Stack

    stop, hurry = asyncio.Event(), asyncio.Event()

    def ordered_to_stop() -> None:
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    # SIGHUP as well: the terminal was closed.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, ordered_to_stop)
    if lifeline_fd is not None:
        _stop_at_end_of(lifeline_fd, stop)

    def ready(process: "ProcessInfo", url: str | None) -> None:
        if not as_json:
            print(f"{process.name:<16} ready  pid {process.pid:<8} {url or ''}".rstrip(), flush=True)

    def is_up(info: "StackInfo") -> None:
        outside = options.event_store_url and options.redis_url and (options.kafka_servers or not options.kafka)
        answer(info.as_json(), _summary(info, None if outside else options.data_dir), as_json=as_json)

    await Stack(options, on_ready=ready, on_up=is_up).run(stop, hurry)


def _stop_at_end_of(lifeline_fd: int, stop: asyncio.Event) -> None:
    """A program that started us holds the other end of this pipe: its end means that nobody wants this stack any more."""
    loop = asyncio.get_running_loop()

    def readable() -> None:
        if not os.read(lifeline_fd, 1):
            loop.remove_reader(lifeline_fd)
            stop.set()

    loop.add_reader(lifeline_fd, readable)


def _summary(info: "StackInfo", data_dir: Path | None) -> str:
    lines = ["", "Stockhold is up."]
    for what, url in (("command API", info.command_url), ("read API", info.read_url)):
        if url is not None:
            lines.append(f"  {what:<12} {url}    (its documentation: {url}/docs)")
    if info.kafka is not None:
        lines.append(f"  {'Kafka':<12} {info.kafka}")
    if data_dir is not None:
        lines.append(f"  {'data':<12} {data_dir}")
    return "\n".join([*lines, "Ctrl-C stops it.", ""])
