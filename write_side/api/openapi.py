"""The OpenAPI document of the command API, from the types that read and write what it describes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import fields

from domain.errors import Shortage
from infra.problems import PROBLEMS
from write_side.api.bodies import PATH_TYPES, ReservationBatch
from write_side.api.door import Gate
from write_side.api.routes import BatchResults, Route

Json = dict[str, Any]

DESCRIPTION: Final = """\
Everything that changes stock. Every change is decided against the one truth, the event log, and is in it
before it is answered.

Give each change an `Idempotency-Key` and repeat it with the same key when no answer came, or a 503: the
outcome of a decision is recorded with it, and a repeat is answered with that outcome. A refusal stays
refused under its key. Errors are problem documents (RFC 9457); `code` says which, the other members with
what facts. Quantities are units, times UTC.
"""

_REF: Final = "#/components/schemas/{name}"
_ALWAYS: Final = ("idempotency-key-reused", "invalid-request", "payload-too-large", "unsupported-media-type")
_FAILURES: Final = ("internal", "overloaded", "unavailable")
_RECORDED: Final = {200, 201, 404, 409, 410, 412}
_FIRST_PROBLEM: Final = 400
_TRY_AGAIN: Final = 503
_MEANINGS: Final = {200: "Done, or done before", 201: "Made"}


class RequestError(msgspec.Struct, frozen=True):
    """What is wrong, and where: `$…` in the body, `path.…`, `header.…`."""

    path: str
    message: str


class Problem(msgspec.Struct, frozen=True):
    """An error (RFC 9457). Further members are the facts of its ``code``."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[RequestError] | UnsetType = UNSET
    shortages: list[Shortage] | UnsetType = UNSET
    state: str | UnsetType = UNSET


# One operation ---------------------------------------------------------------------------------------


def body_type(gate: Gate) -> type[msgspec.Struct]:
    """The struct that a call's body is decoded into."""
    return ReservationBatch if gate.route.batch else gate.reader.body


def documentation(gate: Gate) -> Json:
    """What FastAPI cannot know of a call: its parameters, body and answers."""
    route, body = gate.route, body_type(gate)
    return {
        "parameters": [*_path_parameters(route), *_header_parameters(route)],
        "requestBody": {
            "required": any(info.required for info in fields(body)),
            "content": {"application/json": {"schema": _ref(body), "example": EXAMPLES[route.operation]}},
        },
        "responses": _answers(route) | _problems(route),
    }


def _ref(kind: type) -> Json:
    return {"$ref": _REF.format(name=kind.__name__)}


def _path_parameters(route: Route) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, "schema": _tidy(msgspec.json.schema(PATH_TYPES[name]))}
        for name in route.path_fields
    ]


def _header_parameters(route: Route) -> list[Json]:
    names = ["IdempotencyKey", "Actor", "CorrelationId", "Traceparent"]
    if "only_create" in route.from_headers:
        names.append("IfNoneMatch")
    return [{"$ref": f"#/components/parameters/{name}"} for name in names]


def _answers(route: Route) -> Json:
    return {
        str(status): {
            "description": _MEANINGS[status],
            "headers": _headers(status),
            "content": {"application/json": {"schema": _ref(document)}},
        }
        for status, document in route.answers.items()
    }


def _problems(route: Route) -> Json:
    by_status: dict[int, list[str]] = {}
    always = _ALWAYS[1:] if route.batch else _ALWAYS
    for code in (*route.refusals, *always, *_FAILURES):
        by_status.setdefault(PROBLEMS[code][0], []).append(code)
    return {str(status): _problem(status, by_status[status]) for status in sorted(by_status)}


def _problem(status: int, codes: Sequence[str]) -> Json:
    of_these = {"properties": {"code": {"enum": list(codes)}, "status": {"const": status}}}
    return {
        "description": ", ".join(f"`{code}`" for code in codes),
        "headers": _headers(status),
        "content": {"application/problem+json": {"schema": {"allOf": [_ref(Problem), of_these]}}},
    }


def _headers(status: int) -> Json:
    names = ["Idempotency-Key"]
    if status in _RECORDED:
        names.append("Idempotency-Replayed")
    if status == _TRY_AGAIN:
        names.append("Retry-After")
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


# The document ----------------------------------------------------------------------------------------


def complete(document: Json, gates: Iterable[Gate]) -> Json:
    """FastAPI's document with the schemas, parameters and headers that its operations refer to."""
    kinds: dict[str, Any] = {Problem.__name__: Problem, BatchResults.__name__: BatchResults}
    for gate in gates:
        for kind in (body_type(gate), *gate.route.answers.values()):
            kinds[kind.__name__] = kind
    _, schemas = msgspec.json.schema_components(kinds.values(), ref_template=_REF)
    document["components"] = {"schemas": _tidy(schemas), "parameters": PARAMETERS, "headers": HEADERS}
    return document


def _tidy(schema: Any) -> Any:
    """A schema of msgspec's as others read it: `$` is the end of a text and nothing before it, costs may be texts."""
    if isinstance(schema, list):
        return [_tidy(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "decimal":
        return _DECIMAL
    tidy = {name: _tidy(part) for name, part in schema.items()}
    if isinstance(tidy.get("pattern"), str):
        tidy["pattern"] = tidy["pattern"].removesuffix(r"(?!\n)")
    return tidy


_DECIMAL: Final[Json] = {
    "description": "An exact decimal number, at most 6 decimals; a text keeps it exact in any client.",
    "anyOf": [
        {"type": "number", "minimum": 0, "exclusiveMaximum": 10**12, "multipleOf": 0.000001},
        {"type": "string", "pattern": r"^[0-9]{1,12}(\.[0-9]{1,6})?$"},
    ],
}


def _text_parameter(name: str, description: str, **limits: Any) -> Json:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string"} | limits}


PARAMETERS: Final[Json] = {
    "IdempotencyKey": _text_parameter(
        "Idempotency-Key",
        "Names this change, so that it can be repeated without happening twice. One is made if there is none.",
        pattern="^[ -~]{1,128}$",
    ),
    "Actor": _text_parameter("X-Actor", "Who asks, by reference; no name.", minLength=1, maxLength=128),
    "CorrelationId": _text_parameter(
        "X-Correlation-Id", "What this is part of; kept with every event.", minLength=1, maxLength=128
    ),
    "Traceparent": _text_parameter(
        "traceparent", "W3C trace context: its trace is the correlation id if no other is given."
    ),
    "IfNoneMatch": _text_parameter("If-None-Match", "`*`: only create; 412 if it exists."),
}

HEADERS: Final[Json] = {
    "Idempotency-Key": {
        "description": "The key of this change, given or made.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Idempotency-Replayed": {
        "description": "`true`: this is the recorded outcome of an earlier request with this key.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "Retry-After": {"description": "Seconds.", "required": True, "schema": {"type": "integer"}},
}

_LINE: Final = {"sku": "TSHIRT-M", "quantity": 2}
_ORDER: Final[Json] = {"reservation_id": "order-1001", "order_id": "order-1001", "lines": [_LINE]}

EXAMPLES: Final[Mapping[str, Json]] = {
    "reservations.create": _ORDER,
    "reservations.create-batch": {"reservations": [_ORDER]},
    "reservations.commit": {},
    "reservations.release": {"reason": "PAYMENT_FAILED"},
    "reservations.extend": {"ttl_seconds": 600},
    "reservations.ship": {"tracking": "1Z999", "lines": [_LINE]},
    "reservations.cancel": {},
    "reservations.return": {"lines": [_LINE | {"warehouse": "FRA1", "condition": "SELLABLE"}]},
    "warehouses.put": {"name": "Frankfurt", "latitude": 50.1, "longitude": 8.7, "priority": 1},
    "stock.restock": {"quantity": 100, "unit_cost": "4.90", "reference": {"type": "purchase-order", "id": "PO-7"}},
    "stock.adjust": {"delta": -1, "reason": "LOST", "note": "not found at the inventory"},
    "stock.count": {"counted": 98, "expected_version": 17},
    "stock.damage": {"quantity": 1},
    "stock.repair": {"quantity": 1},
    "stock.write-off": {"quantity": 1},
    "stock.return": {"quantity": 1, "condition": "QUARANTINE"},
    "stock.policy": {"safety_stock": 5, "low_stock_threshold": 20},
}
