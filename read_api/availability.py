"""What can be had of a SKU: the hottest read, answered by joining ready pieces of JSON.

A level's document is ready in Redis; per level only its header is looked at. Measured with five
warehouses a SKU: a read takes about a quarter of the time of decoding the levels and encoding the answer.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from domain.allocation import distance_km
from domain.commands import Coordinates
from domain.errors import UnknownStockItem
from domain.policy import stock_status
from domain.values import StockStatus
from infra.http_app import HttpProblem, problem_of
from infra.redis_pipeline import RedisPipeline, packed
from projections.redis_layout import DISCONTINUED, from_microseconds
from read_api.clock import ReadClock
from read_api.current import Current, Warehouse
from read_api.levels import POSTGRES, REDIS, Item, LevelReader, Shown, SkuLevels, fresh_enough, shown_from_redis
from read_api.metrics import ReadMetrics

Answer = Callable[[int, bytes], None]
"""Takes the status and the body, once, in the event loop."""

_TRUE, _FALSE = b"true", b"false"
_STATUS: Final = {status: status.value.encode() for status in StockStatus}


@dataclass(slots=True)
class Question:
    """What is asked of SKUs. ``single``: one of them, by a route whose answer is 404 if it is unknown."""

    skus: Sequence[str]
    quantities: Sequence[int | None]
    versions: Mapping[Item, int] = field(default_factory=dict)
    near: Coordinates | None = None
    single: bool = False


class UnknownWarehouse(Exception):
    """A level names a warehouse that the table in memory does not have yet."""


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
        stock = views.keys.stock
        commands = [packed("HGETALL", stock(sku)) for sku in question.skus]

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
        now_us = self._clock.now_us()
        found: dict[str, SkuLevels] = {}
        for sku, reply in zip(question.skus, replies, strict=True):
            if not reply:
                return None
            levels, due = shown_from_redis(reply, now_us)
            if due:
                return None
            found[sku] = SkuLevels(levels, REDIS)
        try:
            if question.versions and not fresh_enough(found, question.versions):
                return None
            return answer_body(question, found, self._current.warehouses)
        except (UnknownWarehouse, HttpProblem):
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
            return answer_body(question, found, self._current.warehouses, strangers=True)


def answer_body(
    question: Question,
    found: Mapping[str, SkuLevels],
    warehouses: Mapping[str, Warehouse],
    *,
    strangers: bool = False,
) -> bytes:
    """The JSON of the answer. Raises UnknownWarehouse, unless ``strangers`` may be shown, without being counted."""
    places = _with_strangers(found, warehouses) if strangers else warehouses
    parts = [
        _sku_body(sku, found.get(sku), quantity, question.near, places)
        for sku, quantity in zip(question.skus, question.quantities, strict=True)
    ]
    if question.single:
        return parts[0]
    together = _together(question, found, places)
    tail = b"" if together is None else b',"can_fulfil":' + (_TRUE if together else _FALSE)
    return b'{"items":[' + b",".join(parts) + b"]" + tail + b"}"


def _with_strangers(found: Mapping[str, SkuLevels], warehouses: Mapping[str, Warehouse]) -> dict[str, Warehouse]:
    codes = {level.warehouse for levels in found.values() for level in levels.levels}
    return {code: Warehouse.stranger(code) for code in codes} | dict(warehouses)


def _sku_body(
    sku: str,
    found: SkuLevels | None,
    quantity: int | None,
    near: Coordinates | None,
    warehouses: Mapping[str, Warehouse],
) -> bytes:
    if found is None:
        tail = b"" if quantity is None else b',"can_fulfil":false'
        return (
            b'{"sku":"%b","known":false,"available":0,"status":"OUT_OF_STOCK"%b,"warehouses":[],"as_of":null,"source":"%b"}'
            % (sku.encode(), tail, POSTGRES)
        )
    levels, source = found
    available = free = threshold = backorder_limit = promisable = as_of_us = 0
    discontinued = None
    for level in levels:
        as_of_us = max(as_of_us, level.as_of_us)
        try:
            active = warehouses[level.warehouse].active
        except KeyError:
            raise UnknownWarehouse(level.warehouse) from None
        if active:
            free += level.free
            available += max(0, level.free)
            promisable += max(0, level.free + level.backorder_limit)
            threshold += level.threshold
            backorder_limit += level.backorder_limit
            discontinued = level.flags & DISCONTINUED if discontinued is None else discontinued & level.flags
    # Where some warehouses are short of what they promised, the others can still sell what is shown.
    status = stock_status(available or free, threshold, backorder_limit, discontinued=bool(discontinued))
    fulfil = b"" if quantity is None else b',"can_fulfil":' + (_TRUE if quantity <= promisable else _FALSE)
    return b'{"sku":"%b","known":true,"available":%d,"status":"%b"%b,"warehouses":[%b],"as_of":%b,"source":"%b"}' % (
        sku.encode(),
        available,
        _STATUS[status],
        fulfil,
        b",".join(_nearest_first(levels, near, warehouses) if near else _ranked(levels, warehouses)),
        msgspec.json.encode(from_microseconds(as_of_us)),
        source,
    )


def _ranked(levels: Sequence[Shown], warehouses: Mapping[str, Warehouse]) -> Iterable[bytes]:
    """The levels' JSON in the order in which the warehouses are served."""
    ordered = sorted([(warehouses[level.warehouse].rank, level) for level in levels]) if len(levels) > 1 else None
    if ordered is None:
        return [level.open_document + warehouses[level.warehouse].closing + b"}" for level in levels]
    return [level.open_document + warehouses[level.warehouse].closing + b"}" for _, level in ordered]


def _nearest_first(levels: Sequence[Shown], near: Coordinates, warehouses: Mapping[str, Warehouse]) -> Iterable[bytes]:
    """The levels' JSON by distance; warehouses that are nowhere come last."""
    placed = []
    for level in levels:
        warehouse = warehouses[level.warehouse]
        where = warehouse.coordinates
        distance = None if where is None else distance_km(near, where)
        placed.append((distance is None, distance or 0.0, warehouse.rank, distance, level))
    placed.sort(key=lambda place: place[:3])
    return [
        level.open_document
        + warehouses[level.warehouse].closing
        + b',"distance_km":%b}' % (b"null" if distance is None else b"%.3f" % distance)
        for *_, distance, level in placed
    ]


def _together(question: Question, found: Mapping[str, SkuLevels], warehouses: Mapping[str, Warehouse]) -> bool | None:
    """Whether all quantities can be had together; None if none was named. Equal SKUs are summed."""
    wanted: dict[str, int] = {}
    for sku, quantity in zip(question.skus, question.quantities, strict=True):
        if quantity is not None:
            wanted[sku] = wanted.get(sku, 0) + quantity
    if not wanted:
        return None
    return all(
        sku in found and quantity <= _promisable(found[sku].levels, warehouses) for sku, quantity in wanted.items()
    )


def _promisable(levels: Iterable[Shown], warehouses: Mapping[str, Warehouse]) -> int:
    return sum(max(0, level.free + level.backorder_limit) for level in levels if warehouses[level.warehouse].active)
