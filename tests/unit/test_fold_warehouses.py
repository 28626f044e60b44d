"""A warehouse's row is what its last event says, created when the first one was."""

import pytest

from domain.events import Event, WarehouseChanged, WarehouseCreated, WarehouseDetails, WarehouseEvent
from domain.values import Address, WarehouseStatus
from projections.views.errors import ImpossibleEvent
from projections.views.warehouses import WarehouseRow, code_of, fold_warehouse, is_warehouse_stream
from tests.support_domain import after, happened

STREAM = "warehouse:W1"
FIRST = WarehouseDetails(name="One", priority=3)
SECOND = WarehouseDetails(name="Uno", address=Address(country="IT"), status=WarehouseStatus.MAINTENANCE)


def event(kind: type[Event], details: WarehouseDetails, version: int) -> WarehouseEvent:
    made = happened(kind, details=details).at(STREAM, version, after(version))
    assert isinstance(made, WarehouseEvent)
    return made


CREATED = event(WarehouseCreated, FIRST, 1)
CHANGED = event(WarehouseChanged, SECOND, 2)


def test_creating_makes_the_row() -> None:
    assert fold_warehouse(None, CREATED) == WarehouseRow(
        code="W1", version=1, details=FIRST, created_at=after(1), updated_at=after(1)
    )


def test_changing_replaces_the_details_and_keeps_the_beginning() -> None:
    assert fold_warehouse(fold_warehouse(None, CREATED), CHANGED) == WarehouseRow(
        code="W1", version=2, details=SECOND, created_at=after(1), updated_at=after(2)
    )


def test_creating_comes_first_and_once() -> None:
    with pytest.raises(ImpossibleEvent):
        fold_warehouse(None, CHANGED)
    with pytest.raises(ImpossibleEvent):
        fold_warehouse(fold_warehouse(None, CREATED), event(WarehouseCreated, FIRST, 2))


def test_the_document_shows_everything() -> None:
    document = fold_warehouse(fold_warehouse(None, CREATED), CHANGED).document()
    assert (document.code, document.name, document.status, document.priority) == ("W1", "Uno", "MAINTENANCE", 100)
    assert (document.version, document.created_at, document.updated_at) == (2, after(1), after(2))
    assert document.address == Address(country="IT")


def test_which_streams_are_warehouses() -> None:
    assert is_warehouse_stream(STREAM)
    assert not is_warehouse_stream("stock:A@W1")
    assert code_of(STREAM) == "W1"
