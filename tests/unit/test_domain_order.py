"""Commands on an order: what they may and may not do to all of its reservations, and which refusals are premature."""

from typing import Any

import msgspec
import pytest

from domain import order
from domain.commands import CancelOrder, CommitOrder, OrderCommand, ReleaseOrder, ReturnOrder, ShipOrder
from domain.errors import (
    DomainError,
    InsufficientStock,
    QuantityOutOfRange,
    ReservationExpired,
    ReservationNotActive,
)
from domain.events import Released
from domain.stock_item import StockItem
from domain.values import AdjustmentReason
from tests.support_domain import ORIGIN, Shop, invariants

PLANS: dict[type[OrderCommand], order.Plan] = {
    CommitOrder: order.commit,
    ReleaseOrder: order.release,
    CancelOrder: order.cancel,
    ShipOrder: order.ship,
    ReturnOrder: order.take_back,
}


class OrderShop(Shop):
    """A shop whose reservations are all of one order."""

    def place(self, reservation_id: str, *lines: tuple[Any, ...], **fields: Any) -> None:
        self.create(reservation_id, lines, order_id="o1", **fields)

    def act(self, command_class: type[OrderCommand], **body: Any) -> None:
        command = msgspec.convert({"order_id": "o1"} | body, command_class)
        reservations = [self.reservation(reservation_id) for reservation_id in self.headers]
        order.perform(PLANS[command_class](reservations, command, self.now), ORIGIN, self._command_id)
        self._append()
        assert not [wrong for item in self.stock.items.values() for wrong in invariants(item, self.now)]

    def refused(self, command_class: type[OrderCommand], **body: Any) -> DomainError:
        before = list(self.log)
        with pytest.raises(DomainError) as raised:
            self.act(command_class, **body)
        assert self.log == before
        assert not any(item.new_events for item in self.stock.items.values())
        return raised.value

    @property
    def statuses(self) -> list[str]:
        return [self.status(reservation_id) for reservation_id in self.headers]


@pytest.fixture
def shop() -> OrderShop:
    opened = OrderShop()
    opened.stocked("A", "W1", 10)
    opened.stocked("B", "W1", 10)
    return opened


def test_one_reservation_lives_as_by_its_own_commands(shop: OrderShop) -> None:
    shop.place("r1", ("A", 2), ("B", 1))
    for command, status in ((CommitOrder, "COMMITTED"), (ShipOrder, "SHIPPED")):
        shop.act(command)
        assert shop.statuses == [status]
    lines = [{"sku": sku, "warehouse": "W1", "quantity": n, "condition": "SELLABLE"} for sku, n in (("A", 2), ("B", 1))]
    shop.act(ReturnOrder, lines=lines)
    assert shop.statuses == ["RETURNED"]


@pytest.mark.parametrize(
    ("done", "command", "statuses"),
    [
        ([], CommitOrder, ["COMMITTED", "COMMITTED"]),
        ([], ReleaseOrder, ["RELEASED", "RELEASED"]),
        ([], CancelOrder, ["RELEASED", "RELEASED"]),
        ([CommitOrder], CommitOrder, ["COMMITTED", "COMMITTED"]),
        ([CommitOrder], CancelOrder, ["CANCELLED", "CANCELLED"]),
        ([CommitOrder], ShipOrder, ["SHIPPED", "SHIPPED"]),
        ([CommitOrder, ShipOrder], ShipOrder, ["SHIPPED", "SHIPPED"]),
        ([CommitOrder, ShipOrder], CommitOrder, ["SHIPPED", "SHIPPED"]),
        ([ReleaseOrder], CancelOrder, ["RELEASED", "RELEASED"]),
        ([CommitOrder, CancelOrder], ReleaseOrder, ["CANCELLED", "CANCELLED"]),
    ],
)
def test_two_reservations_move_together(
    shop: OrderShop, done: list[type[OrderCommand]], command: type[OrderCommand], statuses: list[str]
) -> None:
    shop.place("r1", ("A", 2))
    shop.place("r2", ("A", 3), ("B", 1))
    for before in done:
        shop.act(before)
    shop.act(command)
    assert shop.statuses == statuses


RETURN = {"lines": [{"sku": "A", "warehouse": "W1", "quantity": 1, "condition": "SELLABLE"}]}


@pytest.mark.parametrize(
    ("done", "command", "body", "error", "premature"),
    [
        ([], ShipOrder, {}, ReservationNotActive, True),
        ([], ShipOrder, {"lines": [{"sku": "A", "quantity": 1}]}, ReservationNotActive, True),
        ([], ReturnOrder, RETURN, ReservationNotActive, True),
        ([CommitOrder], ReturnOrder, RETURN, ReservationNotActive, True),
        ([CommitOrder], ReleaseOrder, {}, ReservationNotActive, False),
        ([CommitOrder, ShipOrder], CancelOrder, {}, ReservationNotActive, False),
        ([CommitOrder, ShipOrder], ReleaseOrder, {}, ReservationNotActive, False),
        ([ReleaseOrder], CommitOrder, {}, ReservationNotActive, False),
        ([ReleaseOrder], ShipOrder, {}, ReservationNotActive, False),
        ([ReleaseOrder], ReturnOrder, RETURN, ReservationNotActive, False),
        ([CommitOrder, CancelOrder], ShipOrder, {}, ReservationNotActive, False),
        ([CommitOrder], ShipOrder, {"lines": [{"sku": "A", "quantity": 3}]}, QuantityOutOfRange, False),
        ([CommitOrder], ShipOrder, {"lines": [{"sku": "Z", "quantity": 1}]}, QuantityOutOfRange, False),
    ],
)
@pytest.mark.parametrize("reservations", [1, 2])
def test_what_is_refused_and_whether_it_may_be_right_later(
    shop: OrderShop,
    done: list[type[OrderCommand]],
    command: type[OrderCommand],
    body: dict[str, Any],
    error: type[DomainError],
    premature: bool,
    reservations: int,
) -> None:
    shop.place("r1", ("A", 1 if reservations == 2 else 2))
    if reservations == 2:
        shop.place("r2", ("A", 1))
    for before in done:
        shop.act(before)
    refusal = shop.refused(command, **body)
    assert (type(refusal), refusal.premature) == (error, premature)


def test_what_was_shipped_in_part_may_come_back_when_the_rest_has_left(shop: OrderShop) -> None:
    shop.place("r1", ("A", 3))
    shop.act(CommitOrder)
    shop.act(ShipOrder, lines=[{"sku": "A", "quantity": 1}])
    back = {"lines": [{"sku": "A", "warehouse": "W1", "quantity": 2, "condition": "SELLABLE"}]}
    assert shop.refused(ReturnOrder, **back).premature
    shop.act(ShipOrder)
    shop.act(ReturnOrder, **back)
    assert not shop.refused(ReturnOrder, **back).premature


def test_two_together_may_not_ship_more_than_is_there(shop: OrderShop) -> None:
    shop.place("r1", ("A", 5))
    shop.place("r2", ("A", 5))
    shop.act(CommitOrder)
    shop.on_item("A", "W1", StockItem.adjust, -1, AdjustmentReason.THEFT)
    refusal = shop.refused(ShipOrder)
    assert isinstance(refusal, InsufficientStock)
    assert refusal.premature
    assert (refusal.shortages[0].requested, refusal.shortages[0].available) == (10, 9)


def test_once_a_part_has_expired_the_order_cannot_be_paid(shop: OrderShop) -> None:
    shop.place("r1", ("A", 1), ttl_seconds=10)
    shop.place("r2", ("A", 1), ttl_seconds=1000)
    shop.elapse(10)
    refusal = shop.refused(CommitOrder)
    assert isinstance(refusal, ReservationExpired)
    assert not refusal.premature
    shop.act(CancelOrder)
    assert shop.statuses == ["EXPIRED", "RELEASED"]


def test_every_reservations_part_reads_like_a_command_of_its_own(shop: OrderShop) -> None:
    shop.place("r1", ("A", 1), ("B", 1))
    shop.place("r2", ("A", 1))
    began = len(shop.log)
    shop.act(CancelOrder)
    events = [event for event in shop.events_since(began) if isinstance(event, Released)]
    by_command: dict[str, list[Released]] = {}
    for event in events:
        by_command.setdefault(event.origin.command_id, []).append(event)
    first, second = by_command.values()
    assert {event.reservation_id for event in first} == {"r1"}
    assert {event.reservation_id for event in second} == {"r2"}
    assert first[0].origin == ORIGIN
    assert second[0].origin.correlation_id == ORIGIN.correlation_id
    assert sorted(event.part for event in first) == [1, 2]
    assert {len(event.allocations) for event in first if event.part == 1} == {2}
