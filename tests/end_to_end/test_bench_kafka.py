"""The benchmarks of what stands on Kafka, small: each measures what it says, and no figure is judged here."""

import json
import os
import subprocess

import pytest

from tests.support import STOCKHOLD

SMALL = ("--seconds", "1", "--rounds", "1", "--items", "1000", "--json")
CASES = ["P3K", "P2K", "P1", "P1R", "W4K"]


def bench(*words, **environment):
    return subprocess.run(
        [*STOCKHOLD, "bench", *words, *SMALL],
        capture_output=True,
        text=True,
        timeout=570,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.fixture(scope="module")
def cases():
    run = bench(*CASES)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout.splitlines()[-1])
    assert (report["failed"], report["left_out"]) == ({}, {})
    found = {case["case"]: case for case in report["cases"]}
    assert set(found) == set(CASES)
    return found


pytestmark = pytest.mark.timeout(600)


@pytest.mark.kafka
@pytest.mark.parametrize("name", CASES)
def test_each_has_a_figure(cases, name):
    assert cases[name]["ours"] > 0


@pytest.mark.kafka
def test_the_worker_was_fed_by_kafka_and_raced_the_direct_follower(cases):
    case = cases["P1"]
    assert case["ratio"] == pytest.approx(case["ours"] / case["opponent"])
    assert "a backlog of 2,000 events" in case["title"]
    assert "read from the log" not in case["note"]
    assert "past the head, in Redis too" in case["note"]


@pytest.mark.kafka
def test_the_relay_published_in_batches(cases):
    events_per_message = float(cases["P1R"]["note"].partition(" events per message")[0])
    assert events_per_message > 10


@pytest.mark.kafka
def test_orders_waited_for_the_intake(cases):
    case = cases["W4K"]
    assert case["ratio"] == pytest.approx(case["ours"] / case["opponent"])
    assert " waited, " in case["note"]


def test_without_java_they_are_left_out_with_a_word():
    run = bench("P1R", PATH="/nowhere", JAVA_HOME="")
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout.splitlines()[-1])
    assert report["cases"] == []
    assert "Java 17" in report["left_out"]["P1R"]
