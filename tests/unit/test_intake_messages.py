"""From the bytes of a message to a command, or to the reason why there is none."""

from typing import Any

import msgspec
import pytest

from domain.commands import (
    CancelOrder,
    Command,
    CommitOrder,
    CountStock,
    CreateReservation,
    Line,
    ReleaseOrder,
    Restock,
    ReturnLine,
    ReturnOrder,
    ShipLine,
    ShipOrder,
    ShipReservation,
)
from domain.values import MAX_LINES, MAX_QUANTITY, Condition
from infra.kafka.topics import INTAKE_TOPICS, MESSAGE_BYTES_MAX
from tests.support_intake import about, cloud_event, placed, received
from write_side.api.bodies import CommandReader
from write_side.intake.messages import KINDS, Rank, Received, Unreadable, read
from write_side.submission import request_digest

LINES = [{"sku": "A", "quantity": 2}]
BACK = [{"sku": "A", "warehouse": "W1", "quantity": 1, "condition": "DAMAGED"}]


@pytest.mark.parametrize(
    ("topic", "data", "command"),
    [
        (
            "order.placed",
            {"order_id": "o1", "lines": LINES},
            CreateReservation(order_id="o1", reservation_id="o1", lines=(Line("A", 2),)),
        ),
        (
            "order.placed",
            {"order_id": "o1", "reservation_id": "r1", "lines": LINES, "ttl_seconds": 5},
            CreateReservation(order_id="o1", reservation_id="r1", lines=(Line("A", 2),), ttl_seconds=5),
        ),
        ("payment.authorized", {"order_id": "o1"}, CommitOrder(order_id="o1")),
        ("payment.failed", {"order_id": "o1"}, ReleaseOrder(order_id="o1")),
        ("order.cancelled", {"order_id": "o1"}, CancelOrder(order_id="o1")),
        ("order.shipped", {"order_id": "o1", "tracking": "T"}, ShipOrder(order_id="o1", tracking="T")),
        ("order.shipped", {"order_id": "o1", "lines": LINES}, ShipOrder(order_id="o1", lines=(ShipLine("A", 2),))),
        (
            "order.returned",
            {"order_id": "o1", "lines": BACK},
            ReturnOrder(order_id="o1", lines=(ReturnLine("A", "W1", 1, Condition.DAMAGED),)),
        ),
        (
            "warehouse.received",
            {"sku": "A", "warehouse": "W1", "quantity": 3, "lot": "L"},
            Restock(sku="A", warehouse="W1", quantity=3, lot="L"),
        ),
        (
            "warehouse.counted",
            {"sku": "A", "warehouse": "W1", "counted": 0},
            CountStock(sku="A", warehouse="W1", counted=0),
        ),
        ("warehouse.shipped", {"order_id": "o1"}, ShipOrder(order_id="o1")),
        (
            "warehouse.shipped",
            {"reservation_id": "r1", "tracking": "T", "lines": LINES},
            ShipReservation(reservation_id="r1", tracking="T", lines=(ShipLine("A", 2),)),
        ),
    ],
)
def test_a_message_becomes_its_command(topic: str, data: dict[str, Any], command: Command) -> None:
    message = read(received(topic, cloud_event(topic, data, id="m-1")))
    assert message.command == command
    assert message.name == ("/shop", "m-1")
    named = data.get("order_id") or data.get("reservation_id")
    assert message.order_id == named
    assert message.lane == (named or "stock:A@W1")


def test_every_topic_of_the_intake_has_its_kind() -> None:
    assert [kind.topic for kind in KINDS] == list(INTAKE_TOPICS)
    assert [kind.topic for kind in KINDS if kind.stands] == ["order.placed"]


def test_an_order_is_the_same_reservation_at_both_doors() -> None:
    """The log has one digest of it: whoever asks over HTTP for what a message made is answered with it."""
    body = b'{"order_id":"o1","reservation_id":"o1","lines":[{"sku":"A","quantity":2}],"kind":"order"}'
    at_the_door = request_digest("reservations.create", CommandReader(CreateReservation).read({}, body))
    assert read(received("order.placed", placed("o1", ("A", 2)))).digest == at_the_door


def test_the_same_request_on_another_topic_is_another() -> None:
    by_order = read(received("order.shipped", about("order.shipped", "o1")))
    by_warehouse = read(received("warehouse.shipped", about("warehouse.shipped", "o1")))
    assert by_order.command == by_warehouse.command
    assert by_order.digest != by_warehouse.digest


def test_an_orders_life_is_in_order() -> None:
    ranks = {kind.topic: kind.rank for kind in KINDS}
    life = [
        "order.placed",
        "payment.authorized",
        "payment.failed",
        "order.shipped",
        "order.cancelled",
        "order.returned",
    ]
    assert [ranks[topic] for topic in life] == sorted(Rank)


def test_what_the_envelope_says_beside_is_passed_over() -> None:
    event = cloud_event(
        "payment.authorized",
        {"order_id": "o1"},
        subject="o1",
        time="2026-03-01T12:00:00Z",
        dataschema="https://example.com/x",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        correlationid="c-1",
        datacontenttype="application/vnd.shop+json; charset=utf-8",
    )
    message = read(received("payment.authorized", event))
    assert message.correlation_id == "c-1"
    assert read(received("payment.authorized", about("payment.authorized", "o1") | {"id": "7"})).correlation_id == "7"


def changed(**attributes: Any) -> dict[str, Any]:
    return placed("o1", ("A", 2)) | attributes


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in placed("o1", ("A", 2)).items() if key != name}


def with_data(**data: Any) -> dict[str, Any]:
    event = placed("o1", ("A", 2))
    return event | {"data": event["data"] | data}


WRONG: dict[str, tuple[Any, str]] = {
    "nothing": (b"", "$"),
    "no JSON": (b"not json", "$"),
    "half of it": (b'{"specversion":"1.0"', "$"),
    "not UTF-8": (msgspec.json.encode(placed("o1", ("A", 2))).replace(b"/shop", b"/sh\xffp"), "UTF-8"),
    "binary": (bytes(range(256)), "$"),
    "a list": (b"[]", "$"),
    "deep": (b"[" * 100_000, "$"),
    "deep in data": (b'{"specversion":"1.0","data":' + b'{"a":' * 50_000, "$"),
    "another version": (changed(specversion="0.3"), "$.specversion"),
    "a number as version": (changed(specversion=1.0), "$.specversion"),
    "another type": (changed(type="payment.authorized"), "$.type"),
    "a bare payload": ({"order_id": "o1", "lines": LINES}, "$"),
    "base64": (without("data") | {"data_base64": "e30="}, "data"),
    "text as data": (changed(datacontenttype="text/plain"), "datacontenttype"),
    "an empty id": (changed(id=""), "$.id"),
    "a number as id": (changed(id=1), "$.id"),
    "an endless id": (changed(id="x" * 129), "$.id"),
    "an endless source": (changed(source="x" * 129), "$.source"),
    "NUL in the id": (changed(id="a\x00b"), "$.id"),
    "NUL in the source": (changed(source="a\x00b"), "$.source"),
    "half a character in the id": (b'{"specversion":"1.0","id":"\\ud800"}', "$"),
    "a time that is none": (changed(time="yesterday"), "$.time"),
    "a time without a zone": (changed(time="2026-03-01T12:00:00"), "$.time"),
    "an unknown field": (with_data(colour="red"), "$.data"),
    "an unknown field in a line": (with_data(lines=[{"sku": "A", "quantity": 1, "x": 1}]), "$.data.lines"),
    "no lines": (with_data(lines=[]), "$.data.lines"),
    "too many lines": (with_data(lines=LINES * (MAX_LINES + 1)), "$.data.lines"),
    "nothing of it": (with_data(lines=[{"sku": "A", "quantity": 0}]), "quantity"),
    "too much of it": (with_data(lines=[{"sku": "A", "quantity": MAX_QUANTITY + 1}]), "quantity"),
    "half of one": (with_data(lines=[{"sku": "A", "quantity": 1.5}]), "quantity"),
    "a SKU that is none": (with_data(lines=[{"sku": "a b", "quantity": 1}]), "sku"),
    "an order id that is none": (with_data(order_id="o/1"), "$.data.order_id"),
    "no end": (with_data(ttl_seconds=None), "$.data"),
    "a NUL in a reference": (with_data(customer_ref="a\x00"), "customer_ref"),
    "metadata with a NUL": (with_data(lines=[{"sku": "A", "quantity": 1, "metadata": {"a": "\x00"}}]), "lines"),
}


@pytest.mark.parametrize(("event", "where"), WRONG.values(), ids=WRONG)
def test_what_is_no_message_says_where(event: Any, where: str) -> None:
    with pytest.raises(Unreadable) as raised:
        read(received("order.placed", event))
    assert raised.value.code in {"invalid-request", "unsupported-media-type"}
    assert where in raised.value.detail
    assert len(raised.value.detail) < 500


def test_a_message_on_the_topic_of_others_says_so_before_it_says_what_they_have() -> None:
    with pytest.raises(Unreadable, match=r"\$\.type: `payment\.authorized` does not belong on order\.placed"):
        read(received("order.placed", about("payment.authorized", "o1")))


@pytest.mark.parametrize(
    ("event", "name"),
    [
        (with_data(lines=[]), ("/shop", "m-1")),
        (changed(type="payment.authorized"), ("/shop", "m-1")),
        (changed(datacontenttype="text/plain"), ("/shop", "m-1")),
        (changed(id=1), None),
        (without("source"), None),
        (b"no JSON", None),
    ],
)
def test_what_is_wrong_with_a_message_does_not_hide_its_name(event: Any, name: tuple[str, str] | None) -> None:
    named = event | {"id": "m-1"} if isinstance(event, dict) and event.get("id") != 1 else event
    with pytest.raises(Unreadable) as raised:
        read(received("order.placed", named))
    assert raised.value.name == name


@pytest.mark.parametrize(
    "data", [{}, {"order_id": "o1", "reservation_id": "r1"}, {"tracking": "T"}, {"order_id": "o1", "lines": []}]
)
def test_a_shipment_names_what_it_is_of(data: dict[str, Any]) -> None:
    with pytest.raises(Unreadable, match=r"\$\.data"):
        read(received("warehouse.shipped", cloud_event("warehouse.shipped", data)))


def test_a_message_without_a_value() -> None:
    with pytest.raises(Unreadable, match="no value"):
        read(Received("order.placed", 0, 0, b"key", None))


def test_a_message_over_the_limit_is_not_even_parsed() -> None:
    limit = msgspec.json.encode(placed("o1", ("A", 2)))
    padded = limit + b" " * (MESSAGE_BYTES_MAX - len(limit))
    assert read(received("order.placed", padded)).order_id == "o1"
    with pytest.raises(Unreadable) as raised:
        read(received("order.placed", padded + b" "))
    assert raised.value.code == "payload-too-large"
