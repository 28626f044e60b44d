"""What can be had of a SKU: the hottest read, answered by joining ready pieces of JSON.

A level's document is ready in Redis; per level only its header is looked at. Measured with five
warehouses a SKU: a read takes about a quarter of the time of decoding the levels and encoding the answer.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from math import inf
from types import MappingProxyType
from typing import Final

import msgspec

from domain.allocation import distance_km
from domain.commands import Coordinates
from domain.errors import UnknownStockItem
from domain.policy import stock_status
from domain.values import StockStatus
from infra.http_app import HttpProblem, problem_of
from infra.redis_pipeline import RedisPipeline
from projections.redis_layout import DISCONTINUED, LEVEL_HEADER, from_microseconds
from read_api.clock import ReadClock
from read_api.current import Current, Warehouse
from read_api.levels import POSTGRES, REDIS, Item, LevelReader, SkuLevels, fresh_enough, open_document
from read_api.metrics import ReadMetrics

Answer = Callable[[int, bytes], None]
"""Takes the status and the body, once, in the event loop."""

_TRUE, _FALSE = b"true", b"false"
_header: Final = LEVEL_HEADER.unpack_from
_HEADER_SIZE: Final = LEVEL_HEADER.size
_STATUS: Final = {status: status.value.encode() for status in StockStatus}


NO_VERSIONS: Final[Mapping[Item, int]] = MappingProxyType({})


class Question:
    """What is asked of SKUs. ``single``: of one of them, by a route whose answer is 404 if it is unknown."""

    __slots__ = ("near", "quantities", "single", "skus", "versions")

    def __init__(
        self,
        skus: Sequence[str],
        quantities: Sequence[int | None],
        versions: Mapping[Item, int] = NO_VERSIONS,
        near: Coordinates | None = None,
        *,
        single: bool = False,
    ) -> None:
        self.skus = skus
        self.quantities = quantities
        self.versions = versions
        self.near = near
        self.single = single


class UnknownWarehouse(Exception):
    """A level names a warehouse that the table in memory does not have yet."""


class HoldsAreDue(Exception):
    """A hold of a level may have ended: what is due must be looked up before the level is shown."""


class AvailabilityDesk:
    """Answers questions from Redis in one round trip; what is special goes the longer way, to the same document."""

    def __init__(
        self, redis: RedisPipeline, reader: LevelReader, current: Current, clock: ReadClock, metrics: ReadMetrics
    ) -> None:
        self._redis = redis
        self._reader = reader
        self._current = current
        self._clock = clock
        self._metrics = metrics
        self._long_ways: set[asyncio.Task[None]] = set()

    def ask(self, question: Question, answer: Answer) -> None:
        """Calls ``answer`` with status and body, now or later."""
        views = self._current.views_or_none
        if views is None:
            self._go_the_long_way(question, answer)
            return
        commands = [views.levels_command(sku) for sku in question.skus]

        def done(replies: list[Sequence[bytes]] | None) -> None:
            body = None if replies is None else self._quick_body(question, replies)
            if body is None:
                self._go_the_long_way(question, answer)
            else:
                self._metrics.answered_by(REDIS, len(question.skus))
                answer(200, body)

        self._redis.request(commands, done)

    async def answered(self, question: Question) -> tuple[int, bytes]:
        """The same for a coroutine."""
        told: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self.ask(question, lambda status, body: None if told.done() else told.set_result((status, body)))
        return await told

    def _quick_body(self, question: Question, replies: Sequence[Sequence[bytes]]) -> bytes | None:
        """None if there is anything that one look at Redis does not settle."""
        found: dict[str, SkuLevels] = {}
        for sku, values in zip(question.skus, replies, strict=True):
            if not values:
                return None
            found[sku] = SkuLevels(values, REDIS)
        try:
            if question.versions and not fresh_enough(found, question.versions):
                return None
            return answer_body(question, found, self._current.warehouses, self._clock.now_us())
        except (UnknownWarehouse, HoldsAreDue, HttpProblem):
            return None

    def _go_the_long_way(self, question: Question, answer: Answer) -> None:
        task = asyncio.create_task(self._answer_later(question, answer))
        self._long_ways.add(task)
        task.add_done_callback(self._long_ways.discard)

    async def _answer_later(self, question: Question, answer: Answer) -> None:
        try:
            found = await self._reader.read(question.skus, question.versions)
            for sku in question.skus:
                self._metrics.answered_by(found[sku].source if sku in found else POSTGRES, 1)
            body = await self._body(question, found)
        except Exception as error:  # noqa: BLE001  # whatever it is, somebody waits for an answer
            self._metrics.log_unexpected(error)
            answer(*problem_of(error))
        else:
            answer(200, body)

    async def _body(self, question: Question, found: Mapping[str, SkuLevels]) -> bytes:
        if question.single and question.skus[0] not in found:
            raise UnknownStockItem(question.skus[0])
        try:
            return answer_body(question, found, self._current.warehouses)
        except UnknownWarehouse:
            await self._current.refresh()
            return answer_body(question, found, with_strangers(found, self._current.warehouses))


def answer_body(
    question: Question, found: Mapping[str, SkuLevels], warehouses: Mapping[bytes, Warehouse], now_us: int = 0
) -> bytes:
    """The JSON of the answer. Raises UnknownWarehouse, HoldsAreDue (by ``now_us``; 0: what is found is right)."""
    near = question.near
    parts = []
    promisable: dict[str, int] = {}
    for sku, quantity in zip(question.skus, question.quantities, strict=True):
        levels = found.get(sku)
        if levels is None:
            parts.append(_unknown(sku, quantity))
        else:
            body, promisable[sku] = _known(sku, levels, quantity, near, warehouses, now_us)
            parts.append(body)
    if question.single:
        return parts[0]
    together = _together(question, promisable)
    tail = b"" if together is None else b',"can_fulfil":' + (_TRUE if together else _FALSE)
    return b'{"items":[' + b",".join(parts) + b"]" + tail + b"}"


def with_strangers(found: Mapping[str, SkuLevels], warehouses: Mapping[bytes, Warehouse]) -> Mapping[bytes, Warehouse]:
    """``warehouses``, and behind them those that nobody knows: shown, but not counted."""
    codes = sorted({code for levels in found.values() for code in levels.values[::2]} - set(warehouses))
    return {**warehouses, **{code: Warehouse.stranger(len(warehouses) + n) for n, code in enumerate(codes)}}


def _unknown(sku: str, quantity: int | None) -> bytes:
    fulfil = b"" if quantity is None else b',"can_fulfil":false'
    return (
        b'{"sku":"%b","known":false,"available":0,"status":"OUT_OF_STOCK"%b,"warehouses":[],"as_of":null,"source":"%b"}'
        % (sku.encode(), fulfil, POSTGRES)
    )


def _known(
    sku: str,
    levels: SkuLevels,
    quantity: int | None,
    near: Coordinates | None,
    warehouses: Mapping[bytes, Warehouse],
    now_us: int,
) -> tuple[bytes, int]:
    """The JSON of one SKU, and how many units can be promised of it, backorders included."""
    available = free = threshold = backorder_limit = promisable = as_of_us = 0
    sellable = discontinued = 0
    placed: list[tuple[int, bytes, Warehouse]] = []
    pairs = iter(levels.values)
    for code, value in zip(pairs, pairs, strict=True):
        _, level_free, level_threshold, level_backorders, due_us, level_as_of_us, flags = _header(value)
        if due_us <= now_us:
            raise HoldsAreDue
        warehouse = warehouses.get(code)
        if warehouse is None:
            raise UnknownWarehouse
        as_of_us = max(as_of_us, level_as_of_us)
        if warehouse.active:
            sellable += 1
            discontinued += flags & DISCONTINUED
            free += level_free
            if level_free > 0:
                available += level_free
            threshold += level_threshold
            backorder_limit += level_backorders
            if level_free + level_backorders > 0:
                promisable += level_free + level_backorders
        placed.append((warehouse.place, value, warehouse))
    # Where some warehouses are short of what they promised, the others can still sell what is shown.
    status = stock_status(available or free, threshold, backorder_limit, discontinued=0 < sellable == discontinued)
    fulfil = b"" if quantity is None else b',"can_fulfil":' + (_TRUE if quantity <= promisable else _FALSE)
    body = b'{"sku":"%b","known":true,"available":%d,"status":"%b"%b,"warehouses":[%b],"as_of":%b,"source":"%b"}' % (
        sku.encode(),
        available,
        _STATUS[status],
        fulfil,
        b",".join(_in_order(placed) if near is None else _nearest_first(placed, near)),
        msgspec.json.encode(from_microseconds(as_of_us)),
        levels.source,
    )
    return body, promisable


def _in_order(placed: list[tuple[int, bytes, Warehouse]]) -> list[bytes]:
    """The levels' JSON in the order in which the warehouses are served."""
    placed.sort()
    return [value[_HEADER_SIZE:] + warehouse.closing for _, value, warehouse in placed]


def _nearest_first(placed: list[tuple[int, bytes, Warehouse]], near: Coordinates) -> list[bytes]:
    """The levels' JSON by distance; warehouses that are nowhere come last."""
    parts: list[tuple[float, int, bytes]] = []
    for place, value, warehouse in placed:
        where = warehouse.coordinates
        distance = inf if where is None else distance_km(near, where)
        said = b"null" if where is None else b"%.3f" % distance
        parts.append((distance, place, b'%b%b,"distance_km":%b}' % (open_document(value), warehouse.name, said)))
    return [part for _, _, part in sorted(parts)]


def _together(question: Question, promisable: Mapping[str, int]) -> bool | None:
    """Whether all quantities can be had together; None if none was named. Equal SKUs are summed."""
    wanted: dict[str, int] = {}
    for sku, quantity in zip(question.skus, question.quantities, strict=True):
        if quantity is not None:
            wanted[sku] = wanted.get(sku, 0) + quantity
    return all(quantity <= promisable.get(sku, 0) for sku, quantity in wanted.items()) if wanted else None
