"""How the demo starts and stops its stack, with a small program in the stack's place."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from demo.client import Urls
from demo.errors import NOT_REACHABLE, DemoError
from demo.kafka_door import Brokers
from demo.stack import own_stack, running_stack
from tests.support import eventually

UP = """
import json, os, signal, sys, time
print("the log of the stack", file=sys.stderr, flush=True)
if sys.argv[1] == "verify":
    print(json.dumps({"seen": os.environ["STOCKHOLD_EVENT_STORE_URL"]}))
    sys.exit(int(os.environ.get("VERIFY_EXIT", "0")))
if os.environ.get("BROKEN"):
    sys.exit(3)
data = sys.argv[sys.argv.index("--data") + 1]
os.makedirs(data)
urls = {"command_url": "http://c", "read_url": "http://r", "redis_url": "redis://", "read_model_url": "pg://views"}
if "--kafka" in sys.argv:
    urls["kafka"] = os.environ.get("STOCKHOLD_KAFKA_SERVERS", "own:9092")
print(json.dumps(urls | {"event_store_url": "pg://log", "pid": os.getpid()}), flush=True)
open(os.environ["PID_FILE"], "w").write(str(os.getpid()))
signal.pause()
"""


@pytest.fixture
def stockhold(tmp_path, monkeypatch):
    script = tmp_path / "stockhold.py"
    script.write_text(UP)
    monkeypatch.setenv("PID_FILE", str(tmp_path / "pid"))
    # Servers of the caller's own, which the demo must not play on.
    monkeypatch.setenv("STOCKHOLD_EVENT_STORE_URL", "pg://precious")
    return (sys.executable, str(script))


def pid_in(file: Path) -> int:
    return int(eventually(lambda: file.exists() and file.read_text()))


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_stack_is_started_found_and_stopped(stockhold, tmp_path):
    with own_stack(stockhold) as starting:
        stack = starting.wait_ready()
        assert stack.urls == Urls("http://c", "http://r")
        pid = pid_in(tmp_path / "pid")
        assert is_running(pid)
    assert not is_running(pid)


def test_a_stack_with_kafka_has_brokers_of_its_own(stockhold, monkeypatch):
    monkeypatch.setenv("STOCKHOLD_KAFKA_SERVERS", "precious:9092")
    with own_stack(stockhold, kafka=True) as starting:
        assert starting.wait_ready().brokers == Brokers("own:9092")


def test_a_stack_without_has_none(stockhold):
    with own_stack(stockhold) as starting:
        assert starting.wait_ready().brokers is None


def test_the_environment_names_the_brokers_of_a_running_stack(monkeypatch):
    urls = Urls("http://c", "http://r")
    monkeypatch.delenv("STOCKHOLD_KAFKA_SERVERS", raising=False)
    with pytest.raises(DemoError, match="STOCKHOLD_KAFKA_SERVERS is not set") as error:
        running_stack(urls, kafka=True)
    assert error.value.exit_code == NOT_REACHABLE
    monkeypatch.setenv("STOCKHOLD_KAFKA_SERVERS", "theirs:9092")
    monkeypatch.setenv("STOCKHOLD_KAFKA_PREFIX", "shop.")
    assert running_stack(urls, kafka=True).brokers == Brokers("theirs:9092", "shop.")
    assert running_stack(urls).brokers is None


def test_verify_is_told_where_the_servers_are(stockhold):
    with own_stack(stockhold) as starting:
        assert starting.wait_ready().verify() == {"seen": "pg://log"}


def test_a_verify_that_finds_something_still_reports(stockhold, monkeypatch):
    monkeypatch.setenv("VERIFY_EXIT", "1")
    with own_stack(stockhold) as starting:
        assert starting.wait_ready().verify() == {"seen": "pg://log"}


def test_a_verify_that_cannot_work_ends_the_demo(stockhold, monkeypatch):
    monkeypatch.setenv("VERIFY_EXIT", "3")
    with own_stack(stockhold) as starting, pytest.raises(DemoError, match="the log of the stack"):
        starting.wait_ready().verify()


def test_a_stack_that_does_not_start_says_why(stockhold, monkeypatch):
    monkeypatch.setenv("BROKEN", "1")
    with own_stack(stockhold) as starting, pytest.raises(DemoError, match="the log of the stack") as error:
        starting.wait_ready()
    assert error.value.exit_code == NOT_REACHABLE


@pytest.mark.parametrize("order", [signal.SIGINT, signal.SIGTERM])
def test_the_stack_does_not_outlive_an_interrupted_demo(stockhold, tmp_path, order):
    demo = f"""
import json, signal, sys, time
from demo.stack import own_stack
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background is told to ignore it
with own_stack({stockhold!r}) as starting:
    starting.wait_ready()
    print("up", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", demo], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    pid = pid_in(tmp_path / "pid")
    process.send_signal(order)
    process.communicate(timeout=20)
    assert process.returncode != 0
    assert not is_running(pid)
