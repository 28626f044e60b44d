"""What the relay decides by itself: where to go on after a restore, and how often to complain."""

import logging

import pytest

from infra.event_store.relay_checkpoints import Checkpoint, Lag, leader_lock_key
from infra.kafka.clients import BrokerAway
from infra.postgres import ConnectionLost
from write_side.relay import COMPLAIN_S, Complaints, going_on_from


@pytest.mark.parametrize(
    ("found", "epoch", "head", "start"),
    [
        (Checkpoint(7, 1), 1, 7, Checkpoint(7, 1)),
        (Checkpoint(7, 1), 1, 9, Checkpoint(7, 1)),
        (Checkpoint(0, 1), 1, 0, Checkpoint(0, 1)),
        (Checkpoint(7, 1), 2, 9, Checkpoint(7, 2)),
        (Checkpoint(7, 2), 1, 9, Checkpoint(7, 1)),
        (Checkpoint(7, 1), 1, 6, Checkpoint(0, 1)),
        (Checkpoint(7, 1), 2, 0, Checkpoint(0, 2)),
    ],
)
def test_where_publishing_goes_on(found: Checkpoint, epoch: int, head: int, start: Checkpoint) -> None:
    assert going_on_from(found, epoch, head) == start


def test_the_same_complaint_is_made_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    now_s = 0.0
    complaints = Complaints(lambda: now_s)
    for _ in range(100):
        complaints.about(BrokerAway("no broker"))
        now_s += 2 * COMPLAIN_S / 100
    assert [record.getMessage() for record in caplog.records] == ["the log is not published: no broker"] * 2
    assert caplog.records[-1].__dict__["attempts"] > 40


def test_another_complaint_and_one_after_a_success_are_made_at_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    complaints = Complaints(lambda: 0.0)
    complaints.about(BrokerAway("no broker"))
    complaints.about(ConnectionLost("no server"))
    complaints.over()
    complaints.about(ConnectionLost())
    assert [record.getMessage().removeprefix("the log is not published: ") for record in caplog.records] == [
        "no broker",
        "no server",
        "ConnectionLost()",
    ]


def test_a_lag_is_never_negative() -> None:
    assert Lag(5, 9, 1.0).events == 4
    assert Lag(9, 5, 0.0).events == 0


def test_each_topic_has_a_lock_of_its_own() -> None:
    keys = {leader_lock_key(name) for name in ("a.stock-events", "b.stock-events", "stock-events")}
    assert len(keys) == 3
    assert all(-(2**63) <= key < 2**63 for key in keys)
