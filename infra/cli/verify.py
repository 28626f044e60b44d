"""`stockhold verify`: everything that is derived from the log, against a replay of the log."""

import time
from typing import TYPE_CHECKING

import typer

from infra.cli.shared import EXIT_CHECK_FAILED, DataOption, JsonOption, answer, progress, say, stack_urls

if TYPE_CHECKING:
    from projections.verify import Report


def verify(data: DataOption = None, json: JsonOption = False) -> None:
    """Replay the log, check every invariant at every version, and compare every row of every view with it.

    Exit code 1 if anything differs. On a live stack too; a stopped one's servers and projector are started for it.
    """
    from projections.verify import Verification

    started_s = time.monotonic()
    with (
        stack_urls(data, frozenset({"projector"})) as urls,
        Verification(urls.event_store_url, urls.read_model_url, urls.redis_url) as verification,
        progress("events verified", verification.event_count()) as bar,
    ):
        report = verification.run(bar.advance)
    for detail in (*report.violation_details, *report.difference_details):
        say(detail)
    facts = {**report.as_json(), "seconds": round(time.monotonic() - started_s, 3)}
    answer(facts, _summary(report), as_json=json)
    if not report.is_clean:
        raise typer.Exit(EXIT_CHECK_FAILED)


def _summary(report: "Report") -> str:
    counted = f"{report.events:,} events of {report.items:,} items and {report.warehouses:,} warehouses"
    if report.is_clean:
        return f"Clean: {counted} replayed, no invariant broken, {report.rows:,} rows compared, no difference."
    return (
        f"NOT clean: {counted} replayed, {report.violations:,} violations ({report.oversold:,} of them oversold), "
        f"{report.differences:,} differences in {report.rows:,} rows."
    )
