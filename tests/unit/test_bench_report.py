"""The table, the JSON line and the table in the docs."""

import io
import json

import pytest
from rich.console import Console

from benchmarks.command import between_marks
from benchmarks.report import CaseResult, Floor, Machine, Report, number, print_tables, to_markdown


def _report() -> Report:
    machine = Machine(
        cores=2,
        cpu="a cpu",
        python="3.11.7",
        postgres="18.6",
        load_generator="stockhold raw-epoll client",
        client_us_per_request=10.7,
        load_average_before=0.1,
        seconds=5.0,
        rounds=3,
        items=50_000,
    )
    duel = CaseResult(
        case="W1",
        title="single-line reserve",
        unit="commands/s",
        target="≥ 1.5 x pgbench",
        ours=9_876.5,
        p50_ms=3.0,
        p99_ms=7.5,
        opponent=5_000.0,
        opponent_name="pgbench cold",
        opponent_p99_ms=18.0,
        ratio=1.975,
        ratio_spread=(1.9, 2.05),
        met=True,
        note="client 30%",
    )
    alone = CaseResult(case="P2", title="visible", unit="ms", target="p99 < 500 ms", ours=700.0, met=False)
    return Report(machine, [duel, alone], [Floor("reservations", 5_000.0, "≥ 1,000", "/s", met=True)])


def test_the_json_line_is_as_the_contract_says():
    line = _report().to_json()
    assert "\n" not in line
    document = json.loads(line)
    first, second = document["cases"]
    assert first.items() >= {"case": "W1", "ours": 9876.5, "opponent": 5000, "ratio": 1.975}.items()
    assert {"p50_ms", "p99_ms", "opponent_p99_ms", "target", "unit"} <= set(first)
    assert (second["opponent"], second["ratio"], second["p99_ms"]) == (None, None, None)
    assert "opponent_p99_ms" not in second
    assert second["met"] is False
    assert document["floors"] == [
        {"floor": "reservations", "value": 5000, "target": "≥ 1,000", "unit": "/s", "met": True}
    ]
    assert document["oversold"] == 0
    assert document["load_generator"] == "stockhold raw-epoll client"
    assert {"cores", "python", "postgres", "seconds", "rounds"} <= set(document)


def test_the_terminal_shows_what_was_missed():
    output = io.StringIO()
    print_tables(_report(), Console(file=output, width=240))
    lines = output.getvalue().splitlines()
    (missed,) = [line for line in lines if "P2" in line]
    assert "MISSED" in missed
    (met,) = [line for line in lines if "single-line" in line]
    assert "1.98 (1.9-2.05)" in met
    assert "met" in met
    assert any("10.7 µs" in line and "raw-epoll" in line for line in lines)


def test_the_docs_get_a_table_with_a_row_per_case():
    rows = [line for line in to_markdown(_report()).splitlines() if line.startswith("|")]
    assert [row.split(" | ")[0] for row in rows] == [
        "| case",
        "| ---",
        "| W1",
        "| P2",
        "| floor",
        "| ---",
        "| reservations",
    ]
    assert len({row.count("|") for row in rows[:4]}) == 1


def test_a_case_without_figures_says_why():
    report = _report()
    report.failed["P3"] = "no such [command]"
    output = io.StringIO()
    print_tables(report, Console(file=output, width=240))
    assert "P3 has no figures: no such [command]" in output.getvalue()
    assert "- **P3** has no figures: no such [command]" in to_markdown(report)
    assert json.loads(report.to_json())["failed"] == {"P3": "no such [command]"}


def test_a_case_that_this_machine_cannot_have_says_why():
    report = _report()
    report.left_out["P1"] = "there is no [Java]"
    output = io.StringIO()
    print_tables(report, Console(file=output, width=240))
    assert "P1 is left out: there is no [Java]" in output.getvalue()
    assert "- **P1** is left out: there is no [Java]" in to_markdown(report)
    assert json.loads(report.to_json())["left_out"] == {"P1": "there is no [Java]"}


def test_the_table_takes_the_place_of_the_last_one():
    page = "# Title\n\n<!-- bench:begin -->\nold\n<!-- bench:end -->\n\nWords after.\n"
    once = between_marks(page, "new")
    assert "old" not in once
    assert once.startswith("# Title\n")
    assert once.endswith("\n\nWords after.\n")
    assert between_marks(once, "new") == once


def test_a_page_may_have_a_table_for_a_part_of_the_cases():
    page = between_marks(between_marks("# Title\n", "all"), "some", "kafka")
    assert between_marks(page, "new", "kafka") == page.replace("some", "new")
    assert between_marks(page, "new") == page.replace("all", "new")


def test_a_page_without_marks_gets_them_at_its_end():
    page = between_marks("# Title\n", "table")
    assert page.startswith("# Title\n")
    assert between_marks(page, "other") == page.replace("table", "other")


@pytest.mark.parametrize(
    ("value", "shown"), [(None, ""), (0.5, "0.5"), (3.14159, "3.14"), (99.96, "100"), (12_345.6, "12,346")]
)
def test_numbers_for_people(value, shown):
    assert number(value) == shown
