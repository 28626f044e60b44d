"""Whatever a bad transport does to a log that could have happened, the fold of it is the log's, and all of it is told."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from infra.event_store.log_reader import LogRow
from tests.support_histories import histories, played
from tests.support_public import first_of_each, of_each_item, tell
from tests.unit import test_public_batches as public
from tests.unit.test_fold_batches import Tables, folded, rows_of, version_of


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[LogRow], list[list[LogRow]]]:
    """A log, and batches of its rows as a bad transport delivers them: repeated, out of order, some never."""
    log = rows_of(played(draw(histories(40))).log)
    indexes = draw(st.lists(st.integers(0, len(log) - 1), max_size=2 * len(log)))
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=12))
    batches, at = [], 0
    for size in sizes:
        batches.append([log[index] for index in indexes[at : at + size]])
        at += size
    return log, batches


@given(deliveries())
@settings(max_examples=60, deadline=None)
def test_any_delivery_converges_to_the_fold_of_the_log(delivery: tuple[list[LogRow], list[list[LogRow]]]) -> None:
    log, batches = delivery
    tables = Tables(log)
    for batch in batches:
        tables.apply(batch)
    # What was delivered in part is already a prefix of each stream, with all that belongs to it.
    prefix = [row for row in log if row.version <= version_of(tables, row.stream)]
    assert tables.contents() == folded(prefix)
    for row in log:  # and the last event of each stream, at the latest, brings the rest
        if row.version == max(other.version for other in log if other.stream == row.stream):
            tables.apply([row])
    assert tables.contents() == folded(log)
    assert not tables.dead


@settings(max_examples=60)
@given(history=histories(), chance=st.randoms(use_true_random=False))
def test_however_they_are_delivered_all_is_told_and_in_the_order_of_the_log(
    history: list[object], chance: random.Random
) -> None:
    """Batches that lose, repeat and shuffle; a publisher that dies before it has noted what it told; at the end a look
    at the log, as reconciliation has it."""
    log = played(history).log  # type: ignore[arg-type]  # a list of moves
    rows = public.rows_of(log)
    publishing = public.Publishing(rows)
    at = 0
    while at < len(rows):
        step = chance.randint(1, 9)
        batch = [row for row in rows[at : at + step] if chance.random() < 0.8]
        batch += chance.choices(rows[: at + step], k=chance.randint(0, 3))
        chance.shuffle(batch)
        publishing.apply(batch, forget=chance.random() < 0.2)
        at += step
    publishing.reconcile()
    expected = tell(log)
    assert {(m.source, m.id, m.value) for m in publishing.sent} == {(m.source, m.id, m.value) for m in expected}
    assert of_each_item(first_of_each(publishing.sent)) == of_each_item(expected)
    assert publishing.dead == {}
