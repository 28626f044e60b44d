"""`stockhold demo` on the real stack, as a newcomer would call it."""

import json
import os
import subprocess

import psycopg
import pytest
from psycopg import sql

from tests.support import STOCKHOLD, stockhold_up

ORDERS = 200
SERVER_URLS = ("event_store_url", "read_model_url", "redis_url")


def run_demo(*words, **environment):
    return subprocess.run(
        [*STOCKHOLD, "demo", *words],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def demo():
    return run_demo("--orders", str(ORDERS), "--seed", "7", "--json")


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


@pytest.fixture
def up(data_dir):
    with stockhold_up(data_dir) as running:
        yield running


def play_on(up):
    servers = {f"STOCKHOLD_{name.upper()}": up.facts[name] for name in SERVER_URLS}
    urls = ("--command-url", up.facts["command_url"], "--read-url", up.facts["read_url"])
    run = run_demo("--orders", "10", "--json", *urls, **servers)
    return run, json.loads(run.stdout.splitlines()[-1])


def add_a_unit_to_every_level(read_model_url):
    with psycopg.connect(read_model_url) as connection:
        [(schema,)] = connection.execute("SELECT schemaname FROM pg_tables WHERE tablename = 'stock_levels'")
        connection.execute(
            sql.SQL("UPDATE {} SET on_hand = on_hand + 1").format(sql.Identifier(schema, "stock_levels"))
        )


def test_a_running_stack_can_be_played_on_again_and_a_wrong_view_is_found(up):
    first, report = play_on(up)
    assert first.returncode == 0, first.stderr
    assert (report["differing"], report["views_match_log"]) == (0, True)

    add_a_unit_to_every_level(up.facts["read_model_url"])
    second, next_report = play_on(up)
    assert second.returncode == 1
    assert (next_report["differing"], next_report["views_match_log"]) == (0, False)
    assert next_report["log_events"] == report["events"] + next_report["events"]


def test_a_stack_that_is_not_there_is_not_reachable():
    run = run_demo("--orders", "5", "--command-url", "http://127.0.0.1:9", "--read-url", "http://127.0.0.1:9")
    assert run.returncode == 3
    assert "http://127.0.0.1:9 does not answer" in run.stderr


def test_half_of_a_running_stack_is_wrong_usage():
    assert run_demo("--command-url", "http://127.0.0.1:9").returncode == 2


def test_an_address_without_a_scheme_is_wrong_usage():
    run = run_demo("--command-url", "localhost:8000", "--read-url", "http://localhost:8001")
    assert run.returncode == 2
    assert "localhost:8000 is no address of an API" in run.stderr
