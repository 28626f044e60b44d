"""The answer to a question about SKUs, made from the values of their levels: what counts and how it is shown."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from domain.commands import Coordinates
from domain.values import WarehouseStatus
from infra.documents import WarehouseDocument
from infra.redis_pipeline import packed
from projections.redis_layout import RedisKeys, encode_level, microseconds
from projections.views.stock_levels import Level
from read_api.availability import HoldsAreDue, Question, UnknownWarehouse, answer_body, with_strangers
from read_api.current import Views, Warehouse, ranked
from read_api.levels import REDIS, SkuLevels
from read_api.shapes import Availabilities, Availability
from tests.support_domain import NOW, after

BERLIN = Coordinates(latitude=52.52, longitude=13.405)
MUNICH = Coordinates(latitude=48.137, longitude=11.575)


def level(sku: str, code: str, on_hand: int, **facts: Any) -> Level:
    return Level(sku=sku, warehouse=code, version=2, as_of=NOW, created_at=NOW, on_hand=on_hand, **facts)


def found(*levels: Level) -> dict[str, SkuLevels]:
    values: dict[str, list[bytes]] = {}
    for one in levels:
        values.setdefault(one.sku, []).extend((one.warehouse.encode(), encode_level(one)))
    return {sku: SkuLevels(pairs, REDIS) for sku, pairs in values.items()}


def warehouse(
    code: str, priority: int = 100, status: str = "ACTIVE", name: str | None = None, where: Coordinates | None = None
) -> WarehouseDocument:
    return WarehouseDocument(
        code=code,
        name=name,
        address=None,
        timezone=None,
        latitude=where.latitude if where else None,
        longitude=where.longitude if where else None,
        priority=priority,
        capacity=None,
        status=WarehouseStatus(status),
        policy=None,
        version=1,
        created_at=NOW,
        updated_at=NOW,
    )


PLACES = ranked([warehouse(code) for code in ("W1", "W2", "W3")])


def single(
    *levels: Level,
    quantity: int | None = None,
    near: Coordinates | None = None,
    places: Mapping[bytes, Warehouse] = PLACES,
) -> Availability:
    """The answer for A, as it is documented."""
    question = Question(("A",), (quantity,), near=near, single=True)
    body = answer_body(question, found(*levels), places)
    answer = msgspec.json.decode(body, type=Availability)
    assert msgspec.json.encode(answer) != b""
    return answer


def several(*wanted: tuple[str, int | None], levels: tuple[Level, ...]) -> Availabilities:
    question = Question([sku for sku, _ in wanted], [quantity for _, quantity in wanted])
    return msgspec.json.decode(answer_body(question, found(*levels), PLACES), type=Availabilities)


def test_a_sku_is_the_sum_of_its_active_warehouses_in_the_order_in_which_they_serve():
    places = ranked(
        [warehouse("W1", 2, name="Berlin"), warehouse("W2", 1, name='Mün"chen'), warehouse("W3", 3, "INACTIVE")]
    )
    levels = [level("A", "W3", 40), level("A", "W1", 10, reserved=3), level("A", "W2", 20)]
    answer = single(*levels, places=places)
    assert (answer.sku, answer.known, answer.available, answer.status, answer.source) == (
        "A",
        True,
        27,
        "IN_STOCK",
        "redis",
    )
    shown = [(one.warehouse, one.name, one.available) for one in answer.warehouses]
    assert shown == [("W2", 'Mün"chen', 20), ("W1", "Berlin", 7), ("W3", None, 40)]
    assert answer.can_fulfil is msgspec.UNSET
    assert answer.warehouses[0].distance_km is msgspec.UNSET


def test_a_level_is_shown_as_it_is_shown_alone():
    one = level("A", "W1", 10, reserved=2, next_due_at=after(60), damaged=3, last_sold_at=NOW)
    (shown,) = single(one).warehouses
    document = one.document()
    assert {name: getattr(shown, name) for name in document.__struct_fields__} == msgspec.structs.asdict(document)


def test_as_of_is_the_latest_of_the_levels():
    later = msgspec.structs.replace(level("A", "W2", 1), as_of=after(0.000001))
    assert single(level("A", "W1", 1), later, level("A", "W3", 1)).as_of == after(0.000001)


def test_the_nearest_comes_first_and_those_that_are_nowhere_last():
    places = ranked([warehouse("W1", 1), warehouse("W2", 2, where=BERLIN), warehouse("W3", 3, where=MUNICH)])
    levels = [level("A", code, 1) for code in ("W1", "W2", "W3")]
    near_munich = single(*levels, near=Coordinates(latitude=48.1, longitude=11.6), places=places).warehouses
    assert [one.warehouse for one in near_munich] == ["W3", "W2", "W1"]
    distances = [one.distance_km for one in near_munich]
    assert distances[0] == pytest.approx(4.5, abs=0.2)
    assert distances[1] == pytest.approx(506, abs=3)
    assert distances[2] is None
    near_hamburg = single(*levels, near=Coordinates(latitude=53.55, longitude=9.99), places=places).warehouses
    assert [one.warehouse for one in near_hamburg] == ["W2", "W3", "W1"]


def test_the_other_side_of_the_date_line_is_near():
    places = ranked([warehouse("W1", where=Coordinates(latitude=-17.0, longitude=179.5))])
    (one,) = single(level("A", "W1", 1), near=Coordinates(latitude=-17.0, longitude=-179.5), places=places).warehouses
    assert one.distance_km == pytest.approx(106, abs=1)


@pytest.mark.parametrize(("quantity", "fulfilled"), [(1, True), (10, True), (14, True), (15, False)])
def test_what_can_be_fulfilled_counts_backorders_and_splits(quantity, fulfilled):
    levels = [level("A", "W1", 6), level("A", "W2", 6, backorder_limit=4, safety_stock=2)]
    answer = single(*levels, quantity=quantity)
    assert (answer.available, answer.can_fulfil) == (10, fulfilled)


@pytest.mark.parametrize(
    ("stock", "facts", "status"),
    [
        ((11, 10), {"low_stock_threshold": 10}, "IN_STOCK"),
        ((10, 10), {"low_stock_threshold": 10}, "LOW_STOCK"),
        ((1, 0), {"low_stock_threshold": 10}, "LOW_STOCK"),
        ((1, 0), {"low_stock_threshold": 0}, "IN_STOCK"),
        ((0, 0), {}, "OUT_OF_STOCK"),
        ((0, 0), {"backorder_limit": 1}, "BACKORDER"),
    ],
)
def test_the_status_is_that_of_the_sums(stock, facts, status):
    answer = single(*(level("A", code, units, **facts) for code, units in zip(("W1", "W2"), stock, strict=True)))
    assert (answer.available, answer.status) == (sum(stock), status)


def test_backorders_that_are_used_up_are_out_of_stock():
    answer = single(level("A", "W1", 0, committed=3, backorder_limit=3), quantity=1)
    assert (answer.available, answer.status, answer.can_fulfil) == (0, "OUT_OF_STOCK", False)


def test_one_warehouse_short_of_its_promises_does_not_hide_what_another_can_sell():
    answer = single(level("A", "W1", 0, reserved=10), level("A", "W2", 4, low_stock_threshold=10), quantity=4)
    assert (answer.available, answer.status, answer.can_fulfil) == (4, "LOW_STOCK", True)
    assert [one.short for one in answer.warehouses] == [10, 0]


def test_a_sku_without_an_active_warehouse_is_known_and_not_to_be_had():
    places = ranked([warehouse("W1", status="MAINTENANCE"), warehouse("W2", status="INACTIVE")])
    answer = single(level("A", "W1", 5, discontinued=True), level("A", "W2", 5), quantity=1, places=places)
    assert (answer.known, answer.available, answer.status, answer.can_fulfil) == (True, 0, "OUT_OF_STOCK", False)


def test_discontinued_is_a_sku_whose_every_item_is():
    assert single(level("A", "W1", 10, discontinued=True), level("A", "W2", 10)).status == "IN_STOCK"
    answer = single(*(level("A", code, 10, discontinued=True) for code in ("W1", "W2")), quantity=20)
    assert (answer.status, answer.available, answer.can_fulfil) == ("DISCONTINUED", 20, True)


def test_several_are_answered_in_order_and_what_is_asked_of_one_is_summed():
    levels = (level("A", "W1", 5), level("B", "W1", 5))
    both = several(("B", 5), ("A", 5), levels=levels)
    assert ([one.sku for one in both.items], both.can_fulfil) == (["B", "A"], True)
    twice = several(("A", 3), ("A", 3), levels=levels)
    assert ([one.can_fulfil for one in twice.items], twice.can_fulfil) == ([True, True], False)
    stranger = several(("A", 1), ("C", 1), levels=levels)
    assert ([one.known for one in stranger.items], stranger.can_fulfil) == ([True, False], False)
    some = several(("A", None), ("B", 6), levels=levels)
    assert (some.items[0].can_fulfil, some.items[1].can_fulfil, some.can_fulfil) == (msgspec.UNSET, False, False)
    assert several(("A", None), levels=levels).can_fulfil is msgspec.UNSET


def test_an_unknown_one_among_others_is_a_fact():
    (one,) = several(("C", None), levels=()).items
    assert (one.known, one.available, one.status, one.warehouses, one.as_of) == (False, 0, "OUT_OF_STOCK", [], None)


def test_a_level_with_a_hold_that_has_ended_is_not_answered_without_a_look():
    levels = found(level("A", "W1", 10, reserved=2, next_due_at=after(1)))
    question = Question(("A",), (None,), single=True)
    assert answer_body(question, levels, PLACES, microseconds(after(0.999999)))
    with pytest.raises(HoldsAreDue):
        answer_body(question, levels, PLACES, microseconds(after(1)))


def test_a_warehouse_that_nobody_knows_is_shown_but_not_counted():
    levels = found(level("A", "W8", 5), level("A", "W1", 2))
    question = Question(("A",), (None,), single=True)
    with pytest.raises(UnknownWarehouse):
        answer_body(question, levels, PLACES)
    answer = msgspec.json.decode(answer_body(question, levels, with_strangers(levels, PLACES)), type=Availability)
    assert (answer.available, [one.warehouse for one in answer.warehouses]) == (2, ["W1", "W8"])


def test_the_command_that_is_composed_by_hand_is_what_a_client_would_send():
    keys = RedisKeys("stockhold_views_g1_18ab")
    views = Views(1, "schema", keys, 1, 1)
    for sku in ("A", "A" * 100, "a.b:c-d_e"):
        assert views.levels_command(sku) == packed("HGETALL", keys.stock(sku))
