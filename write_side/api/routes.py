"""The command API's routes, in one table: which request is which command, and what it may be answered."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from domain.commands import (
    Adjust,
    CancelReservation,
    ChangePolicy,
    Command,
    CommitReservation,
    CountStock,
    CreateReservation,
    Damage,
    ExtendReservation,
    PutWarehouse,
    ReleaseReservation,
    Repair,
    Restock,
    ReturnReservation,
    ReturnStock,
    ShipReservation,
    WriteOff,
)
from infra.documents import LevelDocument, ReservationDocument, WarehouseDocument

MAX_BODY_BYTES: Final = 1 << 20
MAX_BATCH_BODY_BYTES: Final = 16 << 20

_FIELD = re.compile(r"\{(\w+)\}")


class BatchResult(msgspec.Struct, frozen=True):
    """What became of one item: the reservation, or the problem document that says why there is none."""

    status: int
    body: dict[str, Any]


class BatchResults(msgspec.Struct, frozen=True):
    """One result for each reservation asked for, in their order."""

    results: list[BatchResult]


Answers = Mapping[int, type[msgspec.Struct]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One call of the contract.

    ``operation`` names it in digests, metrics and the OpenAPI document: it never changes. ``answers``
    are its documents by status; ``refusals`` the codes of its decision (those of every route come on
    top). ``fast``: served past ASGI as well. ``batch``: the body holds many of the command.
    ``from_headers``: fields of the command that no body names.
    """

    operation: str
    method: str
    path: str
    command: type[Command]
    summary: str
    answers: Answers
    refusals: tuple[str, ...]
    fast: bool = False
    batch: bool = False
    from_headers: tuple[str, ...] = ()

    @property
    def path_fields(self) -> tuple[str, ...]:
        """The fields of the command that the path names, in its order."""
        return tuple(_FIELD.findall(self.path))

    @property
    def body_bytes_max(self) -> int:
        return MAX_BATCH_BODY_BYTES if self.batch else MAX_BODY_BYTES

    @property
    def target(self) -> re.Pattern[bytes]:
        """A plain request target of this route: no query, nothing percent-encoded; one group per path field."""
        literals = _FIELD.split(self.path)[::2]
        return re.compile(rb"([^/?#%\x00-\x20\x7f-\xff]+)".join(re.escape(part.encode()) for part in literals))


def _reservation_route(verb: str, command: type[Command], summary: str, *refusals: str, fast: bool = False) -> Route:
    return Route(
        operation=f"reservations.{verb}",
        method="POST",
        path=f"/v1/reservations/{{reservation_id}}/{verb}",
        command=command,
        summary=summary,
        answers={200: ReservationDocument},
        refusals=(
            "unknown-reservation",
            "reservation-not-active",
            "quantity-out-of-range",
            "reservation-expired",
            *refusals,
        ),
        fast=fast,
    )


def _stock_route(
    verb: str, command: type[Command], summary: str, *refusals: str, method: str = "POST", fast: bool = False
) -> Route:
    return Route(
        operation=f"stock.{verb}",
        method=method,
        path=f"/v1/stock/{{sku}}/{{warehouse}}/{verb}",
        command=command,
        summary=summary,
        answers={200: LevelDocument},
        refusals=("unknown-stock-item", "unknown-warehouse", "version-mismatch", *refusals),
        fast=fast,
    )


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        operation="reservations.create",
        method="POST",
        path="/v1/reservations",
        command=CreateReservation,
        summary="Hold stock for an order",
        answers={201: ReservationDocument, 200: ReservationDocument},
        refusals=(
            "unknown-stock-item",
            "unknown-warehouse",
            "insufficient-stock",
            "warehouse-inactive",
            "duplicate-reservation",
        ),
        fast=True,
    ),
    _reservation_route("commit", CommitReservation, "The order has paid", fast=True),
    _reservation_route("release", ReleaseReservation, "The order will not pay", fast=True),
    _reservation_route("ship", ShipReservation, "Paid units leave", "insufficient-stock", fast=True),
    Route(
        operation="reservations.create-batch",
        method="POST",
        path="/v1/reservations:batch",
        command=CreateReservation,
        summary="Hold stock for up to 1,000 orders, each standing alone",
        answers={200: BatchResults},
        refusals=(),
        fast=True,
        batch=True,
    ),
    _reservation_route("extend", ExtendReservation, "The order may take longer to pay"),
    _reservation_route("cancel", CancelReservation, "A paid order is cancelled before it ships"),
    _reservation_route("return", ReturnReservation, "Shipped units come back"),
    Route(
        operation="warehouses.put",
        method="PUT",
        path="/v1/warehouses/{code}",
        command=PutWarehouse,
        summary="Create a warehouse, or change what is named of it",
        answers={201: WarehouseDocument, 200: WarehouseDocument},
        refusals=("version-mismatch",),
        from_headers=("only_create",),
    ),
    _stock_route(
        "restock",
        Restock,
        "Receive units for sale; an unknown SKU is registered by it",
        "capacity-exceeded",
        "discontinued",
        "quantity-out-of-range",
        fast=True,
    ),
    _stock_route("adjust", Adjust, "Correct the units on hand by a difference", "quantity-out-of-range"),
    _stock_route("count", CountStock, "Set the units on hand by a physical count"),
    _stock_route("damage", Damage, "Units on hand turn out not to be sellable", "quantity-out-of-range"),
    _stock_route("repair", Repair, "Damaged units become sellable again", "quantity-out-of-range"),
    _stock_route("write-off", WriteOff, "Damaged units leave for good", "quantity-out-of-range"),
    _stock_route("return", ReturnStock, "Units come back that no reservation accounts for", "quantity-out-of-range"),
    _stock_route("policy", ChangePolicy, "Change thresholds of the item's policy", method="PUT"),
)
"""In the order in which the fast lane tries them: the most asked for first."""
