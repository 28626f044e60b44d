"""The availability routes in the fast lane: the same questions, the same answers, without ASGI between them.

A target with anything unusual in it does not match, and takes the ordinary way to the same answer.
"""

import re
import time
from collections.abc import Callable, Sequence
from typing import Final

from infra.http_app import HttpProblem, problem_of
from infra.http_fast_lane import JSON_HEADERS, PROBLEM_HEADERS, FastRequest, FastRoute
from infra.problems import RETRY_AFTER_S, InvalidRequest
from read_api.availability import AvailabilityDesk, Question
from read_api.metrics import ReadMetrics
from read_api.questions import question_of_batch, question_of_sku, question_of_skus, refuse_other_types

FAST_BODY_BYTES_MAX: Final = 1_048_576

_RETRY_HEADERS: Final = PROBLEM_HEADERS + b"retry-after: %d\r\n" % RETRY_AFTER_S
_OK, _UNAVAILABLE = 200, 503
_QUERY = rb"(?:\?([!-~]*))?"


def fast_availability_routes(desk: AvailabilityDesk, metrics: ReadMetrics) -> Sequence[FastRoute]:
    """The routes, for :func:`infra.http_server.serve`."""

    def handler(route: str, question_of: Callable[[FastRequest], Question]) -> Callable[[FastRequest], None]:
        def handle(request: FastRequest) -> None:
            begun_s = time.perf_counter()

            def answer(status: int, body: bytes) -> None:
                headers = (
                    JSON_HEADERS if status == _OK else _RETRY_HEADERS if status == _UNAVAILABLE else PROBLEM_HEADERS
                )
                metrics.served(route, status, time.perf_counter() - begun_s)
                request.respond(status, headers, body)

            try:
                question = question_of(request)
            except (InvalidRequest, HttpProblem) as error:
                answer(*problem_of(error))
            else:
                desk.ask(question, answer)

        return handle

    sku = rb"/v1/availability/([A-Za-z0-9][A-Za-z0-9._:-]{0,99})" + _QUERY
    return (
        FastRoute(b"GET", re.compile(sku), handler("/v1/availability/{sku}", _of_sku)),
        FastRoute(b"GET", re.compile(rb"/v1/availability" + _QUERY), handler("/v1/availability", _of_skus)),
        FastRoute(
            b"POST",
            re.compile(rb"/v1/availability:batch" + _QUERY),
            handler("/v1/availability:batch", _of_batch),
            body_bytes_max=FAST_BODY_BYTES_MAX,
        ),
    )


def _of_sku(request: FastRequest) -> Question:
    return question_of_sku(request.match[1].decode(), request.match[2] or b"")


def _of_skus(request: FastRequest) -> Question:
    return question_of_skus(request.match[1] or b"")


def _of_batch(request: FastRequest) -> Question:
    content_type = next((value for name, value in request.headers if name == b"content-type"), None)
    refuse_other_types(None if content_type is None else content_type.decode("latin-1"))
    return question_of_batch(request.body, request.match[1] or b"")
