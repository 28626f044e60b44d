"""`stockhold bench`, and `python -m benchmarks`, which is the same."""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmarks.errors import BenchFailedError, StackUnreachableError, UnknownCaseError

if TYPE_CHECKING:  # imported when a benchmark runs: `stockhold --help` shall not wait for them
    from benchmarks.options import Options, StackFacts
    from benchmarks.report import Report

_CHECK_FAILED, _WRONG_USAGE, _UNREACHABLE = 1, 2, 3


def bench(
    cases: Annotated[list[str] | None, typer.Argument(metavar="[CASE]...", help="W1 … P3K; none: all.")] = None,
    seconds: Annotated[float, typer.Option(min=1.0, help="Per round.")] = 5.0,
    rounds: Annotated[int, typer.Option(min=1, help="Per side and case.")] = 3,
    items: Annotated[int, typer.Option(min=1_000, help="Stock items of the cold cases, ours and theirs.")] = 50_000,
    full: Annotated[bool, typer.Option("--full", help="The variants that take minutes, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object as the last line.")] = False,
    markdown: Annotated[Path | None, typer.Option(help="Rewrite the table between the marks of this file.")] = None,
    section: Annotated[str, typer.Option(help="With --markdown: between the marks of this name.")] = "bench",
    attach: Annotated[Path | None, typer.Option(help="The line of a running `stockhold up --json`.")] = None,
    url: Annotated[str, typer.Option(help="Command API of a running stack (instead of --attach).")] = "",
    read_url: Annotated[str, typer.Option(help="With --url.")] = "",
    event_store_url: Annotated[str, typer.Option(help="With --url.")] = "",
) -> None:
    """Measure this machine's Stockhold against row-lock SQL driven by pgbench, and against its own floors."""
    from rich.console import Console

    from benchmarks.options import Options
    from benchmarks.report import print_tables, to_markdown

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    attached = _attached(attach, url, read_url, event_store_url)
    report = _run_or_exit(Options(tuple(cases or ()), seconds, rounds, items, full, attached))
    print_tables(report, Console(stderr=as_json, width=None if sys.stdout.isatty() else 200))
    if markdown is not None:
        page = markdown.read_text() if markdown.exists() else ""
        markdown.write_text(between_marks(page, to_markdown(report), section))
    if as_json:
        print(report.to_json())
    if report.oversold or report.failed:
        raise typer.Exit(_CHECK_FAILED)


def _run_or_exit(options: "Options") -> "Report":
    from benchmarks.runner import run

    try:
        return run(options)
    except UnknownCaseError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(_WRONG_USAGE) from error
    except StackUnreachableError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(_UNREACHABLE) from error
    except BenchFailedError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(_CHECK_FAILED) from error


def _attached(attach: Path | None, url: str, read_url: str, event_store_url: str) -> "StackFacts | None":
    import msgspec

    from benchmarks.options import StackFacts

    if attach is not None:
        return msgspec.json.decode(attach.read_bytes(), type=StackFacts)
    if url:
        return StackFacts(command_url=url, event_store_url=event_store_url, read_url=read_url or None)
    return None


def between_marks(text: str, table: str, section: str = "bench") -> str:
    """The text with what stands between its two marks replaced by the table (appended when there are no marks)."""
    begin_mark, end_mark = f"<!-- {section}:begin -->", f"<!-- {section}:end -->"
    before, begin, rest = text.partition(begin_mark)
    after = rest.partition(end_mark)[2] if begin else "\n"
    return f"{before}{begin_mark}\n\n{table}\n{end_mark}{after}"


def main() -> None:
    typer.run(bench)
