"""Which warehouse serves which line: decided on the same in-memory truth that the decision commits."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from math import asin, cos, radians, sin, sqrt
from typing import Protocol

from domain.commands import AllocationOptions, Coordinates
from domain.errors import InsufficientStock, Shortage, UnknownStockItem, UnknownWarehouse
from domain.events import Choice, RequestedLine
from domain.stock_item import StockItem
from domain.values import Strategy, WarehouseStatus
from domain.warehouse import Warehouse

EARTH_RADIUS_KM = 6_371.0088
"""Mean radius (IUGG)."""


class Stock(Protocol):
    """What an allocation may look at: everything loaded under the log's lock."""

    def item(self, sku: str, warehouse: str) -> StockItem | None:
        """The stock item, None if it was never registered."""

    def warehouse(self, code: str) -> Warehouse | None:
        """The warehouse, None if there is none of this code."""

    def warehouses_of(self, sku: str) -> Iterable[str]:
        """Codes of the warehouses where the SKU was ever registered."""


def distance_km(a: Coordinates, b: Coordinates) -> float:
    """Great-circle distance by the haversine formula."""
    lat_a, lat_b = radians(a.latitude), radians(b.latitude)
    half_lat, half_lon = (lat_b - lat_a) / 2, radians(b.longitude - a.longitude) / 2
    h = sin(half_lat) ** 2 + cos(lat_a) * cos(lat_b) * sin(half_lon) ** 2
    return 2 * EARTH_RADIUS_KM * asin(sqrt(min(1.0, h)))


class Allocation:
    """How an order's lines are served: units by stock item, in order, and what was short.

    Several lines on the same item are summed before anything is promised of it.
    """

    def __init__(self, stock: Stock, options: AllocationOptions, now: datetime) -> None:
        self._stock = stock
        self._options = options
        self._now = now
        self.items: dict[str, StockItem] = {}
        self.taken: dict[str, int] = {}
        self.choices: list[Choice] = []
        self.shortages: list[Shortage] = []

    def allocate(self, lines: Sequence[RequestedLine]) -> None:
        """Serve ``lines``. Raises InsufficientStock (all lines that are short), UnknownStockItem,
        UnknownWarehouse, WarehouseInactive.
        """
        anywhere = []
        for line in lines:
            if line.warehouse is not None:
                self._serve_named(line, line.warehouse)
            else:
                anywhere.append(line)
        if anywhere and self._options.strategy is Strategy.FEWEST_SPLITS:
            self._serve_together(anywhere)
        else:
            for line in anywhere:
                self._serve(line, self._ranked(line))
        if self.shortages and not (self._options.allow_partial and self.taken):
            raise InsufficientStock(self.shortages)

    def _serve_named(self, line: RequestedLine, code: str) -> None:
        warehouse = self._stock.warehouse(code)
        if warehouse is None:
            raise UnknownWarehouse(code)
        item = self._stock.item(line.sku, code)
        if item is None:
            raise UnknownStockItem(line.sku, code)
        warehouse.refuse_new_promises()
        free = self._free(item)
        served = self._amount(line.quantity, free)
        self._take(item, served)
        if served < line.quantity:
            self.shortages.append(Shortage(line.sku, line.quantity, max(0, free), code))

    def _serve(self, line: RequestedLine, candidates: Sequence[StockItem]) -> None:
        """Serve a line that names no warehouse from ``candidates`` in their order."""
        free = [max(0, self._free(item)) for item in candidates]
        if self._options.allow_split:
            open_units = line.quantity
            if sum(free) < open_units and not self._options.allow_partial:
                self.shortages.append(Shortage(line.sku, line.quantity, sum(free)))
                return
            for item, units in zip(candidates, free, strict=True):
                served = min(open_units, units)
                self._choose(line.sku, item, served, units)
                open_units -= served
            if open_units:
                self.shortages.append(Shortage(line.sku, line.quantity, sum(free)))
            return
        whole = next((i for i, units in enumerate(free) if units >= line.quantity), None)
        best = whole if whole is not None else max(range(len(free)), key=free.__getitem__, default=None)
        if best is None:
            self.shortages.append(Shortage(line.sku, line.quantity, 0))
            return
        served = self._amount(line.quantity, free[best])
        self._choose(line.sku, candidates[best], served, free[best])
        if served < line.quantity:
            self.shortages.append(Shortage(line.sku, line.quantity, free[best]))

    def _serve_together(self, lines: Sequence[RequestedLine]) -> None:
        """Few shipments: again and again the warehouse that can complete the most lines, then the most units."""
        open_lines = list(lines)
        while open_lines:
            by_code: dict[str, list[tuple[RequestedLine, StockItem]]] = {}
            for line in open_lines:
                for item in self._candidates(line.sku):
                    if self._free(item) >= line.quantity:
                        by_code.setdefault(item.warehouse, []).append((line, item))
            if not by_code:
                break
            code = min(by_code, key=lambda c: (-len(by_code[c]), -sum(self._free(i) for _, i in by_code[c]), c))
            for line, item in by_code[code]:
                free = self._free(item)
                if free >= line.quantity:  # an earlier line of this round may have taken of the same item
                    self._choose(line.sku, item, line.quantity, free)
                    open_lines.remove(line)
        for line in open_lines:  # no warehouse has all of it
            self._serve(line, sorted(self._candidates(line.sku), key=self._most_stock))

    def _ranked(self, line: RequestedLine) -> list[StockItem]:
        return sorted(self._candidates(line.sku), key=self._ranking())

    def _ranking(self) -> Callable[[StockItem], tuple[float, int, str]]:
        match self._options.strategy:
            case Strategy.NEAREST:
                return lambda item: (self._distance(item.warehouse), *self._most_stock(item))
            case Strategy.PRIORITY:
                return lambda item: (self._warehouse(item.warehouse).details.priority, *self._most_stock(item))
            case _:
                return lambda item: (0, *self._most_stock(item))

    def _candidates(self, sku: str) -> list[StockItem]:
        """The SKU's items in active warehouses. Raises UnknownStockItem if it was never stocked anywhere."""
        codes = list(self._stock.warehouses_of(sku))
        if not codes:
            raise UnknownStockItem(sku)
        items = (self._stock.item(sku, code) for code in codes if self._is_active(code))
        return [item for item in items if item is not None]

    def _is_active(self, code: str) -> bool:
        warehouse = self._stock.warehouse(code)
        return warehouse is not None and warehouse.details.status is WarehouseStatus.ACTIVE

    def _warehouse(self, code: str) -> Warehouse:
        warehouse = self._stock.warehouse(code)
        assert warehouse is not None
        return warehouse

    def _most_stock(self, item: StockItem) -> tuple[int, str]:
        return -self._free(item), item.warehouse

    def _distance(self, code: str) -> float:
        details, ship_to = self._warehouse(code).details, self._options.ship_to
        assert ship_to is not None
        if details.latitude is None or details.longitude is None:
            return float("inf")
        return distance_km(ship_to, Coordinates(details.latitude, details.longitude))

    def _free(self, item: StockItem) -> int:
        return item.promisable(self._now) - self.taken.get(item.id, 0)

    def _amount(self, wanted: int, free: int) -> int:
        if wanted <= free:
            return wanted
        return max(0, free) if self._options.allow_partial else 0

    def _take(self, item: StockItem, quantity: int) -> None:
        if quantity:
            self.items[item.id] = item
            self.taken[item.id] = self.taken.get(item.id, 0) + quantity

    def _choose(self, sku: str, item: StockItem, quantity: int, free: int) -> None:
        if quantity:
            why = f"{self._options.strategy}: {self._reason(item.warehouse)}{free} promisable"
            self.choices.append(Choice(sku, item.warehouse, quantity, why))
            self._take(item, quantity)

    def _reason(self, code: str) -> str:
        match self._options.strategy:
            case Strategy.PRIORITY:
                return f"priority {self._warehouse(code).details.priority}, "
            case Strategy.NEAREST:
                distance = self._distance(code)
                return "coordinates unknown, " if distance == float("inf") else f"{distance:.1f} km, "
            case _:
                return ""
