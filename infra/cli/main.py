"""The command `stockhold`. Its parts are the modules beside this one; `infra.cli.shared` says how one is made."""

import importlib
import pkgutil
import sys

import typer

import infra.cli
from infra.cli.shared import EXIT_CHECK_FAILED, EXIT_UNREACHABLE, Refusal, say

NO_COMMANDS = {"main", "shared"}
ORDER = ("up", "demo", "bench", "verify", "rebuild", "history", "doctor", "dead_letters", "relay", "sweep")

_NO_TABLES = {"42P01", "3F000"}  # undefined_table, invalid_schema_name

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
        known = _known(error)
        if known is None:
            raise
        say(f"stockhold: {known}")
        sys.exit(known.exit_code)


def _known(error: Exception) -> Refusal | None:
    """What to tell of it; None for an error that is ours to repair. Whatever raised it has loaded its module already."""
    import psycopg
    import redis

    from infra.embedded.errors import StackError
    from infra.event_store.port import StoreUnavailable
    from infra.postgres import ConnectionLost, StatementFailed

    if isinstance(error, StackError):
        return Refusal(str(error), error.exit_code)
    sqlstate = getattr(error, "sqlstate", None) or getattr(error.__cause__, "sqlstate", None)
    if sqlstate in _NO_TABLES:
        return Refusal("this database has no tables of Stockhold: `stockhold up` makes them")
    if isinstance(error, psycopg.OperationalError | StoreUnavailable | ConnectionLost):
        return Refusal(f"PostgreSQL: {error}", EXIT_UNREACHABLE)
    if isinstance(error, redis.ConnectionError | redis.TimeoutError):
        return Refusal(f"Redis: {error}", EXIT_UNREACHABLE)
    if isinstance(error, StatementFailed):
        return Refusal(f"PostgreSQL: {error}", EXIT_CHECK_FAILED)
    return None


if __name__ == "__main__":
    main()
