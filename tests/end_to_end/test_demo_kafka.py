"""`stockhold demo --kafka` on the real stack with a real broker, small."""

import json
import os
import subprocess

import pytest

from tests.support import STOCKHOLD

ORDERS = 30


def run_demo(*words, **environment):
    return subprocess.run(
        [*STOCKHOLD, "demo", "--kafka", *words],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def report():
    demo = run_demo("--orders", str(ORDERS), "--seed", "7", "--json")
    assert demo.returncode == 0, demo.stderr
    return json.loads(demo.stdout.splitlines()[-1])


pytestmark = pytest.mark.timeout(300)


@pytest.mark.kafka
def test_the_books_are_those_of_the_http_demo(report):
    assert (report["oversold"], report["violations"], report["differing"], report["views_match_log"]) == (0, 0, 0, True)
    assert report["reserved"] + report["refused"] == ORDERS
    assert report["committed"] + report["released"] + report["expired"] == report["reserved"]
    assert report["events"] == report["log_events"]


@pytest.mark.kafka
def test_every_step_was_a_message_and_was_answered_by_one(report):
    messages = report["messages"]
    assert messages["order.placed"] == ORDERS
    assert messages["inventory.reserved"] == report["reserved"]
    assert messages.get("inventory.reservation-rejected", 0) == report["refused"]
    assert messages["inventory.committed"] == report["committed"]
    assert messages.get("inventory.refunded", 0) == report["cancelled"]
    assert messages["warehouse.received"] == report["restocks"]
    assert messages["inventory.stock-updated"] == report["events"] - report["stores"]
    # Late payments, which the audit makes, end as dead letters.
    assert messages.get("stockhold.dead-letters", 0) == report["expired"]
    assert messages["payment.authorized"] == report["committed"] + report["expired"]


@pytest.mark.kafka
def test_it_says_how_long_the_answers_took(report):
    assert 0 < report["placed_to_reserved_p50_ms"] <= report["placed_to_reserved_p99_ms"]
    assert 0 < report["lag_p50_ms"] <= report["lag_p99_ms"]


def test_without_java_it_says_so_before_anything_is_started():
    run = run_demo("--orders", "5", PATH="/nowhere", JAVA_HOME="")
    assert run.returncode == 3
    assert run.stderr.startswith("stockhold: no broker can be started here: Kafka needs Java 17")


def test_the_brokers_of_a_running_stack_must_be_named():
    urls = ("--command-url", "http://127.0.0.1:9", "--read-url", "http://127.0.0.1:9")
    run = run_demo("--orders", "5", *urls, STOCKHOLD_KAFKA_SERVERS="")
    assert run.returncode == 3
    assert "STOCKHOLD_KAFKA_SERVERS" in run.stderr
