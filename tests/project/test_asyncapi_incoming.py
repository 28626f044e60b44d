"""The contract of the messages that come in: what the document allows is understood, and the other way round."""

import json
from typing import Any

import msgspec
import pytest

from infra.kafka.topics import INTAKE_TOPICS
from infra.openapi import Schemas
from tests.support_asyncapi import document, faults, lookup, messages_of
from tests.support_intake import cloud_event, encoded, received
from tests.unit.test_intake_messages import BACK, LINES, WRONG
from write_side.intake.messages import KINDS, Received, Unreadable, read
from write_side.intake.outlet import headers
from write_side.intake.store import dead

RIGHT: list[tuple[str, dict[str, Any]]] = [
    ("order.placed", {"order_id": "o1", "lines": LINES}),
    (
        "order.placed",
        {
            "order_id": "o1",
            "reservation_id": "r1",
            "kind": "manual",
            "customer_ref": "c",
            "ttl_seconds": None,
            "lines": [{"sku": "A", "quantity": 1, "warehouse": "W1", "metadata": {"gift": True}}],
            "allocation": {"strategy": "nearest", "ship_to": {"latitude": 48.1, "longitude": 11.6}},
        },
    ),
    ("payment.authorized", {"order_id": "o1"}),
    ("payment.failed", {"order_id": "o1"}),
    ("order.cancelled", {"order_id": "o1"}),
    ("order.shipped", {"order_id": "o1"}),
    ("order.shipped", {"order_id": "o1", "tracking": "T", "lines": [{"sku": "A", "quantity": 1, "tracking": "U"}]}),
    ("order.returned", {"order_id": "o1", "lines": BACK}),
    ("warehouse.received", {"sku": "A", "warehouse": "W1", "quantity": 1}),
    (
        "warehouse.received",
        {
            "sku": "A",
            "warehouse": "W1",
            "quantity": 1,
            "supplier": "S",
            "lot": "L",
            "expires_on": "2027-01-31",
            "received_on": "2026-03-01",
            "reference": {"type": "delivery-note", "id": "7"},
            "note": "n",
            "metadata": {"a": [1, {"b": None}]},
            "expected_version": 3,
        },
    ),
    ("warehouse.counted", {"sku": "A", "warehouse": "W1", "counted": 0, "note": "n"}),
    ("warehouse.shipped", {"order_id": "o1", "tracking": "T"}),
    ("warehouse.shipped", {"reservation_id": "r1", "lines": LINES}),
]
# What one JSON Schema does not say: bytes, what fields mean together, text that cannot be stored in free metadata.
BEYOND_SCHEMA = {"no end", "metadata with a NUL"}


def test_exactly_the_topics_of_the_intake_come_in() -> None:
    assert set(messages_of("receive")) == set(INTAKE_TOPICS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.topic)
def test_the_data_is_documented_as_the_code_has_it(kind: Any) -> None:
    schemas = Schemas()
    payload = messages_of("receive")[kind.topic]["payload"]
    assert payload["properties"]["data"] == schemas.schema(kind.data)
    assert payload["properties"]["type"] == {"const": kind.topic}
    for name, schema in json.loads(json.dumps(schemas.components)).items():
        assert document()["components"]["schemas"][name] == schema, f"put it into docs/asyncapi.yaml: {schema}"


@pytest.mark.parametrize("topic", INTAKE_TOPICS)
def test_the_examples_are_understood(topic: str) -> None:
    (example,) = messages_of("receive")[topic]["examples"]
    assert faults(topic, example["payload"], action="receive") == []
    assert read(received(topic, example["payload"])).kind.topic == topic


@pytest.mark.parametrize(("topic", "data"), RIGHT)
def test_what_is_understood_is_documented(topic: str, data: dict[str, Any]) -> None:
    event = cloud_event(topic, data, time="2026-03-01T12:00:00Z", correlationid="c", subject="s")
    assert read(received(topic, event)).name == (event["source"], event["id"])
    assert faults(topic, event, action="receive") == []


@pytest.mark.parametrize(("topic", "data"), RIGHT)
def test_more_in_the_envelope_is_fine_and_more_in_the_data_is_not(topic: str, data: dict[str, Any]) -> None:
    event = cloud_event(topic, data) | {"traceparent": "00-x"}
    assert faults(topic, event, action="receive", strict=False) == []
    assert read(received(topic, event))
    event |= {"data": data | {"colour": "red"}}
    assert faults(topic, event, action="receive", strict=False) != []
    with pytest.raises(Unreadable):
        read(received(topic, event))


@pytest.mark.parametrize("member", ["specversion", "id", "source", "type", "data"])
def test_what_is_missing_is_missed_by_both(member: str) -> None:
    for topic, data in RIGHT:
        event = cloud_event(topic, data)
        del event[member]
        assert faults(topic, event, action="receive") != []
        with pytest.raises(Unreadable):
            read(received(topic, event))


@pytest.mark.parametrize("name", sorted(WRONG.keys() - BEYOND_SCHEMA))
def test_what_is_not_understood_is_not_documented(name: str) -> None:
    event, _ = WRONG[name]
    try:
        parsed = msgspec.json.decode(encoded(event))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return  # no JSON at all
    assert faults("order.placed", parsed, action="receive", strict=False) != []


def test_a_dead_letter_says_what_is_documented() -> None:
    schema = lookup(document()["channels"]["stockholdDeadLetters"]["messages"]["DeadLetter"]["$ref"])["headers"]
    told = headers(dead(Received("order.placed", 1, 2, None, b"x"), "invalid-request", "no JSON"))
    assert [name for name, _ in told] == list(schema["properties"]) == schema["required"]
