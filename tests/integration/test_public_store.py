"""A publisher on a real log and real tables: what it remembers, and what it does when something is not as it should be."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from domain.events import Adjusted, StockEvent
from domain.values import stock_stream
from infra.event_store.append_lock import SCHEMA
from infra.kafka.event_batches import MessageRow, encode_batch
from projections import versions
from projections.public.batches import ChangedStream, PublicOutcome
from projections.public.dead_letters import NobodyPublishes, parked_publications, retry_publications
from projections.public.publisher import OtherLog
from projections.public.store import Overtaken
from tests.support_domain import NOW, committed, happened, registered, reserved, restocked, shipped
from tests.support_histories import played_seed
from tests.support_public import PublicRig, body, public_rig, tell
from tests.support_views import LogWriter

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
A, B = stock_stream("A", "W1"), stock_stream("B", "W1")
LIFE = (registered(), restocked(20), reserved("r-1", 3), committed("r-1", 3), shipped("r-1", 3))


def ids(stream: str, *numbers: int) -> list[str]:
    return [f"{stream}#{number}" for number in numbers]


def states(rig: PublicRig) -> list[Any]:
    return rig.execute("SELECT stream, version, level::text FROM streams ORDER BY stream") + rig.execute(
        "SELECT stream, reservation_id, hold::text FROM holds ORDER BY stream, reservation_id"
    )


async def test_it_goes_on_where_it_was(database_url: str) -> None:
    log = LogWriter(database_url)
    log.happened("A", "W1", *LIFE)
    rows = log.rows()
    async with public_rig(database_url) as rig:
        for row in rows:
            await rig.publisher.apply([row])
            await rig.restart()
        assert rig.sink.updates == ids(A, 1, 2, 3, 4, 5)
        assert rig.execute("SELECT count(*) FROM holds") == [(0,)]


async def test_a_history_in_one_batch_and_event_by_event_are_told_alike(database_url: str) -> None:
    log = LogWriter(database_url)
    events = [event for event in played_seed(5, 80).log if isinstance(event, StockEvent)]
    log.append(events)
    rows = log.rows()
    async with public_rig(database_url) as rig:
        await rig.publisher.apply(rows)
        assert rig.sink.sent == tell(events)
        at_once = states(rig)
        rig.sink.sent.clear()
        rig.execute("TRUNCATE streams, holds")
        await rig.restart()
        for row in rows:
            await rig.publisher.apply([row])
        assert rig.sink.sent == tell(events)
        assert states(rig) == at_once


async def test_started_over_from_the_first_message_it_tells_nothing_new(database_url: str) -> None:
    log = LogWriter(database_url)
    log.happened("A", "W1", *LIFE)
    async with public_rig(database_url) as rig:
        await rig.publisher.apply(log.rows())
        told = list(rig.sink.sent)
        before = states(rig)
        await rig.restart()
        await rig.publisher.apply(log.rows())
        assert rig.sink.sent == told
        assert states(rig) == before


async def test_a_crash_after_the_brokers_and_before_the_tables_repeats_the_same_messages(database_url: str) -> None:
    log = LogWriter(database_url)
    log.happened("A", "W1", *LIFE)
    async with public_rig(database_url) as rig:
        await rig.publisher.apply(log.rows()[:2])
        told = list(rig.sink.sent)
        rig.sink.dies = True
        with pytest.raises(ConnectionError):
            await rig.publisher.apply(log.rows()[2:4])
        first = rig.sink.sent[len(told) :]
        rig.sink.dies = False
        await rig.restart()
        await rig.publisher.apply(log.rows()[1:])
        assert rig.sink.sent[len(told) + len(first) :][: len(first)] == first
        assert rig.sink.updates == ids(A, 1, 2, 3, 4, 3, 4, 5)


async def test_what_two_publishers_both_tell_is_told_twice_and_kept_once(database_url: str) -> None:
    log = LogWriter(database_url)
    log.happened("A", "W1", *LIFE)
    rows = log.rows()
    async with public_rig(database_url) as one, public_rig(database_url) as other:
        await one.publisher.apply(rows[:2])
        known, _ = await other.store.load([A], [])
        await one.publisher.apply(rows[2:4])
        level = msgspec.structs.replace(known.levels[A], version=3)
        with pytest.raises(Overtaken):
            await other.store.commit(PublicOutcome(changed=[ChangedStream(A, 2, level, {})]))
        await other.publisher.apply(rows[2:])
        assert other.sink.updates == ids(A, 5)
        assert one.execute("SELECT version FROM streams") == [(5,)]


async def test_a_message_too_large_for_the_topic_is_read_from_the_log(database_url: str) -> None:
    log = LogWriter(database_url)
    log.happened("A", "W1", *LIFE)
    rows = log.rows()
    messages = [MessageRow(*row)._replace(state=None if row.version in {2, 5} else row.state) for row in rows]
    async with public_rig(database_url) as rig:
        await rig.publisher.deliver([encode_batch(1, messages)])
        assert rig.sink.updates == ids(A, 1, 2, 3, 4, 5)


@pytest.mark.parametrize("message", [b"", b"\x00", b"nonsense", None])
async def test_a_message_that_says_nothing_is_passed_over(database_url: str, message: bytes | None) -> None:
    log = LogWriter(database_url)
    log.happened("A", "W1", *LIFE)
    async with public_rig(database_url) as rig:
        await rig.publisher.deliver([message, encode_batch(1, log.rows())])
        assert rig.sink.updates == ids(A, 1, 2, 3, 4, 5)


async def test_what_the_log_does_not_have_is_passed_over(database_url: str) -> None:
    log = LogWriter(database_url)
    log.happened("A", "W1", *LIFE)
    rows = log.rows()
    async with public_rig(database_url) as rig:
        foreign = [
            rows[0]._replace(stream="stock:\x00@W1"),
            rows[0]._replace(stream="stock:none@W1", version=2**63),
            rows[-1]._replace(stream="stock:none@W1", version=900),
            rows[-1]._replace(version=900),
            rows[0]._replace(stream="warehouse:W1"),
        ]
        await rig.publisher.deliver([encode_batch(1, foreign)])
        assert rig.sink.updates == ids(A, 1, 2, 3, 4, 5)  # the gap was healed as far as the log has it
        assert rig.execute("SELECT * FROM dead_letters") == []


async def test_messages_of_another_life_of_the_log(database_url: str) -> None:
    log = LogWriter(database_url)
    log.happened("A", "W1", *LIFE)
    async with public_rig(database_url) as rig:
        await rig.publisher.deliver([encode_batch(0, log.rows())])
        assert rig.sink.sent == []
        with pytest.raises(OtherLog):
            await rig.publisher.deliver([encode_batch(2, log.rows())])
        assert (await rig.store.progress(7)).log_epoch == 7  # nobody had said of which log this is
        assert (await rig.store.progress(8)).log_epoch == 7


# Lost, and found -------------------------------------------------------------------------------------------


async def test_the_last_event_lost_is_found_by_the_reconciliation(database_url: str) -> None:
    log = LogWriter(database_url)
    log.happened("A", "W1", *LIFE)
    log.happened("B", "W1", *LIFE)
    rows = log.rows()
    async with public_rig(database_url) as rig:
        await rig.publisher.apply([row for row in rows if row.version < 4])
        assert not await rig.publisher.reconcile(rows[-1].position)
        assert rig.sink.updates[-4:] == [*ids(A, 4, 5), *ids(B, 4, 5)]
        assert rig.publisher.from_log == 2
        assert set(rig.execute("SELECT partitions, reconciled_position FROM partitions")) == {(4, rows[-1].position)}
        await rig.restart()
        rig.sink.sent.clear()
        assert not await rig.publisher.reconcile(rows[-1].position)
        assert rig.sink.sent == []


async def test_a_publisher_reconciles_only_what_it_owns(database_url: str) -> None:
    log = LogWriter(database_url)
    for sku in ("A", "B", "C", "D"):
        log.happened(sku, "W1", *LIFE)
    head = log.rows()[-1].position
    async with public_rig(database_url) as one, public_rig(database_url) as other:
        await one.publisher.own(frozenset({0, 1}))
        await other.publisher.own(frozenset({2, 3}))
        await one.publisher.reconcile(head)
        await other.publisher.reconcile(head)
        assert not set(one.sink.updates) & set(other.sink.updates)
        assert len(one.sink.updates) + len(other.sink.updates) == 20


# Poison ------------------------------------------------------------------------------------------------------


async def test_a_poison_event_parks_its_stream_until_it_is_retried(database_url: str) -> None:
    log = LogWriter(database_url)
    log.happened("A", "W1", *LIFE[:2])
    version = log.append_poison(A)
    log.happened("B", "W1", *LIFE)
    event = log.event(A, restocked(1))
    log.append([event])
    async with public_rig(database_url) as rig:
        await rig.publisher.apply(log.rows())
        assert rig.sink.updates == [*ids(A, 1, 2), *ids(B, 1, 2, 3, 4, 5)]
        ((stream, at, error),) = rig.execute("SELECT stream, version, error FROM dead_letters")
        assert (stream, at) == (A, version)
        assert "no-such-thing" in error
        log.rewrite(A, version, restocked(2).at(A, version, event.timestamp))
        await rig.publisher.tend()
        assert rig.execute("SELECT count(*) FROM dead_letters") == [(1,)]
        rig.execute("UPDATE dead_letters SET retry_requested = true")
        rig.publisher._tended_s = float("-inf")
        await rig.publisher.tend()
        assert rig.sink.updates[-2:] == ids(A, 3, 4)
        assert rig.execute("SELECT * FROM dead_letters") == []


async def test_a_stream_that_is_still_poisoned_stays_parked_and_is_counted(database_url: str) -> None:
    log = LogWriter(database_url)
    log.happened("A", "W1", registered(), happened(Adjusted, delta=-1, reason="LOST"))
    async with public_rig(database_url) as rig:
        await rig.publisher.apply(log.rows())
        rig.execute("UPDATE dead_letters SET retry_requested = true")
        await rig.publisher.heal(A, retry=True)
        assert rig.execute("SELECT attempts, retry_requested FROM dead_letters") == [(2, False)]


async def test_a_message_that_no_broker_takes_parks_its_stream_alone(database_url: str) -> None:
    log = LogWriter(database_url)
    log.happened("A", "W1", *LIFE)
    log.happened("B", "W1", *LIFE)
    async with public_rig(database_url) as rig:
        rig.sink.refused = {f"{A}#3"}
        await rig.publisher.apply(log.rows())
        assert {message.id for message in rig.sink.sent} >= {*ids(A, 1, 2), *ids(B, 1, 2, 3, 4, 5)}
        assert rig.execute("SELECT stream, version FROM dead_letters") == [(A, 3)]
        assert rig.execute("SELECT stream, version FROM streams ORDER BY stream") == [(A, 2), (B, 5)]


async def test_who_wants_parked_streams_tried_again_waits_for_the_publisher(database_url: str) -> None:
    log = LogWriter(database_url)
    log.happened("A", "W1", registered())
    version = log.append_poison(A)
    log.happened("B", "W1", registered())
    log.append_poison(B)
    async with public_rig(database_url) as rig:
        await rig.publisher.apply(log.rows())
        parked = await parked_publications(database_url)
        assert sorted((each.stream, each.version, each.attempts) for each in parked) == [(A, 2, 1), (B, 2, 1)]
        with pytest.raises(NobodyPublishes):
            await retry_publications(database_url, timeout_s=0.1)
        rig.execute("UPDATE dead_letters SET retry_requested = false")
        log.rewrite(A, version, restocked(2).at(A, version, NOW))
        retrying = asyncio.create_task(retry_publications(database_url))
        while not retrying.done():
            rig.publisher._tended_s = float("-inf")
            await rig.publisher.tend()
        healed, still = await retrying
        assert (healed, [(each.stream, each.attempts) for each in still]) == (1, [(B, 2)])
        assert rig.sink.updates == [*ids(A, 1), *ids(B, 1), *ids(A, 2)]


async def test_where_nothing_was_ever_published_nothing_is_parked(empty_database_url: str) -> None:
    assert await parked_publications(empty_database_url) == []
    assert await retry_publications(empty_database_url) == (0, [])


# Another fold --------------------------------------------------------------------------------------------------


async def test_states_of_another_fold_are_made_anew_without_a_word(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = LogWriter(database_url)
    log.happened("A", "W1", *LIFE[:3])
    async with public_rig(database_url) as rig:
        await rig.publisher.apply(log.rows())
        before = states(rig)
        rig.execute("UPDATE streams SET level = '{}'")  # as a fold that had other members would have left it
        rig.execute("UPDATE holds SET reservation_id = 'r-old'")
        rig.sink.sent.clear()
        monkeypatch.setattr(versions, "FOLD_VERSION", versions.FOLD_VERSION + 1)
        log.happened("A", "W1", *LIFE[3:4])
        await rig.publisher.apply(log.rows())
        assert rig.sink.updates == ids(A, 4)
        (committed_message,) = [m for m in rig.sink.sent if m.topic == "inventory.committed"]
        assert body(committed_message)["data"]["order_id"] == "order-r-1"
        assert [row[:2] for row in states(rig)] == [(A, 4), (A, "r-1")]
        assert len(before) == 2


# A restored log, and an old one ---------------------------------------------------------------------------------------


def documented(title: str) -> str:
    """The SQL that the operations page has under this comment."""
    blocks = OPERATIONS.read_text().split("```sql\n")[1:]
    return next(block.partition("```")[0] for block in blocks if block.startswith(f"-- {title}\n"))


async def test_from_now_on_is_told_what_happens_and_nothing_that_has(database_url: str) -> None:
    log = LogWriter(database_url)
    log.happened("A", "W1", *LIFE[:3])
    refuse(database_url, "reservation.create")
    async with public_rig(database_url) as rig:
        await rig.store.progress(7)
        await rig.stop()
        rig.execute(documented("publish from now on"))
        await rig.start()
        assert (await rig.store.progress(1)).log_epoch == 1
        assert not await rig.publisher.reconcile(log.rows()[-1].position)
        assert not await rig.publisher.publish_refusals()
        assert rig.sink.sent == []
        log.happened("A", "W1", *LIFE[3:])
        assert not await rig.publisher.reconcile(log.rows()[-1].position)
        assert rig.sink.updates == ids(A, 4, 5)
        (paid,) = [body(message) for message in rig.sink.sent if message.topic == "inventory.committed"]
        assert paid["data"]["order_id"] == "order-r-1"


async def test_everything_again_is_everything(database_url: str) -> None:
    log = LogWriter(database_url)
    log.happened("A", "W1", *LIFE)
    refuse(database_url, "reservation.create")
    async with public_rig(database_url) as rig:
        await rig.publisher.apply(log.rows())
        await rig.publisher.publish_refusals()
        once = {message.id for message in rig.sink.sent}
        rig.sink.sent.clear()
        await rig.stop()
        rig.execute(documented("publish everything again"))
        await rig.start(epoch=2)
        assert (await rig.store.progress(2)).log_epoch == 2
        assert not await rig.publisher.reconcile(log.rows()[-1].position)
        await rig.publisher.publish_refusals()
        assert {message.id for message in rig.sink.sent} == once
        assert all(message.source.endswith("?epoch=2") for message in rig.sink.sent)


# Refusals ----------------------------------------------------------------------------------------------------------


def refuse(url: str, *operations: str) -> None:
    problem = b'{"code":"insufficient-stock","status":409,"shortages":[{"sku":"A","requested":2,"available":1}]}'
    with psycopg.connect(url, options=f"-c search_path={SCHEMA}") as connection:
        for number, operation in enumerate(operations):
            connection.execute(
                "INSERT INTO refusals (at, operation, code, order_id, actor, problem, command_id, causation_id)"
                " VALUES (now(), %s, 'insufficient-stock', 'o-1', 'web', %s, %s, 'placed-1')",
                [operation, problem, f"c-{operation}-{number}"],
            )


async def test_refused_reservations_are_told_once_and_other_refusals_never(database_url: str) -> None:
    refuse(database_url, "reservation.create", "stock.adjust", "reservation.create")
    async with public_rig(database_url) as rig:
        assert await rig.publisher.publish_refusals()
        assert not await rig.publisher.publish_refusals()
        told = [body(message) for message in rig.sink.sent]
        assert [each["id"] for each in told] == ["c-reservation.create-0", "c-reservation.create-2"]
        assert {each["type"] for each in told} == {"inventory.reservation-rejected"}
        assert told[0]["causationid"] == "placed-1"
        assert told[0]["data"]["shortages"] == [{"sku": "A", "requested": 2, "available": 1}]
        await rig.restart()
        refuse(database_url, "stock.adjust")
        assert await rig.publisher.publish_refusals()
        assert len(rig.sink.sent) == 2


async def test_only_the_owner_of_the_first_partition_tells_of_refusals(database_url: str) -> None:
    refuse(database_url, "reservation.create")
    async with public_rig(database_url) as rig:
        await rig.publisher.own(frozenset({1, 2}))
        assert not await rig.publisher.publish_refusals()
        assert rig.sink.sent == []
