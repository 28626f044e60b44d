"""What counts as getting on, and what as standing still."""

import pytest

from infra.health import Health


class Hours:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s

    def pass_by(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def hours() -> Hours:
    return Hours()


@pytest.fixture
def health(hours: Hours) -> Health:
    return Health(stall_s=30, clock=hours)


def test_nothing_said_is_nothing_wrong(health: Health, hours: Hours) -> None:
    hours.pass_by(1e9)
    assert health.stuck is None
    assert health.checks() == {}


def test_whoever_beats_in_time_gets_on(health: Health, hours: Hours) -> None:
    for _ in range(10):
        health.beat("sweep")
        hours.pass_by(30)
        assert health.stuck is None
        assert health.checks() == {"sweep": None}


def test_a_beat_that_does_not_come_is_a_stall(health: Health, hours: Hours) -> None:
    health.beat("sweep")
    hours.pass_by(31)
    assert health.stuck == "sweep has not come round for 31 s"
    assert health.checks() == {"sweep": health.stuck}
    health.beat("sweep")
    assert health.stuck is None


def test_whoever_rests_owes_no_beat(health: Health, hours: Hours) -> None:
    health.beat("sweep")
    health.rest("sweep")
    hours.pass_by(1e6)
    assert health.stuck is None


def test_standing_short_of_the_goal_is_a_stall_though_the_goal_moves(health: Health, hours: Hours) -> None:
    for goal in (7, 8, 9, 10):
        health.at("events", 5, goal)
        hours.pass_by(10)
    assert health.stuck == "events stands at 5 of 10 for 40 s"


def test_any_step_towards_the_goal_is_progress(health: Health, hours: Hours) -> None:
    for place in range(10):
        health.at("events", place, 1_000)
        hours.pass_by(29)
        assert health.stuck is None


def test_work_that_comes_after_a_long_quiet_begins_its_time_then(health: Health, hours: Hours) -> None:
    health.at("events", 5, 5)
    hours.pass_by(1e6)
    assert health.stuck is None
    health.at("events", 5, 6)
    hours.pass_by(29)
    assert health.stuck is None
    hours.pass_by(2)
    assert health.stuck is not None


def test_no_blame_while_something_it_needs_is_away_and_a_new_start_afterwards(health: Health, hours: Hours) -> None:
    health.at("events", 5, 6)
    for _ in range(100):
        health.say("kafka", "the brokers are away")
        hours.pass_by(20)
    assert health.stuck is None
    assert health.checks() == {"kafka": "the brokers are away", "events": None}
    health.say("kafka", None)
    hours.pass_by(29)
    assert health.stuck is None
    hours.pass_by(2)
    assert health.stuck is not None


def test_an_excuse_that_nobody_repeats_wears_out(health: Health, hours: Hours) -> None:
    health.beat("events")
    health.say("kafka", "the brokers are away")
    hours.pass_by(31)
    assert health.stuck == "events has not come round for 31 s"
    assert health.checks()["kafka"] == "the brokers are away"


def test_one_of_several_that_stands_still_is_enough(health: Health, hours: Hours) -> None:
    health.beat("one")
    health.beat("two")
    hours.pass_by(31)
    health.beat("one")
    assert health.checks() == {"one": None, "two": health.stuck}
    health.forget("two")
    assert health.stuck is None
    assert health.checks() == {"one": None}
