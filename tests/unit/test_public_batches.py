"""What a batch makes public, whatever its transport did to it: each message once or more, and never in the wrong order."""

from collections.abc import Iterable, Sequence

from domain.events import Adjusted, Event, StockEvent
from domain.values import stock_stream
from infra.event_store.log_reader import LogRow
from infra.event_store.mapper import EventMapper
from projections.batches import DeadLetter, arrivals_of
from projections.public.batches import Gaps, Known, PublicOutcome, fold_public, holds_named
from projections.public.cloud_events import PublicMessage
from tests.support_domain import NOW, Fact, committed, happened, registered, reserved, restocked, returned, shipped
from tests.support_histories import played
from tests.support_public import ENVELOPES, tell

MAPPER = EventMapper()
A = stock_stream("A", "W1")


def rows_of(events: Iterable[Event]) -> list[LogRow]:
    return [
        LogRow(position, event.originator_id, event.originator_version, event.TOPIC, MAPPER.encode(event))
        for position, event in enumerate(events, start=1)
        if isinstance(event, StockEvent)
    ]


def stream_rows(*facts: Fact, stream: str = A) -> list[LogRow]:
    return rows_of(fact.at(stream, version, NOW) for version, fact in enumerate(facts, start=1))


class Publishing:
    """The states in dictionaries, the log that gaps are healed from, and what was sent: the smallest publisher there is."""

    def __init__(self, log: Sequence[LogRow] = ()) -> None:
        self.log = log
        self.known = Known()
        self.sent: list[PublicMessage] = []
        self.dead: dict[str, DeadLetter] = {}

    def apply(
        self, rows: Iterable[LogRow], *, gaps: Gaps = Gaps.REPORT, retried: Sequence[str] = (), forget: bool = False
    ) -> PublicOutcome:
        """``forget``: it dies after the brokers have acknowledged and before that is noted."""
        arrivals = arrivals_of(rows, MAPPER)
        named = {stream: {name for of, name in holds_named(arrivals) if of == stream} for stream in arrivals}
        known = Known(
            {stream: self.known.levels[stream] for stream in arrivals if stream in self.known.levels},
            {
                stream: [hold for hold in self.known.holds.get(stream, ()) if hold.reservation_id in names]
                for stream, names in named.items()
            },
            set(self.dead),
        )
        outcome = fold_public(arrivals, known, ENVELOPES, retried=retried, gaps=gaps)
        self.sent += outcome.messages
        if not forget:
            self._note(outcome)
            for stream in outcome.gaps:
                self.heal(stream, arrivals[stream][-1].row.version)
        return outcome

    def heal(self, stream: str, upto: int | None = None) -> None:
        have = self.known.levels[stream].version if stream in self.known.levels else 0
        missing = [row for row in self.log if row.stream == stream and have < row.version <= (upto or 10**9)]
        self.apply(missing, gaps=Gaps.PARK)

    def reconcile(self) -> None:
        for stream in sorted({row.stream for row in self.log}):
            self.heal(stream)

    def _note(self, outcome: PublicOutcome) -> None:
        for changed in outcome.changed:
            self.known.levels[changed.stream] = changed.level
            kept = [h for h in self.known.holds.get(changed.stream, []) if h.reservation_id not in changed.holds]
            self.known.holds[changed.stream] = [*kept, *(hold for hold in changed.holds.values() if hold is not None)]
        self.dead |= {letter.stream: letter for letter in outcome.parked}
        for stream in outcome.unparked:
            del self.dead[stream]


ROWS = stream_rows(
    registered(),
    restocked(10),
    reserved("r-1", 3),
    committed("r-1", 3),
    shipped("r-1", 3),
    returned(1, reservation_id="r-1", order_id="order-r-1"),
)


def sequences(messages: Iterable[PublicMessage]) -> list[str]:
    return [message.id for message in messages if message.topic == "inventory.stock-updated"]


def test_a_batch_is_told_in_the_order_of_the_log_whatever_stream_comes_first() -> None:
    shop = played([])
    rows = rows_of(shop.log)
    publishing = Publishing(rows)
    publishing.apply(sorted(rows, key=lambda row: (row.stream, -row.version)))
    assert publishing.sent == tell(shop.log)


def test_what_was_told_is_not_told_again() -> None:
    publishing = Publishing(ROWS)
    publishing.apply(ROWS)
    outcome = publishing.apply(ROWS)
    assert (outcome.messages, outcome.skipped, outcome.changed) == ([], len(ROWS), [])


def test_a_gap_is_healed_and_the_missing_is_told_too() -> None:
    publishing = Publishing(ROWS)
    publishing.apply(ROWS[:1])
    outcome = publishing.apply(ROWS[4:])
    assert (outcome.gaps, outcome.messages) == ([A], [])
    assert sequences(publishing.sent) == [f"{A}#{n}" for n in range(1, 7)]


def test_an_event_that_the_log_does_not_have_is_dropped_and_parks_nobody() -> None:
    publishing = Publishing(ROWS[:2])
    publishing.apply(ROWS[:2])
    outcome = publishing.apply(ROWS[4:5])
    assert outcome.gaps == [A]
    assert publishing.dead == {}
    assert sequences(publishing.sent) == [f"{A}#1", f"{A}#2"]


def test_a_hole_in_the_log_itself_parks_the_stream() -> None:
    publishing = Publishing([*ROWS[:2], ROWS[3]])
    publishing.reconcile()
    assert publishing.dead[A].version == 4
    assert "nothing between version 2 and 4" in publishing.dead[A].error


def test_a_hold_is_forgotten_once_it_is_closed() -> None:
    publishing = Publishing(ROWS)
    publishing.apply(ROWS[:3])
    assert [hold.reservation_id for hold in publishing.known.holds[A]] == ["r-1"]
    publishing.apply(ROWS[3:])
    assert publishing.known.holds[A] == []


def test_an_event_that_cannot_be_read_parks_its_stream_and_the_rest_goes_on() -> None:
    poison = ROWS[2]._replace(topic="stock-item.no-such-thing")
    other = stream_rows(registered(), restocked(1), stream=stock_stream("B", "W1"))
    publishing = Publishing()
    outcome = publishing.apply([*ROWS[:2], poison, *ROWS[3:], *other])
    assert [(letter.stream, letter.version) for letter in outcome.parked] == [(A, 3)]
    assert sequences(publishing.sent) == [f"{A}#1", "stock:B@W1#1", f"{A}#2", "stock:B@W1#2"]
    assert publishing.apply(ROWS[3:]).skipped == 3


def test_a_parked_stream_that_is_tried_again_goes_on_where_it_stood() -> None:
    publishing = Publishing()
    publishing.apply([*ROWS[:2], ROWS[2]._replace(state=b"{}")])
    outcome = publishing.apply(ROWS[2:], retried=[A])
    assert (outcome.unparked, publishing.dead) == ([A], {})
    assert sequences(publishing.sent)[-1] == f"{A}#6"


def test_an_event_that_cannot_have_happened_parks_its_stream() -> None:
    rows = stream_rows(registered(), happened(Adjusted, delta=-1, reason="LOST"))
    outcome = Publishing().apply(rows)
    assert "below zero" in outcome.parked[0].error
