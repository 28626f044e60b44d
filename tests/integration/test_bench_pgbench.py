"""The opponent does what we set ourselves against: durable, never short, one reservation per transaction."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from benchmarks.errors import PgbenchError
from benchmarks.opponents import pgbench
from benchmarks.opponents.pgbench import Pgbench
from infra.embedded.servers import ServerUrls, embedded_servers

_BOOKS = """
SELECT (SELECT count(*) FROM reservations), (SELECT count(*) FROM movements),
       (SELECT sum(reserved)::bigint FROM levels), (SELECT min(available) >= 0 FROM levels),
       (SELECT count(*) FROM levels WHERE reserved > 0)
"""


@pytest.fixture
def durable(data_dir: Path) -> Iterator[ServerUrls]:
    with embedded_servers(data_dir) as urls:
        yield urls


def test_each_script_does_what_it_says(durable: ServerUrls) -> None:
    with Pgbench(durable.event_store_url, products=100) as opponent:
        for script, lines in {"cold": 1, "hot": 1, "cart": 3}.items():
            opponent.refill()
            measured = opponent.round(script, clients=8, seconds=1)
            with psycopg.connect(opponent.url) as connection:
                row = connection.execute(_BOOKS).fetchone()
            assert row is not None
            reservations, movements, reserved, none_short, touched = row
            assert measured.transactions_per_second > 0
            assert measured.latency.count == reservations
            assert movements == reserved == lines * reservations
            assert none_short
            assert (touched == 1) == (script == "hot")


def test_a_round_may_be_longer_than_those_that_are_made_again(
    durable: ServerUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pgbench, "_SECONDS_MAX", 0.5)
    with Pgbench(durable.event_store_url, products=1) as opponent:
        opponent.refill()
        assert opponent.round("hot", clients=1, seconds=1).transactions_per_second > 0


def test_it_leaves_no_database_behind(durable: ServerUrls) -> None:
    with Pgbench(durable.event_store_url, products=1) as opponent:
        opponent.refill()
    with psycopg.connect(durable.event_store_url) as connection:
        names = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE '%opponent%'").fetchall()
    assert names == []


def test_a_server_that_may_forget_is_refused(servers: ServerUrls) -> None:
    with Pgbench(servers.event_store_url, products=1) as opponent, pytest.raises(PgbenchError, match="durable"):
        opponent.refill()
