"""Histories that could have happened: random moves of customers and staff, decided by the real domain.

    @given(histories())
    def test_…(history): shop = played(history); shop.log …

A move that the domain refuses happens not; so any list of moves is a history.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import hypothesis
from hypothesis import strategies as st

from domain.commands import (
    CancelReservation,
    CommitReservation,
    ExtendReservation,
    ReleaseReservation,
    ReturnReservation,
    ShipReservation,
)
from domain.errors import DomainError, SweepNeeded
from domain.policy import Policy, PolicyPatch
from domain.reservation import cancel, commit, extend, release, ship, take_back
from domain.stock_item import StockItem
from domain.values import AdjustmentReason, Condition
from tests.support_domain import Shop

SKUS = ("A", "B")
CODES = ("W1", "W2")
RESERVATIONS = tuple(f"r-{n}" for n in range(5))

Move = Callable[[Shop], None]

_skus, _codes, _reservations = st.sampled_from(SKUS), st.sampled_from(CODES), st.sampled_from(RESERVATIONS)
_few = st.integers(1, 6)


def played(history: Iterable[Move]) -> Shop:
    """A shop with two SKUs in two warehouses, after ``history``."""
    shop = Shop()
    for sku in SKUS:
        for code in CODES:
            shop.stocked(sku, code, 9, Policy(backorder_limit=2, safety_stock=1))
    for move in history:
        # Of a reservation that was never made there is nothing to look up; of another the domain says no.
        with suppress(DomainError, SweepNeeded, KeyError):
            move(shop)
    return shop


def moves() -> st.SearchStrategy[Move]:
    # What most orders go through, most often.
    usual = [_creates(), _sales(), _on_reservations(), _on_reservations(), _pauses()]
    return st.one_of(*usual, _returns(), _on_items(), _sweeps(), _warehouses())


def histories(length_max: int = 60) -> st.SearchStrategy[list[Move]]:
    return st.lists(moves(), min_size=length_max // 2, max_size=length_max)


def _creates() -> st.SearchStrategy[Move]:
    line = st.one_of(st.tuples(_skus, _few), st.tuples(_skus, _few, _codes))

    def move(rid: str, lines: list[Any], ttl: int, partial: bool) -> Move:
        fields = {"ttl_seconds": ttl, "allocation": {"allow_partial": partial}}

        def create(shop: Shop) -> None:
            if rid not in shop.headers:
                shop.create(rid, lines, **fields)

        return create

    return st.builds(move, _reservations, st.lists(line, min_size=1, max_size=3), st.integers(30, 120), st.booleans())


def _on_reservations() -> st.SearchStrategy[Move]:
    handlers: list[tuple[Any, Any, dict[str, Any]]] = [
        (commit, CommitReservation, {}),
        (release, ReleaseReservation, {"reason": "PAYMENT_FAILED"}),
        (ship, ShipReservation, {"tracking": "T1"}),
        (cancel, CancelReservation, {}),
        (extend, ExtendReservation, {"ttl_seconds": 30}),
    ]

    def move(rid: str, handler: tuple[Any, Any, dict[str, Any]], part: tuple[str, int] | None) -> Move:
        body = dict(handler[2])
        if part is not None and handler[0] is not extend:
            body["lines"] = [{"sku": part[0], "quantity": part[1]}]
        return lambda shop: shop.on(handler[0], handler[1], rid, **body)

    part = st.one_of(st.none(), st.none(), st.tuples(_skus, st.integers(1, 2)))
    return st.builds(move, _reservations, st.sampled_from(handlers), part)


def _sales() -> st.SearchStrategy[Move]:
    """A reservation that is paid and goes out of the door, if it can."""

    def move(rid: str) -> Move:
        def sell(shop: Shop) -> None:
            shop.on(commit, CommitReservation, rid)
            shop.on(ship, ShipReservation, rid, tracking="T2")

        return sell

    return st.builds(move, _reservations)


def _returns() -> st.SearchStrategy[Move]:
    def move(rid: str, sku: str, code: str, quantity: int, condition: Condition) -> Move:
        line = {"sku": sku, "warehouse": code, "quantity": quantity, "condition": condition}
        return lambda shop: shop.on(take_back, ReturnReservation, rid, lines=[line])

    return st.builds(move, _reservations, _skus, _codes, _few, st.sampled_from(Condition))


def _on_items() -> st.SearchStrategy[Move]:
    def move(sku: str, code: str, decision: Any, args: tuple[Any, ...]) -> Move:
        return lambda shop: shop.on_item(sku, code, decision, *args)

    decisions: list[st.SearchStrategy[Move]] = [
        st.builds(move, _skus, _codes, st.just(decision), st.tuples(*arguments))
        for decision, *arguments in (
            (StockItem.restock, _few),
            (StockItem.adjust, st.integers(-4, 4), st.sampled_from(AdjustmentReason)),
            (StockItem.count, st.integers(0, 12)),
            (StockItem.damage, _few),
            (StockItem.repair, _few),
            (StockItem.write_off, _few),
            (StockItem.take_back, _few, st.sampled_from(Condition)),
            (StockItem.change_policy, st.builds(lambda n: PolicyPatch(backorder_limit=n, safety_stock=n), _few)),
            (StockItem.discontinue,),
            (StockItem.reinstate,),
        )
    ]
    # Mapped, so that these are one alternative among the moves and not ten.
    return st.one_of(decisions).map(lambda decided: decided)


def _sweeps() -> st.SearchStrategy[Move]:
    def move(sku: str, code: str) -> Move:
        return lambda shop: _swept(shop, sku, code)

    return st.builds(move, _skus, _codes)


def _swept(shop: Shop, sku: str, code: str) -> None:
    shop.sweep(sku, code, 3)


def _pauses() -> st.SearchStrategy[Move]:
    return st.integers(1, 30).map(lambda seconds: lambda shop: shop.elapse(seconds))


def _warehouses() -> st.SearchStrategy[Move]:
    def move(code: str, priority: int, status: str) -> Move:
        return lambda shop: shop.warehouse(code, priority=priority, status=status)

    return st.builds(move, _codes, st.integers(1, 3), st.sampled_from(["ACTIVE", "INACTIVE"]))


def played_seed(seed: int, length: int = 150) -> Shop:
    """A shop after a history that depends on ``seed`` alone: the most eventful of a few."""
    found: list[Shop] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=8, database=None, phases=[hypothesis.Phase.generate], deadline=None)
    @hypothesis.given(st.lists(moves(), min_size=length, max_size=length))
    def play(history: list[Move]) -> None:
        found.append(played(history))

    play()
    return max(found, key=lambda shop: len(shop.log))
