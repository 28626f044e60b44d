"""A command is within its limits once it exists: decoding a body is its validation."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from domain.commands import (
    Adjust,
    ChangePolicy,
    CommitReservation,
    CountStock,
    CreateReservation,
    Damage,
    ExtendReservation,
    Line,
    PutWarehouse,
    ReleaseReservation,
    Restock,
    ReturnReservation,
    ReturnStock,
    ShipReservation,
)
from domain.policy import DEFAULT_POLICY, Policy, PolicyPatch, stock_status
from domain.values import (
    MAX_HOLD_TTL_S,
    MAX_LINES,
    MAX_METADATA_BYTES,
    MAX_METADATA_DEPTH,
    MAX_QUANTITY,
    check_metadata,
    split_stock_stream,
    stock_stream,
)

PLACE = {"sku": "A", "warehouse": "W1"}
CREATE: dict[str, Any] = {"order_id": "o", "lines": [{"sku": "A", "quantity": 1}]}


def taken(command_class: type[Any], **body: Any) -> Any:
    """The command that a JSON body makes."""
    return msgspec.json.decode(msgspec.json.encode(body), type=command_class)


def refused(command_class: type[Any], **body: Any) -> str:
    with pytest.raises(msgspec.ValidationError) as error:
        taken(command_class, **body)
    return str(error.value)


# Identifiers


@pytest.mark.parametrize("sku", ["A", "a0", "0", "A.b_c:d-9", "x" * 100])
def test_a_sku_may_be(sku: str):
    assert taken(Damage, sku=sku, warehouse="W", quantity=1).sku == sku
    assert split_stock_stream(stock_stream(sku, "W.1_-")) == (sku, "W.1_-")


@pytest.mark.parametrize(
    "sku",
    [
        "",
        "x" * 101,
        ".a",
        "-a",
        ":a",
        "_a",
        "a b",
        "a@b",
        "a/b",
        "a\n",
        "\na",
        "a\r",
        "a\x00",
        "ä",
        "\uff21",
        "a\u200b",
    ],
)
def test_a_sku_may_not_be(sku: str):
    assert "$.sku" in refused(Damage, sku=sku, warehouse="W", quantity=1)
    assert "$.lines[0].sku" in refused(CreateReservation, **CREATE | {"lines": [{"sku": sku, "quantity": 1}]})


@pytest.mark.parametrize("code", ["", "x" * 33, "a:b", "a@b", "W1\n", "W\x00", ".w", "ß"])
def test_a_warehouse_code_may_not_be(code: str):
    assert "$.warehouse" in refused(Damage, sku="A", warehouse=code, quantity=1)
    assert "$.code" in refused(PutWarehouse, code=code)


@pytest.mark.parametrize("name", ["", "x" * 129, "a@b", "o-1\n", "o\x00", "-o", "ö"])
def test_an_order_or_reservation_id_may_not_be(name: str):
    assert "$.order_id" in refused(CreateReservation, **CREATE | {"order_id": name})
    assert "$.reservation_id" in refused(CreateReservation, **CREATE | {"reservation_id": name})
    assert "$.reservation_id" in refused(CommitReservation, reservation_id=name)


@pytest.mark.parametrize("text", ["", "x" * 129, "a\x00b"])
def test_an_opaque_reference_may_not_be(text: str):
    assert "$.customer_ref" in refused(CreateReservation, **CREATE | {"customer_ref": text})


def test_an_opaque_reference_may_be_anything_else():
    for text in ("Kündin 7", "a\nb", "\U0001f4e6", "x" * 128):
        assert taken(CreateReservation, **CREATE | {"customer_ref": text}).customer_ref == text


@pytest.mark.parametrize("body", [rb'"\ud800"', rb'"a\udc00b"', rb'"\ud83dx"', b'"\xed\xa0\x80"', b'"\xff"'])
def test_a_lone_surrogate_is_no_text(body: bytes):
    whole = b'{"sku":"A","warehouse":"W1","quantity":1,"note":' + body + b"}"
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        msgspec.json.decode(whole, type=Damage)


# Quantities

NO_QUANTITY = [0, -1, MAX_QUANTITY + 1, 10**30, 1.5, 1.0, True, "1", None, [], {}]


@pytest.mark.parametrize("quantity", NO_QUANTITY)
def test_a_quantity_may_not_be(quantity: Any):
    assert "$.quantity" in refused(Restock, **PLACE, quantity=quantity)
    assert "$.lines[0].quantity" in refused(
        CreateReservation, **CREATE | {"lines": [{"sku": "A", "quantity": quantity}]}
    )
    assert "$.lines[0].quantity" in refused(
        ShipReservation, reservation_id="r", lines=[{"sku": "A", "quantity": quantity}]
    )


def test_a_quantity_may_be():
    for quantity in (1, MAX_QUANTITY):
        assert taken(Restock, **PLACE, quantity=quantity).quantity == quantity


def test_a_count_may_be_nothing_and_a_delta_negative():
    assert taken(CountStock, **PLACE, counted=0).counted == 0
    assert taken(Adjust, **PLACE, delta=-MAX_QUANTITY, reason="LOST").delta == -MAX_QUANTITY
    assert taken(Adjust, **PLACE, delta=0, reason="LOST").delta == 0
    for delta in (-MAX_QUANTITY - 1, MAX_QUANTITY + 1, 0.5):
        assert "$.delta" in refused(Adjust, **PLACE, delta=delta, reason="LOST")
    for counted in (-1, MAX_QUANTITY + 1, 0.5):
        assert "$.counted" in refused(CountStock, **PLACE, counted=counted)


# Costs


@pytest.mark.parametrize("cost", [0, 1, "1.25", "0.000001", "999999999999.999999", 12.5, "1E+3", "0E-6"])
def test_a_unit_cost_may_be(cost: Any):
    assert taken(Restock, **PLACE, quantity=1, unit_cost=cost).unit_cost == Decimal(str(cost))


@pytest.mark.parametrize("cost", [-1, "1000000000000", "0.0000001", "NaN", "Infinity", "-0.01", "0E+999999", "1E-999"])
def test_a_unit_cost_may_not_be(cost: Any):
    assert "unit_cost" in refused(Restock, **PLACE, quantity=1, unit_cost=cost)


# Metadata


def test_metadata_is_an_object_of_4_kib_at_most():
    room = MAX_METADATA_BYTES - len('{"k":""}')
    body = {"k": "x" * room}
    assert taken(Damage, **PLACE, quantity=1, metadata=body).metadata == body
    assert "metadata" in refused(Damage, **PLACE, quantity=1, metadata={"k": "x" * (room + 1)})
    assert "metadata" in refused(Restock, **PLACE, quantity=1, metadata={"k": "x" * (room + 1)})
    assert "metadata" in refused(Damage, **PLACE, quantity=1, metadata={"k": "ä" * (room // 2 + 1)})
    assert "metadata" in refused(
        CreateReservation, **CREATE | {"lines": [{**CREATE["lines"][0], "metadata": body | {"l": 1}}]}
    )
    assert "metadata" in refused(Damage, **PLACE, quantity=1, metadata=[1])


@pytest.mark.parametrize("metadata", [{"a": "\x00"}, {"a\x00": 1}, {"a": [{"b": ["x\x00"]}]}, {"a": {"\x00": None}}])
def test_metadata_holds_no_nul(metadata: dict[str, Any]):
    assert "metadata" in refused(Damage, **PLACE, quantity=1, metadata=metadata)
    assert "metadata" in refused(
        CreateReservation, **CREATE | {"lines": [{**CREATE["lines"][0], "metadata": metadata}]}
    )


def test_metadata_holds_a_backslash_and_zeros():
    text = {"a": "\\u0000", "n": None, "f": 1.5, "l": [True, {}, []], "big": 10**25}
    assert taken(Damage, **PLACE, quantity=1, metadata=text).metadata == text


def test_metadata_is_not_nested_without_end():
    def nested(depth: int) -> dict[str, Any]:
        value: Any = 1
        for _ in range(depth - 1):
            value = [value]
        return {"a": value}

    check_metadata(nested(MAX_METADATA_DEPTH))
    with pytest.raises(ValueError, match="deeper"):
        check_metadata(nested(MAX_METADATA_DEPTH + 1))


def test_metadata_from_another_door_holds_no_surrogate_either():
    with pytest.raises(ValueError, match="surrogates"):
        check_metadata({"a": "\ud800"})


# Shapes


@pytest.mark.parametrize(
    ("command_class", "body"),
    [
        (CreateReservation, CREATE),
        (CommitReservation, {"reservation_id": "r"}),
        (Restock, PLACE | {"quantity": 1}),
        (PutWarehouse, {"code": "W1"}),
        (ChangePolicy, PLACE | {"patch": {}}),
    ],
)
def test_an_unknown_field_is_refused(command_class: type[Any], body: dict[str, Any]):
    taken(command_class, **body)
    assert "unknown field `surprise`" in refused(command_class, **body, surprise=1)


def test_unknown_fields_are_refused_further_down_too():
    assert "surprise" in refused(CreateReservation, **CREATE | {"lines": [{"sku": "A", "quantity": 1, "surprise": 1}]})
    assert "surprise" in refused(CreateReservation, **CREATE, allocation={"surprise": 1})
    assert "surprise" in refused(PutWarehouse, code="W1", address={"surprise": "x"})
    assert "surprise" in refused(ChangePolicy, **PLACE, patch={"surprise": 1})
    assert "surprise" in refused(Restock, **PLACE, quantity=1, reference={"type": "a", "id": "b", "surprise": 1})


def test_a_reservation_has_1_to_200_lines():
    line = {"sku": "A", "quantity": 1}
    assert len(taken(CreateReservation, order_id="o", lines=[line] * MAX_LINES).lines) == MAX_LINES
    refused(CreateReservation, order_id="o", lines=[])
    refused(CreateReservation, order_id="o", lines=[line] * (MAX_LINES + 1))
    refused(CommitReservation, reservation_id="r", lines=[])
    refused(ShipReservation, reservation_id="r", lines=[line] * (MAX_LINES + 1))
    refused(ReturnReservation, reservation_id="r", lines=[])
    refused(ReturnReservation, reservation_id="r")


def test_only_a_manual_hold_may_have_no_end():
    assert taken(CreateReservation, **CREATE).ttl_seconds is msgspec.UNSET
    assert taken(CreateReservation, **CREATE, kind="manual", ttl_seconds=None).ttl_seconds is None
    assert "manual" in refused(CreateReservation, **CREATE, ttl_seconds=None)
    assert "manual" in refused(CreateReservation, **CREATE, kind="cart", ttl_seconds=None)
    for ttl in (0, -1, MAX_HOLD_TTL_S + 1, 1.5):
        assert "$.ttl_seconds" in refused(CreateReservation, **CREATE, ttl_seconds=ttl)
    assert taken(CreateReservation, **CREATE, ttl_seconds=MAX_HOLD_TTL_S).ttl_seconds == MAX_HOLD_TTL_S


def test_nearest_needs_to_know_where_to():
    assert "ship_to" in refused(CreateReservation, **CREATE, allocation={"strategy": "nearest"})
    there = {"latitude": 90, "longitude": -180}
    command = taken(CreateReservation, **CREATE, allocation={"strategy": "nearest", "ship_to": there})
    assert command.allocation.ship_to.latitude == 90
    for nowhere in ({"latitude": 90.1, "longitude": 0}, {"latitude": 0, "longitude": 181}, {"latitude": 0}):
        refused(CreateReservation, **CREATE, allocation={"strategy": "nearest", "ship_to": nowhere})
    refused(CreateReservation, **CREATE, allocation={"strategy": "cheapest"})


def test_the_other_reasons_for_a_release_are_the_service_s_own():
    for reason in ("CANCELLED", "PAYMENT_FAILED", "ORDER_CANCELLED"):
        assert taken(ReleaseReservation, reservation_id="r", reason=reason).reason == reason
    for reason in ("EXPIRED", "SHORTAGE", "MOVED", "BORED"):
        assert "reason" in refused(ReleaseReservation, reservation_id="r", reason=reason)


def test_an_extension_says_one_thing():
    assert taken(ExtendReservation, reservation_id="r", ttl_seconds=1).ttl_seconds == 1
    assert taken(ExtendReservation, reservation_id="r", add_seconds=1).add_seconds == 1
    refused(ExtendReservation, reservation_id="r")
    refused(ExtendReservation, reservation_id="r", ttl_seconds=1, add_seconds=1)


def test_a_return_names_its_condition_and_an_adjustment_its_reason():
    taken(ReturnStock, **PLACE, quantity=1, condition="QUARANTINE", order_id="o")
    assert "condition" in refused(ReturnStock, **PLACE, quantity=1)
    assert "$.condition" in refused(ReturnStock, **PLACE, quantity=1, condition="BURNT")
    assert "$.reason" in refused(Adjust, **PLACE, delta=1, reason="BECAUSE")


def test_a_warehouse_is_changed_in_what_is_named():
    command = taken(PutWarehouse, code="W1", name=None, priority=1)
    assert (command.name, command.priority, command.capacity) == (None, 1, msgspec.UNSET)
    for body in (
        {"priority": 0},
        {"priority": None},
        {"capacity": -1},
        {"status": "CLOSED"},
        {"latitude": 91},
        {"address": {"country": "Germany"}},
        {"policy": {"safety_stock": -1}},
        {"name": ""},
        {"timezone": "a\x00"},
    ):
        refused(PutWarehouse, code="W1", **body)


# Policies


def test_the_default_policy_is_the_domain_s():
    assert msgspec.structs.asdict(DEFAULT_POLICY) == {
        "safety_stock": 0,
        "low_stock_threshold": 10,
        "reorder_point": 20,
        "reorder_quantity": 100,
        "max_stock_level": None,
        "backorder_limit": 0,
        "hold_ttl_s": 900,
        "on_shortage": "keep",
        "reorder_enabled": False,
        "alerts_enabled": True,
        "critical": False,
    }


@pytest.mark.parametrize("threshold", ["safety_stock", "low_stock_threshold", "reorder_point", "backorder_limit"])
def test_a_threshold_is_a_count(threshold: str):
    for value in (0, MAX_QUANTITY):
        assert getattr(taken(PolicyPatch, **{threshold: value}), threshold) == value
        assert getattr(taken(Policy, **{threshold: value}), threshold) == value
    for wrong in (-1, MAX_QUANTITY + 1, 0.5, None):
        refused(PolicyPatch, **{threshold: wrong})
        refused(Policy, **{threshold: wrong})


def test_a_policy_s_other_limits():
    for body in ({"hold_ttl_s": 0}, {"hold_ttl_s": MAX_HOLD_TTL_S + 1}, {"on_shortage": "panic"}, {"critical": 1}):
        refused(PolicyPatch, **body)
        refused(Policy, **body)
    assert PolicyPatch(max_stock_level=None).onto(Policy(max_stock_level=3)) == Policy()
    assert PolicyPatch(critical=True).onto(Policy(safety_stock=2)) == Policy(safety_stock=2, critical=True)


@pytest.mark.parametrize(
    ("available", "threshold", "backorders", "status"),
    [
        (11, 10, 0, "IN_STOCK"),
        (10, 10, 0, "LOW_STOCK"),
        (1, 10, 5, "LOW_STOCK"),
        (1, 0, 0, "IN_STOCK"),
        (0, 10, 0, "OUT_OF_STOCK"),
        (0, 10, 1, "BACKORDER"),
        (-4, 10, 5, "BACKORDER"),
        (-5, 10, 5, "OUT_OF_STOCK"),
        (-1, 0, 0, "OUT_OF_STOCK"),
    ],
)
def test_what_buyers_are_shown(available: int, threshold: int, backorders: int, status: str):
    assert stock_status(available, threshold, backorders) == status
    assert stock_status(available, threshold, backorders, discontinued=True) == "DISCONTINUED"


def test_a_line_checks_its_metadata_when_it_is_made_in_code_too():
    with pytest.raises(ValueError, match="NUL"):
        Line("A", 1, None, {"a": "\x00"})
