"""Whether a child still lives: asked over its monitor, as an operator would ask."""

import asyncio
import json
import time
from typing import Final

ASK_TIMEOUT_S: Final = 5.0
OK: Final = 200
_REQUEST: Final = b"GET /healthz HTTP/1.1\r\nhost: %b\r\nconnection: close\r\n\r\n"

Address = tuple[str, int]


async def until_stuck(address: Address, every_s: float, silence_max_s: float) -> str:
    """Ask the child that listens at ``address`` again and again; return, and say why, when it should be ended.

    It should once it says itself that it is stuck, or when it has not answered for ``silence_max_s``.
    """
    silent_since_s: float | None = None
    while True:
        await asyncio.sleep(every_s)
        try:
            async with asyncio.timeout(min(ASK_TIMEOUT_S, silence_max_s)):
                status, body = await _ask(address)
        except (OSError, ValueError):
            # From the first failure on that we saw, not from the last answer: we may have been asleep ourselves.
            silent_since_s = silent_since_s or time.monotonic()
            silent_s = time.monotonic() - silent_since_s
            if silent_s >= silence_max_s:
                return f"it has not answered for {silent_s:.0f} s"
        else:
            if status != OK:
                return _detail(body)
            silent_since_s = None


def _detail(body: bytes) -> str:
    """What the child says is the matter with it."""
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return "it says that it is not alive"


async def _ask(address: Address) -> tuple[int, bytes]:
    """(status, body). Raises OSError or ValueError if that is no answer."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(_REQUEST % address[0].encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]), body
    except IndexError as error:
        raise ValueError("no answer") from error
    finally:
        writer.close()
