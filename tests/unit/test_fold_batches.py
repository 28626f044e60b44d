"""What a batch does, whatever its transport did to it: repeats, disorder, losses, poison."""

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from domain.events import Event, Origin, WarehouseCreated, WarehouseDetails
from domain.values import split_stock_stream, stock_stream
from infra.event_store.log_reader import LogRow
from infra.event_store.mapper import EventMapper
from projections.batches import Arrivals, Found, Item, Outcome, arrivals_of, fold_batch, named_by
from projections.item_fold import earliest_end
from projections.views.warehouses import code_of, is_warehouse_stream
from tests.support_domain import NOW, Fact, committed, happened, registered, reserved, restocked

MAPPER = EventMapper()
A, B = stock_stream("A", "W1"), stock_stream("B", "W1")


def rows_of(events: Iterable[Event]) -> list[LogRow]:
    return [
        LogRow(position, event.originator_id, event.originator_version, event.TOPIC, MAPPER.encode(event))
        for position, event in enumerate(events, start=1)
    ]


def stream_rows(stream: str, *facts: Fact) -> list[LogRow]:
    return rows_of(fact.at(stream, version, NOW) for version, fact in enumerate(facts, start=1))


ROWS = stream_rows(A, registered(), restocked(10), reserved("r-1", 3), committed("r-1", 2))


class Tables:
    """The views in dictionaries, and the log that they are healed from: the smallest follower there can be."""

    def __init__(self, log: Sequence[LogRow] = ()) -> None:
        self.log = log
        self.found = Found()
        self.movements: dict[tuple[str, str, int], Any] = {}
        self.reservations: dict[str, Any] = {}
        self.policies: dict[Item, Any] = {}
        self.dead: dict[str, Any] = {}

    def apply(self, rows: Iterable[LogRow], retried: Sequence[str] = (), *, park_gaps: bool = False) -> Outcome:
        arrivals = arrivals_of(rows, MAPPER)
        outcome = fold_batch(arrivals, self._load(arrivals), retried, park_gaps=park_gaps)
        if outcome.gaps:
            for stream in outcome.gaps:
                have, upto = version_of(self, stream), arrivals[stream][-1].row.version
                self.apply((r for r in self.log if r.stream == stream and have < r.version <= upto), park_gaps=True)
            return self.apply(rows, retried, park_gaps=True)
        self._write(outcome)
        return outcome

    def _load(self, arrivals: Arrivals) -> Found:
        """Only what the batch names, as a store gives it."""
        named = named_by(arrivals)
        wanted = {(reservation, (sku, warehouse)) for reservation, sku, warehouse in named.holds}
        return Found(
            levels={item: self.found.levels[item] for item in named.items if item in self.found.levels},
            holds={
                item: [hold for hold in holds if (hold.reservation_id, item) in wanted]
                for item, holds in self.found.holds.items()
                if item in named.items
            },
            warehouses={code: self.found.warehouses[code] for code in named.codes if code in self.found.warehouses},
            parked={stream for stream in named.streams if stream in self.dead},
        )

    def _write(self, outcome: Outcome) -> None:
        for item in outcome.items:
            key = (item.level.sku, item.level.warehouse)
            holds = {hold.reservation_id: hold for hold in self.found.holds.get(key, ())} | dict(item.holds)
            self.found.holds[key] = list(holds.values())
            level = item.level
            if not item.due_is_exact:
                level = replace(level, next_due_at=earliest_end(holds.values()))
            self.found.levels[key] = level
            if item.policy is not None:
                self.policies[key] = (item.policy, item.policy_version)
        for warehouse in outcome.warehouses:
            self.found.warehouses[warehouse.row.code] = warehouse.row
        for movement in outcome.movements:
            key3 = (movement.sku, movement.warehouse, movement.version)
            assert key3 not in self.movements, "a movement was made twice"
            self.movements[key3] = movement
        for header in outcome.reservations:
            self.reservations.setdefault(header.reservation_id, header)
        for stream in outcome.unparked:
            del self.dead[stream]
        self.dead |= {letter.stream: letter for letter in outcome.parked}

    def contents(self) -> dict[str, Any]:
        holds = {
            (hold.reservation_id, item): hold for item, item_holds in self.found.holds.items() for hold in item_holds
        }
        return {
            "levels": self.found.levels,
            "holds": holds,
            "warehouses": self.found.warehouses,
            "movements": self.movements,
            "reservations": self.reservations,
            "policies": self.policies,
            "dead": self.dead,
        }


def folded(rows: Iterable[LogRow]) -> dict[str, Any]:
    """What the views of ``rows`` must be: one event after another."""
    tables = Tables()
    for row in rows:
        tables.apply([row])
    return tables.contents()


def test_what_is_next_is_applied() -> None:
    outcome = Tables().apply(ROWS)
    (item,) = outcome.items
    assert (item.level.version, item.before, item.write, outcome.applied) == (4, 0, True, 4)
    assert [movement.version for movement in outcome.movements] == [2, 3, 4]
    assert (item.held, item.holds["r-1"].committed) == ({}, 2)


def test_what_was_seen_is_skipped_but_named() -> None:
    tables = Tables()
    tables.apply(ROWS)
    outcome = tables.apply(ROWS[1:3])
    (item,) = outcome.items
    assert (outcome.applied, outcome.skipped, item.write, item.before, item.level.version) == (0, 2, False, 4, 4)


def test_disorder_and_repeats_within_a_batch_do_not_matter() -> None:
    tables = Tables()
    tables.apply([ROWS[3], ROWS[0], ROWS[2], ROWS[0], ROWS[1]])
    assert tables.contents() == folded(ROWS)


def test_a_gap_is_reported_and_nothing_else_done_for_it() -> None:
    arrivals = arrivals_of([ROWS[0], ROWS[3]], MAPPER)
    outcome = fold_batch(arrivals, Found())
    assert outcome.gaps == [A]
    assert not outcome.parked


def test_a_gap_that_the_log_does_not_fill_is_parked() -> None:
    tables = Tables(log=[ROWS[0], ROWS[3]])
    tables.apply([ROWS[0]])
    tables.apply([ROWS[3]])
    assert "nothing between version 1 and 4" in tables.dead[A].error
    assert tables.found.levels["A", "W1"].stale


def poisoned(row: LogRow, topic: str = "", state: bytes = b"") -> LogRow:
    return row._replace(topic=topic or row.topic, state=state or row.state)


def test_an_unreadable_event_parks_its_stream_alone() -> None:
    tables = Tables()
    others = stream_rows(B, registered(), restocked(1))
    tables.apply([*ROWS[:2], poisoned(ROWS[2], topic="no-such-thing"), ROWS[3], *others])
    letter = tables.dead[A]
    assert (letter.version, letter.position, letter.topic) == (3, 3, "no-such-thing")
    assert (tables.found.levels["A", "W1"].version, tables.found.levels["A", "W1"].stale) == (2, True)
    assert (tables.found.levels["B", "W1"].version, tables.found.levels["B", "W1"].stale) == (2, False)


def test_a_parked_stream_ignores_what_comes_until_it_is_retried() -> None:
    tables = Tables()
    tables.apply([*ROWS[:2], poisoned(ROWS[2], state=b"{")])
    outcome = tables.apply(ROWS[2:])
    assert (outcome.applied, outcome.skipped) == (0, 2)
    assert tables.found.levels["A", "W1"].version == 2
    tables.apply(ROWS[2:], retried=[A])
    assert tables.contents() == folded(ROWS)


def test_a_retry_that_meets_poison_again_stays_parked() -> None:
    tables = Tables()
    bad = poisoned(ROWS[3], state=b"{")
    tables.apply([*ROWS[:2], poisoned(ROWS[2], state=b"{")])
    tables.apply([ROWS[2], bad], retried=[A])
    assert tables.dead[A].version == 4
    assert (tables.found.levels["A", "W1"].version, tables.found.levels["A", "W1"].stale) == (3, True)


def test_a_retry_with_nothing_left_unparks() -> None:
    tables = Tables()
    tables.apply([*ROWS[:2], poisoned(ROWS[2], state=b"{")])
    outcome = fold_batch({A: []}, tables._load({A: []}), [A])
    assert outcome.unparked == [A]
    assert [item.level.stale for item in outcome.items] == [False]


def test_an_item_whose_first_event_is_poison_has_no_row() -> None:
    tables = Tables()
    tables.apply([poisoned(ROWS[0], topic="x"), ROWS[1]])
    assert tables.found.levels == {}
    assert list(tables.dead) == [A]


def test_an_event_of_another_stream_or_version_is_poison() -> None:
    tables = Tables()
    tables.apply([ROWS[0], ROWS[1]._replace(state=ROWS[2].state, topic=ROWS[2].topic)])
    assert "holds stock:A@W1 at 3 instead" in tables.dead[A].error


def test_a_stream_of_no_known_kind_is_parked_once() -> None:
    tables = Tables()
    stray = ROWS[0]._replace(stream="parcel:1")
    tables.apply([stray])
    assert list(tables.dead) == ["parcel:1"]
    assert not tables.apply([stray]).parked
    assert not fold_batch({"parcel:1": []}, Found(parked={"parcel:1"}), ["parcel:1"]).parked


def test_what_an_error_quotes_can_be_stored() -> None:
    tables = Tables()
    tables.apply([poisoned(ROWS[0], topic="a\x00b")])
    assert "\x00" not in tables.dead[A].error
    tables.dead[A].error.encode()


def test_warehouses_have_watermarks_and_poison_too() -> None:
    details = WarehouseDetails(name="One")
    created = happened(WarehouseCreated, details=details).at("warehouse:W1", 1, NOW, Origin("c", "a", "x"))
    (row,) = rows_of([created])
    tables = Tables()
    assert tables.apply([row]).applied == 1
    assert tables.apply([row]).skipped == 1
    outcome = tables.apply([row._replace(version=2)])
    assert [letter.version for letter in outcome.parked] == [2]
    assert [(w.stale, w.write, w.row.version) for w in outcome.warehouses] == [(True, True, 1)]
    assert tables.apply([row._replace(version=2)]).warehouses[0].write is False
    assert fold_batch(arrivals_of([row._replace(version=9)], MAPPER), tables.found).gaps == ["warehouse:W1"]


def test_a_stock_event_in_a_warehouse_is_poison() -> None:
    stray = restocked(1).at("warehouse:W1", 1, NOW)
    tables = Tables()
    tables.apply(rows_of([stray]))
    assert "is not of a warehouse" in tables.dead["warehouse:W1"].error


def test_holds_left_over_from_a_lost_level_are_made_anew() -> None:
    tables = Tables()
    tables.apply(ROWS)
    del tables.found.levels["A", "W1"]
    tables.movements.clear()
    tables.apply(ROWS)
    assert tables.contents() == folded(ROWS)


def version_of(tables: Tables, stream: str) -> int:
    if is_warehouse_stream(stream):
        warehouse = tables.found.warehouses.get(code_of(stream))
        return warehouse.version if warehouse is not None else 0
    level = tables.found.levels.get(split_stock_stream(stream))
    return level.version if level is not None else 0
