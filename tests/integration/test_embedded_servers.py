"""PostgreSQL and Valkey out of their wheels: kept, closed, found again, and gone when they should be."""

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from infra.embedded.child import Child
from infra.embedded.errors import DataFolderError, DataFolderInUseError, StartFailedError
from infra.embedded.folder import DataFolder
from infra.embedded.leftover import processes_in
from infra.embedded.ports import free_server_port
from infra.embedded.postgres import PostgresServer
from infra.embedded.servers import ServerUrls, embedded_servers
from infra.embedded.valkey import ValkeyServer
from tests.support import eventually, is_running


@pytest.fixture(scope="module")
def made_folder(module_data_dir: Path) -> Path:
    """A folder with a note in it, used by one test after the other."""
    with embedded_servers(module_data_dir) as urls:
        write(urls, "kept")
    return module_data_dir


def write(urls: ServerUrls, text: str) -> None:
    with psycopg.connect(urls.event_store_url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS notes (note text)")
        connection.execute("INSERT INTO notes VALUES (%s)", [text])


def read(urls: ServerUrls) -> list[str]:
    with psycopg.connect(urls.event_store_url) as connection:
        return [row[0] for row in connection.execute("SELECT note FROM notes ORDER BY note")]


def test_data_survive_an_orderly_restart(made_folder: Path) -> None:
    with embedded_servers(made_folder) as urls, redis.Redis.from_url(urls.redis_url) as cache:
        assert "kept" in read(urls)
        cache.set("warm", "yes")
    with embedded_servers(made_folder) as urls, redis.Redis.from_url(urls.redis_url) as cache:
        assert "kept" in read(urls)
        assert cache.get("warm") == b"yes"


def test_nothing_runs_after_the_block(made_folder: Path) -> None:
    with embedded_servers(made_folder) as urls:
        assert processes_in(made_folder / "postgres", "postgres")
        assert processes_in(made_folder / "valkey", "valkey-server")
    assert processes_in(made_folder / "postgres", "postgres") == []
    assert processes_in(made_folder / "valkey", "valkey-server") == []
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(urls.event_store_url)


def test_the_truth_is_written_durably_and_only_this_machine_is_listened_to(made_folder: Path) -> None:
    with embedded_servers(made_folder) as urls, psycopg.connect(urls.event_store_url) as connection:
        settings = [
            connection.execute("SELECT current_setting(%s)", [name]).fetchone()
            for name in ("fsync", "synchronous_commit", "full_page_writes", "listen_addresses", "TimeZone")
        ]
        assert settings == [("on",), ("on",), ("on",), ("127.0.0.1",), ("UTC",)]
        listening = {
            connection.laddr.ip
            for folder, name in (("postgres", "postgres"), ("valkey", "valkey-server"))
            for process in processes_in(made_folder / folder, name)
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}


def test_neither_server_lets_anybody_in_without_the_password(made_folder: Path) -> None:
    with embedded_servers(made_folder) as urls:
        postgres, valkey = urlsplit(urls.event_store_url), urlsplit(urls.redis_url)
        for user in ("stockhold", "postgres"):
            with pytest.raises(psycopg.OperationalError, match=r"password"):
                psycopg.connect(f"postgresql://{user}:guess@127.0.0.1:{postgres.port}/stockhold")
        with (
            redis.Redis(port=valkey.port or 0, retry=Retry(NoBackoff(), 0)) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()


def test_our_role_is_no_superuser_and_may_make_scratch_databases(made_folder: Path) -> None:
    with embedded_servers(made_folder) as urls, psycopg.connect(urls.event_store_url) as connection:
        role = connection.execute("SELECT rolsuper, rolcreatedb FROM pg_roles WHERE rolname = current_user").fetchone()
        assert role == (False, True)


def test_passwords_are_kept_from_everybody_else(made_folder: Path) -> None:
    for secret in (made_folder / "secrets.json", made_folder / "valkey" / "valkey.conf"):
        if secret.name == "valkey.conf":
            with embedded_servers(made_folder):
                assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    password = DataFolder(made_folder).secrets().valkey
    with embedded_servers(made_folder):
        lines = [" ".join(process.cmdline()) for process in psutil.process_iter() if is_running(process.pid)]
        assert not [line for line in lines if password in line]


def test_a_folder_serves_one_stack_at_a_time(made_folder: Path) -> None:
    with embedded_servers(made_folder) as urls:
        with (
            pytest.raises(DataFolderInUseError, match=rf"in use by process {os.getpid()}"),
            embedded_servers(made_folder),
        ):
            pass
        assert "kept" in read(urls)


def test_the_lock_ends_with_the_process_that_held_it(made_folder: Path) -> None:
    source = f"""
import os, signal
from pathlib import Path
from infra.embedded.folder import DataFolder
with DataFolder(Path({str(made_folder)!r})).locked():
    print("locked", flush=True)
    signal.pause()
"""
    holder = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"locked\n"
    folder = DataFolder(made_folder)
    assert folder.is_locked()
    assert folder.holder_pid() == holder.pid
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert not folder.is_locked()
    with folder.locked():
        pass


def test_a_cluster_of_another_kind_in_the_way_is_left_alone(data_dir: Path) -> None:
    (data_dir / "postgres").mkdir()
    (data_dir / "postgres" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataFolderError, match="is not empty"), embedded_servers(data_dir):
        pass
    assert (data_dir / "postgres" / "thesis.txt").read_text() == "years of work"


def test_a_folder_of_other_things_is_left_alone(data_dir: Path) -> None:
    (data_dir / "thesis.txt").write_text("years of work")
    with pytest.raises(DataFolderError, match=r"holds other things \(thesis.txt\)"), embedded_servers(data_dir):
        pass
    assert [entry.name for entry in data_dir.iterdir()] == ["thesis.txt"]


def test_a_disk_of_its_own_counts_as_empty(data_dir: Path) -> None:
    (data_dir / "lost+found").mkdir()
    with DataFolder(data_dir).locked():
        pass


def test_an_interrupted_initdb_is_made_anew(data_dir: Path) -> None:
    half = data_dir / "postgres.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    with embedded_servers(data_dir, durable=False) as urls:
        write(urls, "whole")
        assert read(urls) == ["whole"]
    assert not half.exists()


def test_a_server_that_cannot_start_says_why(made_folder: Path) -> None:
    version = made_folder / "postgres" / "PG_VERSION"
    ours = version.read_text()
    version.write_text("11\n")
    try:
        with (
            pytest.raises(StartFailedError, match=r"(?s)postgres ended while it was starting.*version 11"),
            embedded_servers(made_folder),
        ):
            pass
    finally:
        version.write_text(ours)
    assert processes_in(made_folder / "postgres", "postgres") == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataFolderError, match="cannot be used"), embedded_servers(tmp_path / "file" / "data"):
        pass


@contextmanager
def postgres_in(folder: DataFolder) -> Iterator[tuple[PostgresServer, Child]]:
    server = PostgresServer(folder, free_server_port())
    spec = server.spec()
    spec.prepare()
    child = Child(spec)
    child.wait_ready()
    yield server, child
    child.kill()


def test_postgres_starts_again_after_kill_9_with_a_busy_backend_still_there(made_folder: Path) -> None:
    """The backend computes and does not look whether its postmaster lives; a new one must not start beside it."""
    folder = DataFolder(made_folder)
    with folder.locked():
        with postgres_in(folder) as (server, child):
            urls = ServerUrls(server.url, server.url, "")
            write(urls, "answered")
            busy = threading.Thread(target=_compute_until_cut_off, args=[server.url])
            busy.start()
            eventually(lambda: _active_backends(server.url) == 1)
            os.kill(child.pid, signal.SIGKILL)
            eventually(lambda: child.exit_code() is not None)
            assert processes_in(server.pgdata, "postgres"), "the test needs a backend that is left over"
        with postgres_in(folder) as (server, _):
            assert {"answered", "kept"} <= set(read(ServerUrls(server.url, server.url, "")))
        busy.join()


def _compute_until_cut_off(url: str) -> None:
    with pytest.raises(psycopg.OperationalError), psycopg.connect(url) as connection:
        connection.execute("SELECT /* busy */ sum(a::numeric * a) FROM generate_series(1, 1000000000) a")


def _active_backends(url: str) -> int:
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT /* busy */%'"
        ).fetchone()
    return 0 if found is None else int(found[0])


def test_a_cache_that_was_killed_comes_back_empty_and_not_old(made_folder: Path) -> None:
    folder = DataFolder(made_folder)
    with folder.locked():
        server = ValkeyServer(folder, free_server_port())
        spec = server.spec()
        for expected, end in ((None, "stop"), (b"1", "kill"), (None, "stop")):
            spec.prepare()
            child = Child(spec)
            child.wait_ready()
            with redis.Redis.from_url(server.url) as cache:
                assert cache.get("row") == expected
                cache.set("row", 1)
            getattr(child, end)()


def test_servers_end_with_their_parent_where_the_kernel_does_not_see_to_it(made_folder: Path) -> None:
    """As on any system but Linux: a keeper watches a pipe."""
    source = f"""
import dataclasses, signal
from pathlib import Path
from infra.embedded.child import Child
from infra.embedded.folder import DataFolder
from infra.embedded.postgres import PostgresServer
from infra.embedded.ports import free_server_port
from infra.embedded.valkey import ValkeyServer
folder = DataFolder(Path({str(made_folder)!r}))
with folder.locked():
    children = []
    for server in (PostgresServer(folder, free_server_port()), ValkeyServer(folder, free_server_port())):
        spec = dataclasses.replace(server.spec(), watched_by_kernel=False)
        spec.prepare()
        children.append(Child(spec))
        children[-1].wait_ready()
    print("ready", flush=True)
    signal.pause()
"""
    parent = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"ready\n"
    servers = processes_in(made_folder / "postgres", "postgres") + processes_in(made_folder / "valkey", "valkey-server")
    assert {process.name() for process in servers} == {"postgres", "valkey-server"}
    parent.kill()
    parent.wait()
    parent.stdout.close()
    eventually(lambda: not [process for process in servers if is_running(process.pid)])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_folder_of_somebody_else_is_refused(made_folder: Path) -> None:
    source = f"""
from pathlib import Path
import os
from infra.embedded.errors import DataFolderError
from infra.embedded.folder import DataFolder
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    with DataFolder(Path({str(made_folder)!r})).locked():
        print("taken")
except DataFolderError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout
    assert "is not ours to use" in said or "cannot be used" in said


def test_ports_for_servers_are_free_and_out_of_the_way_of_outgoing_connections() -> None:
    port = free_server_port()
    with socket.create_server(("127.0.0.1", port)):
        assert 20_000 <= port < 32_000
