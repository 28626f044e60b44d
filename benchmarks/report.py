"""What a run found: one JSON object, one table on the terminal, one table in the docs."""

import msgspec
from rich.console import Console
from rich.table import Table

_PLAIN_BELOW = 100


class CaseResult(msgspec.Struct):
    """One line of the table. `ours` and `opponent` in `unit`; `ratio` is the median over the rounds' own ratios.

    None: there is no such figure in this case. `met`: None where this run could not decide.
    """

    case: str
    title: str
    unit: str
    target: str
    ours: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    opponent: float | None = None
    opponent_name: str = ""
    opponent_p99_ms: float | msgspec.UnsetType = msgspec.UNSET
    ratio: float | None = None
    ratio_spread: tuple[float, float] | None = None
    met: bool | None = None
    note: str = ""


class Floor(msgspec.Struct):
    """A requirement of the service in absolute numbers."""

    floor: str
    value: float
    target: str
    unit: str
    met: bool


class Machine(msgspec.Struct):
    """Where the figures come from. `client_us_per_request`: what the load generator itself burns, of the same cores."""

    cores: int
    cpu: str
    python: str
    postgres: str
    load_generator: str
    client_us_per_request: float
    load_average_before: float
    seconds: float
    rounds: int
    items: int


class Report(msgspec.Struct):
    """`oversold`: units promised beyond the stock, over all sell-out checks.

    `failed` and `left_out`: case → why it has no figures; what is left out cannot be had on this machine.
    """

    machine: Machine
    cases: list[CaseResult] = msgspec.field(default_factory=list)
    floors: list[Floor] = msgspec.field(default_factory=list)
    oversold: int = 0
    failed: dict[str, str] = msgspec.field(default_factory=dict)
    left_out: dict[str, str] = msgspec.field(default_factory=dict)

    def to_json(self) -> str:
        """One line: `cases`, `floors`, `oversold`, `failed`, `left_out`, and the machine's facts beside them."""
        document = {
            "cases": self.cases,
            "floors": self.floors,
            "oversold": self.oversold,
            "failed": self.failed,
            "left_out": self.left_out,
        }
        return msgspec.json.encode(document | msgspec.structs.asdict(self.machine)).decode()


def number(value: float | msgspec.UnsetType | None) -> str:
    """For people: three significant digits below a hundred, whole numbers with thousands separators above."""
    if value is None or isinstance(value, msgspec.UnsetType):
        return ""
    if abs(value) < _PLAIN_BELOW:
        return f"{value:.3g}"
    return f"{value:,.0f}"


def _verdict(met: bool | None) -> str:
    return {True: "met", False: "MISSED", None: ""}[met]


_CASE_HEADINGS = ("case", "what", "ours", "opponent", "unit", "ratio", "p50 ms", "p99 ms", "their p99 ms", "target", "")
_FLOOR_HEADINGS = ("floor", "seen", "unit", "target", "")


def _case_cells(case: CaseResult) -> tuple[str, ...]:
    ratio = number(case.ratio)
    if case.ratio_spread is not None:
        ratio += " ({}-{})".format(*map(number, case.ratio_spread))
    opponent = f"{number(case.opponent)} {case.opponent_name}".strip()
    figures = (case.unit, ratio, number(case.p50_ms), number(case.p99_ms), number(case.opponent_p99_ms))
    return (case.case, case.title, number(case.ours), opponent, *figures, case.target, _verdict(case.met))


def _floor_cells(floor: Floor) -> tuple[str, ...]:
    return (floor.floor, number(floor.value), floor.unit, floor.target, _verdict(floor.met))


def describe(machine: Machine) -> str:
    return (
        f"{machine.cores} cores ({machine.cpu}), Python {machine.python}, PostgreSQL {machine.postgres}, "
        f"fsync and synchronous_commit on; client: {machine.load_generator}, "
        f"{machine.client_us_per_request:.1f} µs of the same cores per request; "
        f"{machine.rounds} alternating rounds of {machine.seconds:g} s; {machine.items:,} items; "
        f"load average before: {machine.load_average_before:.2f}"
    )


def print_tables(report: Report, console: Console) -> None:
    for headings, rows in _tables(report):
        table = Table(*headings)
        for row in rows:
            table.add_row(*row, style="red" if row[-1] == _verdict(met=False) else "")
        console.print(table)
    for case in report.cases:
        if case.note:
            console.print(f"{case.case}: {case.note}", markup=False, highlight=False, soft_wrap=True)
    for name, reason in report.failed.items():
        console.print(f"{name} has no figures: {reason}", style="red", markup=False, highlight=False, soft_wrap=True)
    for name, reason in report.left_out.items():
        console.print(f"{name} is left out: {reason}", markup=False, highlight=False, soft_wrap=True)
    console.print(describe(report.machine), highlight=False, soft_wrap=True)


def to_markdown(report: Report) -> str:
    parts = [describe(report.machine) + "."]
    for headings, rows in _tables(report):
        lines = [headings, tuple("---" for _ in headings), *rows]
        parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
    notes = [f"- **{case.case}**: {case.note}" for case in report.cases if case.note]
    notes += [f"- **{name}** has no figures: {reason}" for name, reason in report.failed.items()]
    notes += [f"- **{name}** is left out: {reason}" for name, reason in report.left_out.items()]
    return "\n\n".join([*parts, "\n".join(notes)]).strip() + "\n"


def _tables(report: Report) -> list[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    tables: list[tuple[tuple[str, ...], list[tuple[str, ...]]]] = [
        (_CASE_HEADINGS, [_case_cells(case) for case in report.cases])
    ]
    if report.floors:
        tables.append((_FLOOR_HEADINGS, [_floor_cells(floor) for floor in report.floors]))
    return tables
