"""Which warehouse serves which line, by each strategy, split or whole, all or in part."""

from typing import Any

import pytest

from domain.allocation import distance_km
from domain.commands import Coordinates
from domain.errors import InsufficientStock, UnknownStockItem, UnknownWarehouse, WarehouseInactive
from domain.policy import Policy
from tests.support_domain import Shop

BERLIN, HAMBURG, MUNICH = (52.52, 13.405), (53.551, 9.994), (48.137, 11.575)
SHIP_TO_BERLIN = {"latitude": 52.52, "longitude": 13.405}


def shop_with(**stock: dict[str, int]) -> Shop:
    """`shop_with(W1={"A": 3})`: warehouses in this order have priority 1, 2, …"""
    shop = Shop()
    for priority, (code, units) in enumerate(stock.items(), start=1):
        shop.warehouse(code, priority=priority)
        for sku, quantity in units.items():
            shop.stocked(sku, code, quantity)
    return shop


def served(shop: Shop, *lines: Any, **options: Any) -> list[tuple[str, str, int]]:
    """(sku, warehouse, units) of a reservation for these lines, in the order of its parts."""
    reservation = shop.create(f"r{len(shop.headers)}", list(lines), allocation=options)
    assert [hold.part for hold in reservation.holds] == list(range(1, len(reservation.holds) + 1))
    return [(hold.sku, hold.warehouse, hold.active) for hold in reservation.holds]


def shortages(shop: Shop, *lines: Any, **options: Any) -> list[tuple[str, str | None, int, int]]:
    before = len(shop.log)
    with pytest.raises(InsufficientStock) as refused:
        served(shop, *lines, **options)
    assert len(shop.log) == before
    return [(s.sku, s.warehouse, s.requested, s.available) for s in refused.value.shortages]


# Strategies


def test_priority_is_the_usual_strategy_number_1_first():
    shop = shop_with(W3={"A": 1}, W1={"A": 5}, W2={"A": 5})
    assert served(shop, ("A", 4)) == [("A", "W3", 1), ("A", "W1", 3)]


def test_priority_ties_go_to_the_most_stock_and_then_to_the_code():
    shop = Shop()
    for code, units in (("W3", 5), ("W2", 7), ("W1", 5)):
        shop.stocked("A", code, units)
    assert served(shop, ("A", 13)) == [("A", "W2", 7), ("A", "W1", 5), ("A", "W3", 1)]


def test_most_stock_first():
    shop = shop_with(W1={"A": 2}, W2={"A": 5}, W3={"A": 3})
    assert served(shop, ("A", 6), strategy="most_stock") == [("A", "W2", 5), ("A", "W3", 1)]


def test_nearest_first_and_those_of_which_nobody_knows_where_they_are_last():
    shop = Shop()
    shop.warehouse("LOST", priority=1)
    for code, (latitude, longitude) in (("MUC1", MUNICH), ("BER1", BERLIN), ("HAM1", HAMBURG)):
        shop.warehouse(code, latitude=latitude, longitude=longitude)
    for code in ("LOST", "MUC1", "BER1", "HAM1"):
        shop.stocked("A", code, 2)
    assert served(shop, ("A", 7), strategy="nearest", ship_to=SHIP_TO_BERLIN) == [
        ("A", "BER1", 2),
        ("A", "HAM1", 2),
        ("A", "MUC1", 2),
        ("A", "LOST", 1),
    ]


def test_nearest_ties_go_to_the_most_stock_and_then_to_the_code():
    shop = Shop()
    for code, units in (("W3", 2), ("W2", 3), ("W1", 2)):
        shop.warehouse(code, latitude=50.0, longitude=10.0)
        shop.stocked("A", code, units)
    options = {"strategy": "nearest", "ship_to": SHIP_TO_BERLIN}
    assert served(shop, ("A", 6), **options) == [("A", "W2", 3), ("A", "W1", 2), ("A", "W3", 1)]


@pytest.mark.parametrize(
    ("a", "b", "km"),
    [
        (BERLIN, HAMBURG, 255.3),
        (BERLIN, MUNICH, 504.4),
        (BERLIN, BERLIN, 0.0),
        ((0.0, 0.0), (0.0, 180.0), 20_015.1),
        ((90.0, 0.0), (-90.0, 57.0), 20_015.1),
        ((0.0, 179.5), (0.0, -179.5), 111.2),
    ],
)
def test_a_distance_is_along_the_great_circle(a: tuple[float, float], b: tuple[float, float], km: float):
    assert distance_km(Coordinates(*a), Coordinates(*b)) == pytest.approx(km, abs=0.5)
    assert distance_km(Coordinates(*b), Coordinates(*a)) == pytest.approx(distance_km(Coordinates(*a), Coordinates(*b)))


def test_fewest_splits_prefers_the_warehouse_that_completes_the_most_lines():
    shop = shop_with(W1={"A": 9, "B": 9}, W2={"A": 5, "C": 9}, W3={"A": 5, "B": 5, "C": 5})
    lines = [("A", 5), ("B", 5), ("C", 5)]
    assert served(shop, *lines) == [("A", "W1", 5), ("B", "W1", 5), ("C", "W2", 5)]
    assert served(shop, *lines, strategy="fewest_splits") == [("A", "W3", 5), ("B", "W3", 5), ("C", "W3", 5)]


def test_fewest_splits_ties_go_to_the_most_stock_and_then_to_the_code():
    shop = shop_with(W3={"A": 5}, W2={"A": 6}, W1={"A": 5})
    assert served(shop, ("A", 5), strategy="fewest_splits") == [("A", "W2", 5)]
    assert served(shop, ("A", 5), strategy="fewest_splits") == [("A", "W1", 5)]


def test_fewest_splits_serves_the_rest_from_another_and_splits_only_what_it_must():
    shop = shop_with(W1={"A": 2, "B": 9}, W2={"A": 3}, W3={"A": 4})
    assert served(shop, ("A", 6), ("B", 1), strategy="fewest_splits") == [
        ("B", "W1", 1),
        ("A", "W3", 4),
        ("A", "W2", 2),
    ]


# Splits and parts


def test_without_splits_the_first_warehouse_that_has_all_of_it():
    shop = shop_with(W1={"A": 3}, W2={"A": 4}, W3={"A": 9})
    assert served(shop, ("A", 4), allow_split=False) == [("A", "W2", 4)]
    assert shortages(shop, ("A", 10), allow_split=False) == [("A", None, 10, 9)]


def test_a_part_without_splits_is_the_most_that_one_warehouse_has():
    shop = shop_with(W1={"A": 3}, W2={"A": 5}, W3={"A": 5})
    options = {"allow_split": False, "allow_partial": True}
    assert served(shop, ("A", 6), **options) == [("A", "W2", 5)]
    header = shop.headers["r0"]
    assert [(s.requested, s.available) for s in header.shortages] == [(6, 5)]


def test_different_lines_may_come_from_different_warehouses_without_being_split():
    shop = shop_with(W1={"A": 1, "B": 9}, W2={"A": 9})
    assert served(shop, ("A", 2), ("B", 2), allow_split=False) == [("A", "W2", 2), ("B", "W1", 2)]


@pytest.mark.parametrize("strategy", ["priority", "most_stock", "fewest_splits", "nearest"])
@pytest.mark.parametrize("allow_split", [True, False])
def test_every_strategy_finds_what_there_is_and_says_what_there_is_not(strategy: str, allow_split: bool):
    options = {"strategy": strategy, "allow_split": allow_split, "ship_to": SHIP_TO_BERLIN}
    shop = shop_with(W1={"A": 2, "B": 3}, W2={"A": 4})
    assert sum(units for _, _, units in served(shop, ("A", 4), **options)) == 4
    assert shortages(shop, ("A", 3), ("B", 4), **options) == [("A", None, 3, 2), ("B", None, 4, 3)]
    part = served(shop, ("A", 3), ("B", 4), **options, allow_partial=True)
    assert sum(units for sku, _, units in part if sku == "A") == 2
    assert sum(units for sku, _, units in part if sku == "B") == 3


# Lines that name a warehouse


def test_named_lines_are_served_first_and_the_others_take_what_they_leave():
    shop = shop_with(W1={"A": 5}, W2={"A": 5})
    assert served(shop, ("A", 6), ("A", 4, "W1")) == [("A", "W1", 5), ("A", "W2", 5)]
    assert shop.item("A", "W1").figures.reserved == 5


def test_several_lines_on_one_item_are_summed():
    shop = shop_with(W1={"A": 5})
    assert shortages(shop, ("A", 3), ("A", 3, "W1")) == [("A", None, 3, 2)]
    assert served(shop, ("A", 2), ("A", 3, "W1")) == [("A", "W1", 5)]


def test_a_named_line_says_what_was_short_there():
    shop = shop_with(W1={"A": 2}, W2={"A": 9})
    assert shortages(shop, ("A", 3, "W1"), ("A", 12)) == [("A", "W1", 3, 2), ("A", None, 12, 11)]
    assert served(shop, ("A", 3, "W1"), ("A", 4, "W2"), allow_partial=True) == [("A", "W1", 2), ("A", "W2", 4)]


# What is not there


def test_unknown_things_are_named():
    shop = shop_with(W1={"A": 2}, W2={})
    for lines, error, facts in (
        ([("B", 1)], UnknownStockItem, {"sku": "B"}),
        ([("A", 1, "W2")], UnknownStockItem, {"sku": "A", "warehouse": "W2"}),
        ([("A", 1, "W9")], UnknownWarehouse, {"warehouse": "W9"}),
        ([("A", 1), ("B", 1)], UnknownStockItem, {"sku": "B"}),
    ):
        for partial in (False, True):
            with pytest.raises(error) as refused:
                served(shop, *lines, allow_partial=partial)
            assert refused.value.facts == facts


@pytest.mark.parametrize("status", ["INACTIVE", "MAINTENANCE"])
def test_a_warehouse_that_is_not_active_makes_no_promise(status: str):
    shop = shop_with(W1={"A": 5}, W2={"A": 2})
    shop.warehouse("W1", status=status)
    assert served(shop, ("A", 1)) == [("A", "W2", 1)]
    assert shortages(shop, ("A", 2)) == [("A", None, 2, 1)]
    with pytest.raises(WarehouseInactive) as refused:
        served(shop, ("A", 1, "W1"))
    assert refused.value.facts == {"warehouse": "W1", "warehouse_status": status}
    shop.warehouse("W1", status="ACTIVE")
    assert served(shop, ("A", 2)) == [("A", "W1", 2)]


@pytest.mark.parametrize("strategy", ["priority", "most_stock", "fewest_splits"])
@pytest.mark.parametrize("allow_split", [True, False])
def test_no_active_warehouse_is_a_shortage(strategy: str, allow_split: bool):
    shop = shop_with(W1={"A": 5})
    shop.warehouse("W1", status="INACTIVE")
    options = {"strategy": strategy, "allow_split": allow_split}
    assert shortages(shop, ("A", 1), **options) == [("A", None, 1, 0)]
    assert shortages(shop, ("A", 1), **options, allow_partial=True) == [("A", None, 1, 0)]


# What counts as free


def test_due_holds_are_free_and_count_as_stock_in_every_ranking():
    shop = shop_with(W1={"A": 5}, W2={"A": 3})
    assert served(shop, ("A", 5, "W1")) == [("A", "W1", 5)]
    assert shortages(shop, ("A", 4)) == [("A", None, 4, 3)]
    shop.elapse(900)
    assert served(shop, ("A", 4), strategy="most_stock") == [("A", "W1", 4)]


def test_safety_stock_and_backorders_count_in_the_allocation():
    shop = Shop()
    shop.stocked("A", "W1", 5, Policy(safety_stock=4))
    shop.stocked("A", "W2", 0, Policy(backorder_limit=3))
    assert shortages(shop, ("A", 5)) == [("A", None, 5, 4)]
    assert served(shop, ("A", 4)) == [("A", "W2", 3), ("A", "W1", 1)]


def test_a_short_item_does_not_eat_what_another_has():
    shop = shop_with(W1={"A": 5}, W2={"A": 2})
    served(shop, ("A", 5))
    shop.on_item("A", "W1", type(shop.item("A", "W1")).count, 0)
    assert served(shop, ("A", 2)) == [("A", "W2", 2)]


# Reasons


def test_the_allocator_gives_its_reasons():
    shop = Shop()
    shop.warehouse("BER1", priority=3, latitude=BERLIN[0], longitude=BERLIN[1])
    shop.stocked("A", "BER1", 9)

    def why(**options: Any) -> str:
        before = len(shop.log)
        served(shop, ("A", 1), **options)
        (event,) = shop.events_since(before)
        return str(event.request.choices[0].why)

    assert why() == "priority: priority 3, 9 promisable"
    assert why(strategy="most_stock") == "most_stock: 8 promisable"
    assert why(strategy="nearest", ship_to=SHIP_TO_BERLIN) == "nearest: 0.0 km, 7 promisable"
    shop.warehouse("BER1", latitude=None)
    assert why(strategy="nearest", ship_to=SHIP_TO_BERLIN) == "nearest: coordinates unknown, 6 promisable"
