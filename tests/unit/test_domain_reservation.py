"""What is decided about a reservation: made whole or not at all, and then moved on as the contract's table says."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from domain.commands import (
    CancelReservation,
    CommitReservation,
    CreateReservation,
    ExtendReservation,
    Line,
    ReleaseReservation,
    ReservationCommand,
    ReturnReservation,
    ShipReservation,
)
from domain.errors import (
    DomainError,
    DuplicateReservation,
    InsufficientStock,
    QuantityOutOfRange,
    ReservationExpired,
    ReservationNotActive,
)
from domain.events import Allocated, Committed, Extended, RequestedLine, Reserved, Returned, Shipped
from domain.policy import Policy
from domain.reservation import (
    cancel,
    commit,
    extend,
    merge_lines,
    refuse_unless_repeat,
    release,
    ship,
    take_back,
)
from domain.values import MAX_HOLD_TTL_S, MAX_QUANTITY, HoldKind
from tests.support_domain import NOW, Shop, after, invariants

Handler = Callable[..., None]
TTL_S = 900


# The contract's table ------------------------------------------------------------------------------------

COMMANDS: dict[str, tuple[Handler, type[ReservationCommand], dict[str, Any]]] = {
    "commit": (commit, CommitReservation, {}),
    "release": (release, ReleaseReservation, {}),
    "extend": (extend, ExtendReservation, {"ttl_seconds": 60}),
    "ship": (ship, ShipReservation, {}),
    "cancel": (cancel, CancelReservation, {}),
    "return": (
        take_back,
        ReturnReservation,
        {"lines": [{"sku": "A", "warehouse": "W1", "quantity": 1, "condition": "SELLABLE"}]},
    ),
}
LINES = [{"sku": "A", "quantity": 1}]

TABLE = """
         | ACTIVE | DUE    | EXPIRED | COMMITTED | SHIPPED | RETURNED | RELEASED | CANCELLED
commit   | 200    | 410    | 410     | no-op     | no-op   | no-op    | 409      | 409
release  | 200    | no-op  | no-op   | 409       | 409     | 409      | no-op    | no-op
extend   | 200    | 410    | 410     | 409       | 409     | 409      | 409      | 409
ship     | 409    | 410    | 410     | 200       | no-op   | no-op    | 409      | 409
cancel   | 409    | 410    | 410     | 200       | 409     | 409      | 409      | no-op
return   | 409    | 410    | 410     | 409       | 200     | 409      | 409      | 409
"""
"""Without lines (a return always names its lines); with lines nothing is a no-op."""


def cells() -> list[tuple[str, str, str]]:
    header, *rows = [[cell.strip() for cell in row.split("|")] for row in TABLE.strip("\n").splitlines()]
    return [(row[0], state, cell) for row in rows for state, cell in zip(header[1:], row[1:], strict=True)]


def reservation_in(state: str) -> Shop:
    """A shop with 10 of A and a reservation `r` of 4 of them in this state."""
    shop = Shop()
    shop.stocked("A", "W1", 10)
    shop.create("r", [("A", 4)], ttl_seconds=TTL_S)
    if state in {"DUE", "EXPIRED"}:
        shop.elapse(TTL_S)
    if state == "EXPIRED":
        shop.sweep("A", "W1")
    if state in {"COMMITTED", "SHIPPED", "RETURNED", "CANCELLED"}:
        shop.on(commit, CommitReservation, "r")
    if state in {"SHIPPED", "RETURNED"}:
        shop.on(ship, ShipReservation, "r")
    if state == "RETURNED":
        back = {"sku": "A", "warehouse": "W1", "quantity": 4, "condition": "DAMAGED"}
        shop.on(take_back, ReturnReservation, "r", lines=[back])
    if state == "RELEASED":
        shop.on(release, ReleaseReservation, "r")
    if state == "CANCELLED":
        shop.on(cancel, CancelReservation, "r")
    assert shop.status("r") == {"DUE": "EXPIRED"}.get(state, state)
    return shop


def outcome(shop: Shop, name: str, **body: Any) -> tuple[str, int]:
    """What the command came to, as the table writes it, and how many events it appended."""
    handler, command_class, usual = COMMANDS[name]
    before, refusal = len(shop.log), None
    try:
        shop.on(handler, command_class, "r", **usual | body)
    except (ReservationExpired, ReservationNotActive) as error:
        refusal = error
    assert all(not list(invariants(item, shop.now)) for item in shop.stock.items.values())
    appended = len(shop.log) - before
    if refusal is None:
        return ("200" if appended else "no-op"), appended
    expired = isinstance(refusal, ReservationExpired)
    assert refusal.facts == {"reservation_id": "r", "state": "EXPIRED" if expired else shop.status("r")}
    return ("410" if expired else "409"), appended


@pytest.mark.parametrize(("command", "state", "expected"), cells())
def test_the_contract_s_table(command: str, state: str, expected: str):
    assert outcome(reservation_in(state), command) == (expected, 1 if expected == "200" else 0)


@pytest.mark.parametrize(("command", "state", "expected"), [cell for cell in cells() if cell[0] != "extend"])
def test_with_lines_nothing_is_a_no_op(command: str, state: str, expected: str):
    refused = "410" if state in {"DUE", "EXPIRED"} else "409"
    lines = COMMANDS[command][2].get("lines", LINES)
    assert outcome(reservation_in(state), command, lines=lines)[0] == ("200" if expected == "200" else refused)


PARTIAL_TABLE = """
         | ACTIVE+COMMITTED | COMMITTED+SHIPPED | COMMITTED+DUE | SHIPPED+DUE
commit   | 200              | no-op             | 410           | 410
release  | 200              | 409               | 409           | 409
extend   | 200              | 409               | 410           | 410
ship     | 200              | 200               | 200           | no-op
cancel   | 200              | 200               | 200           | 409
return   | 409              | 200               | 409           | 200
"""
WITH_LINES = """
         | ACTIVE+COMMITTED | COMMITTED+SHIPPED | COMMITTED+DUE | SHIPPED+DUE
commit   | 200              | 409               | 410           | 410
release  | 200              | 409               | 410           | 410
ship     | 200              | 200               | 200           | 409
cancel   | 200              | 200               | 200           | 409
"""


def partial_cells(table: str) -> list[tuple[str, str, str, bool]]:
    header, *rows = [[cell.strip() for cell in row.split("|")] for row in table.strip("\n").splitlines()]
    return [
        (row[0], parts, cell, swept)
        for row in rows
        for parts, cell in zip(header[1:], row[1:], strict=True)
        for swept in ([False, True] if "DUE" in parts else [False])
    ]


def reservation_of(parts: str, *, swept: bool) -> Shop:
    """4 of A: 3 in one state, 1 in the other."""
    shop = Shop()
    shop.stocked("A", "W1", 10)
    shop.create("r", [("A", 4)], ttl_seconds=TTL_S)
    if parts == "ACTIVE+COMMITTED":
        shop.on(commit, CommitReservation, "r", lines=[{"sku": "A", "quantity": 1}])
    elif parts == "COMMITTED+SHIPPED":
        shop.on(commit, CommitReservation, "r")
        shop.on(ship, ShipReservation, "r", lines=[{"sku": "A", "quantity": 1}])
    else:
        shop.on(commit, CommitReservation, "r", lines=[{"sku": "A", "quantity": 3}])
        if parts == "SHIPPED+DUE":
            shop.on(ship, ShipReservation, "r")
        shop.elapse(TTL_S)
    if swept:
        shop.sweep("A", "W1")
    return shop


@pytest.mark.parametrize(("command", "parts", "expected", "swept"), partial_cells(PARTIAL_TABLE))
def test_the_table_for_what_is_in_two_states(command: str, parts: str, expected: str, swept: bool):
    assert outcome(reservation_of(parts, swept=swept), command) == (expected, 1 if expected == "200" else 0)


@pytest.mark.parametrize(("command", "parts", "expected", "swept"), partial_cells(WITH_LINES))
def test_named_lines_of_what_is_in_two_states(command: str, parts: str, expected: str, swept: bool):
    assert outcome(reservation_of(parts, swept=swept), command, lines=LINES)[0] == expected


# Creating --------------------------------------------------------------------------------------------------


def test_a_reservation_over_several_items_is_one_command_in_parts():
    shop = Shop()
    shop.stocked("A", "W1", 5)
    shop.stocked("B", "W2", 5)
    before = len(shop.log)
    lines = [{"sku": "A", "quantity": 2, "metadata": {"gift": True}}, {"sku": "B", "quantity": 3, "warehouse": "W2"}]
    reservation = shop.create("r", lines, customer_ref="c-1", kind="cart")
    first, second = shop.events_since(before)
    assert [type(first), type(second)] == [Reserved, Reserved]
    assert first.origin == second.origin
    moved = {first.part: first, second.part: second}
    assert (moved[1].parts, moved[2].parts) == (2, 2)
    assert moved[1].allocations == (Allocated("B", "W2", 3), Allocated("A", "W1", 2))  # named warehouses first
    assert moved[2].allocations == ()
    assert moved[2].request is None
    request = moved[1].request
    assert request.lines == (RequestedLine("A", 2, None, {"gift": True}), RequestedLine("B", 3, "W2"))
    assert (request.digest, request.customer_ref, request.shortages) == ("digest", "c-1", ())
    assert [(choice.sku, choice.warehouse, choice.quantity) for choice in request.choices] == [("A", "W1", 2)]
    header = reservation.header
    assert (header.order_id, header.kind, header.customer_ref) == ("order-r", HoldKind.CART, "c-1")
    assert (header.lines, header.created_at, header.created_by) == (request.lines, NOW, "tester")
    assert [hold.part for hold in reservation.holds] == [1, 2]
    assert {hold.expires_at for hold in reservation.holds} == {after(TTL_S)}


def test_it_is_made_whole_or_not_at_all():
    shop = Shop()
    shop.stocked("A", "W1", 5)
    shop.stocked("B", "W1", 1)
    shop.create("due", [("A", 5)], ttl_seconds=1)
    shop.elapse(1)
    before = len(shop.log)
    with pytest.raises(InsufficientStock) as refused:
        shop.create("r", [("A", 6), ("B", 2), ("A", 1, "W1")])
    assert [(s.sku, s.warehouse, s.requested, s.available) for s in refused.value.shortages] == [
        ("A", None, 6, 4),  # the line that names W1 has one of the five
        ("B", None, 2, 1),
    ]
    assert len(shop.log) == before
    assert not any(item.new_events for item in shop.stock.items.values())
    assert shop.item("A", "W1").figures.reserved == 5  # not even what is due was released


def test_equal_lines_are_one():
    lines = [Line("A", 1), Line("A", 2, "W1"), Line("A", 3, None, {"n": 1}), Line("A", 4, "W1"), Line("B", 1)]
    assert merge_lines(lines) == (
        RequestedLine("A", 4, None, {"n": 1}),
        RequestedLine("A", 6, "W1"),
        RequestedLine("B", 1),
    )
    assert merge_lines([Line("A", 1, None, {"a": 1}), Line("A", 1, None, {"b": 2})])[0].metadata == {"a": 1}


def test_equal_lines_together_stay_a_quantity():
    assert merge_lines([Line("A", MAX_QUANTITY - 1), Line("A", 1)])[0].quantity == MAX_QUANTITY
    with pytest.raises(QuantityOutOfRange) as refused:
        merge_lines([Line("A", MAX_QUANTITY), Line("A", 1)])
    assert refused.value.facts == {"requested": MAX_QUANTITY + 1, "remaining": MAX_QUANTITY, "sku": "A"}


@pytest.mark.parametrize(
    ("fields", "ttl_s"),
    [({}, 60), ({"ttl_seconds": 7}, 7), ({"kind": "manual"}, 60), ({"kind": "manual", "ttl_seconds": None}, None)],
)
def test_the_smallest_ttl_holds_for_the_whole(fields: dict[str, Any], ttl_s: int | None):
    shop = Shop()
    shop.stocked("A", "W1", 5, Policy(hold_ttl_s=600))
    shop.stocked("B", "W1", 5, Policy(hold_ttl_s=60))
    reservation = shop.create("r", [("A", 1), ("B", 1)], **fields)
    expected = None if ttl_s is None else after(ttl_s)
    assert [hold.expires_at for hold in reservation.holds] == [expected, expected]


def test_a_partial_reservation_says_what_was_short():
    shop = Shop()
    shop.stocked("A", "W1", 2)
    shop.stocked("B", "W1", 0)
    options = {"allocation": {"allow_partial": True}}
    reservation = shop.create("r", [("A", 5), ("B", 1)], **options)
    assert [(s.sku, s.requested, s.available) for s in reservation.header.shortages] == [("A", 5, 2), ("B", 1, 0)]
    assert [(hold.sku, hold.active) for hold in reservation.holds] == [("A", 2)]
    with pytest.raises(InsufficientStock):
        shop.create("s", [("A", 1), ("B", 1)], **options)


# The same id again ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["ACTIVE", "COMMITTED", "SHIPPED"])
def test_the_same_request_again_is_answered_while_it_lives(state: str):
    shop = reservation_in(state)
    refuse_unless_repeat(shop.reservation("r"), "digest", shop.now)
    with pytest.raises(DuplicateReservation) as refused:
        refuse_unless_repeat(shop.reservation("r"), "another", shop.now)
    assert refused.value.facts == {"reservation_id": "r", "state": state}


@pytest.mark.parametrize("state", ["DUE", "EXPIRED", "RELEASED", "CANCELLED", "RETURNED"])
def test_an_id_whose_reservation_has_ended_is_not_used_again(state: str):
    shop = reservation_in(state)
    with pytest.raises(DuplicateReservation) as refused:
        refuse_unless_repeat(shop.reservation("r"), "digest", shop.now)
    assert refused.value.facts["state"] == ("EXPIRED" if state == "DUE" else state)


# Lines -------------------------------------------------------------------------------------------------------------


def split_shop() -> Shop:
    """`r` has 3 of A at W1 and 4 at W2 (in this order), and 2 of B at W1."""
    shop = Shop()
    shop.warehouse("W1", priority=1)
    shop.warehouse("W2", priority=2)
    shop.stocked("A", "W1", 3)
    shop.stocked("A", "W2", 9)
    shop.stocked("B", "W1", 9)
    shop.create("r", [("A", 7), ("B", 2)])
    return shop


def held(shop: Shop, part: str) -> dict[str, int]:
    return {f"{h.sku}@{h.warehouse}": getattr(h, part) for h in shop.reservation("r").holds}


def test_without_a_warehouse_lines_go_through_the_allocations_in_their_order():
    shop = split_shop()
    before = len(shop.log)
    shop.on(commit, CommitReservation, "r", lines=[{"sku": "A", "quantity": 5}, {"sku": "B", "quantity": 1}])
    assert held(shop, "committed") == {"A@W1": 3, "A@W2": 2, "B@W1": 1}
    events = sorted(shop.events_since(before), key=lambda event: event.part)
    assert {type(event) for event in events} == {Committed}
    assert [(event.part, event.parts) for event in events] == [(1, 3), (2, 3), (3, 3)]
    assert events[0].allocations == (Allocated("A", "W1", 3), Allocated("A", "W2", 2), Allocated("B", "W1", 1))
    shop.on(release, ReleaseReservation, "r", lines=[{"sku": "A", "quantity": 1}])
    assert held(shop, "released") == {"A@W1": 0, "A@W2": 1, "B@W1": 0}
    shop.on(ship, ShipReservation, "r", lines=[{"sku": "A", "quantity": 4}])
    assert held(shop, "shipped") == {"A@W1": 3, "A@W2": 1, "B@W1": 0}
    shop.on(cancel, CancelReservation, "r")
    assert held(shop, "released") == {"A@W1": 0, "A@W2": 2, "B@W1": 1}


def test_several_lines_on_the_same_hold_are_summed_before_they_are_checked():
    shop = split_shop()
    both = [{"sku": "A", "quantity": 2, "warehouse": "W1"}, {"sku": "A", "quantity": 2, "warehouse": "W1"}]
    with pytest.raises(QuantityOutOfRange) as refused:
        shop.on(commit, CommitReservation, "r", lines=both)
    assert refused.value.facts == {"sku": "A", "warehouse": "W1", "requested": 2, "remaining": 1}
    assert held(shop, "committed") == {"A@W1": 0, "A@W2": 0, "B@W1": 0}
    one = {"sku": "A", "quantity": 1, "warehouse": "W1"}
    with pytest.raises(QuantityOutOfRange):
        shop.on(commit, CommitReservation, "r", lines=[one, one, one, one])
    before = len(shop.log)
    shop.on(commit, CommitReservation, "r", lines=[both[0], {"sku": "A", "quantity": 3}])
    assert [event.quantity for event in shop.events_since(before)] == [3, 2]


def test_a_line_on_what_it_does_not_have_is_refused_with_the_facts():
    shop = split_shop()
    for line in ({"sku": "C", "quantity": 1}, {"sku": "A", "quantity": 1, "warehouse": "W9"}):
        with pytest.raises(QuantityOutOfRange) as refused:
            shop.on(release, ReleaseReservation, "r", lines=[line])
        assert refused.value.facts["remaining"] == 0


def test_each_parcel_has_its_tracking_number():
    shop = split_shop()
    shop.on(commit, CommitReservation, "r")
    lines = [
        {"sku": "A", "quantity": 1, "warehouse": "W2", "tracking": "T1"},
        {"sku": "A", "quantity": 2, "warehouse": "W2"},
    ]
    before = len(shop.log)
    shop.on(ship, ShipReservation, "r", tracking="T0", lines=lines)
    events = shop.events_since(before)
    assert [(event.tracking, event.quantity, event.part, event.parts) for event in events] == [
        ("T1", 1, 1, 2),
        ("T0", 2, 2, 2),
    ]
    assert {type(event) for event in events} == {Shipped}
    w2 = next(hold for hold in shop.reservation("r").holds if hold.warehouse == "W2")
    assert [(parcel.tracking, parcel.quantity) for parcel in w2.shipments] == [("T1", 1), ("T0", 2)]


def test_parcels_together_leave_no_more_than_is_there():
    shop = split_shop()
    shop.on(commit, CommitReservation, "r")
    shop.on_item("A", "W2", type(shop.item("A", "W2")).count, 3)
    line = {"sku": "A", "quantity": 2, "warehouse": "W2"}
    before = len(shop.log)
    with pytest.raises(InsufficientStock):
        shop.on(ship, ShipReservation, "r", lines=[line, line])
    with pytest.raises(InsufficientStock):
        shop.on(ship, ShipReservation, "r")
    assert len(shop.log) == before
    shop.on(ship, ShipReservation, "r", lines=[line])


def test_returns_are_counted_line_by_line_and_never_exceed_what_was_shipped():
    shop = split_shop()
    shop.on(commit, CommitReservation, "r")
    shop.on(ship, ShipReservation, "r", lines=[{"sku": "A", "quantity": 3, "warehouse": "W1"}])
    back = {"sku": "A", "warehouse": "W1", "condition": "SELLABLE"}
    with pytest.raises(QuantityOutOfRange):
        shop.on(take_back, ReturnReservation, "r", lines=[back | {"quantity": 2}, back | {"quantity": 2}])
    before = len(shop.log)
    lines = [back | {"quantity": 1}, back | {"quantity": 1, "condition": "DAMAGED"}]
    shop.on(take_back, ReturnReservation, "r", lines=lines)  # the hold at W1 is closed, the one at W2 open
    events = shop.events_since(before)
    assert {type(event) for event in events} == {Returned}
    assert [(event.part, event.parts, event.order_id) for event in events] == [(1, 2, "order-r"), (2, 2, "order-r")]
    assert held(shop, "returned") == {"A@W1": 2, "A@W2": 0, "B@W1": 0}
    figures = shop.item("A", "W1").figures
    assert (figures.on_hand, figures.damaged, figures.returned) == (1, 1, 2)


def test_a_return_that_cannot_be_counted_changes_nothing():
    shop = split_shop()
    shop.on(commit, CommitReservation, "r")
    shop.on(ship, ShipReservation, "r")
    shop.on_item("A", "W2", type(shop.item("A", "W2")).count, MAX_QUANTITY)
    back = {"quantity": 1, "condition": "SELLABLE", "sku": "A"}
    with pytest.raises(QuantityOutOfRange):
        shop.on(take_back, ReturnReservation, "r", lines=[back | {"warehouse": "W1"}, back | {"warehouse": "W2"}])
    assert not any(item.new_events for item in shop.stock.items.values())


# Extending ---------------------------------------------------------------------------------------------------------


def test_an_extension_sets_the_end_of_all_that_is_active():
    shop = split_shop()
    shop.on(commit, CommitReservation, "r", lines=[{"sku": "B", "quantity": 2}])
    shop.elapse(10)
    before = len(shop.log)
    shop.on(extend, ExtendReservation, "r", ttl_seconds=50)
    events = shop.events_since(before)
    assert {type(event) for event in events} == {Extended}
    assert {hold.expires_at for hold in shop.reservation("r").holds if hold.active} == {after(60)}
    shop.on(extend, ExtendReservation, "r", add_seconds=30)
    assert {hold.expires_at for hold in shop.reservation("r").holds if hold.active} == {after(90)}


def test_no_hold_lives_longer_than_allowed():
    shop = split_shop()
    shop.on(extend, ExtendReservation, "r", ttl_seconds=MAX_HOLD_TTL_S)
    with pytest.raises(QuantityOutOfRange) as refused:
        shop.on(extend, ExtendReservation, "r", add_seconds=1)
    assert refused.value.facts == {"requested": MAX_HOLD_TTL_S + 1, "remaining": MAX_HOLD_TTL_S}


# Time --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["commit", "extend", "release"])
def test_a_reservation_lives_by_the_latest_clock_of_its_items(command: str):
    """An item may have seen a later time than the one that a command is given; what had ended by then has ended."""
    shop = split_shop()
    shop.elapse(TTL_S)
    shop.stocked("B", "W1", 1)
    shop.elapse(-1)
    assert shop.status("r") == "EXPIRED"
    assert outcome(shop, command)[0] == ("no-op" if command == "release" else "410")


def test_a_payment_up_to_the_last_instant_counts_and_at_it_does_not():
    for elapsed_s, expected in ((TTL_S - 0.000_001, "200"), (TTL_S, "410")):
        shop = split_shop()
        shop.elapse(elapsed_s)
        assert outcome(shop, "commit")[0] == expected


def test_commit_and_release_exactly_one_wins():
    for first, second in (("commit", "release"), ("release", "commit")):
        shop = split_shop()
        assert outcome(shop, first)[0] == "200"
        assert outcome(shop, second)[0] == "409"


def test_a_decision_about_no_such_thing_is_not_a_domain_error():
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"reservation_id": "r", "lines": []}, CommitReservation)
    assert not issubclass(msgspec.ValidationError, DomainError)
    assert CreateReservation(order_id="o", lines=(Line("A", 1),)).kind is HoldKind.ORDER
