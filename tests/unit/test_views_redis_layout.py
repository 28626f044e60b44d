"""The bytes of the cache: what is written can be read, by a reader that decodes and by one that only adds a brace."""

import msgspec
import pytest
from msgspec.structs import replace

from domain.events import WarehouseDetails
from domain.hold import Hold
from domain.values import Address
from infra.documents import LevelDocument, encode
from projections.redis_layout import (
    LEVEL_HEADER,
    NEVER_US,
    RedisKeys,
    decode_filled,
    decode_level,
    decode_warehouse,
    due_member,
    due_units,
    encode_filled,
    encode_level,
    encode_warehouse,
    from_microseconds,
    microseconds,
    shown_level,
    split_level,
)
from projections.views.stock_levels import Level
from projections.views.warehouses import WarehouseRow
from tests.support_domain import NOW, after

PLAIN = Level(sku="A", warehouse="W1", version=1, as_of=NOW, created_at=NOW)
RICH = Level(
    sku="A.b:c-d",
    warehouse="FRA_1",
    version=2**53 - 1,
    as_of=after(0.000001),
    created_at=NOW,
    on_hand=9,
    reserved=8,
    committed=7,
    damaged=6,
    quarantined=5,
    in_transit=4,
    incoming=3,
    safety_stock=2,
    low_stock_threshold=1,
    backorder_limit=11,
    sold=12,
    returned=13,
    lost=14,
    discontinued=True,
    stale=True,
    next_due_at=after(0.123456),
    last_movement_at=after(1),
    last_restocked_at=after(2),
    last_sold_at=after(3),
    last_counted_at=after(4),
)


@pytest.mark.parametrize("level", [PLAIN, RICH, replace(RICH, stale=False), replace(RICH, discontinued=False)])
def test_a_level_comes_back_whole(level: Level) -> None:
    assert decode_level(encode_level(level)) == level


@pytest.mark.parametrize("level", [PLAIN, RICH])
def test_a_brace_makes_the_document(level: Level) -> None:
    _, open_document = split_level(encode_level(level))
    assert open_document + b"}" == encode(level.document())
    named = msgspec.json.decode(open_document + b',"name":"Frankfurt"}')
    assert named["name"] == "Frankfurt"
    assert msgspec.json.decode(open_document + b"}", type=LevelDocument) == level.document()


def test_the_header_says_what_a_sum_needs() -> None:
    header, _ = split_level(encode_level(RICH))
    assert (header.version, header.free) == (2**53 - 1, 9 - 8 - 7 - 2)
    assert (header.low_stock_threshold, header.backorder_limit) == (1, 11)
    assert (header.discontinued, header.stale) == (True, True)
    assert (from_microseconds(header.next_due_us), from_microseconds(header.as_of_us)) == (RICH.next_due_at, RICH.as_of)
    assert split_level(encode_level(PLAIN))[0].next_due_us == NEVER_US


def test_every_value_begins_with_its_version() -> None:
    """The script that guards the cache reads eight bytes, little-endian, of either kind."""
    warehouse = WarehouseRow(code="W1", version=7, details=WarehouseDetails(), created_at=NOW, updated_at=NOW)
    assert int.from_bytes(encode_level(RICH)[:8], "little") == RICH.version
    assert int.from_bytes(encode_warehouse(warehouse)[:8], "little") == 7
    assert LEVEL_HEADER.size == 49


def test_due_units_are_shown_as_free() -> None:
    assert shown_level(encode_level(RICH), 3) == RICH.document(3)


def test_a_warehouse_comes_back_as_its_document() -> None:
    details = WarehouseDetails(name="One", address=Address(country="DE"), latitude=1.5, longitude=2.5)
    row = WarehouseRow(code="W1", version=7, details=details, created_at=NOW, updated_at=after(1))
    assert decode_warehouse(encode_warehouse(row)) == row.document()


def test_members_of_due_holds() -> None:
    hold = Hold(reservation_id="r:1", order_id="o", sku="A", warehouse="W1", version=2, active=30, expires_at=after(60))
    member = due_member(hold)
    assert member == ("30:r:1", microseconds(after(60)))
    assert due_units([member[0].encode(), b"12:another:with:colons"]) == 42
    assert due_member(None) is None
    assert due_member(replace(hold, active=0)) is None
    assert due_member(replace(hold, expires_at=None)) is None


def test_microseconds_are_exact() -> None:
    assert from_microseconds(microseconds(after(0.000001))) == after(0.000001)
    assert microseconds(after(0.000001)) - microseconds(NOW) == 1


def test_keys_are_told_apart() -> None:
    keys = RedisKeys("g1")
    assert (keys.filled, keys.warehouses, keys.filling(0)) == ("g1:filled", "g1:warehouses", "g1:filling:0")
    assert (keys.stock("A"), keys.due("A", "W1")) == ("g1:stock:{A}", "g1:due:{A}@W1")


def test_filled_says_how_far() -> None:
    assert decode_filled(encode_filled(17, 99).encode()) == (17, 99)
