"""Rows and columns: every column of the SQL is written, and nothing that is not a column."""

import re
from importlib.resources import files

import pytest

from domain.events import WarehouseDetails
from domain.hold import Hold
from domain.values import HoldKind
from projections.binary import Table
from projections.tables import (
    HOLDS,
    MOVEMENTS,
    POLICIES,
    RESERVATIONS,
    STOCK_LEVELS,
    WAREHOUSES,
    hold_row,
    level_from,
    level_row,
    movement_row,
    reservation_row,
    warehouse_row,
)
from projections.views.movements import Movement, MovementType
from projections.views.reservations import ReservationRow
from projections.views.stock_levels import Level
from projections.views.warehouses import WarehouseRow
from tests.support_domain import NOW

SQL = files("projections.views").joinpath("tables.sql").read_text()
TABLES = [STOCK_LEVELS, HOLDS, POLICIES, RESERVATIONS, MOVEMENTS, WAREHOUSES]


def columns_in_sql(table: str) -> set[str]:
    body = re.search(rf"CREATE TABLE {table} \((.*?)\n\)", SQL, re.DOTALL)
    assert body is not None
    return set(re.findall(r"^    ([a-z_]+) ", body[1], re.MULTILINE))


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_column_is_written(table: Table) -> None:
    assert set(table.names) == columns_in_sql(table.name)
    assert len(table.names) == len(set(table.names))


def test_a_row_has_a_value_for_each_column() -> None:
    level = Level(sku="A", warehouse="W1", version=1, as_of=NOW, created_at=NOW)
    hold = Hold(reservation_id="r", order_id="o", sku="A", warehouse="W1", version=2)
    movement = Movement(
        sku="A",
        warehouse="W1",
        version=2,
        at=NOW,
        type=MovementType.SALE,
        quantity=1,
        before=(0,) * 7,
        after=(1,) * 7,
        actor="a",
        correlation_id="c",
    )
    header = ReservationRow(
        reservation_id="r",
        order_id="o",
        kind=HoldKind.ORDER,
        customer_ref=None,
        created_at=NOW,
        created_by="a",
        digest="d",
        lines=(),
        allocations=(),
    )
    warehouse = WarehouseRow(code="W1", version=1, details=WarehouseDetails(), created_at=NOW, updated_at=NOW)
    for table, row in (
        (STOCK_LEVELS, level_row(level, 5)),
        (HOLDS, hold_row(hold)),
        (MOVEMENTS, movement_row(movement)),
        (RESERVATIONS, reservation_row(header)),
        (WAREHOUSES, warehouse_row(warehouse, 5, stale=False)),
    ):
        assert len(table.params([row, row])) == len(table.columns)
        encoded = table.copy_rows([row])
        assert int.from_bytes(encoded[:2], "big") == len(table.columns)
    assert level_from(level_row(level, 5)[:-1]) == level
