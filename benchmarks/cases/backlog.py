"""A backlog in the internal topic: new events in a real log, published by the real relay while nobody reads them."""

from typing import NamedTuple

from benchmarks.bench import Bench
from benchmarks.items import Items
from benchmarks.load.requests import ReserveBatch
from benchmarks.log import LogEnd, log_end
from benchmarks.metrics import Rise, watch
from benchmarks.part import Part, servers_of

BATCH, MAKERS = 500, 4


class Backlog(NamedTuple):
    """`events` of it, ending at `head`; `relayed`: events as the relay caught up with them, in so many `messages`."""

    events: int
    head: int
    relayed: Rise
    messages: int


def make_backlog(bench: Bench, items: Items, events: int) -> Backlog:
    """Reservations of random items while the relay is down; then the relay alone, until the topic has them."""
    before = log_end(bench.facts.event_store_url)
    bench.say(f"adding {events:,} events to the log")
    bench.finish("events", ReserveBatch(items, BATCH, requests=-(-events // BATCH)), MAKERS)
    return relay_backlog(bench, before)


def relay_backlog(bench: Bench, before: LogEnd) -> Backlog:
    """What the log has got since `before`, which was in the topic already. Raises BenchFailedError."""
    facts = bench.facts
    end = log_end(facts.event_store_url)
    with Part("relay", servers_of(facts)) as relay:
        events = end.events - before.events
        rise = watch(lambda: relay.metrics().total("stockhold_relay_events_total"), events, relay.pid, above=0)
        messages = int(relay.metrics().total("stockhold_relay_messages_total"))
    bench.say(f"  relay: {rise.per_second:,.0f} events/s")
    return Backlog(events, end.head, rise, messages)
