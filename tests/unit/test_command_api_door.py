"""The door without a server: how a request becomes a submission, and an outcome an answer."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from domain.commands import CommitReservation, PutWarehouse
from infra.problems import problem
from tests.command_api import ScriptedExecutor
from write_side.api.door import Gate
from write_side.api.meters import Meter
from write_side.api.routes import ROUTES
from write_side.submission import Answer, Submission, request_digest

CREATE = b'{"order_id":"o-1","lines":[{"sku":"A","quantity":1}]}'
BAD = b'{"order_id":"o-1","lines":[]}'
JSON = (b"content-type", b"application/json")
OK_LINES = b"content-type: application/json\r\nidempotency-key: k\r\n"
PROBLEM_LINES = b"content-type: application/problem+json\r\nidempotency-key: k\r\n"


class Visitor:
    """Somebody at a gate, with the answers it gave."""

    def __init__(self, operation: str, executor: ScriptedExecutor | None = None) -> None:
        self.executor = executor or ScriptedExecutor()
        self.meter = Meter()
        route = next(route for route in ROUTES if route.operation == operation)
        self.gate = Gate(route, self.executor, self.meter)
        self.answers: list[tuple[int, bytes, bytes]] = []

    async def ask(
        self, body: bytes = b"", segments: Sequence[str] = (), key: bytes = b"k", *more: tuple[bytes, bytes]
    ) -> tuple[int, bytes, Any]:
        before = len(self.answers)
        headers = [(b"idempotency-key", key), JSON, *more]
        self.gate.handle(segments, headers, body, lambda *answer: self.answers.append(answer))
        await asyncio.sleep(0)
        assert len(self.answers) == before + 1
        status, lines, content = self.answers[-1]
        return status, lines, msgspec.json.decode(content)


async def test_a_request_becomes_a_submission():
    visitor = Visitor("reservations.commit")
    await visitor.ask(b"", ["r-1"], b"k", (b"x-actor", b"till-3"), (b"x-correlation-id", b"c-1"))
    (submission,) = visitor.executor.submitted
    command = CommitReservation(reservation_id="r-1")
    assert submission.command == command
    assert submission.digest == request_digest("reservations.commit", command)
    assert (submission.key, submission.scope, submission.actor) == ("k", "anonymous", "till-3")
    assert (submission.correlation_id, submission.causation_id) == ("c-1", None)


@pytest.mark.parametrize(
    ("answer", "lines"),
    [
        (Answer(201, b"{}"), OK_LINES),
        (Answer(200, b"{}", replayed=True), OK_LINES + b"idempotency-replayed: true\r\n"),
        (Answer(409, b"{}"), PROBLEM_LINES),
        (Answer(409, b"{}", replayed=True), PROBLEM_LINES + b"idempotency-replayed: true\r\n"),
        (Answer(500, b"{}"), PROBLEM_LINES),
        (Answer(503, b"{}"), PROBLEM_LINES + b"retry-after: 1\r\n"),
    ],
)
async def test_an_outcome_becomes_an_answer(answer, lines):
    visitor = Visitor("reservations.create", ScriptedExecutor(lambda _: answer))
    assert (await visitor.ask(CREATE))[:2] == (answer.status, lines)
    assert visitor.meter.by_status == {answer.status: 1}


async def test_only_create_comes_from_the_header_alone():
    visitor = Visitor("warehouses.put")
    await visitor.ask(b"{}", ["FRA1"], b"k1", (b"if-none-match", b"*"))
    await visitor.ask(b"{}", ["FRA1"], b"k2")
    first, second = (submission.command for submission in visitor.executor.submitted)
    assert first == PutWarehouse(code="FRA1", only_create=True)
    assert second == PutWarehouse(code="FRA1")


async def test_nothing_reaches_the_executor_that_is_not_in_order():
    visitor = Visitor("reservations.create")
    assert (await visitor.ask(BAD))[0] == 422
    assert (await visitor.ask(CREATE, (), b""))[0] == 422
    assert (await visitor.ask(CREATE, (), b"k", (b"content-type", b"text/plain")))[0] == 422
    assert visitor.executor.submitted == []
    assert visitor.meter.by_status == {422: 3}


async def test_a_bad_identifier_is_told_before_the_body_is_read():
    visitor = Visitor("stock.restock")
    status, _, document = await visitor.ask(b"nonsense", ["A", "B:C"])
    assert (status, document["errors"][0]["path"]) == (422, "path.warehouse")


@pytest.mark.parametrize(
    "media_type",
    [
        b"application/json",
        b"Application/JSON",
        b"application/json; charset=utf-8",
        b'application/json;charset="UTF-8"',
        b"application/json ; profile=x ; charset=UTF8",
    ],
)
async def test_spellings_of_json(media_type):
    visitor = Visitor("reservations.create")
    visitor.gate.handle([], [(b"content-type", media_type)], CREATE, lambda *answer: visitor.answers.append(answer))
    await asyncio.sleep(0)
    assert visitor.answers[0][0] == 201


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"content-type", b"")],
        [(b"content-type", b"text/plain")],
        [(b"content-type", b"application/x-www-form-urlencoded")],
        [(b"content-type", b"application/json; charset=latin-1")],
        [(b"content-type", b"application/json; charset=utf-8; charset=latin-1")],
        [(b"content-type", b"application/problem+json")],
        [(b"content-type", b"application/json, text/plain")],
    ],
)
async def test_what_is_not_json_is_415(headers):
    visitor = Visitor("reservations.create")
    visitor.gate.handle([], headers, CREATE, lambda *answer: visitor.answers.append(answer))
    ((status, _, body),) = visitor.answers
    assert (status, msgspec.json.decode(body)["code"]) == (415, "unsupported-media-type")


async def test_an_empty_body_has_no_media_type_to_object_to():
    visitor = Visitor("reservations.commit")
    visitor.gate.handle(
        ["r-1"], [(b"content-type", b"text/plain")], b"", lambda *answer: visitor.answers.append(answer)
    )
    await asyncio.sleep(0)
    assert visitor.answers[0][0] == 201


async def test_a_full_queue_is_503_and_may_be_tried_again():
    visitor = Visitor("reservations.create", ScriptedExecutor(limit=0))
    status, lines, document = await visitor.ask(CREATE)
    assert (status, document["code"]) == (503, "overloaded")
    assert lines.endswith(b"retry-after: 1\r\n")


async def test_a_fault_of_ours_is_500_and_in_the_log_alone(caplog):
    class Broken(ScriptedExecutor):
        def submit(self, submission: Submission) -> None:
            raise RuntimeError("the secret of the house")

    visitor = Visitor("reservations.create", Broken())
    status, lines, document = await visitor.ask(CREATE, (), b"k", (b"x-correlation-id", b"c-9"))
    assert (status, lines, document["code"]) == (500, PROBLEM_LINES, "internal")
    assert b"secret" not in visitor.answers[0][2]
    (record,) = caplog.records
    assert (record.correlation_id, record.idempotency_key) == ("c-9", "k")
    assert "the secret of the house" in caplog.text


async def test_a_fault_after_the_answer_is_not_answered_again(caplog):
    class Hasty(ScriptedExecutor):
        def submit(self, submission: Submission) -> None:
            submission.answer(Answer(201, b"{}"))
            raise RuntimeError("afterwards")

    assert (await Visitor("reservations.create", Hasty()).ask(CREATE))[0] == 201
    assert "afterwards" in caplog.text


# The batch -------------------------------------------------------------------------------------------


def batch(*items: bytes) -> bytes:
    return b'{"reservations":[%b]}' % b",".join(items)


def order(number: int) -> bytes:
    return b'{"order_id":"o-%d","lines":[{"sku":"A","quantity":1}]}' % number


async def test_each_item_has_its_own_key_and_stands_alone():
    def script(submission: Submission) -> Answer:
        if submission.key.endswith("#1"):
            return Answer(*problem("insufficient-stock", "none left", shortages=[]))
        return Answer(201, b'{"key":"%b"}' % submission.key.encode())

    visitor = Visitor("reservations.create-batch", ScriptedExecutor(script))
    status, lines, document = await visitor.ask(batch(order(0), order(1), BAD, order(3)))
    assert (status, lines) == (200, OK_LINES)
    assert [result["status"] for result in document["results"]] == [201, 409, 422, 201]
    assert [result["body"].get("key") for result in document["results"]] == ["k#0", None, None, "k#3"]
    assert document["results"][1]["body"]["code"] == "insufficient-stock"
    assert document["results"][2]["body"]["errors"][0]["path"] == "$.lines"


async def test_answers_that_come_out_of_order_are_put_in_order():
    executor = ScriptedExecutor(held=True)
    visitor = Visitor("reservations.create-batch", executor)
    visitor.gate.handle([], [JSON], batch(order(0), order(1), order(2)), lambda *answer: visitor.answers.append(answer))
    for submission in reversed(executor.waiting):
        assert visitor.answers == []
        submission.answer(Answer(201, b'"%b"' % submission.key[-2:].encode()))
    results = msgspec.json.decode(visitor.answers[0][2])["results"]
    assert [result["body"] for result in results] == ["#0", "#1", "#2"]


async def test_an_item_repeated_alone_under_its_own_key_is_the_same_request():
    executor = ScriptedExecutor()
    visitor = Visitor("reservations.create-batch", executor)
    await visitor.ask(batch(order(0), order(1)))
    alone = Visitor("reservations.create", executor)
    _, lines, document = await alone.ask(order(1), (), b"k#1")
    assert lines.endswith(b"idempotency-replayed: true\r\n")
    assert document["key"] == "k#1"


async def test_a_batch_is_replayed_if_all_of_it_is():
    executor = ScriptedExecutor()
    visitor = Visitor("reservations.create-batch", executor)
    first = await visitor.ask(batch(order(0), order(1)))
    again = await visitor.ask(batch(order(0), order(1)))
    assert again == (200, OK_LINES + b"idempotency-replayed: true\r\n", first[2])
    in_part = await visitor.ask(batch(order(0), order(1), order(2)))
    assert in_part[1] == OK_LINES


async def test_a_batch_is_admitted_whole_or_not_at_all():
    executor = ScriptedExecutor(limit=2)
    visitor = Visitor("reservations.create-batch", executor)
    status, _, document = await visitor.ask(batch(order(0), BAD, order(1), order(2)))
    assert (status, document["code"]) == (503, "overloaded")
    assert executor.submitted == []
    assert (await visitor.ask(batch(order(0), BAD, order(1))))[0] == 200


async def test_a_batch_of_nothing_but_bad_items_is_answered_too():
    visitor = Visitor("reservations.create-batch")
    status, _, document = await visitor.ask(batch(BAD, BAD))
    assert (status, [result["status"] for result in document["results"]]) == (200, [422, 422])
    assert visitor.executor.submitted == []


async def test_a_batch_with_a_bad_shape_is_422():
    visitor = Visitor("reservations.create-batch")
    status, _, document = await visitor.ask(batch(*[order(0)] * 1_001))
    assert (status, document["code"], document["errors"][0]["path"]) == (422, "invalid-request", "$.reservations")


async def test_the_longest_key_may_have_a_number_behind_it():
    visitor = Visitor("reservations.create-batch")
    _, _, document = await visitor.ask(batch(order(0)), (), b"k" * 128)
    assert document["results"][0]["body"]["key"] == "k" * 128 + "#0"
