"""`verify` against real servers: clean where everything is right, and it finds each thing that is not."""

from typing import Any

import pytest

from infra.embedded.servers import ServerUrls
from infra.event_store.append_lock import SCHEMA
from projections.redis_layout import RedisKeys
from tests.support_verify import PreparedStack, busy_shop, prepare_stack, verified
from tests.support_views import follower_rig


@pytest.fixture(scope="module")
def prepared(servers: ServerUrls, module_database_url: str) -> PreparedStack:
    """The busy shop's log, index and views, made once and put back before each test."""
    return prepare_stack(module_database_url, servers.redis_url, busy_shop())


@pytest.fixture
def stack(prepared: PreparedStack) -> PreparedStack:
    prepared.restore()
    return prepared


def test_a_stack_without_fault_is_clean(stack: PreparedStack) -> None:
    shop = busy_shop()
    report = stack.verified()
    assert (report.violation_details, report.difference_details) == ([], [])
    assert report.is_clean
    assert (report.events, report.items, report.warehouses) == (len(shop.log), 3, 2)
    assert report.holds == sum(len(holds) for holds in shop.holds.values())
    assert report.rows > report.events
    facts = report.as_json()
    assert {name: facts[name] for name in ("events", "items", "violations", "differences", "oversold")} == {
        "events": len(shop.log),
        "items": 3,
        "violations": 0,
        "differences": 0,
        "oversold": 0,
    }


async def test_an_empty_stack_is_clean(database_url: str, redis_url: str) -> None:
    async with follower_rig(database_url, redis_url) as rig:
        report = await verified(rig, redis_url)
    assert report.is_clean
    assert (report.events, report.items) == (0, 0)


A_LEVEL = "WHERE sku = 'A' AND warehouse = 'W2'"
A_HOLD = "WHERE reservation_id = 'r-open' AND sku = 'A' AND warehouse = 'W2'"
EMPTY_LEVEL = (
    "INSERT INTO stock_levels SELECT version, revision, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, as_of, created_at, NULL,"
    " NULL, NULL, NULL, NULL, false, false, 'Z', 'W1' FROM stock_levels LIMIT 1"
)
OF_Z = "SELECT m.* FROM (SELECT * FROM movements LIMIT 1) AS m"

IN_THE_VIEWS = [
    (f"UPDATE stock_levels SET on_hand = on_hand + 1 {A_LEVEL}", "stock_levels A@W2: on_hand is 17, not 16"),
    (f"UPDATE stock_levels SET reserved = reserved + 1 {A_LEVEL}", "stock_levels A@W2: reserved is"),
    (f"UPDATE stock_levels SET next_due_at = NULL {A_LEVEL}", "stock_levels A@W2: next_due_at is None, not"),
    (f"UPDATE stock_levels SET stale = true {A_LEVEL}", "stock_levels A@W2: stale is True, not False"),
    (f"UPDATE stock_levels SET as_of = as_of + interval '1 microsecond' {A_LEVEL}", "stock_levels A@W2: as_of is"),
    (f"UPDATE stock_levels SET last_sold_at = NULL {A_LEVEL}", "stock_levels A@W2: last_sold_at is None, not"),
    (f"UPDATE stock_levels SET safety_stock = 7 {A_LEVEL}", "stock_levels A@W2: safety_stock is 7, not 1"),
    (f"UPDATE stock_levels SET version = version + 5 {A_LEVEL}", "stock_levels A@W2: is at version"),
    (f"UPDATE stock_levels SET version = version - 1 {A_LEVEL}", "stock_levels A@W2: is at version"),
    (f"DELETE FROM stock_levels {A_LEVEL}", "stock_levels A@W2: is missing"),
    (EMPTY_LEVEL, "stock_levels Z@W1: is not in the log"),
    (f"DELETE FROM policies {A_LEVEL}", "policies A@W2: policy is None, not"),
    (f"""UPDATE policies SET policy = '{{"safety_stock": 9}}' {A_LEVEL}""", "policies A@W2: policy is Policy("),
    ("INSERT INTO policies VALUES (1, 'Z', 'W1', '{}')", "policies Z@W1: belongs to nothing"),
    (f"UPDATE holds SET active = 0, released = 1 {A_HOLD}", "holds r-open A@W2: active is 0, not 1"),
    (f"UPDATE holds SET due_at = NULL {A_HOLD}", "holds r-open A@W2: due_at is None"),
    (f"UPDATE holds SET part = 1 {A_HOLD}", "holds r-open A@W2: part is 1, not 2"),
    ("UPDATE holds SET shipments = NULL WHERE reservation_id = 'r-paid'", "holds r-paid A-B@W1: shipments is None"),
    ("UPDATE holds SET returned = 0 WHERE reservation_id = 'r-paid'", "holds r-paid A@W1: returned is 0, not 2"),
    ("UPDATE holds SET expired = false WHERE reservation_id = 'r-gone'", "holds r-gone A-B@W1: expired is False"),
    (f"DELETE FROM holds {A_HOLD}", "holds r-open A@W2: is missing"),
    (f"UPDATE holds SET reservation_id = 'r-x' {A_HOLD}", "holds r-x A@W2: is of no hold in the log"),
    (f"UPDATE holds SET sku = 'Z' {A_HOLD}", "holds r-open Z@W2: belongs to nothing"),
    (f"UPDATE movements SET quantity = 99 {A_LEVEL} AND version = 2", "movements A@W2#2: quantity is 99, not 20"),
    (f"UPDATE movements SET before = after {A_LEVEL} AND version = 2", "movements A@W2#2: before is"),
    (f"UPDATE movements SET order_id = 'x' {A_LEVEL} AND version = 3", "movements A@W2#3: order_id is 'x'"),
    (f"""UPDATE movements SET metadata = '{{"a": 1}}' {A_LEVEL} AND version = 2""", "movements A@W2#2: metadata is"),
    (f"UPDATE movements SET unit_cost = 1 {A_LEVEL} AND version = 2", "movements A@W2#2: unit_cost is"),
    (f"DELETE FROM movements {A_LEVEL} AND version = 2", "movements A@W2#2: is missing"),
    (f"UPDATE movements SET version = 1 {A_LEVEL} AND version = 2", "movements A@W2#1: is of no event that moved"),
    (f"UPDATE movements SET version = 999 {A_LEVEL} AND version = 2", "movements A@W2 999: is of no event"),
    (f"UPDATE movements SET sku = 'Z' {A_LEVEL} AND version = 2", "movements Z@W2#2: belongs to nothing"),
    (
        "UPDATE reservations SET customer_ref = NULL WHERE reservation_id = 'r-paid'",
        "reservations r-paid: customer_ref",
    ),
    ("UPDATE reservations SET lines = '[]' WHERE reservation_id = 'r-paid'", "reservations r-paid: lines is []"),
    ("UPDATE reservations SET shortages = NULL WHERE reservation_id = 'r-short'", "reservations r-short: shortages is"),
    ("UPDATE reservations SET choices = NULL WHERE reservation_id = 'r-paid'", "reservations r-paid: choices is None"),
    ("DELETE FROM reservations WHERE reservation_id = 'r-paid'", "reservations r-paid: is missing"),
    ("UPDATE reservations SET reservation_id = 'r-x' WHERE reservation_id = 'r-paid'", "reservations r-x: belongs to"),
    ("UPDATE warehouses SET status = 'INACTIVE' WHERE code = 'W1'", "warehouses W1: status is 'INACTIVE'"),
    ("UPDATE warehouses SET country = NULL WHERE code = 'W1'", "warehouses W1: country is None, not 'DE'"),
    ("UPDATE warehouses SET details = '{}' WHERE code = 'W1'", "warehouses W1: details is {}"),
    ("UPDATE warehouses SET version = 1 WHERE code = 'W1'", "warehouses W1: is at version 1, the log at 2"),
    ("UPDATE warehouses SET code = 'W9' WHERE code = 'W1'", "warehouses W9: is not in the log"),
    ("DELETE FROM warehouses WHERE code = 'W1'", "warehouses W1: is at version 0, the log at 2"),
    ("INSERT INTO dead_letters (stream, version, error) VALUES ('stock:A@W1', 3, 'bad')", "dead_letters stock:A@W1"),
]


@pytest.mark.parametrize(("damage", "found"), IN_THE_VIEWS, ids=[damage[:60] for damage, _ in IN_THE_VIEWS])
def test_a_damaged_view_is_found(stack: PreparedStack, damage: str, found: str) -> None:
    stack.execute(damage, stack.generation.schema)
    report = stack.verified()
    assert any(detail.startswith(found) for detail in report.difference_details), report.difference_details
    assert report.violations == 0


IN_THE_INDEX = [
    ("UPDATE holds SET active = 9 WHERE reservation_id = 'r-open'", "index.holds r-open A@W2: active is 9"),
    ("UPDATE holds SET expires_at = NULL WHERE reservation_id = 'r-open'", "index.holds r-open A@W2: ends is None"),
    ("UPDATE holds SET state = '{}' WHERE reservation_id = 'r-open'", "index.holds r-open A@W2: is is "),
    ("DELETE FROM holds WHERE reservation_id = 'r-open'", "index.holds r-open A@W2: is missing"),
    (
        "UPDATE holds SET reservation_id = 'r-x' WHERE reservation_id = 'r-gone'",
        "index.holds r-gone A-B@W1: is missing",
    ),
    (
        "INSERT INTO holds VALUES ('r-x', 'A', 'W1', 1, NULL, '{}')",
        "index.holds: 13 rows, 12 Reserved events",
    ),
    ("UPDATE reservations SET order_id = 'x' WHERE reservation_id = 'r-open'", "index.reservations r-open: order_id"),
    ("UPDATE reservations SET state = '{}' WHERE reservation_id = 'r-open'", "index.reservations r-open: state is {}"),
    ("DELETE FROM reservations WHERE reservation_id = 'r-open'", "index.reservations r-open: is missing"),
    ("INSERT INTO reservations VALUES ('r-x', 'o', '{}')", "index.reservations: 9 rows, 8 reservations with holds"),
    ("DELETE FROM items WHERE warehouse = 'W2'", "index.items A@W2: is missing"),
    ("INSERT INTO items VALUES ('Z', 'W1')", "index.items: 4 rows, 3 Registered events"),
    ("DELETE FROM warehouses WHERE code = 'W2'", "index.warehouses: 1 rows, 2 WarehouseCreated events"),
    ("UPDATE warehouses SET version = 7 WHERE code = 'W2'", "index.warehouses W2: version is 7, not 1"),
    ("UPDATE snapshots SET state = '{}' WHERE originator_id = 'stock:A@W2'", "snapshots A@W2: cannot be read"),
    (
        """UPDATE snapshots SET state = replace(convert_from(state, 'UTF8'), '"on_hand":16', '"on_hand":61')::bytea""",
        "snapshots A@W2: at version",
    ),
    ("UPDATE snapshots SET originator_version = 999", "snapshots A@W2: is at version 999, the log at"),
]


@pytest.mark.parametrize(("damage", "found"), IN_THE_INDEX, ids=[damage[:60] for damage, _ in IN_THE_INDEX])
def test_a_damaged_index_is_found(stack: PreparedStack, damage: str, found: str) -> None:
    stack.execute(damage, SCHEMA)
    report = stack.verified()
    assert any(detail.startswith(found) for detail in report.difference_details), report.difference_details


IN_THE_CACHE: list[tuple[list[Any], str]] = [
    (["HDEL", "{stock:A}", "W2"], "redis A@W2: due holds without a level"),
    (["DEL", "{stock:A-B}", "{due:A-B@W1}"], "redis A-B@W1: is missing"),
    (["HSET", "{stock:A}", "W2", "x"], "redis A@W2: cannot be read"),
    (["ZADD", "{due:A@W2}", "5", "5:r-x"], "redis A@W2 (due holds): 5:r-x should not be there"),
    (["DEL", "{due:A@W2}"], "redis A@W2 (due holds): "),
    (["HSET", "{stock:Z}", "W1", "x"], "redis Z@W1: is not in the log"),
    (["ZADD", "{due:Z@W1}", "5", "5:r-x"], "redis Z@W1: is not in the log"),
    (["HDEL", "{warehouses}", "W1"], "redis warehouse W1: is at version 0, the log at 2"),
    (["HSET", "{warehouses}", "W1", "12345678{}"], "redis warehouse W1: is at version 0, the log at 2"),
    (["HSET", "{warehouses}", "W9", "12345678{}"], "redis warehouse W9: is not in the log"),
]


@pytest.mark.parametrize(("damage", "found"), IN_THE_CACHE, ids=[" ".join(damage) for damage, _ in IN_THE_CACHE])
def test_a_damaged_cache_is_found(stack: PreparedStack, damage: list[str], found: str) -> None:
    keys = RedisKeys(stack.generation.redis_prefix)
    names = {"{warehouses}": keys.warehouses}
    names |= {f"{{stock:{sku}}}": keys.stock(sku) for sku in ("A", "A-B", "Z")}
    names |= {f"{{due:{sku}@{code}}}": keys.due(sku, code) for sku, code in (("A", "W2"), ("A-B", "W1"), ("Z", "W1"))}
    stack.redis.execute_command(*(names.get(word, word) for word in damage))
    report = stack.verified()
    assert any(detail.startswith(found) for detail in report.difference_details), report.difference_details
    assert report.violations == 0


def test_a_wrong_figure_in_the_cache_is_found(stack: PreparedStack) -> None:
    key = RedisKeys(stack.generation.redis_prefix).stock("A")
    value: Any = stack.redis.hget(key, "W2")
    changed = value.replace(b'"on_hand":16', b'"on_hand":61')
    assert changed != value
    stack.redis.hset(key, "W2", changed)
    assert stack.verified().difference_details == ["redis A@W2 (document): on_hand is 61, not 16"]


def test_a_cache_that_is_not_filled_is_not_there(stack: PreparedStack) -> None:
    stack.redis.delete(RedisKeys(stack.generation.redis_prefix).filled)
    report = stack.verified(patience_s=0.2)
    assert report.difference_details == [f"the cache {stack.generation.redis_prefix}: is not there"]


# The log itself

REPLACE = (
    "UPDATE stored_events SET state = replace(convert_from(state, 'UTF8'), {}, {})::bytea WHERE originator_id = {}"
)
A_FIRST = "WHERE originator_id = 'stock:A@W2' AND originator_version = 1"
IN_THE_LOG = [
    (
        "UPDATE stored_events SET originator_version = 99 WHERE originator_id = 'stock:A@W2' AND originator_version = 4",
        "stock:A@W2 at version 3: is followed by version 5",
    ),
    (
        f"DELETE FROM stored_events {A_FIRST}",
        "stock:A@W2 at version 0: is followed by version 2",
    ),
    (
        "UPDATE stored_events SET topic = 'no-such-thing' WHERE originator_id = 'stock:A@W2' AND originator_version = 4",
        "stock:A@W2 at version 4: cannot be read: no event class has the topic",
    ),
    (
        f"UPDATE stored_events SET topic = 'stock-item.discontinued' {A_FIRST}",
        "stock:A@W2 at version 1: is stock-item.discontinued, out of place",
    ),
    (
        "UPDATE stored_events SET notification_id = 100000 WHERE originator_id = 'stock:A@W2' AND originator_version = 4",
        "stock:A@W2 at version 5: is at position",
    ),
    (
        REPLACE.format("'\"quantity\":20'", "'\"quantity\":3'", "'stock:A@W2'"),
        "stock:A@W2 at version 9: oversold: 4 promised, 1 on hand, 2 backorders allowed",
    ),
    (
        REPLACE.format("'\"parts\":3'", "'\"parts\":4'", "'stock:A@W2'"),
        "command command-",
    ),
    (
        "UPDATE stored_events SET topic = 'warehouse.changed' WHERE originator_id = 'warehouse:W1'",
        "warehouse:W1 at version 1: is warehouse.changed, out of place",
    ),
]


@pytest.mark.parametrize(("damage", "found"), IN_THE_LOG)
def test_a_damaged_log_is_found(stack: PreparedStack, damage: str, found: str) -> None:
    stack.execute(damage, SCHEMA)
    report = stack.verified(patience_s=0.1)  # the views may never reach a head that was moved
    assert any(detail.startswith(found) for detail in report.violation_details), report.violation_details
    assert (report.oversold > 0) is ("oversold" in found)
