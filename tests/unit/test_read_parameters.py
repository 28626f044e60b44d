"""What the parameters of reads mean: versions, places on Earth, cursors, page sizes, the time."""

import time
from datetime import datetime
from typing import Annotated

import pytest
from msgspec import Meta

from domain.values import EntityId, Sku, Version, WarehouseCode
from infra.http_query import parse_query
from infra.problems import InvalidRequest
from projections.redis_layout import microseconds
from read_api.clock import ReadClock
from read_api.cursors import decode_cursor, encode_cursor
from read_api.pages import PageSizes, cut, page_body
from read_api.parameters import AvailabilityQuery, PageQuery, ReservationsQuery, coordinates, wanted_versions
from tests.support_domain import NOW

Key = tuple[Annotated[datetime, Meta(tz=True)], Sku, WarehouseCode, Version]


def test_versions_by_item_the_latest_of_several():
    assert wanted_versions(["FRA1:17", "B:x@FRA1:3", "FRA1:16"], "A") == {("A", "FRA1"): 17, ("B:x", "FRA1"): 3}
    assert wanted_versions(["A:1@W.1:0"]) == {("A:1", "W.1"): 0}
    assert wanted_versions([]) == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "FRA1",
        "FRA1:",
        ":17",
        "FRA1:-1",
        "FRA1:+1",
        "FRA1:01",
        "FRA1:1e3",
        "A@FRA1",
        "A@B@C:1",
        "FRA1:17 ",
        "FRA1:" + "9" * 17,
    ],
)
def test_what_is_no_version_is_refused(text):
    with pytest.raises(InvalidRequest):
        wanted_versions([text], "A")


def test_a_version_needs_its_sku_where_the_path_has_none():
    with pytest.raises(InvalidRequest):
        wanted_versions(["FRA1:17"])


@pytest.mark.parametrize("text", ["FRA1:17", "A@FRA1:17"])
def test_the_documented_pattern_takes_both_where_the_path_has_the_sku(text):
    assert parse_query(f"min_version={text}".encode(), AvailabilityQuery).min_version == [text]


def test_the_documented_pattern_wants_the_sku_elsewhere():
    assert parse_query(b"min_version=A@FRA1:17", ReservationsQuery).min_version == ["A@FRA1:17"]
    with pytest.raises(InvalidRequest):
        parse_query(b"min_version=FRA1:17", ReservationsQuery)


@pytest.mark.parametrize(
    ("text", "place"), [("48.1,11.6", (48.1, 11.6)), ("-90,180", (-90, 180)), ("+0,-0.5", (0, -0.5))]
)
def test_places_on_earth(text, place):
    found = coordinates(text)
    assert (found.latitude, found.longitude) == place


@pytest.mark.parametrize("text", ["", "48.1", "48.1,", "91,0", "0,181", "nan,0", "1e1,0", "1,2,3", "48.1, 11.6", "٤,0"])
def test_places_elsewhere(text):
    with pytest.raises(InvalidRequest):
        coordinates(text)


def test_a_cursor_is_the_key_that_made_it_and_needs_no_escaping():
    key = (NOW, "A:b", "W-1", 17)
    cursor = encode_cursor(key)
    assert decode_cursor(cursor, Key) == key
    assert set(cursor) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "!!!!",
        "é",
        encode_cursor(("A",)),
        encode_cursor(("A\x00", "W")),
        encode_cursor((1, 2)),
        encode_cursor(("A", "W", 1)),
    ],
)
def test_what_is_no_cursor_of_this_list_is_refused(cursor):
    with pytest.raises(InvalidRequest) as caught:
        decode_cursor(cursor, tuple[EntityId, WarehouseCode])
    assert caught.value.errors[0][0] == "query.cursor"


def test_a_page_has_as_many_rows_as_asked_for_or_as_there_may_be():
    sizes = PageSizes(usual=100, most=1_000)
    assert sizes.of(PageQuery()) == 100
    assert sizes.of(PageQuery(limit=7)) == 7
    assert sizes.of(PageQuery(limit=5_000)) == 1_000


def test_the_row_too_many_tells_that_there_is_a_next_page():
    assert cut(["a", "b"], 2, lambda row: (row,)) == (["a", "b"], None)
    page, cursor = cut(["a", "b", "c"], 2, lambda row: (row,))
    assert page == ["a", "b"]
    assert cursor is not None
    assert decode_cursor(cursor, tuple[str]) == ("b",)
    assert page_body([b"1", b"2"], None) == b'{"items":[1,2],"next_cursor":null}'


def test_the_clock_is_corrected_by_a_difference_that_no_round_trip_explains():
    clock = ReadClock()

    def error_us() -> int:
        return clock.now_us() - time.time_ns() // 1_000

    clock.observe(1_000_000, 1_000_500, 1_001_000)
    assert abs(error_us()) < 5_000
    clock.observe(1_000_000, 61_000_000, 1_001_000)
    assert abs(error_us() - 59_999_000) < 5_000
    clock.observe(61_000_000, 1_000_000, 61_001_000)
    assert abs(error_us() + 60_000_000) < 5_000
    clock.observe(1_000_000, 1_000_000, 1_001_000)
    assert abs(error_us()) < 5_000
    assert abs(microseconds(clock.now()) - clock.now_us()) < 5_000
