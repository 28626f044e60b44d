"""How the relay cuts the log into messages: everything once, in order, within bounds."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from infra.event_store.log_reader import LogRow
from infra.kafka.event_batches import MessageRow, decode_batch, encode_batch
from infra.kafka.partitions import partition_of
from infra.kafka.topics import MESSAGE_BYTES_MAX
from write_side.relay_batches import MESSAGE_BYTES, ROW_BYTES, Batcher

EPOCH = 3
STREAMS = [f"stock:{sku}@{code}" for sku in "ABCDE" for code in ("W1", "W2")] + ["warehouse:W1", "stock:é@ü"]


def logs() -> st.SearchStrategy[list[LogRow]]:
    """Rows with holes between their positions, and states from nothing to more than a message takes."""
    row = st.tuples(st.integers(1, 9), st.sampled_from(STREAMS), st.sampled_from([0, 1, 60, 700, 1_500, 9_000]))

    def rows(drawn: list[tuple[int, str, int]]) -> list[LogRow]:
        position, made = 0, []
        for step, stream, size in drawn:
            position += step
            made.append(LogRow(position, stream, position, "stock-item.restocked", b"x" * size))
        return made

    return st.lists(row, max_size=80).map(rows)


@given(logs(), st.integers(1, 12), st.integers(1, 7), st.sampled_from([1_024, 2_000, 5_000]))
def test_every_event_is_in_one_message_of_its_partition_in_order(
    log: list[LogRow], partitions: int, events_max: int, bytes_max: int
) -> None:
    messages = Batcher(partitions, events_max, bytes_max).messages(EPOCH, log)
    for partition in range(partitions):
        share = [row for row in log if partition_of(row.stream, partitions) == partition]
        batches = [decode_batch(value) for value in messages.get(partition, [])]
        arrived = [row for batch in batches for row in batch.rows]
        assert [(row.position, row.stream, row.version, row.topic) for row in arrived] == [row[:4] for row in share]
        for sent, row in zip(arrived, share, strict=True):
            too_large = ROW_BYTES + len((row.stream + row.topic).encode()) + len(row.state) > bytes_max
            assert sent.state == (None if too_large else row.state)


@given(logs(), st.integers(1, 12), st.integers(1, 7), st.sampled_from([1_024, 2_000, 5_000]))
def test_messages_keep_to_their_bounds_and_are_no_smaller_than_they_need_be(
    log: list[LogRow], partitions: int, events_max: int, bytes_max: int
) -> None:
    for values in Batcher(partitions, events_max, bytes_max).messages(EPOCH, log).values():
        batches = [decode_batch(value) for value in values]
        for value, batch in zip(values, batches, strict=True):
            assert 1 <= len(batch.rows) <= events_max
            assert len(value) <= bytes_max + MESSAGE_BYTES
            assert (batch.format, batch.epoch) == (1, EPOCH)
            assert (batch.first, batch.last) == (batch.rows[0].position, batch.rows[-1].position)
        for former, latter in pairwise(batches):
            # The next event was put into a message of its own because it would not have fitted.
            assert len(former.rows) == events_max or _bytes_at_most([*former.rows, latter.rows[0]]) > bytes_max


def _bytes_at_most(rows: list[MessageRow]) -> int:
    return sum(ROW_BYTES + len((row.stream + row.topic).encode()) + len(row.state or b"") for row in rows)


def test_numbers_at_their_largest_are_reckoned_with() -> None:
    big = 2**63 - 1
    row = LogRow(big, "s" * 300, big, "t" * 300, b"x" * 70_000)
    assert len(encode_batch(big, [row])) <= ROW_BYTES + MESSAGE_BYTES + 600 + 70_000


def test_a_bound_beyond_what_the_topic_takes_is_the_topics_own() -> None:
    rows = [LogRow(n, "stock:A@W1", n, "t", b"x" * 300_000) for n in range(1, 8)]
    (values,) = Batcher(1, 500, 10 * MESSAGE_BYTES_MAX).messages(EPOCH, rows).values()
    assert max(map(len, values)) < MESSAGE_BYTES_MAX
    assert [len(decode_batch(value).rows) for value in values] == [3, 3, 1]


def test_nothing_makes_no_message() -> None:
    assert Batcher(8, 500, 1_024).messages(EPOCH, []) == {}
