"""`stockhold rebuild`: every view anew from the log, beside the ones that are read."""

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, Self

import typer

from infra.cli.shared import (
    EXIT_CHECK_FAILED,
    DataOption,
    JsonOption,
    Refusal,
    answer,
    load_settings,
    progress,
    say,
    stack_urls,
)

if TYPE_CHECKING:
    from infra.embedded.servers import ServerUrls
    from projections.generations import Generation
    from projections.lane import Servers

HANDOVER_S: Final = 5.0
"""How long the runners may take to take over what was built; longer, and it is told that none seems to run."""


def rebuild(
    views: Annotated[
        list[str] | None, typer.Argument(help="What needs it; views share their watermarks, so all are rebuilt.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Processes that fold the log; default: all.")
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify",
            help="Verify before anybody reads it; before going back: that it is kept up to date.",
        ),
    ] = True,
    switch_back: Annotated[
        bool, typer.Option("--switch-back", help="Build nothing: read the generation that was read before.")
    ] = False,
    to: Annotated[
        int | None, typer.Option("--to", help="Build nothing: read this live generation from now on.")
    ] = None,
    retire: Annotated[
        bool, typer.Option("--retire", help="Build nothing (unless --build): drop the generations that are not read.")
    ] = False,
    build: Annotated[
        bool | None, typer.Option("--build/--no-build", help="Default: build unless something else is asked for.")
    ] = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Build every view anew from the log, let it catch up, verify it, and have it read from then on.

    Reads go on all the while. The views that were read before stay up to date until --retire, so that switching back
    (--switch-back) is as safe as switching. Exit code 1 if what was built does not pass verification; it is dropped then.
    """
    _refuse_unknown(views or [])
    if switch_back and to is not None:
        raise Refusal("--switch-back names the generation itself: leave out --to")
    switching = switch_back or to is not None
    if build is None:
        build = not (switching or retire)
    if build and switching:
        raise Refusal("what is built is read from then on: --build goes with neither --switch-back nor --to")
    if not (check or build or switching):
        raise Refusal("--no-verify goes with building or switching: retiring verifies nothing")
    wanted = _Wanted(build=build, jobs=jobs, check=check, switch=switching, to=to, retire=retire)
    with stack_urls(data) as urls:
        facts = asyncio.run(_run(urls, wanted))
    answer(facts, _summary(facts), as_json=json)


class _Wanted(NamedTuple):
    """What to do, in this order: build or switch (``to``: a number, or None for back), then retire."""

    build: bool
    jobs: int | None
    check: bool
    switch: bool
    to: int | None
    retire: bool


def _refuse_unknown(views: list[str]) -> None:
    from projections.rebuild import VIEWS

    unknown = [view for view in views if view not in VIEWS]
    if unknown:
        raise Refusal(f"there is no view {unknown[0]}; there are {', '.join(VIEWS)}")


async def _run(urls: "ServerUrls", wanted: _Wanted) -> dict[str, Any]:
    from infra.migrations.runner import READ_MODEL, migrate
    from infra.redis import connect_redis
    from projections.generations import RebuildRunning
    from projections.lane import Servers
    from projections.rebuild import Stalled, WorkerFailed, switch

    migrate(urls.read_model_url, READ_MODEL)  # the views may have been dropped, with the table of generations
    facts: dict[str, Any] = {}
    async with connect_redis(urls.redis_url) as redis:
        partitions = await _partitions(urls)
        servers = Servers(
            urls.event_store_url, urls.read_model_url, redis, partitions=partitions, redis_url=urls.redis_url
        )
        try:
            if wanted.build:
                facts |= await _build(servers, urls, wanted.jobs, check=wanted.check)
            if wanted.switch:
                read = await switch(servers, wanted.to, check=wanted.check)
                facts["generation"] = read.number
                await _say_if_nobody_keeps(servers, read)
            if wanted.retire:
                facts |= await _retire(servers)
        except (RebuildRunning, WorkerFailed) as failure:
            raise Refusal(str(failure), EXIT_CHECK_FAILED) from failure
        except Stalled as failure:
            raise Refusal(f"{failure}: a runner of the release that built it must run", EXIT_CHECK_FAILED) from failure
        except LookupError as unknown:
            raise Refusal(str(unknown)) from unknown
    return facts


async def _retire(servers: "Servers") -> dict[str, Any]:
    from projections import generations
    from projections.rebuild import retire

    retired = await retire(servers)
    async with await generations.connect(servers.read_model_url) as connection:
        read = await generations.current(connection)
    return ({} if read is None else {"generation": read.number}) | {"retired": [each.number for each in retired]}


async def _partitions(urls: "ServerUrls") -> int:
    """As many as the topic has where there is Kafka, else as many as the views have that are read now."""
    from projections import generations

    settings = load_settings()
    if settings.kafka_servers:
        return settings.kafka_partitions
    async with await generations.connect(urls.read_model_url) as connection:
        read = await generations.current(connection)
    if read is not None and read.partitions > 1:
        return read.partitions
    return settings.kafka_partitions


async def _say_if_nobody_keeps(servers: "Servers", generation: "Generation") -> None:
    from projections import generations
    from projections.runners import taken_over

    async with await generations.connect(servers.read_model_url) as connection:
        if not await taken_over(connection, generation, HANDOVER_S):
            say(
                f"nobody keeps generation {generation.number} up to date at this moment: the projector or the workers of"
                " the release that built it must run"
            )


async def _build(servers: "Servers", urls: "ServerUrls", jobs: int | None, *, check: bool) -> dict[str, Any]:
    from projections.rebuild import rebuild as build_generation

    with _Bars() as bars:

        async def verify(generation: "Generation") -> None:
            bars.close()
            await asyncio.to_thread(_verify, urls, generation)

        built = await build_generation(servers, jobs=jobs, verify=verify if check else None, progress=bars)
    await _say_if_nobody_keeps(servers, built.generation)
    return {
        "generation": built.generation.number,
        "events": built.events,
        "dead_letters": built.dead_letters,
        "fill_seconds": round(built.fill_s, 3),
        "index_seconds": round(built.index_s, 3),
        "verify_seconds": round(built.verify_s, 3),
        "seconds": round(built.seconds, 3),
    }


def _verify(urls: "ServerUrls", generation: "Generation") -> None:
    """Compare the new generation with a replay of the log. Raises Refusal if anything differs."""
    from projections.verify import GenerationName, Verification

    name = GenerationName(generation.schema, generation.redis_prefix)
    with (
        Verification(urls.event_store_url, urls.read_model_url, urls.redis_url, generation=name) as verification,
        progress("events verified", verification.event_count()) as bar,
    ):
        report = verification.run(bar.advance)
    if not report.is_clean:
        for detail in (*report.violation_details, *report.difference_details):
            say(detail)
        raise Refusal(
            "what was built does not pass verification: it is dropped, and what was read stays (or see --no-verify)",
            EXIT_CHECK_FAILED,
        )


class _Bars:
    """One progress bar after the other, one for each step."""

    def __init__(self) -> None:
        self._step = ""
        self._done = 0
        self._open = ExitStack()
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, step: str, done: int, of: int) -> None:
        if step != self._step:
            self.close()
            self._step, self._done = step, 0
            self._bar = self._open.enter_context(progress(step, of))
        self._bar.advance(done - self._done)
        self._done = done

    def close(self) -> None:
        """End the bar that is shown: there is never more than one."""
        self._open.close()


def _summary(facts: dict[str, Any]) -> str:
    lines = []
    if "events" in facts:
        built_s = max(facts["seconds"] - facts["verify_seconds"], 0.001)
        lines.append(
            f"Generation {facts['generation']} is read now: {facts['events']:,} events in {built_s:.1f} s"
            f" ({facts['events'] / built_s:,.0f} events/s), verified in {facts['verify_seconds']:.1f} s,"
            f" {facts['dead_letters']} dead letters."
        )
    elif "generation" in facts:
        lines.append(f"Generation {facts['generation']} is read now.")
    if "retired" in facts:
        lines.append(f"Retired: {', '.join(map(str, facts['retired'])) or 'nothing'}.")
    return "\n".join(lines) or "Nothing was asked for."
