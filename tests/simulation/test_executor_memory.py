"""The executor on a log in memory, where time stands still until a test lets it pass."""

import asyncio
from datetime import timedelta

from hypothesis import HealthCheck, settings

from domain.commands import ExpireHolds
from tests.simulation.machine import ExecutorMachine
from tests.simulation.worlds import MemoryWorld, World
from tests.support_write_side import ask, order


class MemoryMachine(ExecutorMachine):
    def open_world(self, *, optimistic: bool) -> World:
        return MemoryWorld(optimistic=optimistic)


TestExecutorInMemory = MemoryMachine.TestCase
TestExecutorInMemory.settings = settings(
    max_examples=80,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


def test_a_process_whose_clock_is_behind_the_stores_sweeps_what_is_due() -> None:
    """It slept with its machine, or the store's clock was set: to a sweeper the store's time counts, not its own."""
    world = MemoryWorld(optimistic=True)

    async def sweep() -> None:
        executor = await world.cluster.executor()
        await world.cluster.stock(executor, ("A", "W1", 9))
        await ask(executor, order("r1", ("A", 9, "W1"), ttl_s=10))
        world.elapse(timedelta(seconds=10), unnoticed=True)
        await executor.execute(ExpireHolds(stream="stock:A@W1"))
        await world.cluster.close()

    asyncio.run(sweep())
    world.close()
    assert [hold.active for hold in world.holds().values()] == [0]
