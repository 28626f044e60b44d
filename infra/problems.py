"""Errors as HTTP problems (RFC 9457): the one table from a stable code to its status and title."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from domain.errors import DomainError

PROBLEM_JSON: Final = "application/problem+json"

PROBLEMS: Final[dict[str, tuple[int, str]]] = {
    "unauthenticated": (401, "Who are you?"),
    "forbidden": (403, "Not allowed"),
    "unknown-stock-item": (404, "Unknown stock item"),
    "unknown-reservation": (404, "Unknown reservation"),
    "unknown-warehouse": (404, "Unknown warehouse"),
    "not-found": (404, "No such route"),
    "method-not-allowed": (405, "Method not allowed"),
    "insufficient-stock": (409, "Insufficient stock"),
    "reservation-not-active": (409, "Reservation is not in a state for this"),
    "quantity-out-of-range": (409, "More than remains"),
    "capacity-exceeded": (409, "Capacity exceeded"),
    "warehouse-inactive": (409, "Warehouse is not active"),
    "discontinued": (409, "Discontinued"),
    "duplicate-reservation": (409, "Reservation exists already"),
    "idempotency-key-reused": (409, "Idempotency key reused"),
    "reservation-expired": (410, "Reservation has expired"),
    "version-mismatch": (412, "Version mismatch"),
    "payload-too-large": (413, "Payload too large"),
    "unsupported-media-type": (415, "Unsupported media type"),
    "invalid-request": (422, "Invalid request"),
    "rate-limited": (429, "Too many requests"),
    "internal": (500, "Internal error"),
    "overloaded": (503, "Overloaded"),
    "unavailable": (503, "Unavailable"),
    "not-fresh-enough": (503, "Not fresh enough"),
}

RETRY_AFTER_S: Final = 1
"""What 429 and 503 answers say in ``Retry-After``."""

_encode = msgspec.json.Encoder().encode


class InvalidRequest(Exception):
    """A request whose shape or limits are wrong (422); ``errors`` are (path, message) pairs."""

    def __init__(self, errors: Sequence[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{path}: {message}" for path, message in errors))
        self.errors = list(errors)


def problem(code: str, detail: str, **facts: Any) -> tuple[int, bytes]:
    """(status, body) of the problem ``code``; ``facts`` become members of the document."""
    status, title = PROBLEMS[code]
    body = {"type": f"urn:stockhold:problem:{code}", "title": title, "status": status, "detail": detail, "code": code}
    return status, _encode(body | facts)


def refusal_problem(error: DomainError) -> tuple[int, bytes]:
    """(status, body) of a decision that the domain refused."""
    return problem(error.code, error.detail, **error.facts)


def invalid_request(error: InvalidRequest) -> tuple[int, bytes]:
    """(status, body) of a request that never became a command."""
    errors = [{"path": path, "message": message} for path, message in error.errors]
    return problem("invalid-request", str(error), errors=errors)


def validation_error(error: Exception) -> InvalidRequest:
    """What msgspec complains of, as an :class:`InvalidRequest`: its message ends in the path, if it has one."""
    message, _, path = str(error).partition(" - at `$")
    return InvalidRequest([("$" + path.rstrip("`"), message)])
