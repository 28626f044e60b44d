"""Waiting until Postgres's views have come so far: who waits at the same time shares one look."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from infra.http_app import HttpProblem
from read_api.current import Current
from read_api.levels import Item, not_fresh_enough, stands_still

_WATERMARKS: Final = """
SELECT l.sku, l.warehouse, l.version, l.stale
FROM unnest(%(skus)s::text[], %(warehouses)s::text[]) AS k (sku, warehouse)
JOIN {views}.stock_levels l ON l.sku = k.sku AND l.warehouse = k.warehouse
"""


class _Waiter:
    def __init__(self, versions: Mapping[Item, int], deadline_s: float) -> None:
        self.versions = versions
        self.deadline_s = deadline_s
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, problem: HttpProblem) -> None:
        if not self.done.done():
            self.done.set_exception(problem)

    def judge(self, seen: Mapping[Item, tuple[int, bool]], now_s: float) -> None:
        if self.done.done():
            return
        for item in self.versions:
            if item in seen and seen[item][1]:
                self.fail(stands_still(item))
                return
        # What was never registered is at version 0.
        if all(seen.get(item, (0, False))[0] >= version for item, version in self.versions.items()):
            self.done.set_result(None)
        elif now_s >= self.deadline_s:
            self.fail(not_fresh_enough(self.versions))


class Watermarks:
    """Looks every ``poll_s`` as long as anybody waits, and at once for who comes new."""

    def __init__(self, current: Current, *, wait_s: float, poll_s: float) -> None:
        self._current = current
        self._wait_s = wait_s
        self._poll_s = poll_s
        self._waiting: list[_Waiter] = []
        self._came = asyncio.Event()
        self._looker: asyncio.Task[None] | None = None

    async def wait(self, versions: Mapping[Item, int]) -> None:
        """Return when every item has come to its version.

        Raises HttpProblem ``not-fresh-enough`` after the time that a read may wait, and ``unavailable``.
        """
        if not versions:
            return
        waiter = _Waiter(versions, asyncio.get_running_loop().time() + self._wait_s)
        self._waiting.append(waiter)
        self._came.set()
        if self._looker is None:
            self._looker = asyncio.create_task(self._look_while_anybody_waits())
        await waiter.done

    async def _look_while_anybody_waits(self) -> None:
        try:
            while self._waiting:
                self._came.clear()
                await self._look(list(self._waiting))
                self._waiting = [waiter for waiter in self._waiting if not waiter.done.done()]
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._poll_s if self._waiting else 0):
                        await self._came.wait()
        finally:
            self._looker = None

    async def _look(self, waiting: list[_Waiter]) -> None:
        items = list({item for waiter in waiting for item in waiter.versions})
        skus, warehouses = [sku for sku, _ in items], [code for _, code in items]
        try:
            rows = await self._current.rows(_WATERMARKS, {"skus": skus, "warehouses": warehouses})
        except HttpProblem as problem:
            for waiter in waiting:
                waiter.fail(problem)
            return
        seen = {(sku, code): (version, stale) for sku, code, version, stale in rows}
        now_s = asyncio.get_running_loop().time()
        for waiter in waiting:
            waiter.judge(seen, now_s)
