"""Runs the chosen cases, one after another, into a report."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.bench import Bench
from benchmarks.errors import BenchFailedError, StackUnreachableError, UnknownCaseError
from benchmarks.machine import machine_facts, postgres_version
from benchmarks.options import Options
from benchmarks.registry import CASES, NEED_KAFKA
from benchmarks.report import Report
from infra.kafka.java import what_is_missing


def run(options: Options) -> Report:
    """A case that fails leaves the others their figures. Raises UnknownCaseError; StackUnreachableError if no stack runs."""
    names = chosen(options.cases)
    with _progress(len(names)) as (say, advance), Bench(options, say) as bench:
        say("measuring the load generator's own cost")
        report = Report(machine_facts(options))
        no_kafka = _why_no_kafka(options)
        for name in names:
            say(name)
            if name in NEED_KAFKA and no_kafka:
                say(f"{name} is left out: {no_kafka}")
                report.left_out[name] = no_kafka
            else:
                _run_case(name, bench, report)
            advance()
        report.floors, report.oversold = bench.floors, bench.oversold
        return report


def _why_no_kafka(options: Options) -> str | None:
    """None: there is one, or it can be started."""
    if options.attached is not None:
        return None if options.attached.kafka else "the running stack has no Kafka"
    return what_is_missing(os.environ.get("STOCKHOLD_KAFKA_JARS", ""))


def _run_case(name: str, bench: Bench, report: Report) -> None:
    try:
        report.cases += CASES[name](bench)
        report.machine.postgres = report.machine.postgres or postgres_version(bench.facts.event_store_url)
    except BenchFailedError as error:
        if isinstance(error, StackUnreachableError) and not report.cases:
            raise
        bench.say(f"{name} failed: {error}")
        report.failed[name] = str(error)
        bench.stop_stack()  # the next case shall not inherit what went wrong


def chosen(cases: tuple[str, ...]) -> list[str]:
    """In the registry's order; all of them when none is named. Raises UnknownCaseError."""
    unknown = [name for name in cases if name.upper() not in CASES]
    if unknown:
        raise UnknownCaseError(f"no such case: {', '.join(unknown)} (there are {', '.join(CASES)})")
    wanted = {name.upper() for name in cases} or set(CASES)
    return [name for name in CASES if name in wanted]


@contextmanager
def _progress(total: int) -> Iterator[tuple[Callable[[str], None], Callable[[], None]]]:
    """A way to say something and a way to move on: a bar on a terminal, plain lines elsewhere."""
    if not sys.stderr.isatty():
        yield (lambda text: print(text, file=sys.stderr, flush=True)), lambda: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)

        def say(text: str) -> None:
            progress.update(task, description=text.strip())
            progress.console.print(text, highlight=False)

        yield say, lambda: progress.advance(task)
