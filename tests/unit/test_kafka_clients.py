"""What a broker that is away looks like to our processes, and to whoever reads their logs."""

import itertools
import logging

import pytest
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    NotLeaderForPartitionError,
)

from infra.kafka.clients import BrokerAway, RateLimit, is_away, until_reachable
from infra.kafka.probe import addresses


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def limited(lines: list[str], request: pytest.FixtureRequest) -> tuple[logging.Logger, list[float]]:
    """A logger behind the limit, and the clock that the limit looks at."""
    clock = [100.0]
    logger = logging.getLogger(f"limited.{request.node.name}")
    logger.addFilter(RateLimit(first=3, every_s=10.0, clock=lambda: clock[0]))

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger.addHandler(Keep())
    return logger, clock


def test_the_first_lines_of_a_statement_pass_and_then_no_more(
    limited: tuple[logging.Logger, list[float]], lines: list[str]
) -> None:
    logger, clock = limited
    for number in range(5_000):
        clock[0] += 0.001
        logger.warning("broker %d is away", number)
    assert lines == ["broker 0 is away", "broker 1 is away", "broker 2 is away"]
    _say(logger, 0)
    assert lines[3:] == ["again 0"], "another statement has a burst of its own"


def _say(logger: logging.Logger, number: int) -> None:
    logger.warning("again %d", number)


def test_what_was_left_out_is_counted_in_the_next_line(
    limited: tuple[logging.Logger, list[float]], lines: list[str]
) -> None:
    logger, clock = limited
    for number in range(1_000):
        _say(logger, number)
    clock[0] += 10.0
    _say(logger, 1_000)
    _say(logger, 1_001)
    assert lines == ["again 0", "again 1", "again 2", "again 1000 (and 997 more like it)"]
    clock[0] += 10.0
    _say(logger, 1_002)
    clock[0] += 10.0
    for number in range(5):
        _say(logger, number)
    assert lines[4:] == ["again 1002 (and 1 more like it)", "again 0", "again 1", "again 2"], "silence ends a flood"


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (KafkaConnectionError(), True),
        (KafkaTimeoutError(), True),
        (NotLeaderForPartitionError(), True),
        (BrokerAway(), True),
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (MessageSizeTooLargeError(), False),
        (ValueError(), False),
    ],
)
def test_which_errors_may_be_gone_in_a_moment(error: Exception, away: bool) -> None:
    assert is_away(error) is away


async def test_what_is_away_is_tried_again_and_said_twice(caplog: pytest.LogCaptureFixture) -> None:
    tries = itertools.count(1)

    async def attempt() -> str:
        if next(tries) < 3:
            raise KafkaConnectionError("nobody there")
        return "there"

    with caplog.at_level("INFO"):
        assert await until_reachable(attempt, "127.0.0.1:9092", pause_s=0.001) == "there"
    assert next(tries) == 4
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "nobody there" in caplog.records[0].getMessage()


async def test_what_is_wrong_is_not_tried_again() -> None:
    async def attempt() -> None:
        raise MessageSizeTooLargeError

    with pytest.raises(MessageSizeTooLargeError):
        await until_reachable(attempt, "127.0.0.1:9092")


def test_addresses_of_brokers() -> None:
    assert list(addresses("a:1, b:2,c,[::1]:9094")) == [("a", 1), ("b", 2), ("c", 9092), ("::1", 9094)]
    for wrong in ("a:b", ":9092", "a:1,,b:2"):
        with pytest.raises(ValueError, match="is no address of a broker"):
            list(addresses(wrong))
