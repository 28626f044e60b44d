"""Query strings into typed values: what is taken, what is refused, and how the refusal names the place."""

from datetime import UTC, datetime
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta

from domain.values import Quantity, Sku, WarehouseStatus
from infra.http_query import parse_path, parse_query
from infra.problems import InvalidRequest


class Query(msgspec.Struct, kw_only=True):
    quantity: Quantity | None = None
    at: Annotated[datetime, Meta(tz=True)] | None = None
    since: Annotated[datetime, Meta(tz=True)] | None = msgspec.field(name="from", default=None)
    sku: list[Sku] = []
    status: WarehouseStatus | None = None


class Path(msgspec.Struct):
    sku: Sku


def test_values_get_their_types():
    query = parse_query(
        b"quantity=5&at=2026-01-02T03:04:05Z&from=2026-01-02T03%3A04%3A05.5%2B01:00&sku=A&sku=B%3Ax&status=ACTIVE",
        Query,
    )
    assert query.quantity == 5
    assert query.at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert query.since == datetime(2026, 1, 2, 2, 4, 5, 500_000, tzinfo=UTC)
    assert query.sku == ["A", "B:x"]
    assert query.status is WarehouseStatus.ACTIVE


def test_nothing_and_strangers_are_fine():
    assert parse_query(b"", Query) == Query()
    assert parse_query(b"utm_source=x&utm_source=y", Query) == Query()


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"quantity=", "query.quantity"),
        (b"quantity=five", "query.quantity"),
        (b"quantity=1.0", "query.quantity"),
        (b"quantity=1e3", "query.quantity"),
        (b"quantity=0", "query.quantity"),
        (b"quantity=-1", "query.quantity"),
        (b"quantity=9007199254740992", "query.quantity"),
        (b"quantity=" + b"9" * 400, "query.quantity"),
        ("quantity=٣".encode().replace("٣".encode(), b"%D9%A3"), "query.quantity"),
        (b"quantity=1&quantity=2", "query.quantity"),
        (b"at=123", "query.at"),
        (b"at=2026-01-02", "query.at"),
        (b"at=2026-01-02T03:04:05", "query.at"),
        (b"from=yesterday", "query.from"),
        (b"sku=A&sku=%20", "query.sku[1]"),
        (b"sku=A%0A", "query.sku[0]"),
        (b"sku=A%00", "query.sku[0]"),
        (b"status=active", "query.status"),
        (b"sku=%ff", "query"),
        (b"sku=\xff", "query"),
        (b"x=1&" * 2_001, "query"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(raw, path):
    with pytest.raises(InvalidRequest) as caught:
        parse_query(raw, Query)
    ((where, message),) = caught.value.errors
    assert where == path
    assert message


def test_paths_are_checked_alike():
    assert parse_path({"sku": "A"}, Path).sku == "A"
    assert parse_path({"sku": "%41%3ab"}, Path).sku == "A:b"
    for sent, path in (("a b", "path.sku"), ("a%2Fb", "path.sku"), ("a%00", "path.sku"), ("a%ff", "path")):
        with pytest.raises(InvalidRequest) as caught:
            parse_path({"sku": sent}, Path)
        assert caught.value.errors[0][0] == path
