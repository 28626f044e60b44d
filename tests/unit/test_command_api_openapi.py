"""The OpenAPI document says what the door does."""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from infra.problems import PROBLEMS, InvalidRequest
from tests.command_api import ScriptedExecutor
from write_side.api.app import create_command_api
from write_side.api.bodies import CommandReader, read_batch
from write_side.api.openapi import EXAMPLES
from write_side.api.routes import ROUTES, Route

PATHS = {"reservation_id": "r-1", "sku": "A", "warehouse": "FRA1", "code": "FRA1", "only_create": False}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    described: dict[str, Any] = json.loads(json.dumps(create_command_api(ScriptedExecutor()).app.openapi()))
    return described


def refs_in(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for inner in part.values():
            yield from refs_in(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from refs_in(inner)


def operation(document: dict[str, Any], route: Route) -> Any:
    return document["paths"][route.path][route.method.lower()]


def test_it_describes_the_contracts_calls_and_the_operators_and_nothing_else(document):
    described = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    ours = {(route.method, route.path) for route in ROUTES}
    assert described == ours | {("GET", path) for path in ("/healthz", "/readyz", "/metrics")}
    assert len(ours) == 17


def test_operations_have_names_of_their_own(document):
    names = [described["operationId"] for path in document["paths"].values() for described in path.values()]
    assert len(names) == len(set(names))


def test_every_reference_leads_somewhere(document):
    for ref in set(refs_in(document)):
        place = document
        for step in ref.removeprefix("#/").split("/"):
            place = place[step]
        assert place


def test_it_names_no_host(document):
    assert not re.search(r"https?://", json.dumps(document))


def test_every_schema_is_a_schema(document):
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.operation)
def test_every_answer_of_a_call_is_described(document, route):
    answers = operation(document, route)["responses"]
    # Of any call: the door's own refusals, the failures; and what its decision says.
    expected = {str(status) for status in route.answers} | {"413", "415", "422", "500", "503"}
    expected |= {str(PROBLEMS[code][0]) for code in route.refusals}
    if not route.batch:  # an item's key that was used before is a result of that item
        expected.add("409")
    assert set(answers) == expected
    for status, answer in answers.items():
        assert "Idempotency-Key" in answer["headers"]
        recorded = status in {"200", "201", "404", "409", "410", "412"}
        assert ("Idempotency-Replayed" in answer["headers"]) == recorded
        assert ("Retry-After" in answer["headers"]) == (status == "503")
        media_types = set(answer["content"])
        assert media_types == {"application/json" if status < "400" else "application/problem+json"}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.operation)
def test_every_parameter_is_described(document, route):
    parameters = operation(document, route)["parameters"]
    in_path = [parameter["name"] for parameter in parameters if parameter["in"] == "path"]
    assert tuple(in_path) == route.path_fields
    in_header = {parameter["name"] for parameter in parameters if parameter["in"] == "header"}
    expected = {"Idempotency-Key", "X-Actor", "X-Correlation-Id", "traceparent"}
    assert in_header == (expected | {"If-None-Match"} if route.from_headers else expected)


def accepts(route: Route, body: Any) -> bool:
    try:
        if route.batch:
            return not any(isinstance(item, InvalidRequest) for item in read_batch(json.dumps(body).encode()))
        given = {name: PATHS[name] for name in (*route.path_fields, *route.from_headers)}
        CommandReader(route.command, given).read(given, json.dumps(body).encode())
    except InvalidRequest:
        return False
    return True


def validator(document: dict[str, Any], route: Route) -> jsonschema_rs.Draft202012Validator:
    schema = operation(document, route)["requestBody"]["content"]["application/json"]["schema"]
    return jsonschema_rs.Draft202012Validator(schema | {"components": document["components"]})


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.operation)
def test_the_examples_are_valid_and_taken(document, route):
    example = EXAMPLES[route.operation]
    assert validator(document, route).is_valid(example)
    assert accepts(route, example)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.operation)
def test_a_body_is_required_where_nothing_will_not_do(document, route):
    assert operation(document, route)["requestBody"]["required"] != accepts(route, {})


def changes(body: Any) -> Iterator[Any]:
    """The example with one thing changed, everywhere."""
    others: list[Any] = [None, True, -1, 0, 1, 1.5, 2**53, "", "x", "a b", "\0", "A" * 3_000, [], {}, {"x": 1}]
    if isinstance(body, dict):
        for name, value in body.items():
            yield {key: value for key, value in body.items() if key != name}
            yield from ({**body, name: changed} for changed in [*others, *changes(value)])
        yield {**body, "unknown": 1}
    if isinstance(body, list):
        for number, value in enumerate(body):
            yield from ([*body[:number], changed, *body[number + 1 :]] for changed in [*others, *changes(value)])
        yield body * 300


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.operation)
def test_the_schema_and_the_door_agree_on_what_a_body_is(document, route):
    schema = validator(document, route)
    tried = 0
    for body in changes(EXAMPLES[route.operation]):
        # A whole number written with a fraction is an integer to JSON Schema, and to nobody here: not tried.
        assert schema.is_valid(body) == accepts(route, body), body
        tried += 1
    assert tried


LINES = [{"sku": "A", "quantity": 1}]
HERE = {"latitude": 48.1, "longitude": 11.6}


@pytest.mark.parametrize(
    ("operation_name", "body"),
    [
        ("reservations.create", {"order_id": "o", "lines": LINES, "ttl_seconds": None}),
        ("reservations.create", {"order_id": "o", "lines": LINES, "ttl_seconds": None, "kind": "cart"}),
        ("reservations.create", {"order_id": "o", "lines": LINES, "ttl_seconds": None, "kind": "manual"}),
        ("reservations.create", {"order_id": "o", "lines": LINES, "ttl_seconds": 5, "kind": "cart"}),
        ("reservations.create", {"order_id": "o", "lines": LINES, "allocation": {"strategy": "nearest"}}),
        (
            "reservations.create",
            {"order_id": "o", "lines": LINES, "allocation": {"strategy": "nearest", "ship_to": None}},
        ),
        (
            "reservations.create",
            {"order_id": "o", "lines": LINES, "allocation": {"strategy": "nearest", "ship_to": HERE}},
        ),
        ("reservations.create", {"order_id": "o", "lines": LINES, "allocation": {"ship_to": HERE}}),
        ("reservations.extend", {"ttl_seconds": 5, "add_seconds": 5}),
        ("reservations.extend", {"ttl_seconds": None, "add_seconds": None}),
        ("reservations.extend", {"ttl_seconds": None, "add_seconds": 5}),
        ("reservations.extend", {"ttl_seconds": 5}),
        ("reservations.release", {"reason": "CANCELLED"}),
        ("reservations.release", {"reason": "ORDER_CANCELLED"}),
        ("reservations.release", {"reason": "EXPIRED"}),
        ("reservations.release", {"reason": "SHORTAGE"}),
        ("reservations.release", {"reason": None}),
    ],
)
def test_schema_and_door_agree_on_what_goes_together(document, operation_name, body):
    route = next(route for route in ROUTES if route.operation == operation_name)
    assert validator(document, route).is_valid(body) == accepts(route, body)


def cost_is_taken(document: dict[str, Any], cost: Any) -> bool:
    restock = next(route for route in ROUTES if route.operation == "stock.restock")
    body = {"quantity": 1, "unit_cost": cost}
    taken = accepts(restock, body)
    assert validator(document, restock).is_valid(body) == taken
    return taken


def test_a_cost_may_be_a_number_or_a_text(document):
    good = (0, 4.9, "4.90", "0", "999999999999.999999", None)
    bad: tuple[Any, ...] = (-1, 10**12, "-1", "cheap", "1000000000000", "0.0000001", True, [])
    assert [cost_is_taken(document, cost) for cost in good] == [True] * len(good)
    assert [cost_is_taken(document, cost) for cost in bad] == [False] * len(bad)
