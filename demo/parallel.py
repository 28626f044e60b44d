"""Many at a time, but not all at once."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

IN_FLIGHT = 32

Job = TypeVar("Job")


async def in_parallel(work: Callable[[Job], Awaitable[None]], jobs: Iterable[Job], workers: int = IN_FLIGHT) -> None:
    """Jobs begin in their order, at most `workers` at any time. The first error stops the others and is raised."""
    todo = iter(jobs)

    async def worker() -> None:
        # All workers draw from one iterator: whoever is free takes the next job.
        for job in todo:
            await work(job)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(worker())
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
