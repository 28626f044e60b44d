"""Bodies and paths: what becomes a command, and what is wrong with the rest."""

from contextlib import suppress
from datetime import date
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.commands import (
    Adjust,
    AllocationOptions,
    ChangePolicy,
    CommitReservation,
    CountStock,
    CreateReservation,
    ExtendReservation,
    Line,
    PutWarehouse,
    ReleaseReservation,
    Restock,
    ReturnReservation,
    ReturnStock,
    ShipReservation,
)
from domain.policy import PolicyPatch
from domain.values import MAX_METADATA_DEPTH, MAX_QUANTITY, AdjustmentReason, Condition, Reference, ReleaseReason
from infra.problems import InvalidRequest
from write_side.api.bodies import CommandReader, path_value, read_batch

RESERVATION = {"reservation_id": "r-1"}
ITEM = {"sku": "A", "warehouse": "FRA1"}
LINE = b'{"sku":"A","quantity":1}'


def read(command: type, body: bytes, given: dict[str, Any] | None = None) -> Any:
    given = given or {}
    return CommandReader(command, given).read(given, body)


def errors_of(command: type, body: bytes, given: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    with pytest.raises(InvalidRequest) as refused:
        read(command, body, given)
    return refused.value.errors


def create(body: bytes) -> Any:
    return read(CreateReservation, body)


def path_of_error(body: bytes) -> str:
    ((path, message),) = errors_of(CreateReservation, body)
    assert message
    return path


# Good bodies -----------------------------------------------------------------------------------------


def test_the_smallest_create():
    command = create(b'{"order_id":"o-1","lines":[{"sku":"A","quantity":1}]}')
    assert command == CreateReservation(order_id="o-1", lines=(Line("A", 1),))
    assert command.allocation == AllocationOptions()


def test_no_end_and_no_word_about_the_end_are_told_apart():
    assert create(b'{"order_id":"o","kind":"manual","ttl_seconds":null,"lines":[%b]}' % LINE).ttl_seconds is None
    assert create(b'{"order_id":"o","kind":"manual","lines":[%b]}' % LINE).ttl_seconds is msgspec.UNSET


def test_an_empty_body_is_all_defaults():
    assert read(CommitReservation, b"", RESERVATION) == CommitReservation(reservation_id="r-1")
    assert read(ReleaseReservation, b"", RESERVATION).reason is ReleaseReason.CANCELLED
    assert read(PutWarehouse, b"", {"code": "FRA1", "only_create": True}) == PutWarehouse(code="FRA1", only_create=True)


def test_path_and_body_make_one_command():
    body = b'{"tracking":"1Z","lines":[{"sku":"A","quantity":2,"warehouse":"FRA1","tracking":"2Z"}]}'
    command = read(ShipReservation, body, RESERVATION)
    assert (command.reservation_id, command.tracking) == ("r-1", "1Z")
    assert [(line.sku, line.quantity, line.warehouse, line.tracking) for line in command.lines] == [
        ("A", 2, "FRA1", "2Z")
    ]


def test_what_every_stock_call_takes():
    body = b"""{"delta":-3,"reason":"LOST","expected_version":0,"reference":{"type":"note","id":"7"},
               "note":"gone","metadata":{"shelf":[1,{"x":null}]}}"""
    assert read(Adjust, body, ITEM) == Adjust(
        sku="A",
        warehouse="FRA1",
        delta=-3,
        reason=AdjustmentReason.LOST,
        expected_version=0,
        reference=Reference("note", "7"),
        note="gone",
        metadata={"shelf": [1, {"x": None}]},
    )


def test_thresholds_stand_beside_the_fields_of_every_stock_call():
    body = b'{"safety_stock":5,"max_stock_level":null,"expected_version":3,"note":"n"}'
    assert read(ChangePolicy, body, ITEM) == ChangePolicy(
        sku="A",
        warehouse="FRA1",
        expected_version=3,
        note="n",
        patch=PolicyPatch(safety_stock=5, max_stock_level=None),
    )


def test_a_return_without_a_hold():
    assert read(ReturnStock, b'{"quantity":1,"condition":"DAMAGED"}', ITEM).condition is Condition.DAMAGED


def test_a_warehouse_tells_null_from_absent():
    command = read(PutWarehouse, b'{"name":null,"latitude":48,"policy":{"hold_ttl_s":60}}', {"code": "FRA1"})
    assert command.name is None
    assert command.latitude == 48.0
    assert command.capacity is msgspec.UNSET
    assert command.policy.hold_ttl_s == 60


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        (b"4.90", "4.90"),
        (b'"4.90"', "4.90"),
        (b"0.1", "0.1"),
        (b"0.1e1", "1"),
        (b"999999999999.999999", "999999999999.999999"),
        (b'"999999999999.999999"', "999999999999.999999"),
        (b"7", "7"),
        (b"null", None),
    ],
)
def test_a_cost_is_exact_however_it_is_written(written, read_as):
    command: Restock = read(Restock, b'{"quantity":1,"unit_cost":%b}' % written, ITEM)
    assert command.unit_cost == (None if read_as is None else Decimal(read_as))


@given(st.decimals(0, 10**12 - 1, places=6, allow_nan=False))
def test_no_cost_goes_through_a_float(cost):
    for written in (str(cost), f'"{cost}"'):
        assert read(Restock, f'{{"quantity":1,"unit_cost":{written}}}'.encode(), ITEM).unit_cost == cost


def test_dates():
    command = read(Restock, b'{"quantity":1,"expires_on":"2027-02-28","received_on":null}', ITEM)
    assert (command.expires_on, command.received_on) == (date(2027, 2, 28), None)


# Bad bodies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b"", "$"),
        (b"{}", "$"),
        (b"nonsense", "$"),
        (b"[]", "$"),
        (b"null", "$"),
        (b'"x"', "$"),
        (b'{"order_id":"o"}', "$"),
        (b'{"order_id":"o","lines":[%b]} x' % LINE, "$"),
        (b'\xef\xbb\xbf{"order_id":"o","lines":[%b]}' % LINE, "$"),
        (b'{"order_id":"o","lines":[%b],"unknown":1}' % LINE, "$"),
        (b'{"order_id":"o","lines":[%b],"unknown":1,"unknown":2}' % LINE, "$"),
        (b'{"order_id":"\xff","lines":[%b]}' % LINE, "$"),
        (b'{"order_id":"\\ud800","lines":[%b]}' % LINE, "$"),
        (b'{"order_id":"a\\udc00b","lines":[%b]}' % LINE, "$"),
        (b'{"order_id":"o","lines":[]}', "$.lines"),
        (b'{"order_id":"o","lines":[%b]}' % b",".join([LINE] * 201), "$.lines"),
        (b'{"order_id":"o","lines":{}}', "$.lines"),
        (b'{"order_id":"","lines":[%b]}' % LINE, "$.order_id"),
        (b'{"order_id":"-o","lines":[%b]}' % LINE, "$.order_id"),
        (b'{"order_id":"o o","lines":[%b]}' % LINE, "$.order_id"),
        (b'{"order_id":"o\\n","lines":[%b]}' % LINE, "$.order_id"),
        (b'{"order_id":"o\\u0000","lines":[%b]}' % LINE, "$.order_id"),
        (b'{"order_id":"%b","lines":[%b]}' % (b"o" * 129, LINE), "$.order_id"),
        (b'{"order_id":7,"lines":[%b]}' % LINE, "$.order_id"),
        (b'{"order_id":null,"lines":[%b]}' % LINE, "$.order_id"),
        (b'{"order_id":"o","customer_ref":"a\\u0000","lines":[%b]}' % LINE, "$.customer_ref"),
        (b'{"order_id":"o","kind":"gift","lines":[%b]}' % LINE, "$.kind"),
        (b'{"order_id":"o","ttl_seconds":0,"lines":[%b]}' % LINE, "$.ttl_seconds"),
        (b'{"order_id":"o","ttl_seconds":604801,"lines":[%b]}' % LINE, "$.ttl_seconds"),
        (b'{"order_id":"o","ttl_seconds":null,"lines":[%b]}' % LINE, "$"),
        (b'{"order_id":"o","lines":[{"sku":"A"}]}', "$.lines[0]"),
        (b'{"order_id":"o","lines":[{"sku":"A","quantity":1,"colour":"red"}]}', "$.lines[0]"),
        (b'{"order_id":"o","lines":[{"sku":"A:B C","quantity":1}]}', "$.lines[0].sku"),
        (b'{"order_id":"o","lines":[{"sku":"A","quantity":1,"warehouse":"A:B"}]}', "$.lines[0].warehouse"),
        (b'{"order_id":"o","lines":[%b],"allocation":{"strategy":"magic"}}' % LINE, "$.allocation.strategy"),
        (b'{"order_id":"o","lines":[%b],"allocation":{"strategy":"nearest"}}' % LINE, "$.allocation"),
        (
            b'{"order_id":"o","lines":[%b],"allocation":{"ship_to":{"latitude":91,"longitude":0}}}' % LINE,
            "$.allocation.ship_to.latitude",
        ),
        (b'{"order_id":"o","lines":[%b],"allocation":{"allow_split":1}}' % LINE, "$.allocation.allow_split"),
    ],
)
def test_a_bad_create_says_where(body, path):
    assert path_of_error(body) == path


@pytest.mark.parametrize(
    "quantity",
    [b"0", b"-1", b"1.5", b"1.0", b"1e2", b'"1"', b"true", b"null", b"9007199254740992", b"1e400", b"9" * 500],
)
def test_a_quantity_is_an_integer_from_1_to_2_53_less_1(quantity):
    body = b'{"order_id":"o","lines":[%b,{"sku":"B","quantity":%b}]}' % (LINE, quantity)
    assert path_of_error(body) == "$.lines[1].quantity"


def test_the_largest_quantity_is_one():
    body = b'{"order_id":"o","lines":[{"sku":"B","quantity":%d}]}' % MAX_QUANTITY
    assert create(body).lines[0].quantity == MAX_QUANTITY


@pytest.mark.parametrize(
    ("command", "given", "body"),
    [
        (CommitReservation, RESERVATION, b'{"reservation_id":"r-1"}'),
        (Restock, ITEM, b'{"quantity":1,"sku":"A"}'),
        (Restock, ITEM, b'{"quantity":1,"warehouse":"B"}'),
        (PutWarehouse, {"code": "FRA1", "only_create": False}, b'{"code":"FRA1"}'),
        (PutWarehouse, {"code": "FRA1", "only_create": False}, b'{"only_create":true}'),
        (ChangePolicy, ITEM, b'{"patch":{"safety_stock":1}}'),
    ],
)
def test_what_the_path_or_a_header_says_is_unknown_in_a_body(command, given, body):
    ((path, message),) = errors_of(command, body, given)
    assert path == "$"
    assert "unknown field" in message


@pytest.mark.parametrize(
    ("command", "given", "body", "path"),
    [
        (CommitReservation, RESERVATION, b'{"lines":[]}', "$.lines"),
        (ReleaseReservation, RESERVATION, b'{"reason":"EXPIRED"}', "$"),
        (ReleaseReservation, RESERVATION, b'{"reason":"SHORTAGE"}', "$"),
        (ReleaseReservation, RESERVATION, b'{"reason":"MOVED"}', "$"),
        (ReleaseReservation, RESERVATION, b'{"reason":"BORED"}', "$.reason"),
        (ExtendReservation, RESERVATION, b"{}", "$"),
        (ExtendReservation, RESERVATION, b'{"ttl_seconds":1,"add_seconds":1}', "$"),
        (ReturnReservation, RESERVATION, b"{}", "$"),
        (ReturnReservation, RESERVATION, b'{"lines":[{"sku":"A","quantity":1,"condition":"SELLABLE"}]}', "$.lines[0]"),
        (CountStock, ITEM, b'{"counted":-1}', "$.counted"),
        (CountStock, ITEM, b'{"counted":1,"expected_version":-1}', "$.expected_version"),
        (CountStock, ITEM, b'{"counted":1,"reference":{"type":"x"}}', "$.reference"),
        (CountStock, ITEM, b'{"counted":1,"note":""}', "$.note"),
        (Adjust, ITEM, b'{"delta":1,"reason":"LOST","note":"\\u0000"}', "$.note"),
        (Adjust, ITEM, b'{"delta":0.5,"reason":"LOST"}', "$.delta"),
        (Restock, ITEM, b'{"quantity":1,"unit_cost":-1}', "$"),
        (Restock, ITEM, b'{"quantity":1,"unit_cost":1000000000000}', "$"),
        (Restock, ITEM, b'{"quantity":1,"unit_cost":0.0000001}', "$"),
        (Restock, ITEM, b'{"quantity":1,"unit_cost":"NaN"}', "$"),
        (Restock, ITEM, b'{"quantity":1,"unit_cost":"Infinity"}', "$"),
        (Restock, ITEM, b'{"quantity":1,"unit_cost":1e999999999}', "$"),
        (Restock, ITEM, b'{"quantity":1,"unit_cost":"cheap"}', "$.unit_cost"),
        (Restock, ITEM, b'{"quantity":1,"expires_on":"2027-02-30"}', "$.expires_on"),
        (Restock, ITEM, b'{"quantity":1,"expires_on":"2027-02-28T00:00:00Z"}', "$.expires_on"),
        (ChangePolicy, ITEM, b'{"on_shortage":"panic"}', "$.on_shortage"),
        (ChangePolicy, ITEM, b'{"safety_stock":null}', "$.safety_stock"),
        (PutWarehouse, {"code": "W"}, b'{"address":{"country":"Germany"}}', "$.address.country"),
        (PutWarehouse, {"code": "W"}, b'{"status":null}', "$.status"),
        (PutWarehouse, {"code": "W"}, b'{"longitude":180.1}', "$.longitude"),
    ],
)
def test_bad_bodies_of_the_other_calls(command, given, body, path):
    assert [error[0] for error in errors_of(command, body, given)] == [path]


def test_what_is_quoted_of_a_body_is_cut_short():
    ((_, message),) = errors_of(CreateReservation, b'{"%b":1}' % (b"x" * 100_000))
    assert len(message) <= 300


@pytest.mark.parametrize("brackets", [(b"[", b"]"), (b'{"a":', b"}")])
def test_endless_nesting_is_refused_and_not_followed(brackets):
    opening, closing = brackets
    nested = opening * 100_000 + b"1" + closing * 100_000
    body = b'{"order_id":"o","lines":[{"sku":"A","quantity":1,"metadata":{"a":%b}}]}' % nested
    assert path_of_error(body) == "$"


# Metadata --------------------------------------------------------------------------------------------


def create_with(metadata: bytes) -> bytes:
    return b'{"order_id":"o","lines":[%b,{"sku":"B","quantity":1,"metadata":%b}]}' % (LINE, metadata)


@pytest.mark.parametrize(
    "metadata",
    [
        rb'{"a":"\u0000"}',
        rb'{"\u0000":1}',
        rb'{"a":[{"b":{"c\u0000":1}}]}',
        rb'{"a":["x",["\u0000y"]]}',
        b'{"a":"%b"}' % (b"x" * 4_096),
        b'{"a":"%b"}' % ("ü".encode() * 2_048),
        b'{"a":%b}' % (b"[" * MAX_METADATA_DEPTH + b"]" * MAX_METADATA_DEPTH),
        b'{"a":%b}' % (b"[" * 900 + b"]" * 900),
    ],
)
def test_metadata_that_cannot_be_kept_is_refused(metadata):
    assert path_of_error(create_with(metadata)) == "$.lines[1]"
    ((path, message),) = errors_of(CountStock, b'{"counted":1,"metadata":%b}' % metadata, ITEM)
    assert path == "$"
    assert message.startswith("`metadata` ")


@pytest.mark.parametrize(
    "metadata", [b"[]", b'"x"', b"1", rb'{"a":"\ud800"}', rb'{"\udc00":1}', b'{"a":"\xff"}', b'{"a":1e999}']
)
def test_metadata_that_is_no_object_or_no_json(metadata):
    assert path_of_error(create_with(metadata)).startswith("$")


@pytest.mark.parametrize(
    "metadata",
    [
        b"{}",
        rb'{"a":"\\u0000"}',
        b'{"a":"%b"}' % (b"x" * 4_088),
        b'{"a":%b}' % (b"[" * (MAX_METADATA_DEPTH - 1) + b"]" * (MAX_METADATA_DEPTH - 1)),
        '{"größe":"😀","n":null,"t":true,"f":0.1,"big":123456789012345678901234567890}'.encode(),
    ],
)
def test_metadata_is_kept_as_it_is(metadata):
    assert create(create_with(metadata)).lines[1].metadata == msgspec.json.decode(metadata)


# The batch -------------------------------------------------------------------------------------------


def batch(*items: bytes) -> bytes:
    return b'{"reservations":[%b]}' % b",".join(items)


GOOD = b'{"order_id":"o","lines":[%b]}' % LINE


def test_a_good_batch():
    assert read_batch(batch(GOOD, GOOD)) == [create(GOOD), create(GOOD)]


@pytest.mark.parametrize(
    ("bad", "path"),
    [
        (b"{}", "$"),
        (b"null", "$"),
        (b'{"order_id":"o","lines":[{"sku":"A","quantity":0}]}', "$.lines[0].quantity"),
        (b'{"order_id":"\xff","lines":[%b]}' % LINE, "$"),
        (b'{"order_id":"o","lines":[%b],"x":1}' % LINE, "$"),
        (create_with(rb'{"\u0000":1}'), "$.lines[1]"),
    ],
)
def test_a_bad_item_stands_alone(bad, path):
    first, second, third = read_batch(batch(GOOD, bad, GOOD))
    assert first == third == create(GOOD)
    assert isinstance(second, InvalidRequest)
    assert [error[0] for error in second.errors] == [path]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b"", "$"),
        (b"[]", "$"),
        (b"{}", "$"),
        (b'{"reservations":[]}', "$.reservations"),
        (b'{"reservations":{}}', "$.reservations"),
        (b'{"reservations":null}', "$.reservations"),
        (b'{"reservations":[%b],"more":1}' % GOOD, "$"),
        (b'{"reservations":[%b' % GOOD, "$"),
        (b'{"reservations":[%b,{"a":]}' % GOOD, "$"),
        (batch(*[GOOD] * 1_001), "$.reservations"),
    ],
)
def test_a_batch_without_its_shape_is_refused_whole(body, path):
    with pytest.raises(InvalidRequest) as refused:
        read_batch(body)
    assert [error[0] for error in refused.value.errors] == [path]


def test_the_largest_batch():
    assert len(read_batch(batch(*[GOOD] * 1_000))) == 1_000


# Paths -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "segment", "value"),
    [
        ("sku", "A.b_c:d-9", "A.b_c:d-9"),
        ("sku", "A%3Ab", "A:b"),
        ("sku", "%41", "A"),
        ("warehouse", "FRA-1.x_y", "FRA-1.x_y"),
        ("reservation_id", "r" * 128, "r" * 128),
        ("code", "X" * 32, "X" * 32),
    ],
)
def test_identifiers_in_paths(name, segment, value):
    assert path_value(name, segment) == value


@pytest.mark.parametrize(
    ("name", "segment"),
    [
        ("sku", ""),
        ("sku", "A%2FB"),
        ("sku", "A B"),
        ("sku", "-A"),
        ("sku", "A%0A"),
        ("sku", "A%00"),
        ("sku", "A" * 101),
        ("sku", "%FF"),
        ("sku", "%ED%A0%80"),
        ("sku", "A%"),
        ("sku", "%C3%84"),
        ("warehouse", "A:B"),
        ("warehouse", "A" * 33),
        ("code", ".."),
        ("reservation_id", "r" * 129),
        ("reservation_id", "r%20"),
    ],
)
def test_what_is_no_identifier_is_refused_with_its_name(name, segment):
    with pytest.raises(InvalidRequest) as refused:
        path_value(name, segment)
    assert [error[0] for error in refused.value.errors] == [f"path.{name}"]


@given(st.binary(max_size=200))
def test_no_bytes_whatever_do_more_than_be_refused(body):
    for command, given_fields in ((CreateReservation, {}), (Restock, ITEM), (ChangePolicy, ITEM)):
        with suppress(InvalidRequest):
            read(command, body, given_fields)
