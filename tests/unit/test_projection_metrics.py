"""What several shares of a generation tell of it in one process."""

from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY

from projections import metrics
from projections.share import Share

ODD, EVEN = Share((1, 3), 4), Share((0, 2), 4)
GENERATION = "of-this-test"


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    metrics.forget(GENERATION)


def shown(name: str) -> float | None:
    return REGISTRY.get_sample_value(f"stockhold_projection_{name}", {"generation": GENERATION})


def test_the_share_that_is_furthest_behind_is_told_of() -> None:
    metrics.LAG_EVENTS.set(GENERATION, ODD, 7)
    metrics.LAG_EVENTS.set(GENERATION, EVEN, 2)
    assert shown("lag_events") == 7
    metrics.LAG_EVENTS.set(GENERATION, ODD, 1)
    assert shown("lag_events") == 2


def test_the_cache_is_up_when_every_share_of_it_is() -> None:
    metrics.CACHE_UP.set(GENERATION, ODD, 0)
    metrics.CACHE_UP.set(GENERATION, EVEN, 1)
    assert shown("cache_up") == 0
    metrics.CACHE_UP.set(GENERATION, ODD, 1)
    assert shown("cache_up") == 1


def test_a_share_that_is_kept_elsewhere_counts_no_more_and_the_last_word_stands() -> None:
    metrics.LAG_SECONDS.set(GENERATION, ODD, 7)
    metrics.LAG_SECONDS.set(GENERATION, EVEN, 2)
    metrics.leave(GENERATION, ODD)
    assert shown("lag_seconds") == 2
    metrics.leave(GENERATION, EVEN)
    assert shown("lag_seconds") == 2


def test_of_a_generation_that_is_forgotten_nothing_is_told() -> None:
    metrics.LAG_EVENTS.set(GENERATION, ODD, 7)
    metrics.forget(GENERATION)
    assert shown("lag_events") is None
    metrics.LAG_EVENTS.set(GENERATION, EVEN, 1)
    assert shown("lag_events") == 1
