"""How the views lie in Redis: the keys, and the bytes of a value. Writers and readers share this page.

Under the prefix of a generation:

=================================  ==========  =======================================================
``{prefix}:filled``                hash        partition → ``"position revision"``; missing: Redis counts as down
``{prefix}:stock:{sku}``           hash        warehouse → level value (below); the SKU stands in braces
``{prefix}:due:{sku}@warehouse``   sorted set  ``"units:reservation_id"`` of each active hold that ends, score = its end in µs
``{prefix}:warehouses``            hash        code → warehouse value
``{prefix}:filling:partition``     string      the token of a refill under way, under the first partition of its share
=================================  ==========  =======================================================

A level value is :data:`LEVEL_HEADER` and then the level's JSON document *without its closing brace*, so
that a reader answers by adding ``}``, or more fields and ``}``. Until ``next_due`` of the header the
document is right as it stands; after it, :func:`shown_level` with the units that are due. A warehouse
value is its version (8 bytes, little-endian) and then its JSON document.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import Final, NamedTuple

import msgspec

from domain.hold import Hold
from infra.documents import LevelDocument, WarehouseDocument, encode
from projections.views.reservations import due_at
from projections.views.stock_levels import Level
from projections.views.warehouses import WarehouseRow

LEVEL_HEADER: Final = Struct("<qqqqqqB")
"""version, free (available without the floor), low_stock_threshold, backorder_limit, next_due µs, as_of µs, flags."""
NEVER_US: Final = 2**63 - 1
"""``next_due`` of a level without a hold that ends."""
DISCONTINUED: Final = 1
STALE: Final = 2

_VERSION = Struct("<q")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_decode_level = msgspec.json.Decoder(LevelDocument).decode
_decode_warehouse = msgspec.json.Decoder(WarehouseDocument).decode


class RedisKeys:
    """The keys of one generation."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.filled = f"{prefix}:filled"
        self.warehouses = f"{prefix}:warehouses"

    def filling(self, partition: int) -> str:
        return f"{self.prefix}:filling:{partition}"

    def stock(self, sku: str) -> str:
        return f"{self.prefix}:stock:{{{sku}}}"

    def due(self, sku: str, warehouse: str) -> str:
        return f"{self.prefix}:due:{{{sku}}}@{warehouse}"


def sku_of_key(key: bytes) -> str | None:
    """The SKU whose levels or due holds lie under ``key``; ``None`` if it is another key."""
    _, _, tail = key.partition(b"{")
    sku, brace, _ = tail.partition(b"}")
    return sku.decode() if brace else None


class LevelHeader(NamedTuple):
    """The figures that a sum over warehouses needs, without reading the document."""

    version: int
    free: int
    low_stock_threshold: int
    backorder_limit: int
    next_due_us: int
    as_of_us: int
    flags: int

    @property
    def discontinued(self) -> bool:
        return bool(self.flags & DISCONTINUED)

    @property
    def stale(self) -> bool:
        return bool(self.flags & STALE)


def microseconds(at: datetime) -> int:
    """``at`` as microseconds since 1970, exact (a float of seconds is not)."""
    return (at - _EPOCH) // _MICROSECOND


def from_microseconds(us: int) -> datetime:
    return _EPOCH + us * _MICROSECOND


def encode_level(level: Level) -> bytes:
    """The value of ``level`` in its SKU's hash."""
    header = LEVEL_HEADER.pack(
        level.version,
        level.free,
        level.low_stock_threshold,
        level.backorder_limit,
        NEVER_US if level.next_due_at is None else microseconds(level.next_due_at),
        microseconds(level.as_of),
        (DISCONTINUED if level.discontinued else 0) | (STALE if level.stale else 0),
    )
    return header + encode(level.document())[:-1]


def split_level(value: bytes) -> tuple[LevelHeader, bytes]:
    """The header and the document without its closing brace."""
    return LevelHeader(*LEVEL_HEADER.unpack_from(value)), value[LEVEL_HEADER.size :]


def decode_level(value: bytes) -> Level:
    """The row that was encoded, whole."""
    header, open_document = split_level(value)
    document = _decode_level(open_document + b"}")
    return Level(
        sku=document.sku,
        warehouse=document.warehouse,
        version=header.version,
        as_of=document.as_of,
        created_at=document.created_at,
        on_hand=document.on_hand,
        reserved=document.reserved,
        committed=document.committed,
        damaged=document.damaged,
        quarantined=document.quarantined,
        in_transit=document.in_transit,
        incoming=document.incoming,
        safety_stock=document.safety_stock,
        low_stock_threshold=header.low_stock_threshold,
        backorder_limit=header.backorder_limit,
        sold=document.sold,
        returned=document.returned,
        lost=document.lost,
        discontinued=header.discontinued,
        stale=header.stale,
        next_due_at=None if header.next_due_us == NEVER_US else from_microseconds(header.next_due_us),
        last_movement_at=document.last_movement_at,
        last_restocked_at=document.last_restocked_at,
        last_sold_at=document.last_sold_at,
        last_counted_at=document.last_counted_at,
    )


def shown_level(value: bytes, due: int) -> LevelDocument:
    """The document of a level of which ``due`` reserved units have ended."""
    return decode_level(value).document(due)


def due_member(hold: Hold | None) -> tuple[str, int] | None:
    """(member, score in µs) of ``hold`` in its item's sorted set; ``None`` if it has no place there."""
    end = due_at(hold)
    if hold is None or end is None:
        return None
    return f"{hold.active}:{hold.reservation_id}", microseconds(end)


def due_units(members: Iterable[bytes]) -> int:
    """The units of the members that ``ZRANGE … BYSCORE -inf now`` gave."""
    return sum(int(member[: member.index(b":")]) for member in members)


def encode_warehouse(row: WarehouseRow) -> bytes:
    """The value of ``row`` in the hash of warehouses."""
    return _VERSION.pack(row.version) + encode(row.document())


def decode_warehouse(value: bytes) -> WarehouseDocument:
    return _decode_warehouse(value[_VERSION.size :])


def encode_filled(position: int, revision: int) -> str:
    """The value of a partition in ``filled``."""
    return f"{position} {revision}"


def decode_filled(value: bytes) -> tuple[int, int]:
    """(position, revision) up to which the cache has everything."""
    position, _, revision = value.partition(b" ")
    return int(position), int(revision)
