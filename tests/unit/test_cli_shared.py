import io
import json
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from infra.cli import shared
from infra.cli.shared import Refusal, answer, load_settings, progress, stack_urls
from infra.settings import ServerSettings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in ServerSettings.model_fields:
        monkeypatch.delenv(f"STOCKHOLD_{field.upper()}", raising=False)


def test_an_answer_is_one_json_line_or_text(capsys: pytest.CaptureFixture[str]) -> None:
    answer({"events": 3, "cost": Decimal("1.50"), "name": "Ä"}, "3 events", as_json=True)
    answer({"events": 3}, "3 events", as_json=False)
    first, second = capsys.readouterr().out.splitlines()
    assert json.loads(first) == {"events": 3, "cost": "1.50", "name": "Ä"}
    assert second == "3 events"


def test_progress_is_plain_lines_on_standard_error_when_that_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("replaying", 2_000) as bar:
        bar.advance(1_500)
        bar.advance()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "replaying: 1,501 of 2,000\n"


def test_progress_writes_now_and_then_while_it_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "PLAIN_LINE_EVERY_S", 0.0)
    with progress("reading") as bar:
        bar.advance()
        bar.advance()
    assert capsys.readouterr().err.splitlines() == ["reading: 1", "reading: 2", "reading: 2"]


def test_progress_tells_how_fast_it_goes_and_how_long_it_will_take(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr("infra.cli.shared.time.monotonic", lambda: now_s)
    with progress("filling", 10_000) as bar:
        now_s += 5
        bar.advance(5_000)
        now_s += 6
        bar.advance(500)
        bar.advance(4_500)
    lines = ["5,000 of 10,000 (1,000/s, 5 s left)", "5,500 of 10,000 (500/s, 9 s left)", "10,000 of 10,000 (909/s)"]
    assert capsys.readouterr().err.splitlines() == [f"filling: {line}" for line in lines]


def test_progress_of_what_grows_meanwhile_is_never_more_than_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("replaying", 10) as bar:
        bar.advance(12)
    assert capsys.readouterr().err == "replaying: 12 of 12\n"


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress("replaying", 2) as bar:
        bar.advance(2)
        bar.advance(1)
    assert "replaying" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()


def test_a_wrong_setting_is_named_and_ends_with_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCKHOLD_QUEUE_LIMIT", "many")
    with pytest.raises(Refusal, match="STOCKHOLD_QUEUE_LIMIT") as refused:
        load_settings()
    assert refused.value.exit_code == 2


def test_addresses_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCKHOLD_EVENT_STORE_URL", "postgresql://log")
    monkeypatch.setenv("STOCKHOLD_REDIS_URL", "redis://cache")
    with stack_urls(None) as urls:
        assert (urls.event_store_url, urls.read_model_url, urls.redis_url) == (
            "postgresql://log",
            "postgresql://log",
            "redis://cache",
        )


def test_a_folder_without_a_stack_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="there is no stack in"), stack_urls(tmp_path / "none"):
        pass
    assert not (tmp_path / "none").exists()
