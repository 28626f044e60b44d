"""What the command API counts, as Prometheus reads it."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from write_side.api.meters import BOUNDS_S, Meters


@pytest.fixture
def meters():
    return Meters(["stock.count", "stock.adjust"], "command-api-1")


def text_of(meters: Meters) -> list[str]:
    registry = CollectorRegistry()
    registry.register(meters)
    return generate_latest(registry).decode().splitlines()


def test_answers_are_counted_by_operation_and_status(meters):
    meters.by_operation["stock.count"].note(200, 0.001)
    meters.by_operation["stock.count"].note(200, 0.001)
    meters.by_operation["stock.count"].note(409, 0.001)
    lines = text_of(meters)
    name = 'stockhold_command_requests_total{operation="stock.count",process="command-api-1",status="%d"} %.1f'
    assert name % (200, 2) in lines
    assert name % (409, 1) in lines
    assert not any('operation="stock.adjust"' in line and "requests_total" in line for line in lines)


def test_durations_fall_into_the_buckets_whose_bound_they_do_not_exceed(meters):
    meter = meters.by_operation["stock.count"]
    for seconds in (0.0005, 0.001, 0.003, 99.0):
        meter.note(200, seconds)
    lines = text_of(meters)
    bucket = 'stockhold_command_request_seconds_bucket{le="%s",operation="stock.count",process="command-api-1"} %.1f'
    assert bucket % ("0.001", 2) in lines
    assert bucket % ("0.0025", 2) in lines
    assert bucket % ("0.005", 3) in lines
    assert bucket % (str(BOUNDS_S[-1]), 3) in lines
    assert bucket % ("+Inf", 4) in lines
    labels = '{operation="stock.count",process="command-api-1"}'
    assert f"stockhold_command_request_seconds_count{labels} 4.0" in lines
    assert any(line.startswith(f"stockhold_command_request_seconds_sum{labels} 99.0") for line in lines)
