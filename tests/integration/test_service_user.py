"""As root: the servers' account gets exactly as far as it must."""

import os
import pwd
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from infra.embedded.servers import embedded_servers
from infra.embedded.service_user import ServiceUser, _blocking_folder, let_reach, service_user

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root must hand its servers to another account")

STRANGER = ServiceUser(54_321, 54_321, "stranger")
NEIGHBOUR = ServiceUser(54_322, 54_322, "neighbour")


@pytest.fixture
def closed_home() -> Iterator[Path]:
    """A folder below one that nobody but root may enter, as a home folder is."""
    with tempfile.TemporaryDirectory() as top:
        inner = Path(top) / "home" / "me" / "state"
        inner.mkdir(parents=True)
        (Path(top) / "home" / "me").chmod(0o700)
        yield inner


def test_the_account_gets_through_and_nobody_else_does(closed_home: Path) -> None:
    assert _blocking_folder(STRANGER, closed_home) is not None
    let_reach(STRANGER, closed_home)
    assert _blocking_folder(STRANGER, closed_home) is None
    assert _blocking_folder(NEIGHBOUR, closed_home) is not None


def test_it_may_pass_but_not_look(closed_home: Path) -> None:
    let_reach(STRANGER, closed_home)
    looked = subprocess.run(["ls", str(closed_home.parent)], user=STRANGER.uid, capture_output=True, check=False)
    assert looked.returncode != 0


def test_a_second_account_is_added_and_the_first_stays(closed_home: Path) -> None:
    for user in (STRANGER, NEIGHBOUR, STRANGER):
        let_reach(user, closed_home)
    assert [_blocking_folder(user, closed_home) for user in (STRANGER, NEIGHBOUR)] == [None, None]


def test_where_there_are_no_access_lists_everybody_may_pass(closed_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system without them, which says so by this error."""

    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", unsupported)
    let_reach(STRANGER, closed_home)
    assert _blocking_folder(NEIGHBOUR, closed_home) is None
    assert stat.S_IMODE(closed_home.parent.stat().st_mode) == 0o701


def test_a_folder_keeps_its_owner(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    owned = tmp_path / "postgres"
    owned.mkdir()
    os.chown(owned, nobody.pw_uid, nobody.pw_gid)
    assert service_user(owned) == ServiceUser(nobody.pw_uid, nobody.pw_gid, "nobody")
    fresh = service_user(tmp_path / "none")
    assert fresh is not None
    assert fresh.uid != 0


def test_a_stack_works_in_a_home_that_others_may_not_enter(closed_home: Path) -> None:
    with (
        embedded_servers(closed_home / "stockhold", durable=False) as urls,
        psycopg.connect(urls.event_store_url) as connection,
    ):
        assert connection.execute("SELECT 1").fetchone() == (1,)
    home = closed_home.parent
    assert stat.S_IMODE(home.stat().st_mode) & 0o007 == 0
