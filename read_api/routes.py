"""Every call of the read API: what it takes, what it answers, which problems it may have."""

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import msgspec
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from domain.policy import Policy
from infra.documents import LevelDocument, ReservationDocument, WarehouseDocument
from infra.http_app import HttpProblem, add_route, json_response, problem_response
from infra.http_query import parse_path, parse_query
from infra.openapi import Schemas
from infra.problems import InvalidRequest
from read_api import shapes
from read_api.availability import Question
from read_api.parameters import (
    AsOfQuery,
    AvailabilitiesQuery,
    AvailabilityBatch,
    AvailabilityQuery,
    Freshness,
    FreshnessHere,
    HistoryQuery,
    ItemPath,
    LowStockQuery,
    MovementsQuery,
    ReservationPath,
    ReservationsQuery,
    ShortagesQuery,
    SkuPath,
    WarehousePath,
    WarehousesQuery,
    WarehouseStockQuery,
    wanted_versions,
)
from read_api.questions import question_of_batch, question_of_sku, question_of_skus, refuse_other_types
from read_api.readers import Readers

BATCH_BYTES_MAX: Final = 16 * 1024 * 1024

_ALWAYS: Final = ("invalid-request", "unavailable", "internal")
_FRESH: Final = (*_ALWAYS, "not-fresh-enough")


class Call(NamedTuple):
    """One route of the contract."""

    method: str
    path: str
    summary: str
    serve: Callable[[Readers, Request], Awaitable[Response]]
    answer: Any
    problems: tuple[str, ...]
    path_shape: type[msgspec.Struct] | None = None
    query_shape: type[msgspec.Struct] | None = None
    body: Any = None


def add_calls(app: FastAPI, schemas: Schemas, readers: Readers) -> None:
    """Route and document every call."""
    for call in CALLS:
        operation = schemas.operation(
            answers={200: call.answer},
            problems=call.problems,
            path=call.path_shape,
            query=call.query_shape,
            body=call.body,
        )
        add_route(app, call.method, call.path, _endpoint(call, readers), summary=call.summary, operation=operation)


def _endpoint(call: Call, readers: Readers) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        with readers.metrics.measured(call.path) as measured:
            response = await call.serve(readers, request)
            measured.status = response.status_code
        return response

    return endpoint


async def _availability(readers: Readers, request: Request) -> Response:
    sku = parse_path(request.path_params, SkuPath).sku
    return await _answered(readers, question_of_sku(sku, _query(request)))


async def _availabilities(readers: Readers, request: Request) -> Response:
    return await _answered(readers, question_of_skus(_query(request)))


async def _availability_batch(readers: Readers, request: Request) -> Response:
    refuse_other_types(request.headers.get("content-type"))
    body = await _whole_body(request)
    return await _answered(readers, question_of_batch(body, _query(request)))


async def _answered(readers: Readers, question: Question) -> Response:
    status, body = await readers.desk.answered(question)
    return json_response(body) if status == 200 else problem_response(status, body)  # noqa: PLR2004  # the one success


async def _level(readers: Readers, request: Request) -> Response:
    item = parse_path(request.path_params, ItemPath)
    said = parse_query(_query(request), FreshnessHere)
    versions = wanted_versions(said.min_version, item.sku)
    return json_response(await readers.stock.level(item.sku, item.warehouse, versions))


async def _policy(readers: Readers, request: Request) -> Response:
    item = parse_path(request.path_params, ItemPath)
    said = parse_query(_query(request), FreshnessHere)
    await readers.watermarks.wait(wanted_versions(said.min_version, item.sku))
    return json_response(await readers.stock.policy(item.sku, item.warehouse))


async def _warehouses(readers: Readers, request: Request) -> Response:
    return json_response(await readers.warehouses.page(parse_query(_query(request), WarehousesQuery)))


async def _warehouse(readers: Readers, request: Request) -> Response:
    return json_response(await readers.warehouses.one(parse_path(request.path_params, WarehousePath).code))


async def _warehouse_stock(readers: Readers, request: Request) -> Response:
    code = parse_path(request.path_params, WarehousePath).code
    said = parse_query(_query(request), WarehouseStockQuery)
    await readers.watermarks.wait(wanted_versions(said.min_version))
    return json_response(await readers.warehouses.stock(code, said))


async def _low_stock(readers: Readers, request: Request) -> Response:
    said = parse_query(_query(request), LowStockQuery)
    await readers.watermarks.wait(wanted_versions(said.min_version))
    return json_response(await readers.warehouses.low_stock(said))


async def _reservation(readers: Readers, request: Request) -> Response:
    reservation_id = parse_path(request.path_params, ReservationPath).reservation_id
    said = parse_query(_query(request), Freshness)
    await readers.watermarks.wait(wanted_versions(said.min_version))
    return json_response(await readers.reservations.one(reservation_id))


async def _reservations(readers: Readers, request: Request) -> Response:
    said = parse_query(_query(request), ReservationsQuery)
    await readers.watermarks.wait(wanted_versions(said.min_version))
    return json_response(await readers.reservations.page(said))


async def _history(readers: Readers, request: Request) -> Response:
    item = parse_path(request.path_params, ItemPath)
    said = parse_query(_query(request), HistoryQuery)
    await readers.watermarks.wait(wanted_versions(said.min_version, item.sku))
    return json_response(await readers.movements.history(item.sku, item.warehouse, said))


async def _movements(readers: Readers, request: Request) -> Response:
    said = parse_query(_query(request), MovementsQuery)
    await readers.watermarks.wait(wanted_versions(said.min_version))
    return json_response(await readers.movements.search(said))


async def _as_of(readers: Readers, request: Request) -> Response:
    item = parse_path(request.path_params, ItemPath)
    said = parse_query(_query(request), AsOfQuery)
    if said.at is not None and said.version is None:
        return json_response(await readers.replay.at(item.sku, item.warehouse, said.at))
    if said.version is not None and said.at is None:
        return json_response(await readers.replay.version(item.sku, item.warehouse, said.version))
    raise InvalidRequest([("query", "either `at` or `version`")])


async def _shortages(readers: Readers, request: Request) -> Response:
    said = parse_query(_query(request), ShortagesQuery)
    await readers.watermarks.wait(wanted_versions(said.min_version))
    return json_response(await readers.shortages.page(said))


def _query(request: Request) -> bytes:
    query: bytes = request.scope["query_string"]
    return query


async def _whole_body(request: Request) -> bytes:
    """Raises HttpProblem ``payload-too-large`` before it has read more than may come."""
    told = request.headers.get("content-length")
    body = bytearray()
    if told is None or int(told) <= BATCH_BYTES_MAX:
        async for chunk in request.stream():
            body += chunk
            if len(body) > BATCH_BYTES_MAX:
                break
        else:
            return bytes(body)
    raise HttpProblem("payload-too-large", f"the body of this request may have {BATCH_BYTES_MAX} bytes")


_ITEM_PROBLEMS: Final = (*_FRESH, "unknown-stock-item")
_BODY_PROBLEMS: Final = (*_FRESH, "payload-too-large", "unsupported-media-type")

CALLS: Final = (
    Call(
        "GET", "/v1/availability/{sku}", "What can be had of a SKU",
        _availability, shapes.Availability, _ITEM_PROBLEMS, SkuPath, AvailabilityQuery,
    ),
    Call(
        "GET", "/v1/availability", "What can be had of several SKUs",
        _availabilities, shapes.Availabilities, _FRESH, None, AvailabilitiesQuery,
    ),
    Call(
        "POST", "/v1/availability:batch", "What can be had of many SKUs",
        _availability_batch, shapes.Availabilities, _BODY_PROBLEMS, None, Freshness, AvailabilityBatch,
    ),
    Call(
        "GET", "/v1/stock/{sku}/{warehouse}", "The level of a stock item",
        _level, LevelDocument, _ITEM_PROBLEMS, ItemPath, FreshnessHere,
    ),
    Call(
        "GET", "/v1/stock/{sku}/{warehouse}/policy", "The policy in force",
        _policy, Policy, _ITEM_PROBLEMS, ItemPath, FreshnessHere,
    ),
    Call(
        "GET", "/v1/stock/{sku}/{warehouse}/history", "The movements of a stock item, the newest first",
        _history, shapes.MovementPage, _ITEM_PROBLEMS, ItemPath, HistoryQuery,
    ),
    Call(
        "GET", "/v1/stock/{sku}/{warehouse}/as-of", "The level as it was, replayed from the log",
        _as_of, shapes.AsOfLevel, _ITEM_PROBLEMS, ItemPath, AsOfQuery,
    ),
    Call(
        "GET", "/v1/warehouses", "Warehouses",
        _warehouses, shapes.WarehousePage, _ALWAYS, None, WarehousesQuery,
    ),
    Call(
        "GET", "/v1/warehouses/{code}", "A warehouse",
        _warehouse, WarehouseDocument, (*_ALWAYS, "unknown-warehouse"), WarehousePath,
    ),
    Call(
        "GET", "/v1/warehouses/{code}/stock", "The stock of a warehouse",
        _warehouse_stock, shapes.LevelPage, (*_FRESH, "unknown-warehouse"), WarehousePath, WarehouseStockQuery,
    ),
    Call(
        "GET", "/v1/low-stock", "Items at or below their threshold",
        _low_stock, shapes.LevelPage, _FRESH, None, LowStockQuery,
    ),
    Call(
        "GET", "/v1/shortages", "Items with less stock than was promised, and whose promises those are",
        _shortages, shapes.ShortagePage, _FRESH, None, ShortagesQuery,
    ),
    Call(
        "GET", "/v1/reservations", "Reservations",
        _reservations, shapes.ReservationPage, _FRESH, None, ReservationsQuery,
    ),
    Call(
        "GET", "/v1/reservations/{reservation_id}", "A reservation",
        _reservation, ReservationDocument, (*_FRESH, "unknown-reservation"), ReservationPath, Freshness,
    ),
    Call(
        "GET", "/v1/movements", "Movements of the last 30 days, or of the time that is named, the newest first",
        _movements, shapes.MovementPage, _FRESH, None, MovementsQuery,
    ),
)  # fmt: skip
