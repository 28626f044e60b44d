"""Any order of commands on a few items, clocks included, against a model that a child could check.

The model knows units, promises and instants; it has no events, no versions and no cleverness. After every
step the real items must agree with it, and hold every invariant.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from domain.commands import (
    CancelReservation,
    CommitReservation,
    ExtendReservation,
    ReleaseReservation,
    ReturnReservation,
    ShipReservation,
)
from domain.errors import DomainError, InsufficientStock
from domain.events import Reserved, StockEvent
from domain.policy import Policy
from domain.reservation import cancel, commit, extend, release, ship, take_back
from domain.stock_item import StockItem
from domain.values import AdjustmentReason
from infra.event_store.mapper import EventMapper
from projections.verify.commands import CommandParts
from projections.verify.replay import ItemReplay
from projections.verify.report import Report
from tests.support_domain import Shop, invariants

PLACES = [("A", "W1"), ("A", "W2"), ("B", "W1")]
places, units = st.sampled_from(PLACES), st.integers(1, 9)
BACKORDERS, SAFETY = 2, 1


@dataclass
class Units:
    """Of one reservation at one place."""

    active: int
    committed: int = 0
    shipped: int = 0
    returned: int = 0


@dataclass
class Model:
    on_hand: dict[tuple[str, str], int] = field(default_factory=lambda: dict.fromkeys(PLACES, 0))
    damaged: dict[tuple[str, str], int] = field(default_factory=lambda: dict.fromkeys(PLACES, 0))
    holds: dict[str, dict[tuple[str, str], Units]] = field(default_factory=dict)
    ends: dict[str, Any] = field(default_factory=dict)

    def is_due(self, reservation_id: str, now: Any) -> bool:
        return bool(self.ends[reservation_id] <= now)

    def active(self, place: tuple[str, str], now: Any) -> int:
        return sum(
            units.active
            for r, at in self.holds.items()
            for p, units in at.items()
            if p == place and not self.is_due(r, now)
        )

    def committed(self, place: tuple[str, str]) -> int:
        return sum(units.committed for at in self.holds.values() for p, units in at.items() if p == place)

    def free(self, place: tuple[str, str], now: Any) -> int:
        return self.on_hand[place] - self.active(place, now) - self.committed(place) - SAFETY + BACKORDERS


class StockMachine(RuleBasedStateMachine):
    @initialize()
    def open_the_shop(self) -> None:
        self.shop, self.model = Shop(), Model()
        for sku, code in PLACES:
            self.shop.stocked(sku, code, 20, Policy(backorder_limit=BACKORDERS, safety_stock=SAFETY))
            self.model.on_hand[sku, code] = 20
        for place in PLACES:
            self.order([(place, 2, True)], ttl_s=45)

    def attempt(self, *call: Any, **body: Any) -> bool:
        """Whether the shop accepted; what it refused must have left nothing."""
        before = len(self.shop.log)
        try:
            self.shop.on(*call, **body)
        except DomainError:
            assert len(self.shop.log) == before
            assert not any(item.new_events for item in self.shop.stock.items.values())
            return False
        return True

    def some(self, data: st.DataObject, part: str) -> str:
        """A reservation, as a rule one that has units in this part."""
        fitting = [rid for rid, at in self.model.holds.items() if any(getattr(units, part) for units in at.values())]
        usual: bool = data.draw(st.sampled_from([True, True, True, False]))
        chosen: str = data.draw(st.sampled_from(fitting if fitting and usual else list(self.model.holds)))
        return chosen

    def alive(self, reservation_id: str) -> bool:
        return not self.model.is_due(reservation_id, self.shop.now)

    # The world

    @rule(seconds=st.integers(0, 40))
    def time_passes(self, seconds: int) -> None:
        self.shop.elapse(seconds)

    @rule(place=places, quantity=units)
    def stock_comes(self, place: tuple[str, str], quantity: int) -> None:
        self.shop.on_item(*place, StockItem.restock, quantity)
        self.model.on_hand[place] += quantity

    @rule(place=places, counted=st.integers(0, 15))
    def stock_is_counted(self, place: tuple[str, str], counted: int) -> None:
        self.shop.on_item(*place, StockItem.count, counted)
        self.model.on_hand[place] = counted

    @rule(place=places, quantity=units)
    def stock_breaks(self, place: tuple[str, str], quantity: int) -> None:
        try:
            self.shop.on_item(*place, StockItem.damage, quantity)
        except DomainError:
            assert quantity > self.model.on_hand[place]
            return
        self.model.on_hand[place] -= quantity
        self.model.damaged[place] += quantity

    @rule(place=places, delta=st.integers(-5, 5))
    def stock_is_adjusted(self, place: tuple[str, str], delta: int) -> None:
        try:
            self.shop.on_item(*place, StockItem.adjust, delta, AdjustmentReason.CORRECTION)
        except DomainError:
            assert -delta > self.model.on_hand[place]
            return
        self.model.on_hand[place] += delta

    @rule(place=places)
    def the_sweeper_comes_by(self, place: tuple[str, str]) -> None:
        self.shop.sweep(*place, limit=2)

    # Orders

    @rule(wanted=st.lists(st.tuples(places, units, st.booleans()), min_size=1, max_size=3), ttl_s=st.integers(1, 60))
    def an_order_is_placed(self, wanted: list[tuple[tuple[str, str], int, bool]], ttl_s: int) -> None:
        self.order(wanted, ttl_s)

    @rule(place=places, quantity=st.integers(1, 4), ttl_s=st.integers(1, 60))
    def a_small_order_is_placed(self, place: tuple[str, str], quantity: int, ttl_s: int) -> None:
        self.order([(place, quantity, True)], ttl_s)

    @rule(place=places, quantity=st.integers(1, 4), paid=st.booleans())
    def an_order_runs_its_course(self, place: tuple[str, str], quantity: int, paid: bool) -> None:
        before = len(self.model.holds)
        self.order([(place, quantity, True)], ttl_s=30)
        if len(self.model.holds) > before:
            self.pay(f"r{before}")
            if paid:
                self.send(f"r{before}")

    def order(self, wanted: list[tuple[tuple[str, str], int, bool]], ttl_s: int) -> None:
        now, rid = self.shop.now, f"r{len(self.model.holds)}"
        lines = [(sku, n, code) if named else (sku, n) for (sku, code), n, named in wanted]
        free = {place: self.model.free(place, now) for place in PLACES}
        try:
            reservation = self.shop.create(rid, lines, ttl_seconds=ttl_s)
        except InsufficientStock:
            assert not _fits(lines, free)
            return
        assert _fits(lines, free)
        assert sum(hold.active for hold in reservation.holds) == sum(n for _, n, _ in wanted)
        for hold in reservation.holds:
            assert hold.active <= free[hold.sku, hold.warehouse]
        self.model.holds[rid] = {(hold.sku, hold.warehouse): Units(hold.active) for hold in reservation.holds}
        self.model.ends[rid] = now + timedelta(seconds=ttl_s)

    @rule(data=st.data())
    def an_order_is_paid(self, data: st.DataObject) -> None:
        self.pay(self.some(data, "active"))

    def pay(self, rid: str) -> None:
        if self.attempt(commit, CommitReservation, rid) and self.alive(rid):
            for held in self.model.holds[rid].values():
                held.active, held.committed = 0, held.committed + held.active

    @rule(data=st.data(), quantity=units)
    def a_line_is_paid(self, data: st.DataObject, quantity: int) -> None:
        rid = self.some(data, "active")
        place = data.draw(st.sampled_from(sorted(self.model.holds[rid])))
        held = self.model.holds[rid][place]
        possible = self.alive(rid) and quantity <= held.active
        line = {"sku": place[0], "warehouse": place[1], "quantity": quantity}
        assert self.attempt(commit, CommitReservation, rid, lines=[line]) == possible
        if possible:
            held.active, held.committed = held.active - quantity, held.committed + quantity

    @rule(data=st.data())
    def an_order_is_released(self, data: st.DataObject) -> None:
        rid = self.some(data, "active")
        if self.attempt(release, ReleaseReservation, rid) and self.alive(rid):
            for held in self.model.holds[rid].values():
                held.active = 0

    @rule(data=st.data(), ttl_s=st.integers(1, 90))
    def an_order_gets_more_time(self, data: st.DataObject, ttl_s: int) -> None:
        rid = self.some(data, "active")
        possible = self.alive(rid) and any(held.active for held in self.model.holds[rid].values())
        assert self.attempt(extend, ExtendReservation, rid, ttl_seconds=ttl_s) == possible
        if possible:
            self.model.ends[rid] = self.shop.now + timedelta(seconds=ttl_s)

    @rule(data=st.data())
    def an_order_is_shipped(self, data: st.DataObject) -> None:
        self.send(self.some(data, "committed"))

    def send(self, rid: str) -> None:
        held = self.model.holds[rid]
        enough = all(units.committed <= self.model.on_hand[place] for place, units in held.items())
        if self.attempt(ship, ShipReservation, rid):
            assert enough
            for place, units in held.items():
                self.model.on_hand[place] -= units.committed
                units.committed, units.shipped = 0, units.shipped + units.committed

    @rule(data=st.data())
    def a_paid_order_is_cancelled(self, data: st.DataObject) -> None:
        rid = self.some(data, "committed")
        if self.attempt(cancel, CancelReservation, rid):
            for held in self.model.holds[rid].values():
                held.committed = 0

    @rule(data=st.data(), quantity=st.integers(1, 3))
    def units_come_back(self, data: st.DataObject, quantity: int) -> None:
        rid = self.some(data, "shipped")
        place = data.draw(st.sampled_from(sorted(self.model.holds[rid])))
        held = self.model.holds[rid][place]
        possible = quantity <= held.shipped - held.returned
        line = {"sku": place[0], "warehouse": place[1], "quantity": quantity, "condition": "SELLABLE"}
        assert self.attempt(take_back, ReturnReservation, rid, lines=[line]) == possible
        if possible:
            held.returned += quantity
            self.model.on_hand[place] += quantity

    # What must always hold

    @invariant()
    def the_items_agree_with_the_model(self) -> None:
        now = self.shop.now
        for place in PLACES:
            item = self.shop.item(*place)
            assert list(invariants(item, now)) == []
            assert item.figures.on_hand == self.model.on_hand[place]
            assert item.figures.damaged == self.model.damaged[place]
            assert item.figures.committed == self.model.committed(place)
            assert item.figures.reserved - item.due_units(now) == self.model.active(place, now)
            assert item.promisable(now) == self.model.free(place, now)

    @invariant()
    def the_index_agrees_with_the_model(self) -> None:
        for rid, held in self.model.holds.items():
            due = self.model.is_due(rid, self.shop.now)
            for place, hold in self.shop.holds[rid].items():
                seen, units = hold.as_seen(self.shop.now), held[place]
                assert seen.active == (0 if due else units.active)
                assert (seen.committed, seen.shipped, seen.returned) == (units.committed, units.shipped, units.returned)

    def teardown(self) -> None:
        """The log alone tells the same story, and no promise in it was ever made without stock behind it."""
        for sku, code in PLACES:
            replayed = StockItem.unregistered(f"stock:{sku}@{code}")
            for event in self.shop.stream(sku, code):
                replayed.evolve(event)
                replayed.accept()
                assert list(invariants(replayed, event.timestamp)) == []
                if isinstance(event, Reserved):
                    figures, due = replayed.figures, replayed.due_units(event.timestamp)
                    assert figures.reserved - due + figures.committed <= figures.on_hand + BACKORDERS
            assert replayed.to_state() == self.shop.item(sku, code).to_state()
        self.verify_finds_nothing()

    def verify_finds_nothing(self) -> None:
        """Nor does the replay that `stockhold verify` makes of the log see anything wrong with it."""
        report, mapper = Report(), EventMapper()
        commands = CommandParts(report.violation)
        replays: dict[str, ItemReplay] = {}
        for position, event in enumerate(self.shop.log, start=1):
            commands.take(event.TOPIC, mapper.encode(event))
            if isinstance(event, StockEvent):
                stream = event.originator_id
                replay = replays.setdefault(stream, ItemReplay(stream, report.violation))
                replay.apply(event, position, event.originator_version)
        commands.finish()
        assert report.violation_details == []


def _fits(lines: list[tuple[Any, ...]], free: dict[tuple[str, str], int]) -> bool:
    """Whether what is free can serve the lines: those that name a place there, the others anywhere."""
    left = dict(free)
    for sku, quantity, *code in lines:
        if code:
            left[sku, code[0]] -= quantity
    if any(left[sku, code[0]] < 0 for sku, _, *code in lines if code):
        return False
    for sku in {line[0] for line in lines if len(line) == 2}:
        wanted = sum(line[1] for line in lines if len(line) == 2 and line[0] == sku)
        if wanted > sum(max(0, units) for (s, _), units in left.items() if s == sku):
            return False
    return True


TestStockMachine = StockMachine.TestCase
TestStockMachine.settings = settings(max_examples=40, stateful_step_count=60, deadline=None)
