"""Real servers for the tests that ask for them; the unit tier asks for none.

    servers             one PostgreSQL and one Valkey for the session, in a temporary folder, stopped at its end
    database_url        a fresh database for this test, with every migration applied
    module_database_url the same for a module of tests that share it
    empty_database_url  a fresh database without anything in it
    redis_url           an emptied Valkey database for this test
    data_dir            an empty folder for a stack of the test's own
    module_data_dir     a folder for the stacks of a module of tests, one after the other: only the first makes a cluster
    kafka, kafka_prefix a broker for the session, and a prefix for this test's topics (tests/support_kafka.py)

The session's servers forget what they know when the machine crashes (fsync is off). A test that kills servers and then
looks at what is left starts its own: `with embedded_servers(data_dir) as urls:`.
"""

import itertools
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis
from hypothesis import HealthCheck, settings
from psycopg import sql

from infra.embedded.servers import ServerUrls, embedded_servers
from infra.migrations.runner import EVENT_STORE, PUBLIC, READ_MODEL, migrate
from tests.support_kafka import REQUIRED, kafka, kafka_prefix, why_no_kafka

__all__ = ["kafka", "kafka_prefix"]  # fixtures are found here

# A machine that stalls for a second while examples are made is no defect of theirs, and the same commit must give the
# same verdict twice: chance is for the developer's own runs (HYPOTHESIS_PROFILE=default).
settings.register_profile(
    "stockhold", max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "stockhold"))

_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of Kafka are left out where it cannot run, unless it must; whole systems come one by one."""
    items[:] = _spread(items)
    for item in items:
        if "kafka" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.kafka)
    theirs = [item for item in items if item.get_closest_marker("kafka")]
    if theirs and not REQUIRED and (why := why_no_kafka()):
        for item in theirs:
            item.add_marker(pytest.mark.skip(reason=f"without Kafka: {why}"))


def _spread(items: list[pytest.Item]) -> list[pytest.Item]:
    """The files of whole systems, which keep a machine busy, among the others, which wait; and none at the very end."""
    files = [list(of_file) for _, of_file in itertools.groupby(items, key=lambda item: item.path)]
    whole = [of_file for of_file in files if of_file[0].path.parent.name == "end_to_end"]
    parts = [of_file for of_file in files if of_file[0].path.parent.name != "end_to_end"]
    step = 1 + len(parts) * 2 // (3 * len(whole) or 1)
    for n, of_file in enumerate(whole):
        parts.insert(n * step, of_file)
    return list(itertools.chain.from_iterable(parts))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Half characters that a test has sent, and that were logged, cannot be sent on from one test process to another."""
    report = yield
    report.sections = [(title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections]
    return report


@pytest.fixture(scope="session")
def servers() -> Iterator[ServerUrls]:
    with _temporary_folder() as folder, embedded_servers(folder, durable=False) as urls:
        yield urls


@pytest.fixture(scope="session")
def template_database(servers: ServerUrls) -> str:
    """Name of a database with every migration applied: copying it takes milliseconds, migrating does not."""
    name = "template_migrated"
    _administer(servers, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    url = _database(servers, name)
    migrate(url, EVENT_STORE)
    migrate(url, READ_MODEL)
    migrate(url, PUBLIC)
    return name


@pytest.fixture
def database_url(servers: ServerUrls, template_database: str) -> Iterator[str]:
    with _fresh_database(servers, template_database) as url:
        yield url


@pytest.fixture(scope="module")
def module_database_url(servers: ServerUrls, template_database: str) -> Iterator[str]:
    with _fresh_database(servers, template_database) as url:
        yield url


@pytest.fixture
def empty_database_url(servers: ServerUrls) -> Iterator[str]:
    with _fresh_database(servers, "template1") as url:
        yield url


@pytest.fixture
def redis_url(servers: ServerUrls) -> str:
    with redis.Redis.from_url(servers.redis_url) as client:
        client.flushdb()
    return servers.redis_url


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with _temporary_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def module_data_dir() -> Iterator[Path]:
    with _temporary_folder() as folder:
        yield folder


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Outside pytest's own temporary folder, which keeps the last three runs: clusters are large."""
    folder = Path(tempfile.mkdtemp(prefix="stockhold-test-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _fresh_database(servers: ServerUrls, template: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    _administer(
        servers, sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
    )
    try:
        yield _database(servers, name)
    finally:
        # FORCE: a test that failed may have left connections behind, and must not make the next one fail as well.
        _administer(servers, sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _database(servers: ServerUrls, name: str) -> str:
    return servers.event_store_url.rpartition("/")[0] + "/" + name


def _administer(servers: ServerUrls, statement: sql.Composed) -> None:
    with psycopg.connect(servers.event_store_url, autocommit=True) as connection:
        connection.execute(statement)
