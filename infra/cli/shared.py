"""What every command shares: its options, its exit codes, how it answers and how it shows that it is getting on.

A command is a function in a module of the same name beside this one; `main` finds it by that (`dead_letters` becomes
`dead-letters`; a module with `HIDDEN = True` is left out of the help). Modules import typer and this one at the top and
everything else inside the command, so that `stockhold --help` stays quick:

    def verify(data: DataOption = None, json: JsonOption = False) -> None:
        '''What `--help` says.'''
        from projections.verify import ...

        with stack_urls(data) as urls, progress("replaying", total) as bar:
            ...
        answer({"events": 1, ...}, "1 event", as_json=json)
        if differences:
            raise typer.Exit(EXIT_CHECK_FAILED)

Standard output has the answer alone: with `--json` its last line is one object. All else goes to standard error. Errors
that mean "not reachable" are raised as `StackError` (or as psycopg's and redis's own), which `main` turns into exit code 3;
`Refusal` is for everything else that ends a command with a message.
"""

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

if TYPE_CHECKING:  # both take longer to import than `--help` may
    from infra.embedded.servers import ServerUrls
    from infra.settings import Settings

EXIT_DONE = 0
EXIT_CHECK_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3

PLAIN_LINE_EVERY_S = 5.0
PACE_AFTER_S = 0.5
"""A rate of less time than this is no rate."""

DataOption = Annotated[
    Path | None,
    typer.Option(
        "--data", help="Data folder of the stack. Default: the addresses in STOCKHOLD_*_URL, else your state folder."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="End with one JSON object on standard output.")]


class Refusal(Exception):
    """Ends a command with a message and one of the exit codes above."""

    def __init__(self, message: str, exit_code: int = EXIT_USAGE) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def say(message: str) -> None:
    """A line for whoever watches, on standard error."""
    print(message, file=sys.stderr, flush=True)


def answer(facts: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """The command's answer: `facts` as one line with `--json`, `text` without. Decimals and times become text."""
    print(json.dumps(facts, default=str, ensure_ascii=False) if as_json else text, flush=True)


def load_settings(**overrides: Any) -> "Settings":
    """The settings of the environment. Raises Refusal for one that does not fit."""
    from pydantic import ValidationError

    from infra.settings import Settings

    try:
        return Settings(**overrides)
    except ValidationError as error:
        wrong = "; ".join(f"STOCKHOLD_{str(one['loc'][0]).upper()}: {one['msg']}" for one in error.errors())
        raise Refusal(wrong) from error


@contextlib.contextmanager
def stack_urls(data: Path | None, roles: frozenset[str] = frozenset()) -> Iterator["ServerUrls"]:
    """Addresses of the state that a command works on, for as long as the block lasts.

    With `--data`: those of the stack that runs in that folder; if none runs, its servers are started (with migrations
    and the processes named in `roles`, such as `projector`) and stopped afterwards. Without: those in the environment;
    if none are there, as with `--data` and the default folder. Raises StackError; Refusal if the folder holds no stack.
    """
    from infra.embedded.folder import DataFolder, default_data_dir
    from infra.embedded.servers import ServerUrls
    from infra.embedded.stack import StackOptions, running_stack

    settings = load_settings()
    if data is None and settings.event_store_url and settings.redis_url:
        yield ServerUrls(settings.event_store_url, settings.read_model_url, settings.redis_url, settings.kafka_servers)
        return
    folder = DataFolder(data or default_data_dir())
    if not folder.holds_data():
        raise Refusal(
            f"there is no stack in {folder.path}: name its folder with --data, or set STOCKHOLD_EVENT_STORE_URL and"
            " STOCKHOLD_REDIS_URL"
        )
    running = folder.read_running()
    # A folder that is named, and has the server's data, means these; else what is in the environment, as `up` has it.
    outside_log = "" if data is not None and (folder.path / "postgres").exists() else settings.event_store_url
    if running is not None:
        if data is None and outside_log not in {"", running["event_store_url"]}:
            raise Refusal(
                f"the stack in {folder.path} has another log than STOCKHOLD_EVENT_STORE_URL: name the one that is meant,"
                " by --data or by STOCKHOLD_EVENT_STORE_URL and STOCKHOLD_REDIS_URL"
            )
        urls = (str(running.get(name, "")) for name in ("event_store_url", "read_model_url", "redis_url", "kafka"))
        yield ServerUrls(*urls)
        return
    if not outside_log and not (folder.path / "postgres").exists():
        # An empty log, made here and now, would be found without fault.
        raise Refusal(f"the log of the stack in {folder.path} is not in that folder: set STOCKHOLD_EVENT_STORE_URL")
    say(f"no stack runs in {folder.path}: starting its servers for as long as this takes")
    options = StackOptions(
        folder.path,
        roles=roles,
        event_store_url=outside_log,
        read_model_url=settings.read_model_url if outside_log or not settings.event_store_url else "",
        redis_url="" if data is not None and (folder.path / "valkey").exists() else settings.redis_url,
    )
    with running_stack(options) as info:
        yield info.urls


class ProgressBar(Protocol):
    def advance(self, amount: int = 1) -> None: ...


@contextlib.contextmanager
def progress(what: str, total: int | None = None) -> Iterator[ProgressBar]:
    """A bar on standard error if that is a terminal, otherwise a plain line every few seconds and one at the end."""
    if not sys.stderr.isatty():
        lines = _PlainProgress(what, total)
        yield lines
        lines.write()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as display:
        yield _RichProgress(display, display.add_task(what, total=total, rate=""), total)


class _Pace:
    """How fast it goes, once there has been time to tell."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self.done = 0

    @property
    def per_s(self) -> float | None:
        passed_s = time.monotonic() - self._began_s
        return self.done / passed_s if passed_s >= PACE_AFTER_S and self.done else None

    def rate(self) -> str:
        return "" if self.per_s is None else f"{self.per_s:,.0f}/s"

    def told(self, total: int | None) -> str:
        """The end of a plain line."""
        if self.per_s is None:
            return ""
        left = "" if total is None or self.done >= total else f", {(total - self.done) / self.per_s:,.0f} s left"
        return f" ({self.rate()}{left})"


class _PlainProgress:
    def __init__(self, what: str, total: int | None) -> None:
        self._what = what
        self._total = total
        self._pace = _Pace()
        self._written_at_s = time.monotonic()

    def advance(self, amount: int = 1) -> None:
        self._pace.done += amount
        if time.monotonic() - self._written_at_s >= PLAIN_LINE_EVERY_S:
            self.write()

    def write(self) -> None:
        self._written_at_s = time.monotonic()
        of = f" of {max(self._total, self._pace.done):,}" if self._total is not None else ""
        say(f"{self._what}: {self._pace.done:,}{of}{self._pace.told(self._total)}")


class _RichProgress:
    def __init__(self, display: Any, task: Any, total: int | None) -> None:
        self._display = display
        self._task = task
        self._total = total
        self._pace = _Pace()

    def advance(self, amount: int = 1) -> None:
        self._pace.done += amount
        total = None if self._total is None else max(self._total, self._pace.done)  # a log grows while it is read
        self._display.update(self._task, total=total, advance=amount, rate=self._pace.rate())
