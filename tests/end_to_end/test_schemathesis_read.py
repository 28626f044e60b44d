"""Schemathesis over the read API's own description of itself, against a whole stack: it keeps what it says.

Good and bad requests made from the OpenAPI document; about half of them name things that exist, so that answers
are reached and not only refusals.
"""

import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

from infra.settings import Settings
from read_api.app import compose
from tests.support import Up, stockhold_up

THERE = {"reservation_id": "order-1001", "sku": "TSHIRT-M", "warehouse": "FRA1", "code": "FRA1"}

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}")


@pytest.fixture(scope="module")
def up(module_data_dir: Path) -> Iterator[Up]:
    # A version that never was is waited for; with a second each the generator would have little time left to be inventive.
    with stockhold_up(module_data_dir, environment={"STOCKHOLD_MIN_VERSION_WAIT_MS": "100"}) as running:
        ask(
            running,
            "command_url",
            "PUT",
            "/v1/warehouses/FRA1",
            {"name": "Frankfurt", "latitude": 50.1, "longitude": 8.7},
        )
        ask(running, "command_url", "POST", "/v1/stock/TSHIRT-M/FRA1/restock", {"quantity": 10, "unit_cost": "9.95"})
        lines = [{"sku": "TSHIRT-M", "quantity": 4, "metadata": {"gift": True}}]
        reservation = {"reservation_id": "order-1001", "order_id": "order-1001", "lines": lines, "kind": "manual"}
        ask(running, "command_url", "POST", "/v1/reservations", reservation)
        adjustment = {"delta": -8, "reason": "THEFT", "note": "gone", "reference": {"type": "report", "id": "17"}}
        ask(running, "command_url", "POST", "/v1/stock/TSHIRT-M/FRA1/adjust", adjustment)
        ask(running, "read_url", "GET", "/v1/reservations/order-1001?min_version=TSHIRT-M@FRA1:4", None)
        yield running


def ask(up: Up, api: str, method: str, path: str, body: dict[str, Any] | None) -> Any:
    """The JSON of an answer that must be a success."""
    connection = http.client.HTTPConnection(urlsplit(up.facts[api]).netloc, timeout=20)
    connection.request(method, path, json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    assert response.status in {200, 201}, answer
    return json.loads(answer)


SCHEMA = compose(Settings()).api.app.openapi()
schema = schemathesis.openapi.from_dict(SCHEMA)


@schema.hook
def map_path_parameters(context: Any, path_parameters: dict[str, Any]) -> dict[str, Any]:
    """Every other request that names anything names what is there; what is no name at all stays as bad as it is."""
    if not path_parameters or len(str(path_parameters)) % 2:
        return path_parameters
    if not all(NAME.fullmatch(str(value)) for value in path_parameters.values()):
        return path_parameters
    return {name: THERE[name] for name in path_parameters}


@schema.parametrize()
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_the_read_api_keeps_what_it_says(up: Up, case: schemathesis.Case[Any]) -> None:
    response = case.call_and_validate(
        base_url=up.facts["read_url"],
        # Refused though the schema allows it: a cursor that no page gave, `at` and `version` at once, a place that is
        # not on Earth. And the one 5xx that a caller can bring about: a version that has never been.
        excluded_checks=[positive_data_acceptance, not_a_server_error],
    )
    if response.status_code >= 500:
        assert response.json()["code"] == "not-fresh-enough"
        assert "min_version" in (case.query or {})


@pytest.mark.parametrize(
    "path",
    [
        "/v1/availability/TSHIRT-M?quantity=1&near=48.1,11.6",
        "/v1/availability?sku=TSHIRT-M&sku=NEVER-SEEN",
        "/v1/stock/TSHIRT-M/FRA1",
        "/v1/stock/TSHIRT-M/FRA1/policy",
        "/v1/stock/TSHIRT-M/FRA1/history",
        "/v1/stock/TSHIRT-M/FRA1/as-of?version=3",
        "/v1/warehouses",
        "/v1/warehouses/FRA1",
        "/v1/warehouses/FRA1/stock",
        "/v1/low-stock",
        "/v1/shortages",
        "/v1/reservations",
        "/v1/reservations/order-1001",
        "/v1/movements",
        "/healthz",
        "/readyz",
    ],
)
def test_answers_that_say_something_are_as_described(up: Up, path: str) -> None:
    """By hand, since few of a generator's requests find anything to show."""
    answer = ask(up, "read_url", "GET", path, None)
    if "items" in answer:
        assert answer["items"], "a list with nothing on it shows nothing"
    template = path.partition("?")[0].replace("warehouses/FRA1", "warehouses/{code}")
    for text, name in (("TSHIRT-M", "sku"), ("FRA1", "warehouse"), ("order-1001", "reservation_id")):
        template = template.replace(text, f"{{{name}}}")
    described = SCHEMA["paths"][template]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema_rs.Draft202012Validator({**described, "components": SCHEMA["components"]}).validate(answer)
