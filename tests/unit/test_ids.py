"""Identifiers: UUIDv7, in the order of their making."""

import time
import uuid

from infra import ids
from infra.ids import Uuid7, new_id


def test_it_is_a_uuid_of_version_7_and_says_when_it_was_made():
    before_ms = time.time_ns() // 1_000_000
    parsed = uuid.UUID(new_id())
    after_ms = time.time_ns() // 1_000_000
    assert str(parsed) == str(parsed).lower()
    assert (parsed.version, parsed.variant) == (7, uuid.RFC_4122)
    assert before_ms <= parsed.int >> 80 <= after_ms + 1


def test_each_is_greater_than_the_one_before():
    made = [new_id() for _ in range(50_000)]
    assert made == sorted(set(made))


def test_a_clock_that_stands_still_or_steps_back_changes_nothing(monkeypatch):
    moments_ms = iter([1_000, 1_000, 999, 1_001, 1_000, 5])
    monkeypatch.setattr(ids, "time_ns", lambda: next(moments_ms) * 1_000_000)
    make = Uuid7()
    made = [make() for _ in range(6)]
    assert made == sorted(set(made))
    assert [uuid.UUID(text).int >> 80 for text in made] == [1_000, 1_000, 1_000, 1_001, 1_001, 1_001]


def test_all_but_the_count_is_random_anew_in_each_millisecond(monkeypatch):
    moments_ms = iter(range(1_000, 2_000))
    monkeypatch.setattr(ids, "time_ns", lambda: next(moments_ms) * 1_000_000)
    make = Uuid7()
    middles = {make()[14:24] for _ in range(1_000)}
    assert len(middles) > 990


def test_two_makers_do_not_make_the_same():
    one, other = Uuid7(), Uuid7()
    assert not {one() for _ in range(1_000)} & {other() for _ in range(1_000)}
