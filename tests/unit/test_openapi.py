"""OpenAPI made of the structs themselves."""

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request

from domain.values import Quantity, Sku
from infra.http_app import add_route, create_app, json_response
from infra.openapi import Schemas


class Part(msgspec.Struct):
    at: datetime | None
    sku: Sku


class Whole(msgspec.Struct):
    parts: list[Part]
    made_at: datetime
    note: str | UnsetType = UNSET


class Query(msgspec.Struct):
    quantity: Annotated[Quantity, Meta(description="units")] | None = None
    sku: list[Sku] = []
    until: str = msgspec.field(name="to", default="now")


class Path(msgspec.Struct):
    sku: Sku


def test_structs_become_components_and_instants_have_their_format():
    schemas = Schemas()
    assert schemas.schema(list[Whole]) == {"type": "array", "items": {"$ref": "#/components/schemas/Whole"}}
    whole, part = schemas.components["Whole"], schemas.components["Part"]
    assert whole["required"] == ["parts", "made_at"]
    assert whole["properties"]["made_at"]["format"] == "date-time"
    assert part["properties"]["at"]["anyOf"] == [{"type": "string", "format": "date-time"}, {"type": "null"}]
    assert part["properties"]["sku"]["pattern"] == "^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$"


def test_the_fields_of_a_struct_become_parameters():
    schemas = Schemas()
    quantity, sku, until = schemas.parameters(Query, "query")
    assert schemas.components == {}
    assert quantity == {
        "name": "quantity",
        "in": "query",
        "required": False,
        "description": "units",
        "schema": {"type": "integer", "minimum": 1, "maximum": 2**53 - 1},
    }
    assert sku["schema"]["type"] == "array"
    assert until["name"] == "to"
    assert schemas.parameters(Path, "path")[0]["required"] is True


def test_the_page_of_an_application_says_what_its_routes_say():
    schemas = Schemas()
    app = create_app("A", "B", "1", schemas)

    async def whole(_: Request):
        return json_response(b"{}")

    operation = schemas.operation(
        answers={200: Whole}, problems=["unknown-stock-item", "not-found", "unavailable"], path=Path, query=Query
    )
    add_route(app, "GET", "/v1/{sku}", whole, summary="Whole", operation=operation)
    page = app.openapi()
    described = page["paths"]["/v1/{sku}"]["get"]
    assert [parameter["name"] for parameter in described["parameters"]] == ["sku", "quantity", "sku", "to"]
    assert set(described["responses"]) == {"200", "404", "503"}
    assert described["responses"]["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/Whole")
    assert described["responses"]["404"]["description"] == "`unknown-stock-item`, `not-found`"
    assert "Retry-After" in described["responses"]["503"]["headers"]
    assert set(page["components"]["schemas"]) >= {"Whole", "Part", "Problem", "InvalidField"}
