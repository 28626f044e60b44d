"""The parts of the API's answers that the demo reads; the other fields are skipped."""

from msgspec import Struct

from demo.baskets import Item


class Level(Struct):
    """What the API says about one item: `version` counts its events, the rest are units."""

    sku: str
    warehouse: str
    version: int
    on_hand: int
    reserved: int
    committed: int
    damaged: int
    quarantined: int
    sold: int
    returned: int

    def item(self) -> Item:
        return Item(self.sku, self.warehouse)

    def oversold(self) -> int:
        """Units promised with no stock behind them."""
        return max(0, self.reserved + self.committed - self.on_hand)


class Availability(Struct):
    """Of one SKU, in every warehouse that has it."""

    sku: str
    warehouses: list[Level]


class AvailabilityPage(Struct):
    items: list[Availability]


class Allocation(Struct):
    warehouse: str
    version: int


class ReservationLine(Struct):
    sku: str
    allocations: list[Allocation]


class Reservation(Struct):
    status: str
    lines: list[ReservationLine]

    def versions(self) -> dict[Item, int]:
        """Of each item, as this reservation's latest decision left it."""
        return {Item(line.sku, part.warehouse): part.version for line in self.lines for part in line.allocations}


class Movement(Struct):
    """One entry of an item's history; `at` is ISO 8601, `before` and `after` hold the buckets."""

    version: int
    at: str
    type: str
    quantity: int
    before: dict[str, int]
    after: dict[str, int]
    reason: str | None = None
    order_id: str | None = None


class HistoryPage(Struct):
    items: list[Movement]
    next_cursor: str | None = None
