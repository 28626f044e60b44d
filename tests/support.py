"""Helpers that tests of every tier share."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
POLL_S = 0.01


def eventually(condition: Callable[[], T], timeout_s: float = 10.0, *, what: str = "") -> T:
    """Poll until `condition()` is truthy and return what it gave; AssertionError when the time is up.

    A condition that raises AssertionError counts as not yet true, and the last such error ends the message.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        value, problem = _try(condition)
        if value:
            return value
        if time.monotonic() > deadline_s:
            raise AssertionError(_message(what or _name(condition), timeout_s, value, problem))
        time.sleep(POLL_S)


async def eventually_async(condition: Callable[[], T | Awaitable[T]], timeout_s: float = 10.0, *, what: str = "") -> T:
    """The same on the event loop; the condition may be a plain function or a coroutine function."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        value: T | None = None
        problem: AssertionError | None = None
        try:
            found = condition()
            value = await found if inspect.isawaitable(found) else found
        except AssertionError as error:
            problem = error
        if value:
            return value
        if time.monotonic() > deadline_s:
            raise AssertionError(_message(what or _name(condition), timeout_s, value, problem))
        await asyncio.sleep(POLL_S)


def _try(condition: Callable[[], T]) -> tuple[T | None, AssertionError | None]:
    try:
        return condition(), None
    except AssertionError as error:
        return None, error


def _name(condition: Callable[..., object]) -> str:
    return getattr(condition, "__qualname__", repr(condition))


def _message(what: str, timeout_s: float, value: object, problem: AssertionError | None) -> str:
    return f"not within {timeout_s:g} s: {what} (last: {problem if problem is not None else value!r})"
