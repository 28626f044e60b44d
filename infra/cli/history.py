"""`stockhold history SKU WAREHOUSE`: the life of one stock item, told from the log."""

import asyncio
import sys
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infra.cli.shared import (
    EXIT_CHECK_FAILED,
    EXIT_UNREACHABLE,
    DataOption,
    JsonOption,
    Refusal,
    answer,
    say,
    stack_urls,
)

if TYPE_CHECKING:  # all of it takes longer to import than `--help` may
    from rich.text import Text

    from domain.hold import Hold
    from read_api.story import Chapter, Story

_WIDTH_WITHOUT_TERMINAL = 160


def history(
    sku: Annotated[str, typer.Argument(help="The SKU.")],
    warehouse: Annotated[str, typer.Argument(help="The warehouse's code.")],
    at: Annotated[
        str | None, typer.Option("--at", metavar="T", help="Only up to this instant, such as 2026-11-21T08:00:00Z.")
    ] = None,
    last: Annotated[int | None, typer.Option("--last", metavar="N", min=1, help="Only the last N events.")] = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Tell what happened to one stock item, event by event, and how it stands (or stood)."""
    from infra.postgres import ConnectionLost

    instant = None if at is None else _instant(at)
    with stack_urls(data) as urls:
        try:
            story, chapters = asyncio.run(_read(urls.event_store_url, sku, warehouse, instant, last))
        except ConnectionLost as error:
            raise Refusal(f"the event store is not reachable: {error}", EXIT_UNREACHABLE) from error
    if story.level is None and story.broken is None:
        when = "has ever been" if at is None else "had by then been"
        raise Refusal(f"no stock of {sku} at {warehouse} {when} registered", EXIT_CHECK_FAILED)
    moment = instant or datetime.now(UTC)
    answer(_facts(story, chapters, moment), _text(story, chapters, moment, sku, warehouse), as_json=json)
    if story.broken is not None:
        say(f"the story breaks off at an event that cannot be read or cannot have happened: {story.broken}")
        raise typer.Exit(EXIT_CHECK_FAILED)


async def _read(
    url: str, sku: str, warehouse: str, until: datetime | None, last: int | None
) -> "tuple[Story, list[Chapter]]":
    from infra.event_store.mapper import EventMapper
    from read_api.as_of import Log
    from read_api.story import Story

    log = Log(url, EventMapper(), timeout_s=5.0)
    try:
        story = Story(log, sku, warehouse, until)
        chapters: deque[Chapter] = deque(maxlen=last)
        async for chapter in story.chapters():
            chapters.append(chapter)
    finally:
        await log.close()
    return story, list(chapters)


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise Refusal(f"--at {text}: not an instant such as 2026-11-21T08:00:00Z") from None
    if instant.tzinfo is None:
        raise Refusal(f"--at {text}: say in which time zone, with Z or an offset")
    return instant.astimezone(UTC)


def _facts(story: "Story", chapters: "list[Chapter]", now: datetime) -> dict[str, Any]:
    import msgspec

    level = None if story.level is None else msgspec.to_builtins(story.level.document(story.due(now)))
    return {
        "events": msgspec.to_builtins(chapters),
        "level": level,
        "holds": [_hold_facts(hold) for hold in story.holds(now)],
        "broken": story.broken,
    }


def _hold_facts(hold: "Hold") -> dict[str, Any]:
    expires_at = None if hold.expires_at is None else hold.expires_at.isoformat().replace("+00:00", "Z")
    return {
        "reservation_id": hold.reservation_id,
        "order_id": hold.order_id,
        "active": hold.active,
        "expires_at": expires_at,
    }


def _text(story: "Story", chapters: "list[Chapter]", now: datetime, sku: str, warehouse: str) -> str:
    """The table and what came of it, as wide as the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{sku} at {warehouse}", title_justify="left", header_style="bold", box=None, pad_edge=False)
    for name, justify in (("#", "right"), ("when (UTC)", "left"), ("what happened", "left"), ("by", "left")):
        table.add_column(name, justify=justify, no_wrap=name != "what happened")  # type: ignore[arg-type]  # of two literals
    for name in ("on hand", "held", "paid", "free"):
        table.add_column(name, justify="right", no_wrap=True)
    for chapter in chapters:
        figures = (chapter.on_hand, chapter.reserved, chapter.committed, chapter.free)
        told = chapter.sentence if chapter.note is None else f"{chapter.sentence} — {chapter.note}"
        when = f"{chapter.at:%Y-%m-%d %H:%M:%S}"
        cells = (str(chapter.version), when, told, chapter.actor, *(f"{figure:,}" for figure in figures))
        table.add_row(*(_cell(cell) for cell in cells))
    # Where there is no terminal there is no width to keep to; a reader of the file should not suffer for it.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL)
    with console.capture() as captured:
        console.print(table)
        console.print(_ending(story, now), markup=False, soft_wrap=True)
    return captured.get().rstrip()


def _cell(text: str) -> "Text":
    """As it is: what somebody once wrote into a note is neither markup nor a command to the terminal."""
    from rich.text import Text

    return Text("".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text))


def _ending(story: "Story", now: datetime) -> str:
    if story.level is None:
        return ""
    level = story.level.document(story.due(now))
    standing = (
        f"\nAt {now:%Y-%m-%d %H:%M:%S} UTC: {level.available:,} available ({level.status}) of {level.on_hand:,} on hand,"
        f" {level.reserved:,} held, {level.committed:,} paid for; {level.sold:,} sold, {level.returned:,} returned,"
        f" {level.lost:,} lost."
    )
    lines = [standing]
    if story.due(now):
        lines.append(f"Another {story.due(now):,} were held until their time ran out; nobody has swept them yet.")
    for hold in story.holds(now):
        until = "without an end" if hold.expires_at is None else f"until {hold.expires_at:%Y-%m-%d %H:%M:%S}"
        lines.append(f"  {hold.reservation_id} holds {hold.active:,} {until}")
    return "\n".join(lines)
