"""Requests for availability as questions: the fast routes and the documented ones read them with the same code."""

import msgspec

from infra.http_app import HttpProblem
from infra.http_query import parse_query
from infra.problems import validation_error
from read_api.availability import Question
from read_api.parameters import (
    AvailabilitiesQuery,
    AvailabilityBatch,
    AvailabilityQuery,
    Freshness,
    coordinates,
    wanted_versions,
)

_decode_batch = msgspec.json.Decoder(AvailabilityBatch).decode


def question_of_sku(sku: str, query: bytes) -> Question:
    """``GET /v1/availability/{sku}``. Raises InvalidRequest."""
    if not query:
        return Question((sku,), (None,), single=True)
    said = parse_query(query, AvailabilityQuery)
    return Question(
        (sku,),
        (said.quantity,),
        wanted_versions(said.min_version, sku),
        None if said.near is None else coordinates(said.near),
        single=True,
    )


def question_of_skus(query: bytes) -> Question:
    """``GET /v1/availability?sku=…``. Raises InvalidRequest."""
    said = parse_query(query, AvailabilitiesQuery)
    return Question(said.sku, (None,) * len(said.sku), wanted_versions(said.min_version))


def question_of_batch(body: bytes | bytearray, query: bytes) -> Question:
    """``POST /v1/availability:batch``. Raises InvalidRequest."""
    versions = wanted_versions(parse_query(query, Freshness).min_version) if query else {}
    try:
        batch = _decode_batch(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise validation_error(error) from None
    return Question([item.sku for item in batch.items], [item.quantity for item in batch.items], versions)


def refuse_other_types(content_type: str | None) -> None:
    """Raises HttpProblem ``unsupported-media-type`` unless a body is JSON in UTF-8, however its type spells that."""
    kind, *parameters = (part.strip() for part in (content_type or "").lower().split(";"))
    charsets = [value.strip('"') for name, _, value in (p.partition("=") for p in parameters) if name == "charset"]
    if kind != "application/json" or not {"utf-8", "utf8"}.issuperset(charsets):
        raise HttpProblem("unsupported-media-type", "a body must be `application/json`, in UTF-8")
