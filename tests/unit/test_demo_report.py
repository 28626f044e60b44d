import io
from collections import Counter
from dataclasses import replace

import pytest
from rich.console import Console

from demo.baskets import Basket, Item, Line
from demo.door import Traffic
from demo.driver import LAG
from demo.kafka_door import PLACED_TO_RESERVED
from demo.ledger import Ledger
from demo.report import Played, Verification, messages_table, summary_table, timings_table, write_report
from demo.script import ACTS, Action, Outcome, write_script
from demo.timings import Timings, percentile_ms

MILK = Item("product-1", "store-1")
CLEAN = Verification(events=1, violations=0, differences=0)


@pytest.fixture
def played():
    """Two hundred orders for milk, none of them refused but the last."""
    script = write_script([Basket(f"basket-{n}", "household-1", (Line(MILK, 1),)) for n in range(200)], seed=1)
    ledger, timings = Ledger(), Timings()
    ledger.restocked(MILK, 1_000)
    for order in script.orders[:-1]:
        for action in ACTS[order.outcome]:
            if action is Action.RETURN:
                ledger.brought_back(order)
            else:
                ledger.happened(action, order)
            timings.note(action, 0.005)
        if order.outcome is Outcome.EXPIRED:
            ledger.happened(Action.EXPIRE, order)
    ledger.refused(script.orders[-1])
    timings.note(LAG, 0.02)
    return script, Played(ledger, timings, [], 3, events=500, seconds=2.0, hero=MILK, story=())


def text_of(table):
    shown = io.StringIO()
    Console(file=shown, width=120).print(table)
    return shown.getvalue()


def test_every_order_is_counted_for_what_happened_to_it(played):
    script, performance = played
    report = write_report(script, performance, CLEAN, seconds=10.0)
    outcomes = [order.outcome for order in script.orders[:-1]]
    assert (report.orders, report.reserved, report.refused) == (200, 199, 1)
    assert report.expired == outcomes.count(Outcome.EXPIRED)
    assert report.released == outcomes.count(Outcome.PAYMENT_FAILED) + outcomes.count(Outcome.LEFT)
    assert report.committed == report.reserved - report.released - report.expired
    assert report.shipped == report.committed - report.cancelled - outcomes.count(Outcome.UNSHIPPED)
    assert report.returned == outcomes.count(Outcome.RETURNED)


def test_events_of_items_and_warehouses_are_counted(played):
    script, performance = played
    report = write_report(script, performance, CLEAN, seconds=10.0)
    assert report.events == performance.ledger.items[MILK].version + 1


def test_the_object_for_programs_has_what_the_contract_names(played):
    script, performance = played
    report = write_report(script, performance, CLEAN, seconds=10.0).as_dict()
    contract = "orders reserved refused committed shipped expired events oversold views_match_log seconds"
    assert set(contract.split()) <= set(report)
    assert (report["p50_ms"], report["lag_p99_ms"], report["events_per_s"]) == (5.0, 20.0, 250.0)


def test_orders_through_kafka_add_their_messages_and_change_no_other_field(played):
    script, performance = played
    plain = write_report(script, performance, CLEAN, seconds=10.0).as_dict()
    performance.timings.note(PLACED_TO_RESERVED, 0.04)
    traffic = Traffic(Counter({"order.placed": 200}), Counter({"inventory.reserved": 199, "inventory.released": 7}), 2)
    report = write_report(script, replace(performance, traffic=traffic), CLEAN, seconds=10.0)
    facts = report.as_dict()
    assert plain.items() <= facts.items()
    assert {name: facts[name] for name in facts.keys() - plain.keys()} == {
        "messages_sent": 200,
        "messages_received": 206,
        "messages_repeated": 2,
        "messages": {"order.placed": 200, "inventory.reserved": 199, "inventory.released": 7},
        "placed_to_reserved_p50_ms": 40.0,
        "placed_to_reserved_p99_ms": 40.0,
    }
    assert "200 sent, 206 heard" in text_of(summary_table(report))
    assert "inventory.reserved │      │   199" in text_of(messages_table(traffic))
    assert "order.placed to inventory.reserved │     1 │   40.0" in text_of(timings_table(performance.timings))


@pytest.mark.parametrize(
    ("found", "clean"),
    [
        ({"events": 9, "items": 1, "violations": 0, "differences": 0}, True),
        ({"events": 9, "items": 1, "violations": [], "differences": []}, True),
        ({"events": 9, "items": 1, "violations": 1, "differences": 0}, False),
        ({"events": 9, "items": 1, "violations": [], "differences": ["on_hand"]}, False),
    ],
)
def test_views_match_the_log_if_verify_found_nothing(played, found, clean):
    script, performance = played
    report = write_report(script, performance, Verification.of(found), seconds=10.0)
    assert report.views_match_log is clean
    assert report.is_good() is clean


def test_what_the_audit_found_spoils_the_result(played):
    script, performance = played
    wrong = Played(performance.ledger, performance.timings, ["milk is sour"], 0, 1, 1.0, MILK, ())
    report = write_report(script, wrong, CLEAN, seconds=10.0)
    assert report.differing == 1
    assert not report.is_good()
    assert "1 differences" in text_of(summary_table(report))


def test_an_oversold_item_spoils_the_result(played):
    script, performance = played
    for order in script.orders[:1] * 1_000:
        performance.ledger.happened(Action.RESERVE, order)
    report = write_report(script, performance, CLEAN, seconds=10.0)
    assert report.oversold > 0
    assert not report.is_good()


def test_the_tables_show_the_figures(played):
    script, performance = played
    shown = text_of(summary_table(write_report(script, performance, CLEAN, seconds=10.0)))
    assert "200 baskets at 1 stores" in shown
    assert "0 units" in shown
    assert "commit to visible │     1 │   20.0 │   20.0" in text_of(timings_table(performance.timings))


@pytest.mark.parametrize(("percent", "milliseconds"), [(50, 50), (99, 99), (100, 100), (1, 1)])
def test_percentiles_are_figures_that_occurred(percent, milliseconds):
    assert percentile_ms([n / 1000 for n in range(1, 101)], percent) == milliseconds


def test_nothing_has_no_percentile():
    assert percentile_ms([], 99) is None
