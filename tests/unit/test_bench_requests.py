"""What the load generator asks for."""

import json
import time
from collections.abc import Iterator
from itertools import islice

import pytest

from benchmarks.items import Items
from benchmarks.load.requests import (
    Availability,
    Fixed,
    Lane,
    OrderLife,
    Requests,
    Reserve,
    ReserveAndRelease,
    ReserveBatch,
    Restock,
)

_ITEMS = Items("COLD", 0, 20)
_KINDS: list[Requests] = [
    Restock(_ITEMS, 5),
    Reserve(_ITEMS),
    Reserve(_ITEMS, lines=3),
    Reserve(_ITEMS, dwell=4, requests=30),
    ReserveBatch(_ITEMS, 3),
    ReserveBatch(_ITEMS, 3, due_at=2_000_000_000),
    ReserveAndRelease(_ITEMS),
    OrderLife(_ITEMS),
    Availability(_ITEMS),
    Availability(_ITEMS, size=3),
    Fixed("/"),
]
_WRITES = _KINDS[:8]


def _lanes(requests: Requests, count: int = 3, run: str = "b1234abcd") -> list[Iterator[bytes]]:
    return [requests.stream(Lane(run, number, count)) for number in range(count)]


def _parse(request: bytes) -> tuple[str, str, dict[str, str], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    method, path, _ = first.split(" ")
    headers = dict(line.split(": ", 1) for line in lines)
    return method, path, headers, body


@pytest.mark.parametrize("requests", _KINDS, ids=repr)
def test_every_request_is_whole(requests):
    for lane in _lanes(requests):
        for request in islice(lane, 12):
            method, _, headers, body = _parse(request)
            if method == "GET":
                assert body == b""
            else:
                assert int(headers["Content-Length"]) == len(body)
                assert isinstance(json.loads(body), dict)


@pytest.mark.parametrize("requests", _WRITES, ids=repr)
def test_no_two_commands_share_a_key(requests):
    keys = [
        (_parse(request)[2]["Idempotency-Key"])
        for run in ("b1234abcd", "b9999ffff")
        for lane in _lanes(requests, run=run)
        for request in islice(lane, 12)
    ]
    assert len(set(keys)) == len(keys)
    assert all(1 <= len(key) <= 128 for key in keys)


def test_restocking_meets_every_item_once():
    paths = [_parse(request)[1] for lane in _lanes(Restock(_ITEMS, 5)) for request in lane]
    assert sorted(paths) == sorted(f"/v1/stock/{sku}/{warehouse}/restock" for sku, warehouse in _ITEMS.names())


def test_reservations_name_items_that_exist_and_vary():
    bodies = [json.loads(_parse(request)[3]) for request in islice(_lanes(Reserve(_ITEMS))[0], 200)]
    chosen = {(line["sku"], line["warehouse"]) for body in bodies for line in body["lines"]}
    assert chosen <= set(_ITEMS.names())
    assert len(chosen) > len(_ITEMS.names()) / 2


def test_a_cart_has_different_lines():
    for request in islice(_lanes(Reserve(_ITEMS, lines=3))[0], 50):
        lines = json.loads(_parse(request)[3])["lines"]
        assert len({(line["sku"], line["warehouse"]) for line in lines}) == 3


def test_dwelling_gives_every_item_its_number_of_requests_over_all_lanes():
    wanted = Reserve(_ITEMS, dwell=6, requests=6 * _ITEMS.count)
    chosen = [json.loads(_parse(request)[3])["lines"][0] for lane in _lanes(wanted) for request in lane]
    counts = dict.fromkeys(_ITEMS.names(), 0)
    for line in chosen:
        counts[line["sku"], line["warehouse"]] += 1
    assert set(counts.values()) == {6}


def test_a_release_follows_its_own_reservation():
    pairs = list(_lanes(ReserveAndRelease(_ITEMS, turns=9))[0])
    assert len(pairs) == 2 * 3
    for reserve, release in zip(pairs[::2], pairs[1::2], strict=True):
        reservation_id = json.loads(_parse(reserve)[3])["reservation_id"]
        assert _parse(release)[1] == f"/v1/reservations/{reservation_id}/release"


def test_a_batch_holds_what_was_asked_and_falls_due_when_asked():
    (request,) = islice(_lanes(ReserveBatch(_ITEMS, 7, due_at=time.time() + 100))[0], 1)
    reservations = json.loads(_parse(request)[3])["reservations"]
    assert len(reservations) == 7
    assert {entry["ttl_seconds"] for entry in reservations} <= {99, 100}


def test_batches_end_when_all_lanes_together_have_sent_them():
    assert sum(len(list(lane)) for lane in _lanes(ReserveBatch(_ITEMS, 1, requests=10))) == 10


def test_an_order_lives_from_hold_to_parcel():
    steps = [_parse(request)[1] for request in islice(_lanes(OrderLife(_ITEMS))[0], 4)]
    assert [step.rpartition("/")[2] for step in steps] == ["reservations", "commit", "ship", "restock"]


def test_many_skus_are_asked_for_at_once_and_none_twice():
    (request,) = islice(_lanes(Availability(_ITEMS, size=4))[0], 1)
    skus = _parse(request)[1].partition("?")[2].split("&")
    assert len(set(skus)) == 4
    assert set(skus) == {f"sku={sku}" for sku in _ITEMS.skus()}


def test_item_names_have_one_length_and_are_all_different():
    names = Items("X", 5, 1_000).names()
    assert len(set(names)) == 1_000
    assert len({(len(sku), len(warehouse)) for sku, warehouse in names}) == 1
    assert names[0] == ("X-000001", "BENCH-0")
