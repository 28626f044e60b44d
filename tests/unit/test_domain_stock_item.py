"""What a stock item decides about its own quantities, and what each event does to them."""

from datetime import date
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace as _replace

from domain.errors import (
    CapacityExceeded,
    InsufficientStock,
    ItemDiscontinued,
    QuantityOutOfRange,
    UnknownStockItem,
    VersionMismatch,
)
from domain.events import (
    Adjusted,
    Counted,
    Damaged,
    Discontinued,
    PolicyChanged,
    Reinstated,
    Repaired,
    WrittenOff,
)
from domain.figures import Figures
from domain.policy import DEFAULT_POLICY, Policy, PolicyPatch
from domain.stock_item import StockItem
from domain.values import MAX_QUANTITY, AdjustmentReason, Condition
from tests.support_domain import (
    NOW,
    ORIGIN,
    Fact,
    after,
    committed,
    given,
    given_unregistered,
    happened,
    item_after,
    registered,
    reserved,
    restocked,
    returned,
    shipped,
)

adjusted = partial(happened, Adjusted)
counted = partial(happened, Counted)
damaged = partial(happened, Damaged)


def test_an_item_begins_with_the_policy_in_force():
    policy = Policy(safety_stock=3)
    outcome = given_unregistered().when(StockItem.register, policy).then(registered(policy)).leaving(policy=policy)
    assert outcome.item.version == 1
    assert outcome.item.created_on == NOW


def test_an_unregistered_item_says_so():
    item = StockItem.unregistered("stock:B.1:x@W-2")
    assert (item.sku, item.warehouse, item.version) == ("B.1:x", "W-2", 0)
    with pytest.raises(UnknownStockItem) as refused:
        item.refuse_if_unregistered()
    assert refused.value.facts == {"sku": "B.1:x", "warehouse": "W-2"}


def test_an_expected_version_is_compared_before_it_is_set():
    item = item_after(restocked(1))
    item.refuse_other_version(None)
    item.refuse_other_version(2)
    with pytest.raises(VersionMismatch) as refused:
        item.refuse_other_version(0)
    assert refused.value.facts == {"expected_version": 0, "actual_version": 2}
    with pytest.raises(VersionMismatch):
        item.refuse_other_version(3)


# Restocking


def test_a_restock_adds_to_what_is_on_hand():
    receipt = {
        "unit_cost": Decimal("1.25"),
        "supplier": "s",
        "lot": "l",
        "expires_on": date(2027, 1, 1),
        "received_on": date(2026, 1, 1),
    }
    given(restocked(2)).when(StockItem.restock, 5, **receipt).then(restocked(5, **receipt)).leaving(
        on_hand=7, last_movement_at=NOW, last_restocked_at=NOW
    )


def test_a_restock_up_to_the_maximum_is_taken_and_above_it_refused():
    policy = Policy(max_stock_level=10)
    given(restocked(4), policy=policy).when(StockItem.restock, 6).then(restocked(6))
    given(restocked(4), policy=policy).when(StockItem.restock, 7).refused(CapacityExceeded, requested=7, room=6)


def test_above_the_maximum_there_is_no_room_and_not_less_than_none():
    full = given(restocked(4), happened(PolicyChanged, policy=Policy(max_stock_level=3)))
    full.when(StockItem.restock, 1).refused(CapacityExceeded, room=0)


def test_a_discontinued_item_is_not_restocked_but_sells_what_is_left():
    left = given(restocked(4), happened(Discontinued))
    left.when(StockItem.restock, 1).refused(ItemDiscontinued)
    assert left.item.promisable(NOW) == 4
    given(restocked(4), happened(Discontinued), happened(Reinstated)).when(StockItem.restock, 1).then(restocked(1))


def test_discontinuing_and_reinstating_twice_appends_once():
    given().when(StockItem.discontinue).then(happened(Discontinued)).leaving(discontinued=True)
    given(happened(Discontinued)).when(StockItem.discontinue).then_nothing()
    given(happened(Discontinued)).when(StockItem.reinstate).then(happened(Reinstated)).leaving(discontinued=False)
    given().when(StockItem.reinstate).then_nothing()


# Adjusting and counting


@pytest.mark.parametrize("reason", AdjustmentReason)
@pytest.mark.parametrize("delta", [5, -3, -10])
def test_an_adjustment_moves_what_is_on_hand_and_counts_losses(delta: int, reason: AdjustmentReason):
    lost = -delta if delta < 0 and reason in {"LOST", "THEFT"} else 0
    given(restocked(10)).when(StockItem.adjust, delta, reason).then(adjusted(delta=delta, reason=reason)).leaving(
        on_hand=10 + delta, lost=lost, last_movement_at=NOW
    )


def test_an_adjustment_by_nothing_appends_nothing():
    given(restocked(1)).when(StockItem.adjust, 0, AdjustmentReason.FOUND).then_nothing()


def test_no_more_is_lost_than_was_there():
    given(restocked(3)).when(StockItem.adjust, -4, AdjustmentReason.LOST).refused(
        QuantityOutOfRange, requested=4, remaining=3
    )


@pytest.mark.parametrize("units", [0, 3, 12])
def test_a_count_sets_what_is_on_hand(units: int):
    given(restocked(10)).when(StockItem.count, units).then(
        counted(counted=units, expected=10, variance=units - 10)
    ).leaving(on_hand=units, lost=0, last_counted_at=NOW, last_movement_at=NOW)


# Damage, repair, write-off


def test_damaged_units_are_there_but_not_for_sale():
    outcome = given(restocked(10)).when(StockItem.damage, 4).then(damaged(quantity=4)).leaving(on_hand=6, damaged=4)
    assert outcome.item.promisable(NOW) == 6


def test_no_more_is_damaged_repaired_or_written_off_than_there_is():
    some = (restocked(10), damaged(quantity=4))
    given(*some).when(StockItem.damage, 7).refused(QuantityOutOfRange, requested=7, remaining=6)
    given(*some).when(StockItem.repair, 5).refused(QuantityOutOfRange, requested=5, remaining=4)
    given(*some).when(StockItem.write_off, 5).refused(QuantityOutOfRange, requested=5, remaining=4)


def test_damaged_units_are_repaired_or_written_off():
    some = (restocked(10), damaged(quantity=4))
    given(*some).when(StockItem.repair, 4).then(happened(Repaired, quantity=4)).leaving(on_hand=10, damaged=0)
    given(*some).when(StockItem.write_off, 1).then(happened(WrittenOff, quantity=1)).leaving(on_hand=6, damaged=3)


# Returns without a hold


@pytest.mark.parametrize(
    ("condition", "bucket"), [("SELLABLE", "on_hand"), ("DAMAGED", "damaged"), ("QUARANTINE", "quarantined")]
)
def test_a_return_goes_where_its_condition_says(condition: str, bucket: str):
    how = Condition(condition)
    outcome = given(restocked(1), happened(Damaged, quantity=1)).when(StockItem.take_back, 2, how, order_id="o-9")
    outcome.then(returned(2, how, order_id="o-9"))
    before = {"on_hand": 0, "damaged": 1, "quarantined": 0}
    outcome.leaving(**before | {bucket: before[bucket] + 2}, returned=2, last_movement_at=NOW)


# Policies


def test_a_patch_changes_what_it_names_and_the_event_says_the_whole_policy():
    policy = Policy(safety_stock=1, hold_ttl_s=60)
    changed = Policy(safety_stock=4, hold_ttl_s=60)
    given(policy=policy).when(StockItem.change_policy, PolicyPatch(safety_stock=4)).then(
        happened(PolicyChanged, policy=changed)
    ).leaving(policy=changed, last_movement_at=None)


def test_a_patch_that_changes_nothing_appends_nothing():
    given().when(StockItem.change_policy, PolicyPatch()).then_nothing()
    given().when(StockItem.change_policy, PolicyPatch(hold_ttl_s=DEFAULT_POLICY.hold_ttl_s)).then_nothing()


def test_a_patch_can_take_the_maximum_away():
    given(policy=Policy(max_stock_level=5)).when(StockItem.change_policy, PolicyPatch(max_stock_level=None)).then(
        happened(PolicyChanged, policy=Policy())
    )


def test_what_may_be_promised_heeds_safety_stock_and_backorders():
    def promisable(*history: Fact, **policy: Any) -> int:
        return item_after(*history, policy=Policy(**policy)).promisable(NOW)

    assert promisable(restocked(10)) == 10
    assert promisable(restocked(10), safety_stock=4) == 6
    assert promisable(restocked(10), safety_stock=14) == -4
    assert promisable(restocked(10), backorder_limit=5) == 15
    assert promisable(restocked(10), reserved("r", 6)) == 4
    assert promisable(restocked(10), reserved("r", 6), committed("r", 6)) == 4
    assert promisable(restocked(10), reserved("r", 6), committed("r", 6), shipped("r", 6)) == 4


# Limits: every figure stays an integer that any JSON reader can hold


def at_the_limit() -> tuple[Fact, ...]:
    return (restocked(MAX_QUANTITY), damaged(quantity=MAX_QUANTITY - 1))


@pytest.mark.parametrize(
    ("decision", "facts"),
    [
        (StockItem.restock, (1,)),
        (StockItem.adjust, (1, AdjustmentReason.FOUND)),
        (StockItem.count, (2,)),
        (StockItem.take_back, (1, Condition.SELLABLE)),
        (StockItem.take_back, (1, Condition.DAMAGED)),
        (StockItem.take_back, (1, Condition.QUARANTINE)),
    ],
)
def test_nothing_grows_past_the_largest_quantity(decision, facts):
    """`total` is the sum of the physical buckets, so it is what must stay in range."""
    given(*at_the_limit()).when(decision, *facts).refused(QuantityOutOfRange, remaining=1 if facts == (2,) else 0)


def test_at_the_limit_things_may_still_move_and_go():
    given(*at_the_limit()).when(StockItem.repair, MAX_QUANTITY - 1).leaving(on_hand=MAX_QUANTITY)
    given(*at_the_limit()).when(StockItem.damage, 1).leaving(on_hand=0, damaged=MAX_QUANTITY)
    given(*at_the_limit()).when(StockItem.count, 1).leaving(on_hand=1)


def test_promises_stay_in_range_too():
    """Stock and backorder limit together may exceed what one figure may hold."""
    policy = Policy(backorder_limit=MAX_QUANTITY)
    full = (restocked(MAX_QUANTITY), reserved("r-1", MAX_QUANTITY))
    given(*full, policy=policy).when(StockItem.reserve, "r-2", "o", 1, None, "order").refused(InsufficientStock)
    given(restocked(MAX_QUANTITY), policy=policy).when(StockItem.reserve, "r-1", "o", MAX_QUANTITY, None, "order")
    assert item_after(restocked(MAX_QUANTITY), policy=policy).promisable(NOW) == MAX_QUANTITY


def test_counters_stay_in_range():
    def with_figures(**figures: int) -> StockItem:
        item = item_after(restocked(5), reserved("r", 5), committed("r", 5))
        state = item.to_state()
        return StockItem.from_state(item.id, item.version, _replace(state, figures=_replace(state.figures, **figures)))

    with pytest.raises(QuantityOutOfRange):
        with_figures(sold=MAX_QUANTITY).ship("r", 1, None, ORIGIN, NOW)
    with pytest.raises(QuantityOutOfRange):
        with_figures(lost=MAX_QUANTITY).adjust(-1, AdjustmentReason.LOST, ORIGIN, NOW)
    with pytest.raises(QuantityOutOfRange):
        with_figures(returned=MAX_QUANTITY).take_back(1, Condition.SELLABLE, ORIGIN, NOW)


# Time and versions


def test_an_event_never_occurs_before_the_item_s_last_event():
    """The database's clock may be set back; the story of an item may not."""
    item = item_after(restocked(1), at=after(10))
    item.restock(1, ORIGIN, NOW)
    assert [event.timestamp for event in item.new_events] == [after(10)]
    item.restock(1, ORIGIN, after(11))
    assert [event.timestamp for event in item.new_events] == [after(10), after(11)]
    assert [event.originator_version for event in item.new_events] == [3, 4]
    assert item.created_on == after(10)
    assert item.modified_on == after(11)


def test_a_reserve_above_what_may_be_promised_is_refused_with_the_facts():
    given(restocked(3)).when(StockItem.reserve, "r", "o", 4, None, "order").refused(InsufficientStock)


def test_a_new_item_has_nothing():
    assert item_after().figures == Figures()
