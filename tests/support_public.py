"""Public messages in memory: what a history makes of them, and a publisher's tables as dictionaries.

shop = played(history)
tell(shop.log)                    # -> messages, in the order of the log
by_topic(messages)["inventory.reserved"]
"""

import json
from collections.abc import Iterable
from typing import Any

from domain.events import Event, StockEvent
from projections.public.cloud_events import Envelopes, PublicMessage
from projections.public.messages import messages_of
from projections.public.stream_fold import StreamFold

ENVELOPES = Envelopes("/stockhold")


def tell(events: Iterable[Event], envelopes: Envelopes = ENVELOPES) -> list[PublicMessage]:
    """What others are told of ``events``, each stream from its beginning."""
    folds: dict[str, StreamFold] = {}
    told: list[PublicMessage] = []
    for event in events:
        if isinstance(event, StockEvent):
            told += messages_of(folds.setdefault(event.originator_id, StreamFold()).apply(event), envelopes)
    return told


def body(message: PublicMessage) -> dict[str, Any]:
    """The CloudEvent as a consumer reads it."""
    decoded: dict[str, Any] = json.loads(message.value)
    return decoded


def by_topic(messages: Iterable[PublicMessage]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for message in messages:
        found.setdefault(message.topic, []).append(body(message))
    return found


def first_of_each(messages: Iterable[PublicMessage]) -> list[PublicMessage]:
    """As a consumer that drops what it has seen, by source and id, sees them."""
    seen: dict[tuple[str, str], PublicMessage] = {}
    for message in messages:
        seen.setdefault((message.source, message.id), message)
    return list(seen.values())


def of_each_item(messages: Iterable[PublicMessage]) -> dict[str, list[PublicMessage]]:
    """Those of each stock item, in their order. (Those of an order may come from several items, in any order of these.)"""
    found: dict[str, list[PublicMessage]] = {}
    for message in messages:
        item, separator, _ = message.id.partition("#")
        if separator and item.startswith("stock:"):
            found.setdefault(item, []).append(message)
    return found
