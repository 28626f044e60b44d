"""What the domain refuses, by name. Each error carries the facts that let a caller act on it."""

from collections.abc import Sequence
from typing import ClassVar

import msgspec


class Shortage(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A line that could not be promised: units asked for, and units that could have been."""

    sku: str
    requested: int
    available: int
    warehouse: str | None = None


class DomainError(Exception):
    """A refused decision. ``code`` is stable and public; ``facts`` go into the problem document.

    ``premature``: what is missing may still come (another command on the way, a delivery), so that the same command
    may be right later. Who asks decides what to make of it: a caller is refused, a message waits.
    """

    code: ClassVar[str]
    premature: bool = False

    def __init__(self, detail: str, **facts: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.facts = facts


class InsufficientStock(DomainError):
    code = "insufficient-stock"
    premature = True

    def __init__(self, shortages: Sequence[Shortage]) -> None:
        first = shortages[0]
        place = f" at {first.warehouse}" if first.warehouse else ""
        more = f" (and {len(shortages) - 1} more lines)" if len(shortages) > 1 else ""
        super().__init__(
            f"{first.requested} of {first.sku}{place} requested, {first.available} available{more}",
            shortages=list(shortages),
        )
        self.shortages = list(shortages)


class UnknownStockItem(DomainError):
    code = "unknown-stock-item"
    premature = True

    def __init__(self, sku: str, warehouse: str | None = None) -> None:
        place = f" at {warehouse}" if warehouse else ""
        facts = {"sku": sku} | ({"warehouse": warehouse} if warehouse else {})
        super().__init__(f"no stock of {sku}{place} has ever been registered", **facts)


class UnknownWarehouse(DomainError):
    code = "unknown-warehouse"

    def __init__(self, warehouse: str) -> None:
        super().__init__(f"there is no warehouse {warehouse}", warehouse=warehouse)


class UnknownReservation(DomainError):
    code = "unknown-reservation"
    premature = True

    def __init__(self, reservation_id: str) -> None:
        super().__init__(f"there is no reservation {reservation_id}", reservation_id=reservation_id)


class UnknownOrder(DomainError):
    """No reservation was ever made for the order."""

    code = "unknown-reservation"
    premature = True

    def __init__(self, order_id: str) -> None:
        super().__init__(f"there is no reservation for order {order_id}", order_id=order_id)


class ReservationNotActive(DomainError):
    code = "reservation-not-active"

    def __init__(self, reservation_id: str, state: str, wanted: str, *, premature: bool = False) -> None:
        super().__init__(
            f"reservation {reservation_id} is {state}: it cannot be {wanted}",
            reservation_id=reservation_id,
            state=state,
        )
        self.premature = premature


class ReservationExpired(DomainError):
    code = "reservation-expired"

    def __init__(self, reservation_id: str) -> None:
        super().__init__(f"reservation {reservation_id} has expired", reservation_id=reservation_id, state="EXPIRED")


class QuantityOutOfRange(DomainError):
    """Well-formed, but more than what remains (or than a counter can hold)."""

    code = "quantity-out-of-range"

    def __init__(self, what: str, requested: int, remaining: int, **facts: object) -> None:
        super().__init__(
            f"{what}: {requested} requested, {remaining} possible", requested=requested, remaining=remaining, **facts
        )


class CapacityExceeded(DomainError):
    code = "capacity-exceeded"

    def __init__(self, sku: str, warehouse: str, requested: int, room: int) -> None:
        super().__init__(
            f"{requested} of {sku} at {warehouse} would exceed its maximum stock level; there is room for {room}",
            sku=sku,
            warehouse=warehouse,
            requested=requested,
            room=room,
        )


class WarehouseInactive(DomainError):
    code = "warehouse-inactive"

    def __init__(self, warehouse: str, status: str) -> None:
        super().__init__(f"warehouse {warehouse} is {status}", warehouse=warehouse, warehouse_status=status)


class ItemDiscontinued(DomainError):
    code = "discontinued"

    def __init__(self, sku: str, warehouse: str) -> None:
        super().__init__(f"{sku} at {warehouse} is discontinued: it is not restocked", sku=sku, warehouse=warehouse)


class DuplicateReservation(DomainError):
    code = "duplicate-reservation"

    def __init__(self, reservation_id: str, state: str, why: str) -> None:
        super().__init__(
            f"reservation {reservation_id} exists already {why}", reservation_id=reservation_id, state=state
        )


class VersionMismatch(DomainError):
    code = "version-mismatch"

    def __init__(self, stream: str, expected: int, actual: int) -> None:
        super().__init__(
            f"{stream} is at version {actual}, not {expected}", expected_version=expected, actual_version=actual
        )


class IdempotencyKeyReused(DomainError):
    code = "idempotency-key-reused"

    def __init__(self, key: str) -> None:
        super().__init__("this idempotency key was used for another request", idempotency_key=key)


class SweepNeeded(Exception):
    """Not a refusal: more due holds stand before this decision than one command may release.

    ``stream`` must be swept first, in commands of its own; then the decision is taken again.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(f"{stream} must be swept first")
        self.stream = stream
