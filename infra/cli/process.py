"""`stockhold process NAME`: one process of the stack, as its supervisor starts it. Not for typing."""

import importlib
import logging
import re
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import typer

from infra.cli.shared import Refusal, load_settings

# Role -> the function of the composition root that does it until it is told to stop.
RUNNERS = {
    "command-api": "run_command_api",
    "projector": "run_projector",
    "sweeper": "run_sweeper",
    "read-api": "run_read_api",
}
HIDDEN = True
NAME = re.compile(r"(?P<role>[a-z-]+?)(-\d+)?")


def process(name: Annotated[str, typer.Argument(help="A role, with a number if there are several of it.")]) -> None:
    """Run one process of the stack: command-api-1, projector, sweeper, read-api-1, and so on."""
    from infra.process import end_with_supervisor
    from infra.telemetry import configure_logging

    matched = NAME.fullmatch(name)
    if matched is None or matched["role"] not in RUNNERS:
        raise Refusal(f"there is no process {name!r}: the roles are {', '.join(RUNNERS)}")
    settings = load_settings(process_name=name)
    end_with_supervisor(settings)
    configure_logging(name, settings.log_level)
    run: Callable[..., Coroutine[Any, Any, None]] = getattr(
        importlib.import_module("infra.bootstrap"), RUNNERS[matched["role"]]
    )
    try:
        import uvloop

        uvloop.run(run(settings))
    except Exception:
        logging.getLogger(__name__).exception("%s ended by an error", name)
        raise typer.Exit(1) from None
