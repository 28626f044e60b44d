"""`stockhold sweep --now`: release everything that is due, at once and whoever leads."""

import asyncio
from typing import Annotated

import typer

from infra.cli.shared import DataOption, JsonOption, Refusal, answer, load_settings, stack_urls


def sweep(
    now: Annotated[bool, typer.Option("--now", help="Sweep what is due now, then end.")] = False,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Release the holds that have expired. The stack's sweeper does so by itself; this is for when it cannot."""
    if not now:
        raise Refusal("the sweeper of `stockhold up` runs continuously; say --now to sweep once")
    from infra.bootstrap import sweep_now

    with stack_urls(data) as urls:
        settings = load_settings(event_store_url=urls.event_store_url)
        swept = asyncio.run(sweep_now(settings))
    answer({"swept": swept}, f"{swept:,} holds released", as_json=json)
