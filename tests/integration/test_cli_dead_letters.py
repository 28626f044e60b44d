"""`stockhold dead-letters`: what was given up, and where; the intake's messages among it."""

import json
import os
import subprocess
from typing import Any

import pytest

from tests.support import STOCKHOLD
from tests.support_intake import about
from write_side.intake.messages import Received, read
from write_side.intake.postgres_store import PostgresIntakeStore
from write_side.intake.store import dead


@pytest.fixture
def environment(database_url: str, redis_url: str) -> dict[str, str]:
    return {
        **os.environ,
        "STOCKHOLD_EVENT_STORE_URL": database_url,
        "STOCKHOLD_READ_MODEL_URL": database_url,
        "STOCKHOLD_REDIS_URL": redis_url,
    }


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*STOCKHOLD, "dead-letters", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def said(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


@pytest.fixture
async def given_up(database_url: str) -> None:
    store = PostgresIntakeStore(database_url, retry_s=5, wait_s=60)
    received = Received("payment.authorized", 3, 17, b"o1", json.dumps(about("payment.authorized", "o1")).encode())
    message = read(received)
    letters = [
        dead(received, "reservation-expired", "reservation o1 has expired", message),
        dead(Received("order.placed", 0, 1, None, None), "invalid-request", "the message has no value"),
    ]
    await store.settle([], letters)
    await store.close()


def test_where_there_are_none(environment: dict[str, str]) -> None:
    done = run(environment)
    assert (done.returncode, done.stdout) == (0, "No dead letters.\n"), done.stderr
    assert said(run(environment, "--json")) == {"dead_letters": [], "publications": [], "messages": []}
    retried = run(environment, "--retry", "--json")
    assert retried.returncode == 0
    assert said(retried) | {"healed": 0, "published": 0, "replayed": 0} == said(retried)


@pytest.mark.usefixtures("given_up")
def test_messages_of_the_intake_are_told_apart(environment: dict[str, str]) -> None:
    done = run(environment)
    assert done.returncode == 0
    title, *lines = done.stdout.splitlines()
    assert title == "Messages that the intake has given up:"
    assert len(lines) == 2
    told = next(line for line in lines if "payment.authorized" in line)
    for part in ("order o1", "'/shop'", "partition 3, offset 17", "reservation-expired: reservation o1 has expired"):
        assert part in told
    facts = said(run(environment, "--json"))
    assert facts["dead_letters"] == facts["publications"] == []
    by_topic = {message["topic"]: message for message in facts["messages"]}
    assert (
        by_topic["payment.authorized"] | {"partition": 3, "order_id": "o1", "times": 1}
        == by_topic["payment.authorized"]
    )
    assert by_topic["order.placed"]["size"] == 0
