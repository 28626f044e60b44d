"""The command `stockhold`. Its parts are the modules beside this one; `infra.cli.shared` says how one is made."""

import importlib
import pkgutil
import sys

import typer

import infra.cli
from infra.cli.shared import EXIT_UNREACHABLE, Refusal, say

NO_COMMANDS = {"main", "shared"}
ORDER = ("up", "demo", "bench", "verify", "rebuild", "history", "doctor", "dead_letters", "sweep")

app = typer.Typer(
    name="stockhold",
    help="Event-sourced inventory and reservations: never oversells, never loses a hold, explains every number.",
    no_args_is_help=True,
    add_completion=False,
    # A traceback is for the log of whoever maintains this; locals would put passwords into it.
    pretty_exceptions_enable=False,
)


def register_all(application: typer.Typer) -> None:
    """Add every command: the function of each module here that has the module's own name."""
    names = {found.name for found in pkgutil.iter_modules(infra.cli.__path__)} - NO_COMMANDS
    for name in sorted(names, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name)):
        module = importlib.import_module(f"infra.cli.{name}")
        hidden = getattr(module, "HIDDEN", False)
        application.command(name.replace("_", "-"), hidden=hidden)(getattr(module, name))


def main() -> None:
    """Entry point; ends the process with an exit code of the contract."""
    register_all(app)
    try:
        app()
    except Refusal as refusal:
        say(f"stockhold: {refusal}")
        sys.exit(refusal.exit_code)
    except Exception as error:
        code = _exit_code_of(error)
        if code is None:
            raise
        say(f"stockhold: {error}")
        sys.exit(code)


def _exit_code_of(error: Exception) -> int | None:
    """None for an error that is ours to repair. The modules are loaded already if one of theirs was raised."""
    import psycopg
    import redis

    from infra.embedded.errors import StackError

    if isinstance(error, StackError):
        return error.exit_code
    if isinstance(error, psycopg.OperationalError | redis.ConnectionError | redis.TimeoutError):
        return EXIT_UNREACHABLE
    return None


if __name__ == "__main__":
    main()
