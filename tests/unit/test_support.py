import itertools

import pytest

from tests.support import eventually, eventually_async


def test_eventually_waits_for_the_condition_and_returns_its_value() -> None:
    numbers = itertools.count()
    assert eventually(lambda: next(numbers) >= 3) is True
    assert next(numbers) == 4


def test_eventually_gives_up_and_says_what_it_saw() -> None:
    def never() -> bool:
        raise AssertionError("wanted")

    with pytest.raises(AssertionError, match=r"never .*wanted"):
        eventually(never, timeout_s=0.02)


async def test_eventually_async_takes_both_kinds_of_condition() -> None:
    numbers = itertools.count()

    async def slow() -> int:
        return next(numbers)

    assert await eventually_async(slow) == 1
    assert await eventually_async(lambda: next(numbers)) == 2
    with pytest.raises(AssertionError, match="an empty list"):
        await eventually_async(list, timeout_s=0.02, what="an empty list")
