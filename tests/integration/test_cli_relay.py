"""`stockhold relay`: the log published on demand, alone and beside a stack, and what it refuses."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import typer

from infra.cli.main import main
from infra.embedded.stack import ROLES
from tests.support import eventually, stockhold_up
from tests.support_domain import registered, restocked
from tests.support_relay import PARTITIONS, arrived, checkpoint, options_for
from tests.support_views import LogWriter
from write_side.relay import RelayOptions

pytestmark = pytest.mark.kafka


class Told:
    """The command, run in this process. It must end with ``code``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def facts(self, *arguments: str) -> Any:
        """The object that it printed."""
        return json.loads(self._run([*arguments, "--json"], 0).out.splitlines()[-1])

    def refusal(self, *arguments: str, code: int) -> str:
        """What it said instead."""
        written = self._run(list(arguments), code)
        assert not written.out
        return str(written.err)

    def _run(self, arguments: list[str], code: int) -> Any:
        self._monkeypatch.setattr("sys.argv", ["stockhold", "relay", *arguments])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        written = self._capsys.readouterr()
        assert (ended.value.code or 0) == code, written.err
        return written


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kafka_prefix: str) -> Told:
    monkeypatch.setattr("infra.cli.main.app", typer.Typer())
    monkeypatch.setenv("STOCKHOLD_KAFKA_PREFIX", kafka_prefix)
    monkeypatch.setenv("STOCKHOLD_KAFKA_PARTITIONS", str(PARTITIONS))
    return Told(monkeypatch, capsys)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, database_url: str, redis_url: str, kafka: str) -> None:
    monkeypatch.setenv("STOCKHOLD_EVENT_STORE_URL", database_url)
    monkeypatch.setenv("STOCKHOLD_REDIS_URL", redis_url)
    monkeypatch.setenv("STOCKHOLD_KAFKA_SERVERS", kafka)


@pytest.fixture
def log(database_url: str) -> LogWriter:
    log = LogWriter(database_url)
    log.happened("A", "W1", registered(), restocked(1), restocked(2))
    return log


@pytest.fixture
def options(database_url: str, kafka: str, kafka_prefix: str) -> RelayOptions:
    return options_for(database_url, kafka, kafka_prefix)


@pytest.mark.usefixtures("environment")
def test_it_publishes_what_is_not_published_and_again_what_was(
    log: LogWriter, told: Told, options: RelayOptions
) -> None:
    first, _, last = (row.position for row in log.rows())
    facts = told.facts()
    assert facts.pop("seconds") > 0
    assert facts == {"after": 0, "upto": last}
    assert asyncio.run(arrived(options, log.rows())) == 0
    facts = told.facts("--from", str(first))
    assert (facts["after"], facts["upto"]) == (first, last)
    assert asyncio.run(arrived(options, log.rows())) == 2
    facts = told.facts("--from", str(last))
    assert (facts["after"], facts["upto"]) == (last, last)


@pytest.mark.usefixtures("environment")
def test_it_refuses_what_is_not_in_the_log(log: LogWriter, told: Told, options: RelayOptions) -> None:
    beyond = log.rows()[-1].position + 1
    assert f"the log ends at position {beyond - 1}" in told.refusal("--from", str(beyond), code=2)
    assert "--from" in told.refusal("--from", "-1", code=2)
    assert "--from" in told.refusal("--from", "yesterday", code=2)
    assert checkpoint(options) is None


@pytest.mark.usefixtures("environment")
def test_it_says_what_is_not_reachable(log: LogWriter, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STOCKHOLD_KAFKA_SERVERS", "127.0.0.1:1")
    assert "no broker answers at 127.0.0.1:1" in told.refusal(code=3)
    monkeypatch.delenv("STOCKHOLD_KAFKA_SERVERS")
    assert "there is no Kafka here" in told.refusal(code=2)


@pytest.mark.usefixtures("environment")
def test_it_does_not_publish_to_a_topic_of_other_partitions(
    log: LogWriter, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    told.facts()
    monkeypatch.setenv("STOCKHOLD_KAFKA_PARTITIONS", str(PARTITIONS + 1))
    assert "partitions" in told.refusal("--from", "0", code=1)


def test_beside_a_stack_its_relay_does_the_work(data_dir: Path, told: Told, kafka_prefix: str) -> None:
    others = [word for role in ROLES if role != "relay" for word in ("--without", role)]
    with stockhold_up(data_dir, "--kafka", *others) as up:
        options = options_for(up.facts["event_store_url"], up.facts["kafka"], kafka_prefix)
        log = LogWriter(options.event_store_url)
        log.happened("A", "W1", registered(), restocked(1))
        last = log.rows()[-1].position
        eventually(lambda: (found := checkpoint(options)) is not None and found.position == last)
        facts = told.facts("--data", str(data_dir), "--from", "0")
        assert (facts["after"], facts["upto"]) == (0, last)
        assert asyncio.run(arrived(options, log.rows())) == 2
        assert up.stop() == 0
