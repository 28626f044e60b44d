r"""Types that carry their limits: identifiers, quantities, texts and coordinates.

Each is an annotated builtin, so that the same definition validates a request body, documents it
in OpenAPI and types the code. Patterns end in ``$(?!\n)`` because Python's ``$`` also matches
before a trailing newline.
"""

from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

MAX_QUANTITY: Final = 2**53 - 1
"""The largest quantity: every JSON reader can hold it exactly (RFC 8259, section 6)."""
MAX_HOLD_TTL_S: Final = 604_800
"""Seven days: the longest that a hold with an end may live, in seconds."""
MAX_LINES: Final = 200
MAX_METADATA_BYTES: Final = 4_096
"""The largest metadata object, as compact JSON."""
MAX_METADATA_DEPTH: Final = 32
"""How deep metadata may be nested: JSON libraries give up somewhere past a thousand, each somewhere else."""


Sku = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$(?!\n)", min_length=1, max_length=100)]
WarehouseCode = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$(?!\n)", min_length=1, max_length=32)]
EntityId = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$(?!\n)", min_length=1, max_length=128)]
"""A reservation, order or transfer id."""
OpaqueRef = Annotated[str, Meta(pattern=r"^[^\x00]*$(?!\n)", min_length=1, max_length=128)]
"""An actor or a customer, by reference: never a name, the log is for ever."""
ShortText = Annotated[str, Meta(pattern=r"^[^\x00]*$(?!\n)", min_length=1, max_length=200)]
Note = Annotated[str, Meta(pattern=r"^[^\x00]*$(?!\n)", min_length=1, max_length=2_000)]

Quantity = Annotated[int, Meta(ge=1, le=MAX_QUANTITY)]
Count = Annotated[int, Meta(ge=0, le=MAX_QUANTITY)]
Delta = Annotated[int, Meta(ge=-MAX_QUANTITY, le=MAX_QUANTITY)]
TtlSeconds = Annotated[int, Meta(ge=1, le=MAX_HOLD_TTL_S)]
Version = Annotated[int, Meta(ge=0, le=MAX_QUANTITY)]
Latitude = Annotated[float, Meta(ge=-90, le=90)]
Longitude = Annotated[float, Meta(ge=-180, le=180)]
Priority = Annotated[int, Meta(ge=1, le=1_000_000)]
Metadata = dict[str, Any]
"""An object of the caller's own, returned as given; :func:`check_metadata` says what it may be."""


class HoldKind(StrEnum):
    ORDER = "order"
    CART = "cart"
    MANUAL = "manual"


class Bucket(StrEnum):
    """Which part of a hold a release gives back."""

    RESERVED = "RESERVED"
    COMMITTED = "COMMITTED"


class ReleaseReason(StrEnum):
    CANCELLED = "CANCELLED"
    PAYMENT_FAILED = "PAYMENT_FAILED"
    EXPIRED = "EXPIRED"
    ORDER_CANCELLED = "ORDER_CANCELLED"
    SHORTAGE = "SHORTAGE"
    MOVED = "MOVED"


class Condition(StrEnum):
    """What state a returned unit came back in."""

    SELLABLE = "SELLABLE"
    DAMAGED = "DAMAGED"
    QUARANTINE = "QUARANTINE"


class AdjustmentReason(StrEnum):
    CORRECTION = "CORRECTION"
    FOUND = "FOUND"
    LOST = "LOST"
    THEFT = "THEFT"
    SHELF_LIFE = "SHELF_LIFE"
    SAMPLE = "SAMPLE"
    DAMAGED_IN_STORE = "DAMAGED_IN_STORE"


class WarehouseStatus(StrEnum):
    ACTIVE = "ACTIVE"
    INACTIVE = "INACTIVE"
    MAINTENANCE = "MAINTENANCE"


class StockStatus(StrEnum):
    IN_STOCK = "IN_STOCK"
    LOW_STOCK = "LOW_STOCK"
    OUT_OF_STOCK = "OUT_OF_STOCK"
    BACKORDER = "BACKORDER"
    DISCONTINUED = "DISCONTINUED"


class ReservationStatus(StrEnum):
    ACTIVE = "ACTIVE"
    PARTIALLY_COMMITTED = "PARTIALLY_COMMITTED"
    COMMITTED = "COMMITTED"
    PARTIALLY_SHIPPED = "PARTIALLY_SHIPPED"
    SHIPPED = "SHIPPED"
    RELEASED = "RELEASED"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"
    RETURNED = "RETURNED"


class Strategy(StrEnum):
    """How the allocator orders the warehouses that could serve a line."""

    PRIORITY = "priority"
    NEAREST = "nearest"
    FEWEST_SPLITS = "fewest_splits"
    MOST_STOCK = "most_stock"


class Reference(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A document elsewhere that caused a change: a purchase order, a delivery note."""

    type: ShortText
    id: ShortText


class Address(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    line: ShortText | None = None
    city: ShortText | None = None
    state: ShortText | None = None
    country: Annotated[str, Meta(pattern=r"^[A-Z]{2}$(?!\n)")] | None = None
    """ISO 3166-1 alpha-2."""
    postal_code: ShortText | None = None


def stock_stream(sku: str, warehouse: str) -> str:
    """The stream id of a stock item, readable in the log: ``stock:{sku}@{warehouse}``."""
    return f"stock:{sku}@{warehouse}"


def split_stock_stream(stream: str) -> tuple[str, str]:
    """(sku, warehouse) of a stock item's stream id. Neither part can hold an ``@``."""
    sku, _, warehouse = stream[6:].rpartition("@")
    return sku, warehouse


def warehouse_stream(code: str) -> str:
    """The stream id of a warehouse: ``warehouse:{code}``."""
    return f"warehouse:{code}"


def check_metadata(metadata: Metadata | None) -> None:
    """Raise ValueError if ``metadata`` is too large, too deep, or holds text that cannot be stored."""
    if not metadata:
        return
    level: list[Any] = [metadata]
    for _ in range(MAX_METADATA_DEPTH):
        texts = [text for node in level for text in _texts(node)]
        if any("\x00" in text for text in texts):
            raise ValueError("`metadata` holds a NUL")
        level = [child for node in level for child in _children(node)]
        if not level:
            break
    else:
        raise ValueError(f"`metadata` is nested deeper than {MAX_METADATA_DEPTH} levels")
    # Only measured here, not stored: but what has no JSON (a lone surrogate) has no size either, and raises.
    if len(msgspec.json.encode(metadata)) > MAX_METADATA_BYTES:
        raise ValueError(f"`metadata` is larger than {MAX_METADATA_BYTES} bytes")


def _texts(node: Any) -> list[str]:
    if isinstance(node, dict):
        return [*node, *(value for value in node.values() if isinstance(value, str))]
    return [value for value in node if isinstance(value, str)]


def _children(node: Any) -> list[Any]:
    values = node.values() if isinstance(node, dict) else node
    return [value for value in values if isinstance(value, dict | list)]
