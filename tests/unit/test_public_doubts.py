"""When a publisher doubts its membership of the group, and when it does not."""

import pytest

from projections.faust_runtime import Delivery, InletFailed
from projections.public import runner
from projections.public.runner import _Doubts, _in_parts

OWNED = frozenset({1})


class Standing:
    """What a publisher says of itself."""

    def __init__(self, *, needed: bool = False) -> None:
        self.from_log = 0
        self.needed = needed

    async def is_needed(self, within_s: float) -> bool:
        assert within_s == 0
        return self.needed


def doubts(standing: Standing) -> _Doubts:
    return _Doubts(standing, 0)  # type: ignore[arg-type]  # as much of a publisher as doubts look at


async def test_messages_leave_no_doubt() -> None:
    standing = Standing(needed=True)
    doubting = doubts(standing)
    for _ in range(3):
        standing.from_log += 1
        await doubting.look(1, OWNED)


async def test_a_quiet_log_leaves_no_doubt() -> None:
    doubting = doubts(Standing(needed=True))
    for _ in range(3):
        await doubting.look(0, OWNED)


async def test_a_log_that_moves_on_without_a_message_is_doubtful() -> None:
    standing = Standing()
    doubting = doubts(standing)
    standing.from_log = 1
    await doubting.look(0, OWNED)
    standing.from_log = 2
    with pytest.raises(InletFailed, match="nothing of it has come"):
        await doubting.look(0, OWNED)


async def test_to_own_nothing_while_others_are_at_it_is_standing_by() -> None:
    doubting = doubts(Standing(needed=False))
    for _ in range(3):
        await doubting.look(0, frozenset())


async def test_to_own_nothing_while_nobody_is_at_it_is_doubtful() -> None:
    doubting = doubts(Standing(needed=True))
    await doubting.look(0, frozenset())
    with pytest.raises(InletFailed, match="nobody publishes"):
        await doubting.look(0, frozenset())


class Message:
    def __init__(self, size: int) -> None:
        self.value = b"x" * size


@pytest.mark.parametrize(
    ("sizes", "parts"),
    [([], []), ([5], [[5]]), ([4, 4, 4], [[4, 4], [4]]), ([11, 1], [[11], [1]]), ([0, 10, 0], [[0, 10, 0]])],
)
def test_messages_are_published_together_up_to_a_size(
    sizes: list[int], parts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "BYTES_AT_ONCE", 10)
    deliveries: list[Delivery] = [Message(size) for size in sizes]  # type: ignore[misc]  # all of one that is looked at
    assert [[len(each.value or b"") for each in part] for part in _in_parts(deliveries)] == parts
