"""Views that were built by other code must be known as such: what the folds write, and how it lies in the stores, is pinned.

A test here fails when a generation that is there already would no longer be what this code makes of the same log. Then
raise `FOLD_VERSION` (or `SHAPE_VERSION`) in `projections/versions.py` and pin what it has come to. A new kind of event
gets a history of its own beside the others: no generation has met it yet, so their versions stay.
"""

import hashlib
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from domain.events import EVENT_CLASSES
from infra.event_store.log_reader import LogRow
from infra.event_store.mapper import EventMapper
from projections import tables, versions
from projections.batches import Found, Outcome, arrivals_of, fold_batch
from projections.binary import Table
from projections.redis_layout import RedisKeys, due_member, encode_filled, encode_level, encode_warehouse

GOLDEN = Path(__file__).parents[1] / "golden"

FOLDED = {
    # By history: the version that wrote it so, and the digest of what was written.
    "history_1.jsonl": (1, "570dcb5ef67d1d675ea54d9340221b23"),
}
SHAPE = (2, "a3d312dd8488b0ed5e088df7547b5d91")


def history(name: str) -> list[LogRow]:
    lines = (GOLDEN / name).read_text().splitlines()
    return [
        LogRow(position, stream, version, topic, state.encode())
        for position, stream, version, topic, state in map(json.loads, lines)
    ]


def folded(name: str) -> Outcome:
    outcome = fold_batch(arrivals_of(history(name), EventMapper()), Found())
    assert not outcome.gaps
    assert not outcome.parked
    return outcome


def digest_of(what: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(what, order="deterministic")).hexdigest()[:32]


def written(outcome: Outcome) -> Any:
    """Everything that a batch would write, in an order that does not depend on anything."""
    return {
        "levels": [item.level for item in outcome.items],
        "holds": [item.holds for item in outcome.items],
        "policies": [(item.policy, item.policy_version) for item in outcome.items],
        "movements": list(outcome.movements),
        "reservations": list(outcome.reservations),
        "warehouses": [warehouse.row for warehouse in outcome.warehouses],
    }


def test_the_histories_have_something_of_everything() -> None:
    topics = {row.topic for name in FOLDED for row in history(name)}
    assert topics == {event_class.TOPIC for event_class in EVENT_CLASSES}


def test_the_folds_write_what_their_version_says() -> None:
    found = {name: (versions.FOLD_VERSION, digest_of(written(folded(name)))) for name in FOLDED}
    assert found == FOLDED, "generations that are there were built otherwise: raise FOLD_VERSION, and pin this"


def test_the_tables_and_keys_are_those_of_their_version() -> None:
    outcome = folded("history_1.jsonl")
    found = (versions.SHAPE_VERSION, digest_of([_statements(), _columns(), _cached(outcome)]))
    assert found == SHAPE, "generations that are there lie otherwise: raise SHAPE_VERSION, and pin this"


def _statements() -> list[str]:
    """The SQL of a generation without its comments and its layout."""
    texts = [files("projections.views").joinpath(name).read_text() for name in ("tables.sql", "indexes.sql")]
    return [" ".join(re.sub(r"--.*", "", text).split()) for text in texts]


def _columns() -> dict[str, tuple[str, ...]]:
    return {table.name: table.names for table in vars(tables).values() if isinstance(table, Table)}


def _cached(outcome: Outcome) -> list[Any]:
    """What Redis is given of a history."""
    keys = RedisKeys("prefix")
    return [
        [keys.filled, keys.warehouses, keys.filling(0), keys.stock("A"), keys.due("A", "W1"), encode_filled(7, 8)],
        [encode_level(item.level).hex() for item in outcome.items],
        [due_member(hold) for item in outcome.items for _, hold in sorted(item.holds.items())],
        [encode_warehouse(warehouse.row).hex() for warehouse in outcome.warehouses],
    ]


def test_a_fold_that_comes_to_write_something_else_is_noticed() -> None:
    """The pin would be worth nothing if it did not depend on every kind of row."""
    outcome = folded("history_1.jsonl")
    before = digest_of(written(outcome))
    changes: list[Any] = [written(outcome) for _ in range(5)]
    for changed, (table, field, value) in zip(
        changes,
        (
            ("levels", "lost", 99),
            ("movements", "quantity", 99),
            ("reservations", "kind", "manual"),
            ("warehouses", "version", 99),
            ("policies", None, 99),
        ),
        strict=True,
    ):
        first = changed[table][0]
        changed[table][0] = (first[0], value) if field is None else msgspec.structs.replace(first, **{field: value})
        assert digest_of(changed) != before, table
