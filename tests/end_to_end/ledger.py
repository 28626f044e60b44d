"""The log as it lies in PostgreSQL, read by nothing of the service's own, and sums over it."""

import json
import os
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
import psycopg

from tests.end_to_end.load import Books, Entry
from tests.support import STOCKHOLD, Up


class LoggedEvent(NamedTuple):
    stream: str
    version: int
    topic: str
    facts: dict[str, Any]

    @property
    def key(self) -> str | None:
        """The idempotency key of the command that it came from."""
        key: str | None = self.facts["origin"].get("idempotency_key")
        return key


class Recorded(NamedTuple):
    """What is kept under a key."""

    status: int
    body: bytes


def query(url: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """The rows of a statement on the event store."""
    with psycopg.connect(url, autocommit=True, options="-c search_path=stockhold") as connection:
        cursor = connection.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


def read_log(url: str, stream: str | None = None) -> list[LoggedEvent]:
    """Every event in the log's order, of one stream if it is named."""
    rows = query(
        url,
        """SELECT originator_id, originator_version, topic, state FROM stored_events
           WHERE %s::text IS NULL OR originator_id = %s ORDER BY notification_id""",
        stream,
        stream,
    )
    return [LoggedEvent(stream, version, topic, msgspec.json.decode(state)) for stream, version, topic, state in rows]


def log_size(url: str) -> int:
    return int(query(url, "SELECT count(*) FROM stored_events")[0][0])


def read_outcomes(url: str) -> dict[str, Recorded]:
    return {
        key: Recorded(status, body) for key, status, body in query(url, "SELECT key, status, body FROM idempotency")
    }


# Sums ------------------------------------------------------------------------------------------------


@dataclass
class Sums:
    """What there is of one item, and who holds what of it: added up without any rule of the service's own."""

    on_hand: int = 0
    reserved: int = 0
    committed: int = 0
    active: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, event: LoggedEvent) -> None:
        facts = event.facts
        quantity = facts.get("quantity", 0)
        match event.topic.removeprefix("stock-item."):
            case "restocked":
                self.on_hand += quantity
            case "reserved":
                self.reserved += quantity
                self.active[facts["reservation_id"]] += quantity
            case "committed":
                self.reserved -= quantity
                self.committed += quantity
                self.active[facts["reservation_id"]] -= quantity
            case "released" if facts["bucket"] == "RESERVED":
                self.reserved -= quantity
                self.active[facts["reservation_id"]] -= quantity
            case "released":
                self.committed -= quantity
            case "shipped":
                self.committed -= quantity
                self.on_hand -= quantity
            case "registered" | "extended" | "policy-changed":
                pass
            case other:
                raise AssertionError(f"these tests do not send what leads to {other}")

    def check(self, event: LoggedEvent) -> None:
        """Nothing is promised that is not there, and nothing is less than nothing."""
        at = (event.stream, event.version)
        assert min(self.on_hand, self.reserved, self.committed) >= 0, (at, self)
        assert self.reserved + self.committed <= self.on_hand, (at, self)
        assert min(self.active.values(), default=0) >= 0, (at, self)


def replay(events: Iterable[LoggedEvent]) -> dict[str, Sums]:
    """The sums of every stock item, checked at every version; versions have no hole."""
    items: dict[str, Sums] = defaultdict(Sums)
    versions: dict[str, int] = defaultdict(int)
    for event in events:
        versions[event.stream] += 1
        assert event.version == versions[event.stream], f"{event.stream} has no version {versions[event.stream]}"
        if event.stream.startswith("stock:"):
            sums = items[event.stream.removeprefix("stock:")]
            sums.add(event)
            sums.check(event)
    return items


# Books against the log -------------------------------------------------------------------------------


def check_books(books: Books, url: str) -> None:
    """Every answered command is in the log once, as it was answered; every unanswered one whole or not at all."""
    by_key: dict[str, list[LoggedEvent]] = defaultdict(list)
    for event in read_log(url):
        if event.key is not None:
            by_key[event.key].append(event)
    outcomes = read_outcomes(url)
    for entry in books.entries:
        for key, answer in _answers(entry):
            _check_command(entry.target, answer, by_key[key], outcomes.get(key))


def _answers(entry: Entry) -> list[tuple[str, Recorded | None]]:
    """What was answered under each key of an entry; None where nobody knows."""
    reply = entry.reply
    if not entry.is_batch:
        return [(entry.key, Recorded(reply.status, reply.body) if entry.answered and reply is not None else None)]
    results = [] if reply is None or reply.status == 503 else _decode_batch(reply.body).results
    known = [Recorded(result.status, bytes(result.body)) if result.status != 503 else None for result in results]
    keys = [f"{entry.key}#{number}" for number in range(len(entry.body["reservations"]))]
    return list(zip(keys, known or [None] * len(keys), strict=True))


class _Result(msgspec.Struct):
    status: int
    body: msgspec.Raw


class _BatchReply(msgspec.Struct):
    results: list[_Result]


_decode_batch = msgspec.json.Decoder(_BatchReply).decode


def _check_command(target: str, answer: Recorded | None, events: list[LoggedEvent], recorded: Recorded | None) -> None:
    assert _is_whole(events), (target, events)
    if answer is not None:
        assert recorded == answer, (target, answer, recorded)
    if recorded is None or recorded.status >= 400:
        assert events == [], (target, recorded, events)
    elif recorded.status == 201 or target.endswith("/restock"):
        assert events, (target, recorded)


def _is_whole(events: list[LoggedEvent]) -> bool:
    """Of one command that was decided once, with all of its parts."""
    decisions = {event.facts["origin"]["command_id"] for event in events}
    parts = [event.facts for event in events if "reservation_id" in event.facts]
    numbers = sorted(facts.get("part", 1) for facts in parts)
    return len(decisions) <= 1 and numbers == list(range(1, parts[0].get("parts", 1) + 1 if parts else 1))


# The command line -------------------------------------------------------------------------------------


def stockhold(up: Up, *words: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of a command that is told where the servers of a running stack are."""
    names = ("event_store_url", "read_model_url", "redis_url")
    run = subprocess.run(
        [*STOCKHOLD, *words, "--json"],
        env={**os.environ, **{f"STOCKHOLD_{name.upper()}": up.facts[name] for name in names}},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode in {0, 1}, run.stdout + run.stderr
    return run.returncode, json.loads(run.stdout.splitlines()[-1])


def assert_clean(up: Up) -> None:
    """`stockhold verify` finds nothing wrong with a running stack: log, write-side index, views and cache."""
    size = log_size(up.facts["event_store_url"])
    exit_code, report = stockhold(up, "verify")
    assert (exit_code, report["violations"], report["differences"]) == (0, 0, 0), report
    assert report["events"] >= size
