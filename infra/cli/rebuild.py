"""`stockhold rebuild`: every view anew from the log, beside the ones that are read."""

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from infra.cli.shared import EXIT_CHECK_FAILED, DataOption, JsonOption, Refusal, answer, progress, say, stack_urls

if TYPE_CHECKING:
    from infra.embedded.servers import ServerUrls
    from projections.generations import Generation
    from projections.lane import Servers


def rebuild(
    views: Annotated[
        list[str] | None, typer.Argument(help="What needs it; views share their watermarks, so all are rebuilt.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Processes that fold the log; default: all.")
    ] = None,
    check: Annotated[bool, typer.Option("--verify/--no-verify", help="Verify before anybody reads it.")] = True,
    retire: Annotated[bool, typer.Option("--retire", help="Then drop the generations that are not read.")] = False,
    build: Annotated[bool, typer.Option("--build/--no-build", help="With --no-build, only --retire or --to.")] = True,
    to: Annotated[
        int | None, typer.Option("--to", help="Build nothing: read this live generation from now on.")
    ] = None,
    data: DataOption = None,
    json: JsonOption = False,
) -> None:
    """Build every view anew from the log, let it catch up, verify it, and have it read from then on.

    Reads go on all the while. The views that were read before stay up to date until --retire, so that switching back
    (--to) is as safe as switching. Exit code 1 if what was built does not pass verification; it is dropped then.
    """
    _refuse_unknown(views or [])
    with stack_urls(data) as urls:
        facts = asyncio.run(_run(urls, jobs=jobs, check=check, retire=retire, build=build and to is None, to=to))
    answer(facts, _summary(facts), as_json=json)


def _refuse_unknown(views: list[str]) -> None:
    from projections.rebuild import VIEWS

    unknown = [view for view in views if view not in VIEWS]
    if unknown:
        raise Refusal(f"there is no view {unknown[0]}; there are {', '.join(VIEWS)}")


async def _run(
    urls: "ServerUrls", *, jobs: int | None, check: bool, retire: bool, build: bool, to: int | None
) -> dict[str, Any]:
    from infra.migrations.runner import READ_MODEL, migrate
    from infra.redis import connect_redis
    from projections.generations import RebuildRunning
    from projections.lane import Servers
    from projections.rebuild import Stalled, WorkerFailed, switch
    from projections.rebuild import retire as retire_others

    migrate(urls.read_model_url, READ_MODEL)  # the views may have been dropped, with the table of generations
    facts: dict[str, Any] = {}
    async with connect_redis(urls.redis_url) as redis:
        servers = Servers(urls.event_store_url, urls.read_model_url, redis)
        try:
            if build:
                facts |= await _build(servers, urls, jobs, check=check)
            if to is not None:
                facts["generation"] = (await switch(servers, to)).number
            if retire:
                facts["retired"] = [generation.number for generation in await retire_others(servers)]
        except (RebuildRunning, WorkerFailed, Stalled) as failure:
            raise Refusal(str(failure), EXIT_CHECK_FAILED) from failure
        except LookupError as unknown:
            raise Refusal(str(unknown)) from unknown
    return facts


async def _build(servers: "Servers", urls: "ServerUrls", jobs: int | None, *, check: bool) -> dict[str, Any]:
    from projections.rebuild import rebuild as build_generation

    with _Bars() as bars:

        async def verify(generation: "Generation") -> None:
            bars.close()
            await asyncio.to_thread(_verify, urls, generation)

        built = await build_generation(servers, jobs=jobs, verify=verify if check else None, progress=bars)
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
