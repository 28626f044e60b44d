"""What others are told of each kind of event: one table, one message after the other."""

import json
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from domain.errors import Shortage
from domain.events import (
    Adjusted,
    Allocated,
    Counted,
    Damaged,
    Discontinued,
    Event,
    Origin,
    PolicyChanged,
    Reinstated,
    Repaired,
    RequestedLine,
    ReservationRequest,
    WrittenOff,
)
from domain.policy import DEFAULT_POLICY, Policy
from domain.values import AdjustmentReason, Bucket, Condition, ReleaseReason
from infra.kafka.topics import PUBLIC_TOPICS
from projections.public.cloud_events import VALUE_BYTES_MAX, Envelopes
from projections.public.messages import rejection_of
from projections.public.refusals import RefusedCreate
from tests.support_domain import (
    NOW,
    ORIGIN,
    Fact,
    Shop,
    committed,
    extended,
    happened,
    registered,
    released,
    reserved,
    restocked,
    returned,
    shipped,
)
from tests.support_public import ENVELOPES, body, by_topic, tell

A = "stock:A@W1"
REQUEST = ReservationRequest((RequestedLine("A", 3),), "digest", "customer-9")
"""A create of one line."""


def held(reservation_id: str = "r-1", quantity: int = 3, **more: Any) -> Fact:
    facts: dict[str, Any] = {"request": REQUEST, "allocations": (Allocated("A", "W1", quantity),)}
    return reserved(reservation_id, quantity, **(facts | more))


def moved(fact: Fact, **facts: Any) -> Fact:
    """A part 1 that names what all parts move."""
    quantity = fact.facts["quantity"]
    return Fact(fact.event_class, {**fact.facts, "allocations": (Allocated("A", "W1", quantity),)} | facts)


def events_of(*facts: Fact, origin: Origin = ORIGIN) -> list[Event]:
    return [fact.at(A, version, NOW, origin) for version, fact in enumerate(facts, start=1)]


def last_told(*facts: Fact, origin: Origin = ORIGIN) -> dict[str, list[dict[str, Any]]]:
    """What is told of the last of these events."""
    events = events_of(*facts, origin=origin)
    return by_topic(tell(events)[len(tell(events[:-1])) :])


STOCKED = (registered(), restocked(50))
UPDATED, STATUS, LOW = "inventory.stock-updated", "inventory.status-changed", "inventory.low-stock"
MOVED = "inventory.movements"

TABLE: dict[str, tuple[tuple[Fact, ...], set[str]]] = {
    "registered": ((registered(),), {UPDATED, STATUS}),
    "restocked, back in stock": (STOCKED, {UPDATED, STATUS, "inventory.restocked", MOVED}),
    "restocked again": ((*STOCKED, restocked(1)), {UPDATED, "inventory.restocked", MOVED}),
    "reserved": ((*STOCKED, held()), {UPDATED, MOVED, "inventory.reserved"}),
    "reserved, a later part": ((*STOCKED, reserved("r-1", 3, part=2, parts=2)), {UPDATED, MOVED}),
    "committed": ((*STOCKED, held(), moved(committed("r-1", 3))), {UPDATED, MOVED, "inventory.committed"}),
    "committed, a later part": (
        (*STOCKED, held(), moved(committed("r-1", 3), part=2, parts=2)),
        {UPDATED, MOVED},
    ),
    "released": (
        (*STOCKED, held(), moved(released("r-1", 3, ReleaseReason.PAYMENT_FAILED))),
        {UPDATED, MOVED, "inventory.released"},
    ),
    "expired": (
        (*STOCKED, held(), moved(released("r-1", 3, ReleaseReason.EXPIRED))),
        {UPDATED, MOVED, "inventory.released", "inventory.reservation-expired"},
    ),
    "refunded": (
        (
            *STOCKED,
            held(),
            moved(committed("r-1", 3)),
            moved(released("r-1", 3, ReleaseReason.ORDER_CANCELLED, Bucket.COMMITTED)),
        ),
        {UPDATED, MOVED, "inventory.refunded"},
    ),
    "extended": ((*STOCKED, held(), extended("r-1", ttl_s=1800)), {UPDATED}),
    "shipped": ((*STOCKED, held(), committed("r-1", 3), shipped("r-1", 3, "T1")), {UPDATED, MOVED}),
    "returned": ((*STOCKED, returned(2, order_id="o-1")), {UPDATED, MOVED}),
    "returned of a reservation": (
        (
            *STOCKED,
            held(),
            committed("r-1", 3),
            shipped("r-1", 3),
            returned(2, Condition.DAMAGED, reservation_id="r-1", order_id="order-r-1"),
        ),
        {UPDATED, MOVED},
    ),
    "adjusted": ((*STOCKED, happened(Adjusted, delta=-1, reason=AdjustmentReason.LOST)), {UPDATED, MOVED}),
    "counted, low": (
        (*STOCKED, happened(Counted, counted=4, expected=50, variance=-46)),
        {UPDATED, MOVED, STATUS, LOW},
    ),
    "damaged": ((*STOCKED, happened(Damaged, quantity=2)), {UPDATED, MOVED}),
    "repaired": ((*STOCKED, happened(Damaged, quantity=2), happened(Repaired, quantity=1)), {UPDATED, MOVED}),
    "written off": ((*STOCKED, happened(Damaged, quantity=2), happened(WrittenOff, quantity=1)), {UPDATED, MOVED}),
    "policy changed": ((*STOCKED, happened(PolicyChanged, policy=replace(DEFAULT_POLICY, reorder_point=7))), {UPDATED}),
    "discontinued": ((*STOCKED, happened(Discontinued)), {UPDATED, STATUS}),
    "reinstated": ((*STOCKED, happened(Discontinued), happened(Reinstated)), {UPDATED, STATUS}),
}


@pytest.mark.parametrize("case", TABLE, ids=str)
def test_each_kind_of_event_is_told_on_its_topics_and_no_others(case: str) -> None:
    facts, topics = TABLE[case]
    told = last_told(*facts)
    assert set(told) == topics
    assert all(len(messages) == 1 for messages in told.values())


def test_the_table_produces_every_public_topic_that_comes_from_the_log() -> None:
    topics = set().union(*(topics for _, topics in TABLE.values()))
    assert topics == set(PUBLIC_TOPICS) - {"inventory.reservation-rejected"}


def test_every_message_is_a_cloud_event() -> None:
    origin = replace(ORIGIN, correlation_id="checkout-7", causation_id="message-1")
    for case, (facts, _) in TABLE.items():
        for message in tell(events_of(*facts, origin=origin)):
            event = body(message)
            assert event["specversion"] == "1.0", case
            assert event["type"] == message.topic
            assert event["source"] == f"/stockhold/{message.topic}"
            assert event["time"] == "2026-03-01T12:00:00Z"
            assert event["datacontenttype"] == "application/json"
            assert (event["correlationid"], event["causationid"]) == ("checkout-7", "message-1")
            assert (message.id, message.source) == (event["id"], event["source"])


def test_what_has_no_cause_says_none() -> None:
    assert "causationid" not in body(tell(events_of(registered()))[0])


def test_messages_of_an_item_are_keyed_by_sku_and_numbered_by_its_version() -> None:
    for message in tell(events_of(*STOCKED)):
        event = body(message)
        assert message.key == "A"
        assert event["subject"] == A
        assert event["id"] == f"{A}#{event['sequence']}"
        assert event["data"]["version"] == event["sequence"]


def test_messages_of_an_order_are_keyed_by_it_and_bear_the_command() -> None:
    (message,) = [m for m in tell(events_of(*STOCKED, held())) if m.topic == "inventory.reserved"]
    assert message.key == "order-r-1"
    assert message.id == ORIGIN.command_id
    assert body(message)["subject"] == "r-1"
    assert "sequence" not in body(message)


def test_source_and_id_name_one_message_whatever_its_topic() -> None:
    expired = moved(released("r-1", 3, ReleaseReason.EXPIRED))
    messages = tell(
        fact.at(A, n, NOW, replace(ORIGIN, command_id=f"c-{n}"))
        for n, fact in enumerate((*STOCKED, held(), expired, restocked(2)), start=1)
    )
    assert len({(message.source, message.id) for message in messages}) == len(messages)


def test_a_restored_log_speaks_from_another_source() -> None:
    told = tell(events_of(*STOCKED), Envelopes("https://stock.example", epoch=2))
    assert told[0].source == "https://stock.example/inventory.stock-updated?epoch=2"


# What they say -------------------------------------------------------------------------------------------


def test_a_reservation_is_told_whole_by_its_first_part() -> None:
    shop = Shop()
    shop.stocked("A", "W1", 5)
    shop.stocked("A", "W2", 5)
    shop.stocked("B", "W1", 1)
    shop.create(
        "r-9",
        [{"sku": "A", "quantity": 8, "metadata": {"gift": True}}, {"sku": "B", "quantity": 3}],
        customer_ref="c-1",
        kind="cart",
        allocation={"allow_partial": True},
    )
    (told,) = by_topic(tell(shop.log))["inventory.reserved"]
    assert told["data"] == {
        "reservation_id": "r-9",
        "order_id": "order-r-9",
        "kind": "cart",
        "customer_ref": "c-1",
        "expires_at": "2026-03-01T12:15:00Z",
        "lines": [{"sku": "A", "quantity": 8, "metadata": {"gift": True}}, {"sku": "B", "quantity": 3}],
        "allocations": [
            {"sku": "A", "warehouse": "W1", "quantity": 5},
            {"sku": "A", "warehouse": "W2", "quantity": 3},
            {"sku": "B", "warehouse": "W1", "quantity": 1},
        ],
        "shortages": [{"sku": "B", "requested": 3, "available": 1}],
    }


def test_a_payment_is_told_with_all_that_it_paid_for() -> None:
    told = last_told(*STOCKED, held(), moved(committed("r-1", 3)))["inventory.committed"][0]
    allocations = [{"sku": "A", "warehouse": "W1", "quantity": 3}]
    assert told["data"] == {"reservation_id": "r-1", "order_id": "order-r-1", "allocations": allocations}


@pytest.mark.parametrize(
    "reason", [ReleaseReason.CANCELLED, ReleaseReason.PAYMENT_FAILED, ReleaseReason.ORDER_CANCELLED]
)
def test_a_release_says_why(reason: ReleaseReason) -> None:
    told = last_told(*STOCKED, held(), moved(released("r-1", 2, reason)))["inventory.released"][0]
    assert told["data"] == {
        "reservation_id": "r-1",
        "order_id": "order-r-1",
        "reason": reason,
        "allocations": [{"sku": "A", "warehouse": "W1", "quantity": 2}],
    }


def test_a_sweep_of_several_reservations_is_told_to_each_of_their_orders() -> None:
    shop = Shop()
    shop.stocked("A", "W1", 9)
    shop.create("r-1", [("A", 2)], ttl_seconds=60)
    shop.create("r-2", [("A", 3)], ttl_seconds=90)
    shop.elapse(100)
    position = len(shop.log)
    assert shop.sweep("A", "W1") == 2
    command_id = shop.events_since(position)[0].origin.command_id
    told = by_topic(tell(shop.log))
    expired = told["inventory.reservation-expired"]
    assert [(each["id"], each["data"]) for each in expired] == [
        (
            command_id,
            {
                "reservation_id": "r-1",
                "order_id": "order-r-1",
                "expired_at": "2026-03-01T12:01:00Z",
                "allocations": [{"sku": "A", "warehouse": "W1", "quantity": 2}],
            },
        ),
        (
            f"{command_id}#2",
            {
                "reservation_id": "r-2",
                "order_id": "order-r-2",
                "expired_at": "2026-03-01T12:01:30Z",
                "allocations": [{"sku": "A", "warehouse": "W1", "quantity": 3}],
            },
        ),
    ]
    assert [(each["id"], each["data"]["reason"]) for each in told["inventory.released"]] == [
        (command_id, "EXPIRED"),
        (f"{command_id}#2", "EXPIRED"),
    ]


def test_an_item_is_told_in_the_shape_of_the_contract() -> None:
    told = last_told(*STOCKED, held())[UPDATED][0]
    assert told["data"] == {
        "sku": "A",
        "warehouse": "W1",
        "on_hand": 50,
        "reserved": 3,
        "committed": 0,
        "damaged": 0,
        "quarantined": 0,
        "in_transit": 0,
        "incoming": 0,
        "safety_stock": 0,
        "available": 47,
        "total": 50,
        "short": 0,
        "backorder_limit": 0,
        "sold": 0,
        "returned": 0,
        "lost": 0,
        "status": "IN_STOCK",
        "version": 3,
        "as_of": "2026-03-01T12:00:00Z",
        "created_at": "2026-03-01T12:00:00Z",
        "last_movement_at": "2026-03-01T12:00:00Z",
        "last_restocked_at": "2026-03-01T12:00:00Z",
        "last_sold_at": None,
        "last_counted_at": None,
    }


def test_a_receipt_says_what_was_said_of_the_goods() -> None:
    receipt = restocked(
        4,
        unit_cost=Decimal("2.50"),
        supplier="acme",
        lot="L1",
        expires_on=date(2027, 1, 31),
        received_on=date(2026, 2, 28),
    )
    data = last_told(registered(), receipt)["inventory.restocked"][0]["data"]
    said = ("type", "quantity", "unit_cost", "supplier", "lot", "expires_on", "received_on", "movement_id")
    assert [data[name] for name in said] == ["RECEIPT", 4, "2.50", "acme", "L1", "2027-01-31", "2026-02-28", f"{A}#2"]


def test_a_return_names_its_order_although_the_hold_is_closed() -> None:
    facts, _ = TABLE["returned of a reservation"]
    data = last_told(*facts)[MOVED][0]["data"]
    assert (data["type"], data["reservation_id"], data["order_id"]) == ("RETURN", "r-1", "order-r-1")


# Status and low stock --------------------------------------------------------------------------------------

TEN = registered(Policy(low_stock_threshold=10))


def statuses(*facts: Fact) -> list[tuple[str | None, str]]:
    told = by_topic(tell(events_of(*facts))).get(STATUS, [])
    return [(each["data"]["previous_status"], each["data"]["status"]) for each in told]


def falls(*facts: Fact) -> list[int]:
    """What was available at each alert."""
    return [each["data"]["available"] for each in by_topic(tell(events_of(*facts))).get(LOW, [])]


def adjusted(delta: int) -> Fact:
    return happened(Adjusted, delta=delta, reason=AdjustmentReason.CORRECTION)


def test_a_status_is_told_when_it_changes_and_back_in_stock_is_such_a_change() -> None:
    assert statuses(TEN, restocked(11), adjusted(-1), adjusted(-10), restocked(20)) == [
        (None, "OUT_OF_STOCK"),
        ("OUT_OF_STOCK", "IN_STOCK"),
        ("IN_STOCK", "LOW_STOCK"),
        ("LOW_STOCK", "OUT_OF_STOCK"),
        ("OUT_OF_STOCK", "IN_STOCK"),
    ]


def test_backorders_and_the_end_of_an_item_are_statuses() -> None:
    policy = registered(Policy(backorder_limit=5, low_stock_threshold=0))
    assert statuses(policy, restocked(1), held(quantity=1), held("r-2", 5), happened(Discontinued)) == [
        (None, "BACKORDER"),
        ("BACKORDER", "IN_STOCK"),
        ("IN_STOCK", "BACKORDER"),
        ("BACKORDER", "OUT_OF_STOCK"),
        ("OUT_OF_STOCK", "DISCONTINUED"),
    ]


def test_low_stock_is_told_once_for_each_fall_to_the_threshold() -> None:
    assert falls(TEN, restocked(12), adjusted(-1), adjusted(-1), adjusted(-1), adjusted(2), adjusted(-5)) == [10, 6]


def test_a_fall_past_everything_is_one_fall() -> None:
    assert falls(TEN, restocked(12), adjusted(-12), restocked(5)) == [0]


def test_a_new_item_has_not_fallen() -> None:
    assert falls(TEN, restocked(10), adjusted(-1)) == []


def test_a_threshold_that_is_raised_past_the_stock_is_a_fall() -> None:
    raised = happened(PolicyChanged, policy=Policy(low_stock_threshold=20))
    assert falls(TEN, restocked(15), raised) == [15]
    assert last_told(TEN, restocked(15), raised)[LOW][0]["data"]["low_stock_threshold"] == 20


def test_a_hold_that_has_ended_counts_until_it_is_released() -> None:
    told = last_told(TEN, restocked(12), held(quantity=5, ttl_s=-60), adjusted(1))
    assert told[UPDATED][0]["data"]["reserved"] == 5


# Too large -------------------------------------------------------------------------------------------------


def test_what_no_broker_would_take_goes_without_its_lines() -> None:
    metadata = {"text": "x" * 4_000}
    lines = tuple(RequestedLine(f"SKU-{n}", 1, "W1", metadata) for n in range(400))
    message = tell(events_of(*STOCKED, held(request=replace(REQUEST, lines=lines))))[-3]
    data = body(message)["data"]
    assert len(message.value) <= VALUE_BYTES_MAX
    assert (data["lines"], data["truncated"]) == ([], ["lines"])
    assert data["allocations"] == [{"sku": "A", "warehouse": "W1", "quantity": 3}]


def test_and_without_its_allocations_if_it_must() -> None:
    allocations = tuple(Allocated(f"SKU-{n}", "W1", 1) for n in range(40_000))
    (told,) = last_told(*STOCKED, held(allocations=allocations))["inventory.reserved"]
    assert told["data"]["truncated"] == ["lines", "allocations"]
    (told,) = last_told(*STOCKED, held(), moved(committed("r-1", 3), allocations=allocations))["inventory.committed"]
    assert (told["data"]["allocations"], told["data"]["truncated"]) == ([], ["allocations"])


# Refusals ----------------------------------------------------------------------------------------------------

PROBLEM = {
    "type": "urn:stockhold:problem:insufficient-stock",
    "title": "Insufficient stock",
    "status": 409,
    "detail": "5 of A requested, 2 available",
    "code": "insufficient-stock",
    "shortages": [{"sku": "A", "requested": 5, "available": 2, "warehouse": "W1"}],
}


def test_a_refusal_says_what_was_short() -> None:
    refusal = RefusedCreate(7, NOW, "insufficient-stock", "o-1", "web", PROBLEM, "c-7", "r-7", "corr", "placed-1")
    message = rejection_of(refusal, ENVELOPES)
    assert (message.topic, message.key, message.id) == ("inventory.reservation-rejected", "o-1", "c-7")
    event = body(message)
    assert (event["subject"], event["correlationid"], event["causationid"]) == ("r-7", "corr", "placed-1")
    assert event["data"] == {
        "order_id": "o-1",
        "reservation_id": "r-7",
        "code": "insufficient-stock",
        "shortages": [{"sku": "A", "requested": 5, "available": 2, "warehouse": "W1"}],
        "problem": PROBLEM,
    }
    assert refusal.shortages == [Shortage("A", 5, 2, "W1")]


def test_a_refusal_from_before_commands_were_noted_has_an_id_all_the_same() -> None:
    message = rejection_of(RefusedCreate(7, NOW, "unknown-warehouse", None, "web", {"code": "x"}), ENVELOPES)
    assert (message.key, message.id) == ("refusal:7", "refusal:7")
    assert json.loads(message.value)["data"]["shortages"] == []
