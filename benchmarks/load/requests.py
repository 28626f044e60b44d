"""What the clients of a case ask for: each kind yields endless (or a fixed number of) ready request bytes per lane.

A lane is one connection. Everything that does not vary is encoded once; per request only the idempotency key and
the chosen item are filled in, at a fixed width, so that the content length is part of the template.
"""

import random
import time
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import count as count_from
from itertools import repeat

import msgspec

from benchmarks.items import Items
from benchmarks.load.wire import get, with_body

_KEY_PLACE = b"{key}".ljust(26, b"_")


class Lane(msgspec.Struct, frozen=True):
    """Which connection of how many, in which run: what makes its ids unlike every other's."""

    run: str
    number: int
    lanes: int

    def fresh_keys(self) -> Iterator[bytes]:
        """26 characters each, never the same twice."""
        prefix = f"{self.run:.10}-{self.number:04d}-".encode()
        width = len(_KEY_PLACE) - len(prefix)
        return (prefix + (b"%d" % number).rjust(width, b"0") for number in count_from())

    def share(self, total: int) -> range:
        """The lane's part of the numbers 0 … total - 1."""
        return range(self.number, total, self.lanes)

    def turns(self, total: int | None) -> Iterable[int]:
        """As `share`; without a total it never ends."""
        return count_from(self.number, self.lanes) if total is None else self.share(total)

    def chooser(self) -> random.Random:
        return random.Random(f"{self.run}/{self.number}")


def _line(sku: str, warehouse: str) -> bytes:
    return b'{"sku":"%b","quantity":1,"warehouse":"%b"}' % (sku.encode(), warehouse.encode())


@cache  # one list for all lanes, made before the clock starts
def _all_lines(items: Items) -> list[bytes]:
    return [_line(*name) for name in items.names()]


@cache
def _all_availability_requests(items: Items) -> list[bytes]:
    return [get(f"/v1/availability/{sku}") for sku in items.skus()]


def _template(path: str, body: bytes, lines: bytes = b"") -> bytes:
    """A POST with `%(key)b` for its key (wherever path or body name it too) and `%(lines)b` for `lines`."""
    request = with_body("POST", path, body, key=_KEY_PLACE).replace(b"%", b"%%").replace(_KEY_PLACE, b"%(key)b")
    return request.replace(lines, b"%(lines)b") if lines else request


def _forever(choices: list[bytes], chooser: random.Random) -> Iterator[bytes]:
    uniform, total = chooser.random, len(choices)
    while True:
        yield choices[int(uniform() * total)]


class Restock(msgspec.Struct, frozen=True, tag=True):
    """Each item once."""

    items: Items
    quantity: int

    def stream(self, lane: Lane) -> Iterator[bytes]:
        body = b'{"quantity":%d}' % self.quantity
        turns = zip(lane.share(self.items.count), lane.fresh_keys(), strict=False)
        return (with_body("POST", self._path(number), body, key) for number, key in turns)

    def _path(self, number: int) -> str:
        return f"/v1/stock/{self.items.sku(number)}/{self.items.warehouse(number)}/restock"


class Reserve(msgspec.Struct, frozen=True, tag=True):
    """One unit of each of `lines` items: random ones, or one item after another for `dwell` requests (of all lanes).

    With `requests` the stream ends after so many (of all lanes).
    """

    items: Items
    lines: int = 1
    dwell: int = 0
    requests: int | None = None

    def stream(self, lane: Lane) -> Iterator[bytes]:
        choices = _all_lines(self.items)
        place = b",".join([choices[0]] * self.lines)
        template = _template("/v1/reservations", b'{"order_id":"%b","lines":[%b]}' % (_KEY_PLACE, place), place)
        fields = zip(lane.fresh_keys(), self._lines(lane, choices), lane.turns(self.requests), strict=False)
        return (template % {b"key": key, b"lines": lines} for key, lines, _ in fields)

    def _lines(self, lane: Lane, choices: list[bytes]) -> Iterator[bytes]:
        if self.dwell:
            return (choices[turn // self.dwell % len(choices)] for turn in lane.turns(None))
        if self.lines == 1:
            return _forever(choices, lane.chooser())
        sample = lane.chooser().sample
        return (b",".join(sample(choices, self.lines)) for _ in count_from())


class ReserveBatch(msgspec.Struct, frozen=True, tag=True):
    """`size` reservations of one unit of a random item per request; with `due_at` (unix time) all fall due then."""

    items: Items
    size: int
    due_at: float | None = None
    requests: int | None = None

    def stream(self, lane: Lane) -> Iterator[bytes]:
        choices = _all_lines(self.items)
        choose = lane.chooser().choices
        turns = zip(lane.turns(self.requests), lane.fresh_keys(), strict=False)
        return (self._request(key, choose(choices, k=self.size)) for _, key in turns)

    def _request(self, key: bytes, lines: list[bytes]) -> bytes:
        head = b'{"order_id":"%b"%b,"lines":[' % (key, self._ttl())
        body = b'{"reservations":[%b%b]}]}' % (head, (b"]}," + head).join(lines))
        return with_body("POST", "/v1/reservations:batch", body, key)

    def _ttl(self) -> bytes:
        if self.due_at is None:
            return b""
        return b',"ttl_seconds":%d' % max(1, round(self.due_at - time.time()))


class ReserveAndRelease(msgspec.Struct, frozen=True, tag=True):
    """Hold one unit and let it go, in turn: a history that grows while the number of holds does not.

    `dwell`: pairs (of all lanes) on one item before the next one; `turns`: pairs in all, None for no end.
    """

    items: Items
    dwell: int = 1
    turns: int | None = None

    def stream(self, lane: Lane) -> Iterator[bytes]:
        lines = _all_lines(self.items)
        body = b'{"reservation_id":"%b","order_id":"%b","lines":[%b]}' % (_KEY_PLACE, _KEY_PLACE, lines[0])
        reserve = _template("/v1/reservations", body, lines[0])
        release = _template(f"/v1/reservations/{_KEY_PLACE.decode()}/release", b"{}")
        release = release.replace(b"Idempotency-Key: ", b"Idempotency-Key: r-")
        for turn, key in zip(lane.turns(self.turns), lane.fresh_keys(), strict=False):
            yield reserve % {b"key": key, b"lines": lines[turn // self.dwell % len(lines)]}
            yield release % {b"key": key}


class OrderLife(msgspec.Struct, frozen=True, tag=True):
    """An order from its hold to its parcel, and the unit that replaces it: four stock changes, one after another."""

    items: Items

    def stream(self, lane: Lane) -> Iterator[bytes]:
        choose, total = lane.chooser().randrange, self.items.count
        for key in lane.fresh_keys():
            number = choose(total)
            sku, warehouse = self.items.sku(number), self.items.warehouse(number)
            order = b'{"reservation_id":"%b","order_id":"%b","lines":[%b]}' % (key, key, _line(sku, warehouse))
            yield with_body("POST", "/v1/reservations", order, key)
            yield with_body("POST", f"/v1/reservations/{key.decode()}/commit", b"{}", b"c-" + key)
            yield with_body("POST", f"/v1/reservations/{key.decode()}/ship", b"{}", b"s-" + key)
            yield with_body("POST", f"/v1/stock/{sku}/{warehouse}/restock", b'{"quantity":1}', b"n-" + key)


class Availability(msgspec.Struct, frozen=True, tag=True):
    """One random SKU, or (`size` > 1) many in one request."""

    items: Items
    size: int = 1

    def stream(self, lane: Lane) -> Iterator[bytes]:
        if self.size == 1:
            return _forever(_all_availability_requests(self.items), lane.chooser())
        parameters = [f"sku={sku}" for sku in self.items.skus()]
        sample = lane.chooser().sample
        return (get("/v1/availability?" + "&".join(sample(parameters, self.size))) for _ in count_from())


class Fixed(msgspec.Struct, frozen=True, tag=True):
    """The same GET for ever."""

    path: str

    def stream(self, _: Lane) -> Iterator[bytes]:
        return repeat(get(self.path))


Requests = Restock | Reserve | ReserveBatch | ReserveAndRelease | OrderLife | Availability | Fixed
