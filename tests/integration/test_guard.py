"""Children end with the process that started them, however it ends, by either of the two ways."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from infra.embedded.child import KERNEL_WATCHES_PARENT, Child, ChildSpec
from tests.support import eventually, is_running

WAYS = [
    pytest.param(True, marks=pytest.mark.skipif(not KERNEL_WATCHES_PARENT, reason="the kernel's way is Linux's own")),
    False,
]
READY_THEN_WAIT = "import os, signal; os.write(int(os.environ['STOCKHOLD_READY_FD']), b'ready'); signal.pause()"

# A parent that starts one child, writes down the child's own idea of its process id, and waits to be killed.
PARENT = """
import signal, sys
from infra.embedded.child import Child, ChildSpec
source = '''
import os, signal, sys
open(sys.argv[1] + ".new", "w").write(str(os.getpid()))
os.rename(sys.argv[1] + ".new", sys.argv[1])
os.write(int(os.environ["STOCKHOLD_READY_FD"]), b"ready")
while True: signal.pause()
'''
child = Child(ChildSpec("child", [sys.executable, "-c", source, sys.argv[1]], watched_by_kernel=sys.argv[2] == "True"))
child.wait_ready()
signal.pause()
"""


@pytest.mark.parametrize("by_kernel", WAYS)
def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path, by_kernel: bool) -> None:
    note = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(note), str(by_kernel)])
    eventually(note.exists)
    pid = int(note.read_text())
    assert is_running(pid)
    parent.kill()
    parent.wait()
    eventually(lambda: not is_running(pid), what="the child is gone")


@pytest.mark.parametrize("by_kernel", WAYS)
def test_signals_and_exit_codes_pass_through(by_kernel: bool) -> None:
    source = """
    import os, signal, sys
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
    os.write(int(os.environ["STOCKHOLD_READY_FD"]), b"ready")
    while True: signal.pause()
    """
    spec = ChildSpec("child", [sys.executable, "-c", textwrap.dedent(source)], watched_by_kernel=by_kernel)
    child = Child(spec)
    child.wait_ready()
    child.send_stop()
    eventually(lambda: child.exit_code() == 9)
    child.kill()


@pytest.mark.parametrize("by_kernel", WAYS)
def test_kill_leaves_neither_the_child_nor_its_keeper(tmp_path: Path, by_kernel: bool) -> None:
    source = f"open({str(tmp_path / 'pid')!r}, 'w').write(str(__import__('os').getpid()));{READY_THEN_WAIT}"
    child = Child(ChildSpec("child", [sys.executable, "-c", source], watched_by_kernel=by_kernel))
    child.wait_ready()
    pids = {child.pid, int((tmp_path / "pid").read_text())}
    child.kill()
    eventually(lambda: not any(is_running(pid) for pid in pids))


@pytest.mark.skipif(not KERNEL_WATCHES_PARENT, reason="asks the kernel, which is Linux's own way")
def test_a_parent_that_died_before_the_request_is_noticed() -> None:
    """Its process id is not our parent's any more by the time the guard looks."""
    guard = Path(__file__).parents[2] / "infra" / "embedded" / "guard.py"
    command = [sys.executable, "-I", "-S", str(guard), "--parent", "1", "--death-signal", str(int(signal.SIGKILL))]
    done = subprocess.run([*command, "--", sys.executable, "-c", "print('ran')"], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (75, b"")


def test_a_child_does_not_hear_ctrl_c_in_the_terminal() -> None:
    child = Child(ChildSpec("child", [sys.executable, "-c", READY_THEN_WAIT]))
    child.wait_ready()
    assert os.getsid(child.pid) == child.pid
    child.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_the_guard_drops_root_and_every_group(tmp_path: Path) -> None:
    guard = Path(__file__).parents[2] / "infra" / "embedded" / "guard.py"
    command = [sys.executable, "-I", "-S", str(guard), "--parent", str(os.getpid()), "--death-signal", "9"]
    done = subprocess.run(
        [*command, "--user", "65534:65534", "--", "/usr/bin/id"], capture_output=True, text=True, check=True
    )
    assert "uid=65534" in done.stdout
    assert "(root)" not in done.stdout
