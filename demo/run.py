"""The whole demo, from an empty folder to the verdict."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from time import monotonic
from uuid import uuid4

import uvloop
from rich.console import Console

from demo.audit import Auditor
from demo.baskets import product_name, product_of, read_baskets
from demo.client import Client, Urls, connected
from demo.door import Door
from demo.driver import Driver
from demo.http_door import HttpDoor
from demo.kafka_door import through_kafka
from demo.ledger import Ledger
from demo.postbox import Postbox
from demo.progress import Reporter
from demo.report import Played, Report, Verification, messages_table, summary_table, timings_table, write_report
from demo.script import Script, write_script
from demo.stack import Stack, own_stack, running_stack
from demo.story import most_eventful, read_history, tell
from demo.timings import Timings

DIFFERENCES_SHOWN = 10
SOURCE = "/stockhold/demo"
"""Of our messages: with the run's own names it makes their ids nobody else's."""


@dataclass(frozen=True, slots=True)
class Options:
    """`urls` of a running stack; without, the demo starts one. `kafka`: orders come in through it."""

    orders: int
    seed: int
    urls: Urls | None = None
    kafka: bool = False


@dataclass(frozen=True, slots=True)
class Performance:
    report: Report
    played: Played


def run_demo(options: Options, reporter: Reporter) -> Performance:
    """Raises DemoError if the stack does not come up, or answers what it must not."""
    began = monotonic()
    if options.urls:
        # Names of its own on a stack that others use too, so that no other order touches what the ledger counts.
        script = _script(options, reporter, run=f"-{uuid4().hex[:6]}")
        return _perform(running_stack(options.urls, kafka=options.kafka), script, reporter, began)
    reporter.say("Starting the stack ...")
    with own_stack(kafka=options.kafka) as starting:
        script = _script(options, reporter)
        return _perform(starting.wait_ready(), script, reporter, began)


def show(performance: Performance, console: Console) -> None:
    """The tables and the story."""
    played = performance.played
    console.print(summary_table(performance.report))
    console.print(timings_table(played.timings))
    if played.traffic:
        console.print(messages_table(played.traffic))
    for difference in played.differences[:DIFFERENCES_SHOWN]:
        console.print(difference, style="red", markup=False)
    name = product_name(product_of(played.hero.sku))
    console.print(f"\nThe story of {name} at {played.hero.warehouse}", style="bold", highlight=False)
    for line in played.story:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _script(options: Options, reporter: Reporter, run: str = "") -> Script:
    reporter.say("Reading a real retailer's baskets ...")
    return write_script(read_baskets(options.orders, run), options.seed)


def _perform(stack: Stack, script: Script, reporter: Reporter, began: float) -> Performance:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        played = runner.run(_play(stack, script, reporter))
    reporter.say("Comparing every view with a replay of the log ...")
    verification = Verification.of(stack.verify())
    report = write_report(script, played, verification, monotonic() - began)
    if stack.is_own and report.log_events != report.events:
        played.differences.append(
            f"the log holds {report.log_events} events, by the answers it must be {report.events}"
        )
        report = replace(report, differing=len(played.differences))
    return Performance(report, played)


async def _play(stack: Stack, script: Script, reporter: Reporter) -> Played:
    ledger, timings = Ledger(), Timings()
    async with _connected(stack, ledger, timings) as (client, door):
        driver = Driver(client, door, ledger, timings)
        with reporter.stage("Opening stores", len(script.warehouses)) as bar:
            await driver.open_stores(script.warehouses, bar)
        with reporter.stage("Filling their shelves", len(script.opening)) as bar:
            await driver.fill_shelves(script.opening, bar)
        opening_events, began = ledger.events(), monotonic()
        with reporter.stage("Playing the orders", len(script.steps)) as bar:
            await driver.play(script.steps, bar)
        seconds, events = monotonic() - began, ledger.events() - opening_events
        auditor = Auditor(client, door, ledger, reporter)
        await auditor.audit(script)
        hero = most_eventful(script.orders, ledger)
        story = tuple(tell(await read_history(client, hero)))
        return Played(
            ledger,
            timings,
            auditor.differences,
            client.commands_repeated,
            events,
            seconds,
            hero,
            story,
            door.traffic,
        )


@asynccontextmanager
async def _connected(stack: Stack, ledger: Ledger, timings: Timings) -> AsyncIterator[tuple[Client, Door]]:
    """A client for what goes over HTTP on any stack, and the door for the orders."""
    async with connected(stack.urls) as client:
        await client.greet()
        if stack.brokers is None:
            yield client, HttpDoor(client, ledger.saw)
            return
        async with through_kafka(stack.brokers, SOURCE, Postbox(SOURCE, ledger.saw), timings) as door:
            yield client, door
