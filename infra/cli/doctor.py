"""`stockhold doctor`: what is reachable, what lags, what is stuck."""

import typer

from infra.cli.shared import EXIT_CHECK_FAILED, DataOption, JsonOption, answer, stack_urls


def doctor(data: DataOption = None, json: JsonOption = False) -> None:
    """Look at everything a stack depends on, and say what is not well. Changes nothing."""
    from infra.doctor import examine

    with stack_urls(data) as urls:
        findings = examine(urls.event_store_url, urls.read_model_url, urls.redis_url)
    lines = [f"{'ok  ' if finding.well else 'NOT '} {finding.check}: {finding.seen}" for finding in findings]
    well = all(finding.well for finding in findings)
    answer({"well": well, "findings": [f._asdict() for f in findings]}, "\n".join(lines), as_json=json)
    if not well:
        raise typer.Exit(EXIT_CHECK_FAILED)
