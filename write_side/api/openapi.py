"""What the command API says of itself: its calls as OpenAPI operations, from the types that read and write them."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from domain.values import MAX_METADATA_BYTES, MAX_METADATA_DEPTH, ReleaseReason
from infra.openapi import Schemas
from infra.problems import PROBLEMS, InvalidRequest
from write_side.api.bodies import PATH_TYPES, ReservationBatch
from write_side.api.caller import KEY_CHARACTERS_MAX, REFERENCE_CHARACTERS_MAX
from write_side.api.door import Gate
from write_side.api.routes import Route

Json = dict[str, Any]

DESCRIPTION: Final = """\
Everything that changes stock. Every change is decided against the one truth, the event log, and is in it
before it is answered.

Give each change an `Idempotency-Key` and repeat it with the same key when no answer came, or a 503: the
outcome of a decision is recorded with it, and a repeat is answered with that outcome. A refusal stays
refused under its key. Errors are problem documents (RFC 9457); `code` says which, the other members with
what facts; the `path` of an invalid request begins with `$` in the body, `path.` and `header.` elsewhere.
Quantities are units, times UTC.
"""
VERSION: Final = "1"

_ALWAYS: Final = ("invalid-request", "payload-too-large", "unsupported-media-type", "internal", "overloaded")
_DECIDED: Final = ("idempotency-key-reused", "unavailable")
_RECORDED: Final = {"200", "201", "404", "409", "410", "412"}
_MEANINGS: Final = {"200": "Done, or done before", "201": "Made"}

Reference = Annotated[str, Meta(min_length=1, max_length=REFERENCE_CHARACTERS_MAX)]


class CallHeaders(msgspec.Struct):
    """What every call reads."""

    key: (
        Annotated[
            str,
            Meta(
                pattern=f"^[ -~]{{1,{KEY_CHARACTERS_MAX}}}$",
                description="Names this change, so that it can be repeated and happens once. One is made if none is given.",
            ),
        ]
        | None
    ) = msgspec.field(default=None, name="Idempotency-Key")
    actor: Annotated[Reference, Meta(description="Who asks, by reference: no names.")] | None = msgspec.field(
        default=None, name="X-Actor"
    )
    correlation_id: Annotated[Reference, Meta(description="What this is part of; kept with every event.")] | None = (
        msgspec.field(default=None, name="X-Correlation-Id")
    )
    traceparent: (
        Annotated[str, Meta(description="W3C trace context: its trace is the correlation id where no other is given.")]
        | None
    ) = None


class ConditionalHeaders(CallHeaders):
    if_none_match: Annotated[str, Meta(description="`*`: only create, 412 if it exists.")] | None = msgspec.field(
        default=None, name="If-None-Match"
    )


_ANSWER_HEADERS: Final[Mapping[str, Json]] = {
    "Idempotency-Key": {
        "description": "The key of this change, given or made.",
        "required": True,
        "schema": {"type": "string"},
    },
    "Idempotency-Replayed": {
        "description": "The recorded outcome of an earlier request with this key.",
        "schema": {"type": "string", "enum": ["true"]},
    },
}


def body_type(gate: Gate) -> type[msgspec.Struct]:
    """The struct that a call's body is decoded into."""
    return ReservationBatch if gate.route.batch else gate.reader.body


def call_operation(gate: Gate, schemas: Schemas) -> Json:
    """What there is to know of a call, for FastAPI's ``openapi_extra``; its types go into ``schemas``."""
    route, body = gate.route, body_type(gate)
    operation = schemas.operation(
        answers=route.answers,
        problems=sorted(_codes(route), key=lambda code: PROBLEMS[code]),
        path=msgspec.defstruct("Path", [(name, PATH_TYPES[name]) for name in route.path_fields]),
        headers=ConditionalHeaders if route.from_headers else CallHeaders,
        body=body,
    )
    for parameter in operation["parameters"]:
        if parameter["in"] == "path":
            parameter["example"] = _PATH_EXAMPLES[parameter["name"]]
    operation["requestBody"]["required"] = not _may_be_empty(gate)
    operation["requestBody"]["content"]["application/json"]["example"] = EXAMPLES[route.operation]
    for status, answer in operation["responses"].items():
        answer["description"] = _MEANINGS.get(status, answer["description"])
        names = _ANSWER_HEADERS if status in _RECORDED else ("Idempotency-Key",)
        answer["headers"] = answer.get("headers", {}) | {name: _ANSWER_HEADERS[name] for name in names}
    return operation


def _may_be_empty(gate: Gate) -> bool:
    given = {name: _PATH_EXAMPLES.get(name, False) for name in (*gate.route.path_fields, *gate.route.from_headers)}
    try:
        gate.reader.read(given, b"")
    except InvalidRequest:
        return False
    return True


def _codes(route: Route) -> set[str]:
    """Every code that the call may answer; those of a batch's items are in its results."""
    return {*route.refusals, *_ALWAYS} | (set() if route.batch else set(_DECIDED))


# What types alone do not say -------------------------------------------------------------------------

_CALLERS_REASONS: Final = (ReleaseReason.CANCELLED, ReleaseReason.PAYMENT_FAILED, ReleaseReason.ORDER_CANCELLED)
_ABSENT: Final[Json] = {"type": "null"}
_PRESENT: Final[Json] = {"type": "integer"}
_RULES: Final[Mapping[str, Json]] = {
    "CreateReservation": {
        "if": {"properties": {"ttl_seconds": {"type": "null"}}, "required": ["ttl_seconds"]},
        "then": {"properties": {"kind": {"const": "manual"}}, "required": ["kind"]},
    },
    "AllocationOptions": {
        "if": {"properties": {"strategy": {"const": "nearest"}}, "required": ["strategy"]},
        "then": {"properties": {"ship_to": {"type": "object"}}, "required": ["ship_to"]},
    },
    "ExtendReservation": {
        "oneOf": [
            {"properties": {"ttl_seconds": _PRESENT, "add_seconds": _ABSENT}, "required": ["ttl_seconds"]},
            {"properties": {"ttl_seconds": _ABSENT, "add_seconds": _PRESENT}, "required": ["add_seconds"]},
        ]
    },
}
_COST: Final[Json] = {
    "description": "An exact decimal number; as a text it stays exact in every client.",
    "anyOf": [
        {"type": "number", "minimum": 0, "exclusiveMaximum": 10**12, "multipleOf": 0.000001},
        {"type": "string", "pattern": r"^[0-9]{1,12}(\.[0-9]{1,6})?$"},
        {"type": "null"},
    ],
    "default": None,
}


_METADATA: Final = (
    f"An object of your own, given back as it is: at most {MAX_METADATA_BYTES} bytes of JSON and "
    f"{MAX_METADATA_DEPTH} levels, no NUL in its texts."
)


def add_rules(schemas: Schemas) -> None:
    """Adds what the commands check beside the types of their fields (``__post_init__``)."""
    components = schemas.components
    for name, rule in _RULES.items():
        components[name] |= rule
    components["ReleaseReservation"]["properties"]["reason"] = {
        "enum": [*_CALLERS_REASONS],
        "default": _CALLERS_REASONS[0],
    }
    components["Restock"]["properties"]["unit_cost"] = _COST
    for component in components.values():
        if "metadata" in component.get("properties", {}):
            component["properties"]["metadata"]["description"] = _METADATA


_LINE: Final = {"sku": "TSHIRT-M", "quantity": 2}
_ORDER: Final[Json] = {"reservation_id": "order-1001", "order_id": "order-1001", "lines": [_LINE]}

_PATH_EXAMPLES: Final = {"reservation_id": "order-1001", "sku": "TSHIRT-M", "warehouse": "FRA1", "code": "FRA1"}
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
