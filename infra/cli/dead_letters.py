"""`stockhold dead-letters`: streams that stand still at an event that could not be applied to the views."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.shared import EXIT_CHECK_FAILED, DataOption, JsonOption, answer, stack_urls

if TYPE_CHECKING:
    from infra.embedded.servers import ServerUrls
    from projections.dead_letters import ParkedStream


def dead_letters(
    retry: Annotated[bool, typer.Option("--retry", help="Try each of them again, from where it stands.")] = False,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """List the items whose views stand still at an event that could not be read or applied; the rest goes on.

    With --retry, once the cause has been repaired: each is brought up to date from the log. Exit code 1 if any stays.
    """
    with stack_urls(data) as urls:
        healed, parked = asyncio.run(_look(urls, retry=retry))
    facts = {"dead_letters": [_facts(stream) for stream in parked]}
    if retry:
        facts |= {"healed": healed}  # type: ignore[dict-item]  # a count beside a list
    lines = [_line(stream) for stream in parked] or ["No dead letters."]
    if retry:
        lines.append(f"{healed:,} healed.")
    answer(facts, "\n".join(lines), as_json=json)
    if retry and parked:
        raise typer.Exit(EXIT_CHECK_FAILED)


async def _look(urls: "ServerUrls", *, retry: bool) -> "tuple[int, list[ParkedStream]]":
    from infra.redis import connect_redis
    from projections.dead_letters import parked_streams, retry_parked
    from projections.lane import Servers

    async with connect_redis(urls.redis_url) as redis:
        servers = Servers(urls.event_store_url, urls.read_model_url, redis)
        if retry:
            return await retry_parked(servers)
        return 0, await parked_streams(servers)


def _facts(parked: "ParkedStream") -> dict[str, Any]:
    return parked._asdict()


def _line(parked: "ParkedStream") -> str:
    return (
        f"{parked.stream} stands still at version {parked.version} (generation {parked.generation}, position"
        f" {parked.position}, {parked.attempts} attempts, since {parked.parked_at:%Y-%m-%d %H:%M:%S}): {parked.error}"
    )
