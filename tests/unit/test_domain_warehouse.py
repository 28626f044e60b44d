"""A warehouse: created by the first put, changed by what a later one names."""

import pytest

from domain.errors import VersionMismatch, WarehouseInactive
from domain.events import WarehouseChanged, WarehouseCreated, WarehouseDetails
from domain.policy import Policy
from domain.values import Address, WarehouseStatus
from domain.warehouse import Warehouse
from tests.support_domain import NOW, ORIGIN, after


def created(**details: object) -> Warehouse:
    warehouse = Warehouse.uncreated("FRA1")
    warehouse.put(details, ORIGIN, NOW)
    warehouse.accept()
    return warehouse


def test_the_first_put_creates_it_with_what_is_usual():
    warehouse = Warehouse.uncreated("FRA1")
    assert (warehouse.id, warehouse.code, warehouse.version) == ("warehouse:FRA1", "FRA1", 0)
    warehouse.put({}, ORIGIN, NOW)
    (event,) = warehouse.new_events
    assert event == WarehouseCreated(
        originator_id="warehouse:FRA1", originator_version=1, timestamp=NOW, origin=ORIGIN, details=WarehouseDetails()
    )
    assert (warehouse.details.priority, warehouse.details.status) == (100, WarehouseStatus.ACTIVE)


def test_a_later_put_changes_what_it_names_and_the_event_says_all():
    warehouse = created(name="Frankfurt", priority=2, policy=Policy(safety_stock=1))
    warehouse.put({"priority": 1, "address": Address(country="DE")}, ORIGIN, after(1))
    (event,) = warehouse.new_events
    assert type(event) is WarehouseChanged
    assert event.details == warehouse.details
    assert event.details == WarehouseDetails(
        name="Frankfurt", priority=1, policy=Policy(safety_stock=1), address=Address(country="DE")
    )
    assert (event.originator_version, warehouse.modified_on, warehouse.created_on) == (2, after(1), NOW)


def test_a_put_that_changes_nothing_appends_nothing():
    warehouse = created(name="Frankfurt")
    warehouse.put({}, ORIGIN, after(1))
    warehouse.put({"name": "Frankfurt", "status": WarehouseStatus.ACTIVE}, ORIGIN, after(1))
    assert (warehouse.new_events, warehouse.version) == ([], 1)


def test_a_detail_can_be_taken_away():
    warehouse = created(name="Frankfurt", capacity=5)
    warehouse.put({"name": None, "capacity": None}, ORIGIN, after(1))
    assert warehouse.details == WarehouseDetails()


def test_only_create_does_not_change():
    warehouse = Warehouse.uncreated("FRA1")
    warehouse.put({}, ORIGIN, NOW, only_create=True)
    assert warehouse.version == 1
    with pytest.raises(VersionMismatch) as refused:
        warehouse.put({"name": "x"}, ORIGIN, NOW, only_create=True)
    assert refused.value.facts == {"expected_version": 0, "actual_version": 1}
    assert warehouse.details.name is None


@pytest.mark.parametrize("status", WarehouseStatus)
def test_only_an_active_one_makes_promises(status: WarehouseStatus):
    warehouse = created(status=status)
    if status is WarehouseStatus.ACTIVE:
        warehouse.refuse_new_promises()
        return
    with pytest.raises(WarehouseInactive) as refused:
        warehouse.refuse_new_promises()
    assert refused.value.facts == {"warehouse": "FRA1", "warehouse_status": status}
