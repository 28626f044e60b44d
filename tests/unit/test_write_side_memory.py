"""What an executor remembers, when what is loaded under the lock meets what was loaded beside it."""

from datetime import UTC, datetime

import msgspec

from domain.events import Origin
from domain.policy import DEFAULT_POLICY
from domain.stock_item import StockItem, StockItemState
from infra.event_store.mapper import EventMapper
from infra.event_store.port import Loaded, Needs, StoredRow
from write_side.memory import Memory

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STREAM = "stock:A@W1"
MAPPER = EventMapper()


def stocked(times: int) -> StockItem:
    item = StockItem.unregistered(STREAM)
    origin = Origin("c1", "tester", "c1")
    item.register(DEFAULT_POLICY, origin, NOW)
    for _ in range(times):
        item.restock(1, origin, NOW)
    return item


def rows_of(item: StockItem) -> list[StoredRow]:
    return [StoredRow(STREAM, e.originator_version, e.TOPIC, MAPPER.encode(e)) for e in item.new_events]


def snapshot_of(item: StockItem) -> StoredRow:
    state: StockItemState = item.to_state()
    return StoredRow(STREAM, item.version, "", msgspec.json.encode(state))


def test_a_snapshot_under_the_lock_replaces_what_a_slower_read_beside_it_has_put_there() -> None:
    """Nothing came after the snapshot, so no event would show that memory is behind it."""
    item = stocked(9)
    memory = Memory(MAPPER, items_limit=9, reservations_limit=9, snapshot_every=5)
    needs = Needs(cold={STREAM})
    memory.take_in(Loaded(NOW, rows=rows_of(item)[:3]), needs, locked=False)
    assert memory.version(STREAM) == 3
    memory.take_in(Loaded(NOW, rows=[snapshot_of(item)]), needs, locked=True)
    kept = memory.items[STREAM]
    assert (kept.version, kept.figures) == (10, item.figures)


def test_a_snapshot_and_what_came_after_it_replace_it_too() -> None:
    item, later = stocked(4), stocked(9)
    memory = Memory(MAPPER, items_limit=9, reservations_limit=9, snapshot_every=5)
    needs = Needs(cold={STREAM})
    memory.take_in(Loaded(NOW, rows=rows_of(later)[:3]), needs, locked=False)
    memory.take_in(Loaded(NOW, rows=[snapshot_of(item), *rows_of(later)[5:]]), needs, locked=True)
    assert memory.version(STREAM) == 10


def test_an_older_snapshot_replaces_nothing() -> None:
    item, older = stocked(9), stocked(4)
    memory = Memory(MAPPER, items_limit=9, reservations_limit=9, snapshot_every=5)
    needs = Needs(cold={STREAM})
    memory.take_in(Loaded(NOW, rows=rows_of(item)), needs, locked=False)
    memory.take_in(Loaded(NOW, rows=[snapshot_of(older)]), needs, locked=True)
    assert memory.version(STREAM) == 10
