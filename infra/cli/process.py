"""`stockhold process NAME`: one process of the stack, as its supervisor or a container starts it. Not for typing."""

import logging
import re
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.shared import Refusal, load_settings

if TYPE_CHECKING:
    from infra.settings import Settings

HIDDEN = True
BACKGROUND = {"projector", "sweeper", "relay", "worker", "publisher"}
DOORS = {"command-api", "read-api"}
NAME = re.compile(r"(?P<role>[a-z-]+?)(-\d+)?")


def process(name: Annotated[str, typer.Argument(help="A role, with a number if there are several of it.")]) -> None:
    """Run one process of the stack: command-api-1, projector, sweeper, read-api-1, and so on."""
    from infra import bootstrap
    from infra.process import end_with_supervisor, step_back
    from infra.telemetry import configure_logging

    runners: dict[str, Callable[[Settings], Coroutine[Any, Any, None]]] = {
        "command-api": bootstrap.run_command_api,
        "projector": bootstrap.run_projector,
        "sweeper": bootstrap.run_sweeper,
        "read-api": bootstrap.run_read_api,
        "relay": bootstrap.run_relay,
        "publisher": bootstrap.run_publisher,
        "intake": bootstrap.run_intake,
        "worker": bootstrap.run_worker,
    }
    matched = NAME.fullmatch(name)
    if matched is None or matched["role"] not in runners:
        raise Refusal(f"there is no process {name!r}: the roles are {', '.join(runners)}")
    settings = load_settings(process_name=name)
    _refuse_open_doors(settings, matched["role"])
    end_with_supervisor(settings)
    if matched["role"] in BACKGROUND:
        step_back(settings)
    configure_logging(name, settings.log_level)
    try:
        import uvloop

        uvloop.run(runners[matched["role"]](settings))
    except Exception:
        logging.getLogger(__name__).exception("%s ended by an error", name)
        raise typer.Exit(1) from None


def _refuse_open_doors(settings: "Settings", role: str) -> None:
    """A process that opens a port of its own where others can reach it must have been told to. Raises Refusal."""
    from infra.embedded.ports import is_loopback

    listens = settings.listen_fd is None if role in DOORS else settings.monitor_fd is None and settings.monitor_port
    if listens and not settings.insecure_listen and not is_loopback(settings.host):
        raise Refusal(
            f"STOCKHOLD_HOST: {settings.host} can be reached from other machines and there is no authentication yet:"
            " set STOCKHOLD_INSECURE_LISTEN=1"
        )
