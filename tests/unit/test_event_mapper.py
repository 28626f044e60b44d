"""Events to stored bytes and back. What is written here is in logs for ever: a change of a line is a change of the log."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, ClassVar

import msgspec
import pytest

from domain.errors import Shortage
from domain.events import (
    EVENT_CLASSES,
    Adjusted,
    Allocated,
    Choice,
    Committed,
    Counted,
    Damaged,
    Discontinued,
    Event,
    Extended,
    Origin,
    PolicyChanged,
    Registered,
    Reinstated,
    Released,
    Repaired,
    RequestedLine,
    ReservationRequest,
    Reserved,
    Restocked,
    Returned,
    Shipped,
    StockEvent,
    WarehouseChanged,
    WarehouseCreated,
    WarehouseDetails,
    WrittenOff,
)
from domain.policy import Policy
from domain.values import (
    Address,
    AdjustmentReason,
    Bucket,
    Condition,
    HoldKind,
    Reference,
    ReleaseReason,
    WarehouseStatus,
)
from infra.event_store.mapper import EventMapper, UnknownTopic, UnreadableEvent

AT = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
END = datetime(2026, 3, 1, 12, 15, tzinfo=UTC)
ORIGIN = Origin(command_id="c", actor="a", correlation_id="k")
FULL_ORIGIN = Origin(
    command_id="c",
    actor="a",
    correlation_id="k",
    causation_id="b",
    idempotency_key="i",
    note="n",
    reference=Reference("purchase-order", "7"),
    metadata={"x": [1, None]},
)


def event(event_class: type[Event], stream: str = "stock:A@W1", origin: Origin = ORIGIN, **facts: Any) -> Event:
    return event_class(originator_id=stream, originator_version=2, timestamp=AT, origin=origin, **facts)


REQUEST = ReservationRequest(
    lines=(RequestedLine("A", 3), RequestedLine("B", 1, "W2", {"gift": True})),
    digest="d",
    customer_ref="u",
    shortages=(Shortage("A", 3, 2), Shortage("B", 1, 0, "W2")),
    choices=(Choice("A", "W1", 2, "priority"),),
)
HEAD = '{"originator_id":"stock:A@W1","originator_version":2,"timestamp":"2026-03-01T12:00:00.123456Z","origin":'
ORIGIN_JSON = '{"command_id":"c","actor":"a","correlation_id":"k"}'
FULL_ORIGIN_JSON = (
    '{"command_id":"c","actor":"a","correlation_id":"k","causation_id":"b","idempotency_key":"i","note":"n",'
    '"reference":{"type":"purchase-order","id":"7"},"metadata":{"x":[1,null]}}'
)
H = HEAD + ORIGIN_JSON
W = H.replace("stock:A@W1", "warehouse:W1")

GOLDEN: list[tuple[Event, str, str]] = [
    (
        event(Registered, policy=Policy(safety_stock=1, max_stock_level=9)),
        "stock-item.registered",
        H + ',"policy":{"safety_stock":1,"max_stock_level":9}}',
    ),
    (
        event(
            Restocked,
            origin=FULL_ORIGIN,
            quantity=5,
            unit_cost=Decimal("1.50"),
            supplier="s",
            lot="l",
            expires_on=date(2027, 1, 2),
            received_on=date(2026, 1, 2),
        ),
        "stock-item.restocked",
        HEAD + FULL_ORIGIN_JSON + ',"quantity":5,"unit_cost":"1.50","supplier":"s","lot":"l",'
        '"expires_on":"2027-01-02","received_on":"2026-01-02"}',
    ),
    (
        event(
            Reserved,
            reservation_id="r",
            order_id="o",
            quantity=2,
            expires_at=END,
            kind=HoldKind.CART,
            parts=2,
            allocations=(Allocated("A", "W1", 2), Allocated("B", "W2", 1)),
            request=REQUEST,
        ),
        "stock-item.reserved",
        H + ',"reservation_id":"r","parts":2,"allocations":[{"sku":"A","warehouse":"W1","quantity":2},'
        '{"sku":"B","warehouse":"W2","quantity":1}],"order_id":"o","quantity":2,"expires_at":"2026-03-01T12:15:00Z",'
        '"kind":"cart","request":{"lines":[{"sku":"A","quantity":3},{"sku":"B","quantity":1,"warehouse":"W2",'
        '"metadata":{"gift":true}}],"digest":"d","customer_ref":"u","shortages":[{"sku":"A","requested":3,'
        '"available":2},{"sku":"B","requested":1,"available":0,"warehouse":"W2"}],"choices":[{"sku":"A",'
        '"warehouse":"W1","quantity":2,"why":"priority"}]}}',
    ),
    (
        event(Committed, reservation_id="r", quantity=2, part=2, parts=2),
        "stock-item.committed",
        H + ',"reservation_id":"r","part":2,"parts":2,"quantity":2}',
    ),
    (
        event(Released, reservation_id="r", quantity=2, bucket=Bucket.RESERVED, reason=ReleaseReason.EXPIRED),
        "stock-item.released",
        H + ',"reservation_id":"r","quantity":2,"bucket":"RESERVED","reason":"EXPIRED"}',
    ),
    (
        event(Extended, reservation_id="r", expires_at=END),
        "stock-item.extended",
        H + ',"reservation_id":"r","expires_at":"2026-03-01T12:15:00Z"}',
    ),
    (
        event(Shipped, reservation_id="r", quantity=1, tracking="T"),
        "stock-item.shipped",
        H + ',"reservation_id":"r","quantity":1,"tracking":"T"}',
    ),
    (
        event(Returned, quantity=1, condition=Condition.QUARANTINE, order_id="o", reservation_id="r"),
        "stock-item.returned",
        H + ',"quantity":1,"condition":"QUARANTINE","order_id":"o","reservation_id":"r"}',
    ),
    (
        event(Adjusted, delta=-3, reason=AdjustmentReason.SHELF_LIFE),
        "stock-item.adjusted",
        H + ',"delta":-3,"reason":"SHELF_LIFE"}',
    ),
    (
        event(Counted, counted=7, expected=9, variance=-2),
        "stock-item.counted",
        H + ',"counted":7,"expected":9,"variance":-2}',
    ),
    (event(Damaged, quantity=1), "stock-item.damaged", H + ',"quantity":1}'),
    (event(Repaired, quantity=1), "stock-item.repaired", H + ',"quantity":1}'),
    (event(WrittenOff, quantity=1), "stock-item.written-off", H + ',"quantity":1}'),
    (
        event(PolicyChanged, policy=Policy(on_shortage="release_newest_unpaid", critical=True)),
        "stock-item.policy-changed",
        H + ',"policy":{"on_shortage":"release_newest_unpaid","critical":true}}',
    ),
    (event(Discontinued), "stock-item.discontinued", H + "}"),
    (event(Reinstated), "stock-item.reinstated", H + "}"),
    (
        event(WarehouseCreated, "warehouse:W1", details=WarehouseDetails(name="n", latitude=50.1, longitude=8.0)),
        "warehouse.created",
        W + ',"details":{"name":"n","latitude":50.1,"longitude":8.0}}',
    ),
    (
        event(
            WarehouseChanged,
            "warehouse:W1",
            details=WarehouseDetails(
                address=Address(line="l", city="c", state="s", country="DE", postal_code="p"),
                timezone="Europe/Berlin",
                priority=1,
                capacity=5,
                status=WarehouseStatus.MAINTENANCE,
                policy=Policy(hold_ttl_s=60),
            ),
        ),
        "warehouse.changed",
        W + ',"details":{"address":{"line":"l","city":"c","state":"s","country":"DE","postal_code":"p"},'
        '"timezone":"Europe/Berlin","priority":1,"capacity":5,"status":"MAINTENANCE","policy":{"hold_ttl_s":60}}}',
    ),
]
"""For each event class: an event, its topic, and its state in the log."""


def test_every_event_class_is_here_once():
    assert [type(event) for event, _, _ in GOLDEN] == list(EVENT_CLASSES)


@pytest.mark.parametrize(("happened", "topic", "state"), GOLDEN, ids=[topic for _, topic, _ in GOLDEN])
def test_an_event_is_stored_as_ever_and_read_as_it_was(happened: Event, topic: str, state: str):
    mapper = EventMapper()
    stored = mapper.to_stored_event(happened)
    assert (stored.originator_id, stored.originator_version) == (happened.originator_id, 2)
    assert (stored.topic, stored.state.decode()) == (topic, state)
    read = mapper.to_event(stored)
    assert type(read) is type(happened)
    assert read == happened
    assert mapper.decode(topic, state.encode()) == happened


def test_what_is_not_said_is_what_is_usual():
    plain = H + ',"reservation_id":"r","order_id":"o","quantity":1}'
    read = EventMapper().decode("stock-item.reserved", plain.encode())
    assert (read.kind, read.part, read.parts, read.allocations, read.expires_at) == (HoldKind.ORDER, 1, 1, (), None)


def test_a_class_may_be_renamed_without_touching_the_log():
    class HoldWasPaid(Committed, frozen=True, kw_only=True, omit_defaults=True):
        """`Committed` under another name, in another module."""

    happened, topic, state = GOLDEN[3]
    assert isinstance(happened, Committed)
    renamed = EventMapper([HoldWasPaid]).decode(topic, state.encode())
    assert type(renamed) is HoldWasPaid
    assert EventMapper([HoldWasPaid]).encode(renamed) == state.encode()


def test_an_unknown_topic_is_a_dead_letter_and_never_an_import():
    for topic in ("stock-item.exploded", "os:system", "domain.events:Registered", ""):
        with pytest.raises(UnknownTopic):
            EventMapper().decode(topic, b"{}")


@pytest.mark.parametrize("state", [b"", b"{", b"{}", b"[]", b'{"quantity":"\xff"}', H.encode() + b',"quantity":"1"}'])
def test_what_cannot_be_read_says_so(state: bytes):
    with pytest.raises(UnreadableEvent, match=r"stock-item\.damaged"):
        EventMapper().decode("stock-item.damaged", state)


def test_two_classes_may_not_share_a_topic():
    with pytest.raises(ValueError, match="two event classes"):
        EventMapper([Damaged, Damaged])


# Upcasting: a class that has changed twice since the first of its events were written


class Weighed(StockEvent, frozen=True, kw_only=True, omit_defaults=True):
    """Version 1 had `kilos`; version 2 `weight` and `unit`; version 3 has grams and who weighed."""

    TOPIC = "stock-item.weighed"
    class_version: ClassVar[int] = 3

    grams: int
    weighed_by: str

    @staticmethod
    def upcast_v1_v2(state: dict[str, Any]) -> None:
        state["weight"], state["unit"] = state.pop("kilos"), "kg"

    @staticmethod
    def upcast_v2_v3(state: dict[str, Any]) -> None:
        state["grams"] = state.pop("weight") * {"kg": 1_000, "g": 1}[state.pop("unit")]
        state["weighed_by"] = state["origin"]["actor"]


@pytest.mark.parametrize(
    ("facts", "grams"),
    [
        (',"kilos":2}', 2_000),
        (',"class_version":1,"kilos":2}', 2_000),
        (',"class_version":2,"weight":3,"unit":"kg"}', 3_000),
        (',"class_version":2,"weight":3,"unit":"g"}', 3),
        (',"class_version":3,"grams":7,"weighed_by":"a"}', 7),
    ],
)
def test_older_events_are_read_as_today_s(facts: str, grams: int):
    read = EventMapper([Weighed]).decode(Weighed.TOPIC, (H + facts).encode())
    assert read == event(Weighed, grams=grams, weighed_by="a")


def test_an_event_says_of_which_version_it_is_once_there_is_more_than_one():
    mapper = EventMapper([Weighed])
    state = mapper.encode(event(Weighed, grams=7, weighed_by="a"))
    assert msgspec.json.decode(state)["class_version"] == 3
    assert mapper.decode(Weighed.TOPIC, state) == event(Weighed, grams=7, weighed_by="a")


@pytest.mark.parametrize(
    "facts", [',"weight":3}', ',"class_version":2,"kilos":2}', ',"class_version":4,"grams":7,"weighed_by":"a"}']
)
def test_what_cannot_be_upcast_says_so(facts: str):
    with pytest.raises(UnreadableEvent):
        EventMapper([Weighed]).decode(Weighed.TOPIC, (H + facts).encode())


@pytest.mark.parametrize("state", [b"5", b"[]", b'"x"', b"null"])
def test_what_is_no_object_cannot_be_upcast(state: bytes):
    with pytest.raises(UnreadableEvent):
        EventMapper([Weighed]).decode(Weighed.TOPIC, state)


def test_an_event_of_a_later_version_than_this_code_knows_is_not_misread():
    """After a rollback of the code: better a dead letter than a guess."""
    state = H + ',"class_version":2,"quantity":1}'
    with pytest.raises(UnreadableEvent, match="version 2"):
        EventMapper().decode("stock-item.damaged", state.encode())
    note = EventMapper().encode(
        event(
            Damaged, origin=Origin(command_id="c", actor="a", correlation_id="k", note='"class_version":2'), quantity=1
        )
    )
    assert EventMapper().decode("stock-item.damaged", note).quantity == 1
    metadata = Origin(command_id="c", actor="a", correlation_id="k", metadata={"class_version": 2})
    state_with = EventMapper().encode(event(Damaged, origin=metadata, quantity=1))
    assert EventMapper().decode("stock-item.damaged", state_with).quantity == 1
