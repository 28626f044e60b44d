"""`stockhold demo` on the real stack, as a newcomer would call it."""

import json
import subprocess
import sys

import pytest

ORDERS = 200


@pytest.fixture(scope="module")
def demo():
    return subprocess.run(
        [sys.executable, "-m", "infra.cli.main", "demo", "--orders", str(ORDERS), "--seed", "7", "--json"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


@pytest.fixture(scope="module")
def report(demo):
    assert demo.returncode == 0, demo.stderr
    return json.loads(demo.stdout.splitlines()[-1])


def test_nothing_is_oversold_and_the_views_match_the_log(report):
    assert report["oversold"] == 0
    assert report["views_match_log"] is True
    assert report["violations"] == 0


def test_every_item_and_order_is_as_it_was_answered(report):
    assert report["differing"] == 0


def test_every_order_has_its_outcome(report):
    assert report["orders"] == ORDERS
    assert report["reserved"] + report["refused"] == ORDERS
    assert report["committed"] + report["released"] + report["expired"] == report["reserved"]
    assert 0 < report["cancelled"] + report["shipped"] <= report["committed"]
    for outcome in ("refused", "shipped", "expired", "released", "returned", "cancelled"):
        assert report[outcome] > 0, outcome


def test_the_log_holds_the_events_that_the_answers_add_up_to(report):
    assert report["events"] == report["log_events"]


def test_it_says_how_long_things_took(report):
    assert 0 < report["p50_ms"] <= report["p99_ms"]
    assert 0 < report["lag_p50_ms"] <= report["lag_p99_ms"]
    assert 0 < report["play_seconds"] < report["seconds"]


def test_one_item_tells_its_story(demo, report):
    assert "The story of" in demo.stderr
    assert "A delivery brings" in demo.stderr
