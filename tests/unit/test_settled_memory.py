"""What the garbage collector leaves alone, in a process of its own: its thresholds are the whole process's."""

import subprocess
import sys

PROGRAM = """
import gc
from infra.bootstrap import settle_memory

settle_memory(caches=True)
frozen, older = gc.get_freeze_count(), [each["collections"] for each in gc.get_stats()][1:]
kept = [[number] for number in range(100_000)]
assert gc.get_freeze_count() - frozen > 80_000, "what was still there when it looked is never looked at again"
assert [each["collections"] for each in gc.get_stats()][1:] == older, "so there is nothing old to walk"

class Node:
    pass

collected = gc.get_stats()[0]["collected"]
for _ in range(100_000):
    node = Node()
    node.itself = node
assert gc.get_stats()[0]["collected"] - collected > 80_000, "a cycle that was dropped before it looked is gone"
"""


def test_caches_are_walked_once_and_garbage_is_collected():
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
