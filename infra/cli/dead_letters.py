"""`stockhold dead-letters`: what could not be applied, wherever it was given up: the views, the publisher, the intake."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from infra.cli.shared import EXIT_CHECK_FAILED, DataOption, JsonOption, answer, say, stack_urls

if TYPE_CHECKING:
    from infra.embedded.servers import ServerUrls
    from projections.dead_letters import ParkedStream
    from projections.public.dead_letters import ParkedPublication
    from write_side.intake.store import Listed


class _Found(NamedTuple):
    """What there is, and how much of what was tried again is there no more."""

    views: "list[ParkedStream]"
    publications: "list[ParkedPublication]"
    messages: "list[Listed]"
    healed: int = 0
    published: int = 0
    replayed: int = 0

    def __bool__(self) -> bool:
        return bool(self.views or self.publications or self.messages)


def dead_letters(
    retry: Annotated[bool, typer.Option("--retry", help="Try each of them again, from where it stands.")] = False,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """List what could not be applied; everything else goes on.

    Items whose views stand still at an event, items of which nothing more is published, messages to the intake that can
    never be right or have waited in vain. With --retry, once the cause has been repaired: items are brought up to date
    from the log, messages are decided anew by the intake that runs. Exit code 1 if any stays.
    """
    with stack_urls(data) as urls:
        found = asyncio.run(_look(urls, retry=retry))
    facts: dict[str, Any] = {
        "dead_letters": [parked._asdict() for parked in found.views],
        "publications": [parked._asdict() for parked in found.publications],
        "messages": [message._asdict() for message in found.messages],
    }
    lines = _lines(found) or ["No dead letters."]
    if retry:
        facts |= {"healed": found.healed, "published": found.published, "replayed": found.replayed}
        counts = ((found.healed, "healed"), (found.published, "published again"), (found.replayed, "replayed"))
        lines.append(", ".join(f"{count:,} {what}" for count, what in counts if count or what == "healed") + ".")
    answer(facts, "\n".join(lines), as_json=json)
    if retry and found:
        raise typer.Exit(EXIT_CHECK_FAILED)


async def _look(urls: "ServerUrls", *, retry: bool) -> _Found:
    from infra.redis import connect_redis
    from projections.dead_letters import parked_streams, retry_parked
    from projections.lane import Servers
    from projections.public.dead_letters import parked_publications
    from write_side.intake.postgres_store import dead_messages

    healed = published = replayed = 0
    async with connect_redis(urls.redis_url) as redis:
        servers = Servers(urls.event_store_url, urls.read_model_url, redis)
        if retry:
            published, replayed = await asyncio.gather(_publish_again(urls), _replay(urls))
            healed, views = await retry_parked(servers)
        else:
            views = await parked_streams(servers)
    publications = await parked_publications(urls.read_model_url)
    messages = await dead_messages(urls.event_store_url)
    return _Found(views, publications, messages, healed, published, replayed)


async def _publish_again(urls: "ServerUrls") -> int:
    from projections.public.dead_letters import NobodyPublishes, retry_publications

    try:
        published, _ = await retry_publications(urls.read_model_url)
    except NobodyPublishes as error:
        say(f"{error}; it will when one runs")
        return 0
    return published


async def _replay(urls: "ServerUrls") -> int:
    from write_side.intake.postgres_store import NobodyReplays, retry_dead

    try:
        return await retry_dead(urls.event_store_url)
    except NobodyReplays as error:
        say(f"{error}; it will when one runs")
        return 0


# In words --------------------------------------------------------------------------------------------


def _lines(found: _Found) -> list[str]:
    sections = (
        ("Items whose views stand still:", [_view_line(parked) for parked in found.views]),
        ("Items of which nothing more is published:", [_publication_line(parked) for parked in found.publications]),
        ("Messages that the intake has given up:", [_message_line(message) for message in found.messages]),
    )
    return [line for title, lines in sections if lines for line in (title, *(f"  {each}" for each in lines))]


def _view_line(parked: "ParkedStream") -> str:
    return (
        f"{parked.stream} stands still at version {parked.version} (generation {parked.generation}, position"
        f" {parked.position}, {parked.attempts} attempts, since {parked.parked_at:%Y-%m-%d %H:%M:%S}): {parked.error}"
    )


def _publication_line(parked: "ParkedPublication") -> str:
    return (
        f"{parked.stream} stands still at version {parked.version} (position {parked.position},"
        f" {parked.attempts} attempts, since {parked.parked_at:%Y-%m-%d %H:%M:%S}): {parked.error}"
    )


def _message_line(message: "Listed") -> str:
    name = f"{message.id!r} of {message.source!r}" if message.id is not None else "unnamed"
    about = f", order {message.order_id}" if message.order_id is not None else ""
    times = f", {message.times:,} times" if message.times > 1 else ""
    return (
        f"{message.topic}: {name}{about} (partition {message.partition}, offset {message.offset}{times},"
        f" {message.last_at:%Y-%m-%d %H:%M:%S}, {message.message_id}): {message.code}: {message.detail}"
    )
