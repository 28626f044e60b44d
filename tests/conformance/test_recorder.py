"""What the library promises of an application recorder: its own, in memory, and ours, on our table."""

from collections.abc import Iterator
from contextlib import closing
from threading import Event, Thread

import pytest
from eventsourcing.persistence import ApplicationRecorder, IntegrityError, StoredEvent
from eventsourcing.popo import POPOApplicationRecorder

from infra.event_store.recorder import StockholdRecorder, connect_datastore

A, B = "stock:A@W1", "stock:B@W1"


@pytest.fixture(params=["memory", "postgres"])
def recorder(request: pytest.FixtureRequest) -> Iterator[ApplicationRecorder]:
    if request.param == "memory":
        yield POPOApplicationRecorder()
        return
    with closing(connect_datastore(request.getfixturevalue("database_url"), pool_size=3)) as datastore:
        yield StockholdRecorder(datastore)


def events(stream: str, *versions: int, topic: str = "test.happened") -> list[StoredEvent]:
    return [StoredEvent(stream, version, topic, f"{stream}#{version}".encode()) for version in versions]


def versions(stored: object) -> list[int]:
    return [event.originator_version for event in stored]  # type: ignore[attr-defined]  # rows of either kind


def test_an_empty_log(recorder: ApplicationRecorder) -> None:
    assert recorder.select_events(A) == []
    assert recorder.select_events(A, desc=True, limit=1) == []
    assert recorder.select_notifications(start=None, limit=10) == []
    assert recorder.max_notification_id() is None
    assert not recorder.insert_events([])
    assert recorder.max_notification_id() is None


def test_what_was_recorded_is_read_as_it_was(recorder: ApplicationRecorder) -> None:
    recorded = events(A, 1, 2, 3) + events(B, 1)
    recorder.insert_events(recorded)
    assert recorder.select_events(A) == recorded[:3]
    assert recorder.select_events(B) == recorded[3:]
    assert isinstance(recorder.select_events(A)[0].state, bytes)


def test_parts_of_a_stream(recorder: ApplicationRecorder) -> None:
    recorder.insert_events(events(A, *range(1, 8)) + events(B, 1, 2))
    assert versions(recorder.select_events(A, gt=3)) == [4, 5, 6, 7]
    assert versions(recorder.select_events(A, lte=3)) == [1, 2, 3]
    assert versions(recorder.select_events(A, gt=2, lte=5)) == [3, 4, 5]
    assert versions(recorder.select_events(A, limit=2)) == [1, 2]
    assert versions(recorder.select_events(A, desc=True, limit=2)) == [7, 6]
    assert versions(recorder.select_events(A, lte=5, desc=True, limit=1)) == [5]
    assert versions(recorder.select_events(A, gt=7)) == []


def test_positions_follow_the_order_of_recording(recorder: ApplicationRecorder) -> None:
    first = recorder.insert_events(events(B, 1) + events(A, 1, 2))
    second = recorder.insert_events(events(B, 2))
    assert first is not None
    assert second is not None
    positions = [*first, *second]
    assert positions == sorted(set(positions))
    assert recorder.max_notification_id() == positions[-1]
    notifications = recorder.select_notifications(start=None, limit=10)
    assert [(n.id, n.originator_id, n.originator_version) for n in notifications] == list(
        zip(positions, (B, A, A, B), (1, 1, 2, 2), strict=True)
    )
    assert [(n.topic, n.state) for n in notifications[:1]] == [("test.happened", b"stock:B@W1#1")]


def test_parts_of_the_log(recorder: ApplicationRecorder) -> None:
    positions = recorder.insert_events(events(A, *range(1, 7)))
    assert positions is not None

    def read(
        start: int | None, limit: int = 10, stop: int | None = None, *, inclusive_of_start: bool = True
    ) -> list[int]:
        return versions(recorder.select_notifications(start, limit, stop, inclusive_of_start=inclusive_of_start))

    assert read(positions[2]) == [3, 4, 5, 6]
    assert read(positions[2], inclusive_of_start=False) == [4, 5, 6]
    assert read(positions[1], 2) == [2, 3]
    assert read(None, stop=positions[1]) == [1, 2]
    assert read(positions[1], stop=positions[3]) == [2, 3, 4]
    assert read(positions[5], inclusive_of_start=False) == []


def test_only_some_topics(recorder: ApplicationRecorder) -> None:
    recorder.insert_events(events(A, 1, topic="x") + events(A, 2, topic="y") + events(A, 3, topic="x"))
    assert versions(recorder.select_notifications(None, 10, topics=["x"])) == [1, 3]
    assert versions(recorder.select_notifications(None, 1, topics=["x", "y"])) == [1]
    assert versions(recorder.select_notifications(None, 10, topics=["z"])) == []


@pytest.mark.parametrize(
    "second",
    [events(A, 2), events(A, 2, 3), events(B, 1) + events(A, 1), events(B, 1, 1)],
    ids=["taken", "first taken", "last taken", "twice"],
)
def test_a_version_is_recorded_once_and_a_refused_append_leaves_nothing(
    recorder: ApplicationRecorder, second: list[StoredEvent]
) -> None:
    recorder.insert_events(events(A, 1, 2))
    with pytest.raises(IntegrityError):
        recorder.insert_events(second)
    assert versions(recorder.select_events(A)) == [1, 2]
    assert recorder.select_events(B) == []
    assert recorder.insert_events(events(A, 3) + events(B, 1))
    assert versions(recorder.select_notifications(None, 10)) == [1, 2, 3, 1]


def test_a_subscription_is_told_of_what_is_recorded_later(recorder: ApplicationRecorder) -> None:
    recorder.insert_events(events(A, 1))
    enough = Event()

    def write() -> None:
        """On and on: the library hears nothing of what is recorded before its LISTEN has reached the server."""
        version = 1
        while not enough.wait(0.02):
            version += 1
            recorder.insert_events(events(A, version))

    with recorder.subscribe(gt=0) as subscription:
        assert next(subscription).originator_version == 1
        writer = Thread(target=write)
        writer.start()
        assert [next(subscription).originator_version for _ in range(5)] == [2, 3, 4, 5, 6]
        enough.set()
        writer.join()


def test_concurrent_writers_of_one_stream_never_share_a_version(recorder: ApplicationRecorder) -> None:
    outcomes: list[int] = []

    def write() -> None:
        done = 0
        while done < 10:
            known = recorder.select_events(A, desc=True, limit=1)
            version = known[0].originator_version + 1 if known else 1
            try:
                recorder.insert_events(events(A, version))
            except IntegrityError:
                continue
            outcomes.append(version)
            done += 1

    writers = [Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert sorted(outcomes) == list(range(1, 41))
    assert versions(recorder.select_notifications(None, 100)) == list(range(1, 41))
