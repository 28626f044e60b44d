import io
import json
import logging

import pytest

from infra.telemetry import JsonFormatter, configure_logging


def line(logger: logging.Logger, stream: io.StringIO) -> dict[str, object]:
    written = stream.getvalue().splitlines()
    assert len(written) == 1
    fields: dict[str, object] = json.loads(written[0])
    return fields


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def logger(stream: io.StringIO) -> logging.Logger:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter("read-api-1"))
    logger = logging.getLogger("stock.test")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel("INFO")
    return logger


def test_a_line_is_one_json_object_with_its_facts(logger: logging.Logger, stream: io.StringIO) -> None:
    logger.warning("batch of %d\ncommands", 17, extra={"commands": 17, "sku": "Ä-1"})
    fields = line(logger, stream)
    assert fields["message"] == "batch of 17\ncommands"
    assert fields["level"] == "WARNING"
    assert fields["process"] == "read-api-1"
    assert fields["logger"] == "stock.test"
    assert fields["commands"] == 17
    assert fields["sku"] == "Ä-1"
    assert str(fields["at"]).endswith("Z")


def test_an_extra_field_cannot_take_the_place_of_one_of_ours(logger: logging.Logger, stream: io.StringIO) -> None:
    logger.info("x", extra={"level": "nothing"})
    assert line(logger, stream)["level"] == "INFO"


def test_an_exception_is_part_of_its_line(logger: logging.Logger, stream: io.StringIO) -> None:
    try:
        int("many")
    except ValueError:
        logger.exception("refused")
    exception = str(line(logger, stream)["exception"])
    assert "Traceback" in exception
    assert exception.endswith("'many'")


def test_what_json_does_not_know_becomes_text(logger: logging.Logger, stream: io.StringIO) -> None:
    logger.info("x", extra={"thing": frozenset({1})})
    assert line(logger, stream)["thing"] == "frozenset({1})"


def test_logs_go_to_standard_error_and_replace_what_was_there(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers = []  # pytest's own must survive this test
    try:
        configure_logging("one")
        configure_logging("two", "WARNING")
        logging.getLogger("a").info("quiet")
        logging.getLogger("a").warning("loud")
    finally:
        root.handlers = before
        root.setLevel(level)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [json.loads(text)["message"] for text in captured.err.splitlines()] == ["loud"]
