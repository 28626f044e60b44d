"""What is read out of pgbench."""

import pytest

from benchmarks.errors import PgbenchError
from benchmarks.opponents.pgbench import parse_latencies, parse_tps

_REPORT = """transaction type: cold.sql
number of transactions actually processed: 33415
number of failed transactions: {failed} (0.000%)
latency average = 4.771 ms
initial connection time = 31.337 ms
tps = 6707.116262 (without initial connection time)
"""


def test_transactions_per_second():
    assert parse_tps(_REPORT.format(failed=0)) == 6707.116262


def test_failed_transactions_make_the_round_unusable():
    with pytest.raises(PgbenchError):
        parse_tps(_REPORT.format(failed=3))


def test_so_does_a_report_without_a_figure():
    with pytest.raises(PgbenchError):
        parse_tps("pgbench: error: connection refused")


def test_latencies_are_seconds():
    log = ["0 1 4265 0 1763714000 123456\n", "17 2 112600 0 1763714000 223456\n"]
    assert list(parse_latencies(log)) == [0.004265, 0.1126]


def test_a_run_without_a_transaction_has_a_report_without_a_rate() -> None:
    cut_short = "pgbench (18.6)\nduration: 1 s\nnumber of transactions actually processed: 0\n\n"
    assert parse_tps(cut_short) == 0
