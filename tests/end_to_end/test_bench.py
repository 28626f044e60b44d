"""`stockhold bench` as a user runs it, small: it starts a stack, measures both sides and says what it saw."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.support import STOCKHOLD

_SMALL = ("--seconds", "1", "--rounds", "1", "--items", "1000")


def _bench(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*STOCKHOLD, "bench", *words], capture_output=True, text=True, timeout=110, check=False)


def test_it_measures_both_sides_and_nothing_is_oversold(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text("# Title\n<!-- bench:begin -->\nlast year's\n<!-- bench:end -->\n")
    run = _bench("W1", "W2", *_SMALL, "--json", "--markdown", str(page))
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout.splitlines()[-1])
    assert [case["case"] for case in report["cases"]] == ["W1", "W2"]
    for case in report["cases"]:
        assert case["ours"] > 0
        assert case["ratio"] == pytest.approx(case["ours"] / case["opponent"])
        assert 0 < case["p50_ms"] <= case["p99_ms"]
        assert case["opponent_p99_ms"] > 0
        assert "x 5" not in case["note"], "the service failed under the bench"
    assert report["oversold"] == 0
    assert "1,000 holds of 1,000 units for 2,000 buyers" in report["cases"][1]["note"]
    assert report["client_us_per_request"] > 0
    assert report["postgres"]
    assert "| W1 | single-line reserve" in page.read_text()
    assert "last year's" not in page.read_text()


def test_an_unknown_case_is_wrong_usage() -> None:
    run = _bench("W1", "W99")
    assert run.returncode == 2
    assert "W99" in run.stderr


def test_a_stack_that_does_not_answer_is_not_reachable() -> None:
    urls = ("--url", "http://127.0.0.1:9", "--event-store-url", "postgresql://nobody@127.0.0.1:9/none")
    run = _bench("W1", *_SMALL, *urls)
    assert run.returncode == 3, run.stderr
