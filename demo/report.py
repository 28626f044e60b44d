"""What the demo has shown: as a table for people, as one JSON object for programs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from demo.baskets import Item
from demo.door import Traffic
from demo.driver import LAG
from demo.kafka_door import PLACED_TO_RESERVED
from demo.ledger import Ledger
from demo.script import Action, Script
from demo.timings import Timings

COMMANDS = (
    Action.RESERVE,
    Action.PAY,
    Action.SHIP,
    Action.FAIL,
    Action.LEAVE,
    Action.CANCEL,
    Action.RETURN,
    Action.RESTOCK,
)


@dataclass(frozen=True, slots=True)
class MessageReport:
    """Of orders that came in through Kafka: how many messages, in all and by topic, and from an order to its answer."""

    messages_sent: int
    messages_received: int
    messages_repeated: int
    messages: dict[str, int]
    placed_to_reserved_p50_ms: float | None
    placed_to_reserved_p99_ms: float | None


@dataclass(frozen=True, slots=True)
class Report:
    """Orders count by what happened to them: one may be among the `reserved`, `committed`, `shipped` and `returned`.

    `released` before they were paid, `cancelled` afterwards. `events` as the answers add up, of the demo's own items and
    warehouses; `log_events` as `verify` counted them in the whole log. `oversold` in units, the worst that any level of
    an item ever showed; `differing`: what the audit found wrong. Figures named so in milliseconds, as the client saw
    them while the orders were played. `messages`: None unless the orders came in through Kafka; the lag then begins with
    the commit and ends with a read that is asked when the answer has come, so that it is an upper bound.
    """

    orders: int
    reserved: int
    refused: int
    committed: int
    shipped: int
    returned: int
    cancelled: int
    released: int
    expired: int
    stores: int
    items: int
    restocks: int
    events: int
    log_events: int
    oversold: int
    differing: int
    views_match_log: bool
    violations: int
    view_differences: int
    commands_per_s: float
    events_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    lag_p50_ms: float | None
    lag_p99_ms: float | None
    commands_repeated: int
    seed: int
    play_seconds: float
    seconds: float
    messages: MessageReport | None = None

    def is_good(self) -> bool:
        return self.oversold == 0 and self.differing == 0 and self.views_match_log

    def verdict(self) -> str:
        if self.is_good():
            return "Nothing was sold twice, and every number is what its history says."
        return "Something is wrong: see above."

    def as_dict(self) -> dict[str, object]:
        facts = asdict(self)
        return facts | (facts.pop("messages") or {})


@dataclass(frozen=True, slots=True)
class Verification:
    """What `stockhold verify` found."""

    events: int
    violations: int
    differences: int

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "Verification":
        return cls(*(_count(found[name]) for name in ("events", "violations", "differences")))

    def is_clean(self) -> bool:
        return self.violations == 0 and self.differences == 0


@dataclass(frozen=True, slots=True)
class Played:
    """A performance as the demo itself saw it.

    `differences` between what the service shows and what it answered, a sentence for each; `events` and `seconds` of
    playing the orders alone; `story` of the item `hero`, line by line. `traffic`: None where nothing went by message.
    """

    ledger: Ledger
    timings: Timings
    differences: list[str]
    commands_repeated: int
    events: int
    seconds: float
    hero: Item
    story: Sequence[str]
    traffic: Traffic | None = None


def write_report(script: Script, played: Played, verification: Verification, seconds: float) -> Report:
    """`seconds` that all of it took."""
    happened = played.ledger.happenings
    commands = played.timings.count(COMMANDS)
    return Report(
        orders=len(script.orders),
        reserved=happened[Action.RESERVE],
        refused=played.ledger.refusals(),
        committed=happened[Action.PAY],
        shipped=happened[Action.SHIP],
        returned=happened[Action.RETURN],
        cancelled=happened[Action.CANCEL],
        released=happened[Action.FAIL] + happened[Action.LEAVE],
        expired=happened[Action.EXPIRE],
        stores=len(script.warehouses),
        items=len(played.ledger.items),
        restocks=happened[Action.RESTOCK],
        events=played.ledger.events() + len(script.warehouses),
        log_events=verification.events,
        oversold=played.ledger.oversold(),
        differing=len(played.differences),
        views_match_log=verification.is_clean(),
        violations=verification.violations,
        view_differences=verification.differences,
        commands_per_s=round(commands / played.seconds, 1),
        events_per_s=round(played.events / played.seconds, 1),
        p50_ms=played.timings.percentile_ms(COMMANDS, 50),
        p99_ms=played.timings.percentile_ms(COMMANDS, 99),
        lag_p50_ms=played.timings.percentile_ms([LAG], 50),
        lag_p99_ms=played.timings.percentile_ms([LAG], 99),
        commands_repeated=played.commands_repeated,
        seed=script.seed,
        play_seconds=round(played.seconds, 2),
        seconds=round(seconds, 2),
        messages=_message_report(played.traffic, played.timings) if played.traffic else None,
    )


def _message_report(traffic: Traffic, timings: Timings) -> MessageReport:
    return MessageReport(
        messages_sent=traffic.sent.total(),
        messages_received=traffic.heard.total(),
        messages_repeated=traffic.repeated,
        messages=dict(traffic.sent + traffic.heard),
        placed_to_reserved_p50_ms=timings.percentile_ms([PLACED_TO_RESERVED], 50),
        placed_to_reserved_p99_ms=timings.percentile_ms([PLACED_TO_RESERVED], 99),
    )


def summary_table(report: Report) -> Table:
    table = Table(title="What happened", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    for name, text in _summary(report):
        table.add_row(name, text)
    return table


def timings_table(timings: Timings) -> Table:
    table = Table(title="How long it took, as the customers saw it", title_justify="left")
    table.add_column("command", style="bold")
    for heading in ("times", "p50 ms", "p99 ms"):
        table.add_column(heading, justify="right")
    for name in (*COMMANDS, PLACED_TO_RESERVED, LAG):
        if count := timings.count([name]):
            figures = (timings.percentile_ms([name], percent) for percent in (50, 99))
            table.add_row(name, f"{count:,}", *(f"{figure:.1f}" for figure in figures))
    return table


def messages_table(traffic: Traffic) -> Table:
    """How many went in and came out, by topic."""
    table = Table(title="Messages", title_justify="left")
    table.add_column("topic", style="bold")
    for heading in ("sent", "heard"):
        table.add_column(heading, justify="right")
    for topic, count in traffic.sent.items():
        table.add_row(topic, f"{count:,}", "")
    for topic, count in sorted(traffic.heard.items()):
        table.add_row(topic, "", f"{count:,}")
    return table


def _summary(report: Report) -> Iterable[tuple[str, str]]:
    yield "orders", f"{report.orders:,} baskets at {report.stores} stores with {report.items:,} items on their shelves"
    yield "reserved", f"{report.reserved:,}; {report.refused:,} refused, because a shelf was empty"
    yield (
        "not paid",
        f"{report.released:,} released (payment failed, or left); {report.expired:,} ran out by themselves",
    )
    yield (
        "paid",
        f"{report.committed:,}; {report.shipped:,} shipped, {report.cancelled:,} cancelled, {report.returned:,} brought goods back",
    )
    yield "restocks", f"{report.restocks:,}"
    yield "events", f"{report.events:,}"
    yield (
        "throughput",
        f"{report.commands_per_s:,.0f} commands/s, {report.events_per_s:,.0f} events/s over {report.play_seconds:.1f} s",
    )
    if (messages := report.messages) is not None:
        heard = f"{messages.messages_received:,} heard, {messages.messages_repeated:,} times one a second time"
        yield "messages", f"{messages.messages_sent:,} sent, {heard}"
    yield "oversold", f"{report.oversold} units"
    yield "own books", _verdict(report.differing, "every item and order is as it was answered", "differences")
    yield (
        "verify",
        _verdict(
            report.violations + report.view_differences,
            "every view matches the log, every invariant held",
            "differences",
        ),
    )
    yield "seconds", f"{report.seconds:.1f}"


def _verdict(count: int, good: str, bad: str) -> str:
    return f"[red]{count} {bad}[/red]" if count else f"[green]{good}[/green]"


def _count(found: int | Sequence[object]) -> int:
    """A number, or a list of what there is."""
    return found if isinstance(found, int) else len(found)
