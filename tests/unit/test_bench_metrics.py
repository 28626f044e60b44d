"""What a process tells of itself, how fast a counter rises, and the orders that wait in a topic."""

import os

import pytest

from benchmarks.items import Items
from benchmarks.load.messages import orders
from benchmarks.metrics import Metrics, watch
from domain.commands import CreateReservation
from write_side.intake.messages import Received, read

PAGE = """# HELP stockhold_intake_messages_total Messages by topic.
# TYPE stockhold_intake_messages_total counter
stockhold_intake_messages_total{outcome="applied",topic="order.placed"} 1200.0
stockhold_intake_messages_total{outcome="rejected",topic="order.placed"} 3.0
stockhold_intake_messages_total{outcome="applied",topic="order.shipped"} 4.0
stockhold_intake_messages_created{outcome="applied",topic="order.shipped"} 1.7e+09
stockhold_relay_events_total 1.5e+06
"""


@pytest.mark.parametrize(
    ("name", "labels", "total"),
    [
        ("stockhold_intake_messages_total", {"topic": "order.placed", "outcome": "applied"}, 1_200),
        ("stockhold_intake_messages_total", {"topic": "order.placed"}, 1_203),
        ("stockhold_intake_messages_total", {}, 1_207),
        ("stockhold_relay_events_total", {}, 1_500_000),
        ("stockhold_nothing_total", {}, 0),
    ],
)
def test_figures_are_added_up_by_name_and_label(name, labels, total):
    assert Metrics(PAGE).total(name, **labels) == total


def test_who_does_not_listen_has_told_nothing():
    assert Metrics.of("http://127.0.0.1:9").total("stockhold_relay_events_total") == 0


def counter(*values):
    seen = iter(values)
    return lambda: float(next(seen))


def test_a_rise_begins_where_the_counter_was_first_seen_to_have_moved():
    rise = watch(counter(0, 0, 500, 800, 1_000), 1_000, os.getpid(), above=0, every_s=0.001)
    assert (rise.first.value, rise.last.value) == (500, 1_000)
    assert rise.per_second == pytest.approx(500 / (rise.last.at_s - rise.first.at_s))
    assert rise.cpu_us >= 0


def test_what_is_over_between_two_looks_began_at_the_look_before():
    rise = watch(counter(0, 0, 1_000), 1_000, os.getpid(), above=0, every_s=0.001)
    assert (rise.first.value, rise.last.value) == (0, 1_000)
    assert rise.per_second > 0


def test_a_rise_may_begin_now():
    rise = watch(counter(300, 300, 700, 1_000), 1_000, os.getpid(), every_s=0.001)
    assert (rise.first.value, rise.last.value) == (300, 1_000)


def test_the_intake_understands_the_orders():
    items = Items("COLD", 0, 10)
    made = list(orders(items, "run", [7, 2]))
    assert [key for key, _ in made] == [b"run-0", b"run-1"]
    for (key, value), number in zip(made, (7, 2), strict=True):
        command = read(Received("order.placed", 0, 0, key, value)).command
        assert isinstance(command, CreateReservation)
        [line] = command.lines
        assert (line.sku, line.warehouse, line.quantity) == (items.sku(number), items.warehouse(number), 1)
