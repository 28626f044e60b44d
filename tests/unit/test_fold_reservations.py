"""Every event that touches a hold, and the header that a create leaves."""

from typing import Any

import pytest
from msgspec.structs import asdict

from domain.errors import Shortage
from domain.events import Allocated, Choice, Damaged, Event, Origin, RequestedLine, ReservationRequest, StockEvent
from domain.hold import Hold, Shipment
from domain.values import Bucket, HoldKind, ReleaseReason, stock_stream
from projections.views.errors import ImpossibleEvent
from projections.views.reservations import due_at, fold_hold, hold_named_by, reservation_of
from tests.support_domain import (
    CODE,
    NOW,
    SKU,
    Fact,
    after,
    committed,
    extended,
    happened,
    released,
    reserved,
    restocked,
    returned,
    shipped,
)

STREAM = stock_stream(SKU, CODE)
LATER = after(60)
END = after(900)


def fold(*history: Fact) -> Hold:
    hold = None
    for version, fact in enumerate(history, start=2):
        hold = fold_hold(hold, stock_event(fact, version))
    assert hold is not None
    return hold


def stock_event(fact: Fact, version: int = 9) -> StockEvent:
    event = fact.at(STREAM, version, LATER if version > 4 else NOW, Origin("c", "sam", "x"))
    assert isinstance(event, StockEvent)
    return event


HISTORY = (reserved("r-1", 10), committed("r-1", 6), shipped("r-1", 2, "T1"))
SHIPMENT = Shipment(quantity=2, shipped_at=NOW, tracking="T1")
EFFECTS: list[tuple[Fact, dict[str, Any]]] = [
    (committed("r-1", 1), {"active": 3, "committed": 5, "committed_at": LATER}),
    (
        released("r-1", 3, ReleaseReason.PAYMENT_FAILED),
        {
            "active": 1,
            "released": 3,
            "released_at": LATER,
            "released_by": "sam",
            "release_reason": ReleaseReason.PAYMENT_FAILED,
        },
    ),
    (
        released("r-1", 4, ReleaseReason.EXPIRED),
        {
            "active": 0,
            "released": 4,
            "expired": True,
            "released_at": END,
            "released_by": "sam",
            "release_reason": ReleaseReason.EXPIRED,
        },
    ),
    (
        released("r-1", 4, ReleaseReason.ORDER_CANCELLED, Bucket.COMMITTED),
        {
            "committed": 0,
            "released": 4,
            "cancelled": True,
            "released_at": LATER,
            "released_by": "sam",
            "release_reason": ReleaseReason.ORDER_CANCELLED,
        },
    ),
    (extended("r-1", ttl_s=1_800), {"expires_at": after(1_800)}),
    (
        shipped("r-1", 3),
        {
            "committed": 1,
            "shipped": 5,
            "shipped_at": LATER,
            "shipments": (SHIPMENT, Shipment(quantity=3, shipped_at=LATER)),
        },
    ),
    (returned(2, reservation_id="r-1"), {"returned": 2}),
]


@pytest.mark.parametrize(("fact", "changes"), EFFECTS, ids=lambda value: getattr(value, "event_class", type).__name__)
def test_an_event_changes_what_it_is_about_and_nothing_else(fact: Fact, changes: dict[str, Any]) -> None:
    before = fold(*HISTORY)
    assert asdict(fold_hold(before, stock_event(fact))) == asdict(before) | {"version": 9} | changes


def test_what_is_cancelled_after_the_rest_has_ended_is_the_last_release_whenever_that_is_swept() -> None:
    cancelled = released("r-1", 2, ReleaseReason.ORDER_CANCELLED, Bucket.COMMITTED)
    swept = released("r-1", 3, ReleaseReason.EXPIRED)
    for last_two in ((swept, cancelled), (cancelled, swept)):
        hold = fold(reserved("r-1", 5, ttl_s=0), committed("r-1", 2), *last_two)
        assert (hold.release_reason, hold.expired, hold.cancelled) == (ReleaseReason.ORDER_CANCELLED, True, True)


def test_reserving_makes_the_hold() -> None:
    assert fold(reserved("r-1", 10, order_id="o-1", part=3)) == Hold(
        reservation_id="r-1",
        order_id="o-1",
        sku=SKU,
        warehouse=CODE,
        version=2,
        part=3,
        active=10,
        expires_at=END,
    )


@pytest.mark.parametrize(
    ("history", "fact"),
    [
        ((), committed("r-1", 1)),
        ((reserved("r-1", 2),), reserved("r-1", 2)),
        ((reserved("r-1", 2),), committed("r-1", 3)),
        ((reserved("r-1", 2),), shipped("r-1", 1)),
        ((reserved("r-1", 2),), released("r-1", 1, ReleaseReason.CANCELLED, Bucket.COMMITTED)),
        ((reserved("r-1", 2),), returned(1, reservation_id="r-1")),
        ((reserved("r-1", 2),), happened(Damaged, quantity=1)),
    ],
    ids=["none", "twice", "too many committed", "too many shipped", "too many released", "too many back", "no hold's"],
)
def test_an_event_that_cannot_be_is_refused(history: tuple[Fact, ...], fact: Fact) -> None:
    hold = fold(*history) if history else None
    with pytest.raises(ImpossibleEvent):
        fold_hold(hold, stock_event(fact))


def test_a_hold_is_due_when_its_active_part_ends() -> None:
    assert due_at(None) is None
    assert due_at(fold(reserved("r-1", 2))) == END
    assert due_at(fold(reserved("r-1", 2, ttl_s=None))) is None
    assert due_at(fold(reserved("r-1", 2), committed("r-1", 1))) == END
    assert due_at(fold(reserved("r-1", 2), committed("r-1", 2))) is None


def test_which_events_name_a_hold() -> None:
    assert hold_named_by(stock_event(committed("r-1", 1))) == "r-1"
    assert hold_named_by(stock_event(returned(1, reservation_id="r-1"))) == "r-1"
    assert hold_named_by(stock_event(returned(1))) is None
    assert hold_named_by(stock_event(restocked(1))) is None


REQUEST = ReservationRequest(
    lines=(RequestedLine(SKU, 3, metadata={"gift": True}),),
    digest="d1",
    customer_ref="c-1",
    shortages=(Shortage("B", 2, 1),),
    choices=(Choice(SKU, CODE, 3, "priority"),),
)


def test_part_one_of_a_create_says_the_header() -> None:
    allocations = (Allocated(SKU, CODE, 3),)
    event: Event = stock_event(
        reserved("r-1", 3, order_id="o-1", kind=HoldKind.CART, request=REQUEST, allocations=allocations), 2
    )
    header = reservation_of(event)
    assert header is not None
    assert asdict(header) == {
        "reservation_id": "r-1",
        "order_id": "o-1",
        "kind": HoldKind.CART,
        "customer_ref": "c-1",
        "created_at": NOW,
        "created_by": "sam",
        "digest": "d1",
        "lines": REQUEST.lines,
        "allocations": allocations,
        "shortages": REQUEST.shortages,
        "choices": REQUEST.choices,
    }


@pytest.mark.parametrize("fact", [reserved("r-1", 3, part=2), committed("r-1", 1), restocked(1)])
def test_no_other_event_does(fact: Fact) -> None:
    assert reservation_of(stock_event(fact)) is None
