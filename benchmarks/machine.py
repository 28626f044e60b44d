"""The machine's facts, the load generator's own cost among them."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import psycopg

from benchmarks.items import Items
from benchmarks.load import CLIENT_NAME
from benchmarks.load.plan import Plan, Stream
from benchmarks.load.process import run_load
from benchmarks.load.requests import Reserve
from benchmarks.options import Options
from benchmarks.report import Machine

_COST_USERS, _COST_SECONDS = 32, 2.0


def machine_facts(options: Options) -> Machine:
    """Everything but the Postgres version, which is known when the first stack runs."""
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        cpu=_cpu_model(),
        python=platform.python_version(),
        postgres="",
        load_generator=CLIENT_NAME,
        client_us_per_request=client_cost_us(),
        load_average_before=os.getloadavg()[0],
        seconds=options.seconds,
        rounds=options.rounds,
        items=options.items,
    )


def client_cost_us() -> float:
    """Processor time of the client per reservation (microseconds), against a server that only ever says `{}`."""
    server = subprocess.Popen(
        [sys.executable, "-P", "-m", "benchmarks.opponents.constant_server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        stream = Stream("all", "127.0.0.1", port, Reserve(Items("COLD", 0, 10_000)))
        return run_load(Plan("cost", _COST_USERS, _COST_SECONDS, (stream,))).client_us_per_request


def postgres_version(url: str) -> str:
    with psycopg.connect(url) as connection:
        row = connection.execute("SHOW server_version").fetchone()
        return str(row[0]).split(" ")[0] if row else ""


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor())
