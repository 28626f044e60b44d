"""`stockhold history`: the story of an item as a table and as JSON, up to an instant, and where it breaks off."""

import json
from typing import Any

import pytest
import typer

from domain.commands import CommitReservation
from domain.events import Origin
from domain.reservation import commit
from domain.stock_item import StockItem
from domain.values import AdjustmentReason
from infra.cli.main import main
from tests.support_domain import NOW, Shop, registered, restocked
from tests.support_views import LogWriter


@pytest.fixture
def shop(database_url: str) -> Shop:
    shop = Shop()
    shop.stocked("A", "W1", 10)
    shop.create("r-1", [("A", 3)], ttl_seconds=60)
    shop.elapse(30)
    shop.create("r-2", [("A", 2)])
    shop.on(commit, CommitReservation, "r-2")
    shop.elapse(60)
    shop.on_item("A", "W1", StockItem.adjust, -1, AdjustmentReason.THEFT)
    LogWriter(database_url).append(shop.log)
    return shop


class Told:
    """The command, run in this process: starting another one for each would take most of the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """What it wrote, to standard output if it ended well, else to standard error; it must end with ``code``."""
        self._monkeypatch.setattr("sys.argv", ["stockhold", "history", *arguments])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        written = self._capsys.readouterr()
        assert ended.value.code == code, written.err
        return written.out if code == 0 else written.err

    def facts(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json").splitlines()[-1])


@pytest.fixture
def told(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Told:
    monkeypatch.setenv("STOCKHOLD_EVENT_STORE_URL", database_url)
    monkeypatch.setenv("STOCKHOLD_REDIS_URL", redis_url)
    monkeypatch.setattr("infra.cli.main.app", typer.Typer())
    return Told(monkeypatch, capsys)


def test_the_story_is_a_table_with_an_ending(told: Told, shop: Shop) -> None:
    lines = told("A", "W1").splitlines()
    table = [line.split() for line in lines if line.strip()[:1].isdigit()]
    assert [row[0] for row in table] == ["1", "2", "3", "4", "5", "6"]
    assert table[2][1:3] == ["2026-03-01", "12:00:00"]
    assert "3 units held for r-1" in lines[4]
    assert [row[-4:] for row in table[2:]] == [
        ["10", "3", "0", "7"],
        ["10", "5", "0", "5"],
        ["10", "3", "2", "5"],
        ["9", "3", "2", "4"],
    ]
    text = "\n".join(lines)
    assert "7 available (LOW_STOCK) of 9 on hand, 0 held, 2 paid for; 0 sold, 0 returned, 1 lost." in text
    assert "Another 3 were held until their time ran out; nobody has swept them yet." in text


def test_the_story_ends_at_the_instant_that_is_named(told: Told, shop: Shop) -> None:
    story = told.facts("A", "W1", "--at", "2026-03-01T12:00:30Z")
    assert [chapter["version"] for chapter in story["events"]] == [1, 2, 3, 4, 5]
    assert (story["level"]["reserved"], story["level"]["committed"]) == (3, 2)
    assert story["holds"] == [
        {"reservation_id": "r-1", "order_id": "order-r-1", "active": 3, "expires_at": "2026-03-01T12:01:00Z"}
    ]
    later = told.facts("A", "W1", "--at", "2026-03-01T14:01:00+02:00")
    assert (later["level"]["reserved"], later["level"]["version"], later["holds"]) == (0, 5, [])


def test_only_the_last_events_if_asked(told: Told, shop: Shop) -> None:
    story = told.facts("A", "W1", "--last", "2")
    assert [chapter["event"] for chapter in story["events"]] == ["stock-item.committed", "stock-item.adjusted"]
    assert story["level"]["on_hand"] == 9


def test_a_note_is_neither_markup_nor_a_command_to_the_terminal(told: Told, database_url: str) -> None:
    note = "[bold]loud[/bold] \x1b[31mred"
    origin = Origin(command_id="c", actor="a", correlation_id="x", note=note)
    facts = (registered(), restocked(1))
    LogWriter(database_url).append(fact.at("stock:A@W1", n, NOW, origin) for n, fact in enumerate(facts, start=1))
    text = told("A", "W1")
    assert "[bold]loud[/bold] \N{REPLACEMENT CHARACTER}[31mred" in text
    assert "\x1b" not in text


def test_a_story_that_breaks_off_says_where(told: Told, shop: Shop, database_url: str) -> None:
    LogWriter(database_url).append_rows([("stock:A@W1", 7, "stock-item.no-such-thing", b"{}")])
    said = told("A", "W1", code=1)
    assert "version 7" in said
    assert "no-such-thing" in said


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("B", "W1"), 1, "no stock of B at W1 has ever been registered"),
        (("A", "W1", "--at", "2026-02-28T12:00:00Z"), 1, "had by then been registered"),
        (("A", "W1", "--at", "yesterday"), 2, "not an instant"),
        (("A", "W1", "--at", "2026-03-01T12:00:00"), 2, "time zone"),
        (("A",), 2, "Missing argument"),
    ],
)
def test_what_cannot_be_told(told: Told, shop: Shop, arguments: tuple[str, ...], code: int, said: str) -> None:
    assert said in told(*arguments, code=code)


def test_an_event_store_that_is_away_is_its_own_exit_code(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCKHOLD_EVENT_STORE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    assert "not reachable" in told("A", "W1", code=3)
