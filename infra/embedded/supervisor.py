"""Keeps a set of child processes running, and ends them in order.

A child that ends is started again after a growing pause; one that lives and is stuck, by its monitor, is ended first. One
that keeps failing without having worked for a while in between is more than bad luck: the supervisor gives up on the whole
set and says why.
"""

import asyncio
import functools
import logging
import os
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from infra.embedded.child import POLL_S, Child, ChildSpec, describe_exit
from infra.embedded.errors import ChildKeepsFailingError, StackError, StartFailedError
from infra.embedded.liveness import until_stuck

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RestartPolicy:
    """When to start a child again and when to give up. Times in seconds.

    A child with a monitor is asked every ``ask_every_s``, and ended when it has not answered for ``silence_max_s``.
    """

    pause_first_s: float = 0.1
    pause_max_s: float = 5.0
    failures_max: int = 5
    healthy_after_s: float = 30.0
    ask_every_s: float = 1.0
    silence_max_s: float = 30.0

    def pause_s(self, failures: int) -> float:
        return min(self.pause_first_s * 2.0 ** max(failures - 1, 0), self.pause_max_s)


@dataclass(frozen=True)
class ProcessInfo:
    """A child; ``monitor``: where it shows health and metrics, if it does."""

    name: str
    pid: int
    monitor: str | None = None


@dataclass
class _Kept:
    """A spec and the process that stands for it now."""

    spec: ChildSpec
    first_ready: asyncio.Future[None]
    child: Child | None = None
    ready_at_s: float | None = None
    starts: int = 0
    failures: int = 0
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    keeper: asyncio.Task[None] | None = None

    def info(self, child: Child) -> ProcessInfo:
        monitor = self.spec.monitor_socket
        return ProcessInfo(self.spec.name, child.pid, None if monitor is None else _url(monitor))


class Supervisor:
    """Belongs to one event loop, whose thread starts every child and must outlive them.

    `on_ready` is told of every child that became ready, for the first time or again. `failure` ends with the error
    when a child was given up; whoever runs the supervisor then stops it.
    """

    def __init__(self, on_ready: Callable[[ProcessInfo], None], policy: RestartPolicy | None = None) -> None:
        self._on_ready = on_ready
        self._policy = policy or RestartPolicy()
        self._groups: list[list[_Kept]] = []
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self, specs: Sequence[ChildSpec]) -> None:
        """Start a group of children side by side and return when all of them are ready.

        Groups are stopped in the reverse of the order in which they were started. Raises StackError when a child of the
        group is given up.
        """
        loop = asyncio.get_running_loop()
        group = [_Kept(spec, loop.create_future()) for spec in specs]
        self._groups.append(group)
        for kept in group:
            kept.keeper = asyncio.create_task(self._keep(kept), name=f"keep {kept.spec.name}")
            kept.keeper.add_done_callback(functools.partial(self._keeper_ended, kept))
        await asyncio.gather(*(kept.first_ready for kept in group))

    async def until_failure(self) -> None:
        """Return never; raise when a child was given up."""
        await asyncio.shield(self.failure)

    def processes(self) -> list[ProcessInfo]:
        """The children that run now, in the order in which they were started."""
        kept_ones = [kept for group in self._groups for kept in group]
        return [kept.info(kept.child) for kept in kept_ones if kept.child is not None]

    async def stop(self) -> None:
        """End every child, the last group first, each group side by side. Returns when nothing runs any more."""
        for group in reversed(self._groups):
            await asyncio.gather(*(self._stop(kept) for kept in group))

    def kill(self) -> None:
        """End every child at once, without their order: for whoever has no patience left."""
        for group in self._groups:
            for kept in group:
                kept.stopping.set()
                if kept.child is not None:
                    kept.child.force()

    async def _keep(self, kept: _Kept) -> None:
        """One child's life: start, work, end, and again."""
        while not kept.stopping.is_set():
            await self._until_needs_are_met(kept)
            started_with = self._starts_of_needs(kept)
            problem = await self._live(kept)
            if kept.stopping.is_set():
                return
            there = started_with == self._starts_of_needs(kept) and await asyncio.to_thread(kept.spec.outside_answers)
            self._count_failure(kept, excused=not there)
            if kept.failures >= self._policy.failures_max:
                self._give_up(kept, problem)
                return
            pause_s = self._policy.pause_s(kept.failures)
            log.warning("%s; starting it again in %.1f s", problem, pause_s)
            await asyncio.sleep(pause_s)

    async def _live(self, kept: _Kept) -> str:
        """Start the child, see it become ready, wait for its end; say how it ended."""
        spec = kept.spec
        kept.ready_at_s = None
        kept.starts += 1
        try:
            await asyncio.to_thread(spec.prepare)
            # In this thread and not in a worker: the kernel ends a child with the thread that started it.
            kept.child = Child(spec)
            await _until_ready(kept.child)
        except (StackError, OSError) as error:
            return str(error)
        else:
            self._announce(kept, kept.child)
            return f"{spec.name} {await self._until_over(kept, kept.child)}"
        finally:
            kept.ready.clear()
            if not kept.stopping.is_set():
                self._bury(kept)

    async def _until_over(self, kept: _Kept, child: Child) -> str:
        """How it ended; or that it is stuck, and then its end is ordered."""
        ended: asyncio.Task[Any] = asyncio.create_task(_until_ended(child))
        stuck: asyncio.Task[Any] = asyncio.create_task(self._until_stuck(kept))
        try:
            await asyncio.wait({ended, stuck}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done() and not kept.stopping.is_set():
                child.force()
                return f"is stuck and was ended: {stuck.result()}"
            return f"ended ({describe_exit(await ended)})"
        finally:
            for task in (ended, stuck):
                task.cancel()

    async def _until_stuck(self, kept: _Kept) -> str:
        if kept.spec.monitor_socket is None:
            nobody_can_tell: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            return await nobody_can_tell
        host, port = kept.spec.monitor_socket.getsockname()[:2]
        return await until_stuck((host, port), self._policy.ask_every_s, self._policy.silence_max_s)

    def _announce(self, kept: _Kept, child: Child) -> None:
        kept.ready_at_s = time.monotonic()
        kept.ready.set()
        if not kept.first_ready.done():
            kept.first_ready.set_result(None)
        self._on_ready(kept.info(child))

    @staticmethod
    def _bury(kept: _Kept) -> None:
        if kept.child is not None:
            kept.child.kill()
            kept.child = None

    def _count_failure(self, kept: _Kept, *, excused: bool) -> None:
        """A child that worked for a while starts from one; one whose servers went away under it is not to blame."""
        worked_s = 0.0 if kept.ready_at_s is None else time.monotonic() - kept.ready_at_s
        if worked_s >= self._policy.healthy_after_s:
            kept.failures = 0
        if not excused:
            kept.failures += 1

    def _give_up(self, kept: _Kept, problem: str) -> None:
        error: StackError
        if kept.first_ready.done():
            error = ChildKeepsFailingError(f"{kept.spec.name} failed {kept.failures} times in a row; lastly: {problem}")
        else:
            error = StartFailedError(f"{kept.spec.name} does not start; after {kept.failures} attempts: {problem}")
            kept.first_ready.set_exception(error)
            kept.first_ready.exception()  # counts as seen: when nobody waits any more, nobody must complain
        if not self.failure.done():
            self.failure.set_exception(error)
            self.failure.exception()

    def _keeper_ended(self, kept: _Kept, keeper: asyncio.Task[None]) -> None:
        """A keeper that broke keeps nothing: better no stack than one that nobody watches."""
        error = None if keeper.cancelled() else keeper.exception()
        for future in (kept.first_ready, self.failure):
            if error is not None and not future.done():
                future.set_exception(error)
                future.exception()

    def _needs(self, kept: _Kept) -> list[_Kept]:
        return [other for group in self._groups for other in group if other.spec.name in kept.spec.needs]

    def _starts_of_needs(self, kept: _Kept) -> list[tuple[int, bool]]:
        return [(other.starts, other.ready.is_set()) for other in self._needs(kept)]

    async def _until_needs_are_met(self, kept: _Kept) -> None:
        for other in self._needs(kept):
            await other.ready.wait()

    async def _stop(self, kept: _Kept) -> None:
        kept.stopping.set()
        child = kept.child
        if child is not None and kept.keeper is not None:
            child.send_stop()
            await asyncio.wait({kept.keeper}, timeout=kept.spec.stop_timeout_s)  # it sees the end and finishes
            if child.exit_code() is None:
                log.warning("%s did not stop within %.0f s and is killed", kept.spec.name, kept.spec.stop_timeout_s)
        if kept.keeper is not None:
            kept.keeper.cancel()
            await asyncio.wait({kept.keeper})  # whatever ended it has been reported
        # Looked up again: the keeper may have been between two children when the order came.
        self._bury(kept)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _until_ready(child: Child) -> None:
    """Raises StartFailedError."""
    spec = child.spec
    while not (await asyncio.to_thread(child.is_ready) if spec.check_ready is not None else child.is_ready()):
        child.check_start()
        await asyncio.sleep(POLL_S)
    await asyncio.to_thread(spec.after_ready)


async def _until_ended(child: Child) -> int:
    """Its exit code, negative for a signal."""
    while (code := child.exit_code()) is None:
        await _exit_notice(child.pid)
    return code


def _exit_notice(pid: int) -> Coroutine[Any, Any, None]:
    """Something to wait for before the exit code is worth another look."""
    return _pidfd_readable(pid) if hasattr(os, "pidfd_open") else asyncio.sleep(POLL_S)


async def _pidfd_readable(pid: int) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    descriptor = os.pidfd_open(pid)
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
