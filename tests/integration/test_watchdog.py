"""A process without a supervisor that hangs or stands still: it ends by itself, so that whoever runs it starts it again."""

import asyncio
import os
import subprocess
import sys
import textwrap

import pytest

from infra.embedded.ports import free_server_port
from infra.health import Health
from infra.watchdog import EXIT_STUCK, watch
from tests.support import eventually_async

PROGRAM = """
import asyncio, sys, time
from infra.monitor import monitored, works
from infra.process import until_stopped
from infra.settings import ProcessSettings

async def main():
    settings = ProcessSettings()
    async with monitored(settings) as health:
        works(settings, health)()
        print("works", flush=True)
{body}

asyncio.run(main())
"""


def program(body: str, stall_s: float = 0.4) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=textwrap.indent(textwrap.dedent(body), " " * 8))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "STOCKHOLD_MONITOR_PORT": str(free_server_port()), "STOCKHOLD_STALL_S": str(stall_s)},
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("time.sleep(600)", "the event loop has not turned for 0.4 s"),
        ("health.at('events', 5, 9)\nawait until_stopped()", "events stands at 5 of 9"),
        ("health.beat('sweep')\nawait until_stopped()", "sweep has not come round"),
    ],
)
def test_one_that_is_stuck_ends_and_says_why(body: str, said: str) -> None:
    process = program(body)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == EXIT_STUCK
    assert "this process is stuck and ends" in errors
    assert said in errors


def test_one_that_waits_for_what_is_away_or_has_nothing_to_do_lives_on() -> None:
    body = """
        health.at('events', 5, 5)
        health.rest('sweep')
        health.at('more', 1, 2)
        began = time.monotonic()
        while time.monotonic() - began < 6 * settings.stall_s:
            health.say('kafka', 'the brokers are away')
            await asyncio.sleep(settings.stall_s / 10)
        health.at('more', 2, 2)
        health.say('kafka', None)
    """
    process = program(body)
    said, errors = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "works\n"), errors


async def test_what_is_late_once_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[tuple[str, int]] = []
    stuck = iter(["late", None, "late", None, "late", "late"])

    class Moody(Health):
        looks = 0

        @property
        def stuck(self) -> str | None:
            self.looks += 1
            return next(stuck, None)

    health = Moody()
    monkeypatch.setattr("infra.watchdog._end", lambda why: ended.append((why, health.looks)))
    unwatch = watch(health, 0.04)
    await eventually_async(lambda: ended)
    assert ended == [("late", 6)]
    unwatch()
    before = health.looks
    turned = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, turned.set)  # ten looks' time, had it gone on
    await turned.wait()
    assert health.looks <= before + 1  # one may have been under way
