"""The contract of the messages that go out: the code makes what the document says, and the document says all of it."""

import json
from typing import Any

import pytest
from hypothesis import given, settings

from infra.documents import LevelDocument
from infra.kafka.topics import PUBLIC_TOPICS
from infra.openapi import Schemas
from projections.public import documents
from projections.public.messages import rejection_of
from projections.public.refusals import RefusedCreate
from projections.views.movements import MovementDocument
from tests.support_asyncapi import document, faults, lookup, messages_of, references
from tests.support_domain import NOW
from tests.support_histories import histories, played
from tests.support_public import ENVELOPES, body, by_topic, tell
from tests.unit.test_public_messages import PROBLEM, TABLE, events_of

DATA: dict[str, Any] = {
    "inventory.reserved": documents.ReservedData,
    "inventory.reservation-rejected": documents.RejectedData,
    "inventory.committed": documents.CommittedData,
    "inventory.released": documents.ReleasedData,
    "inventory.reservation-expired": documents.ExpiredData,
    "inventory.refunded": documents.ReleasedData,
    "inventory.stock-updated": LevelDocument,
    "inventory.status-changed": documents.StatusData,
    "inventory.low-stock": documents.LowStockData,
    "inventory.restocked": documents.RestockedData,
    "inventory.movements": MovementDocument,
}


def rejections() -> list[dict[str, Any]]:
    """As they come from both doors, and from an old release."""
    refused = [
        RefusedCreate(1, NOW, "insufficient-stock", "o-1", "web", PROBLEM, "c-1", "r-1", "corr-1", "placed-1"),
        RefusedCreate(2, NOW, "unknown-warehouse", "o-2", "web", {"code": "unknown-warehouse", "status": 404}, "c-2"),
        RefusedCreate(3, NOW, "insufficient-stock", "o-3", "web", PROBLEM),
    ]
    return [body(rejection_of(each, ENVELOPES)) for each in refused]


def made() -> dict[str, list[dict[str, Any]]]:
    """What the table of kinds makes, and the refusals."""
    messages = [message for facts, _ in TABLE.values() for message in tell(events_of(*facts))]
    return by_topic(messages) | {"inventory.reservation-rejected": rejections()}


def test_the_document_is_of_asyncapi_3() -> None:
    found = document()
    assert found["asyncapi"] == "3.0.0"
    assert set(found) <= {"asyncapi", "info", "servers", "defaultContentType", "channels", "operations", "components"}
    assert {"title", "version"} <= set(found["info"])


def test_every_reference_leads_somewhere() -> None:
    found = references(document())
    assert len(found) > 50
    for reference in found:
        assert reference.startswith("#/")
        lookup(reference)


def test_every_operation_is_of_a_channel_and_its_messages() -> None:
    for name, operation in document()["operations"].items():
        assert operation["action"] in {"send", "receive"}, name
        channel = operation["channel"]["$ref"]
        assert channel.startswith("#/channels/")
        assert [each["$ref"].rpartition("/")[0] for each in operation["messages"]] == [f"{channel}/messages"]


def test_every_channel_has_an_address_a_meaning_and_an_operation() -> None:
    used = {operation["channel"]["$ref"] for operation in document()["operations"].values()}
    for name, channel in document()["channels"].items():
        assert f"#/channels/{name}" in used
        assert channel["address"]
        assert channel["description"]
        assert channel["messages"]


def test_every_message_says_what_it_is_and_how_it_is_keyed() -> None:
    for message in document()["components"]["messages"].values():
        assert {"name", "title", "summary", "contentType", "payload"} <= set(message)
        assert "key" in message["bindings"]["kafka"]


def test_exactly_the_public_topics_go_out() -> None:
    assert set(messages_of("send")) - {"stockhold.dead-letters"} == set(PUBLIC_TOPICS)


@pytest.mark.parametrize("topic", PUBLIC_TOPICS)
def test_what_is_made_is_as_documented_and_everything_documented_is_made(topic: str) -> None:
    messages = made()[topic]
    assert messages
    for message in messages:
        assert faults(topic, message) == []


@settings(max_examples=15)
@given(history=histories(40))
def test_whatever_happens_is_told_as_documented(history: Any) -> None:
    for message in tell(played(history).log):
        assert faults(message.topic, body(message)) == []


@pytest.mark.parametrize("topic", PUBLIC_TOPICS)
def test_the_data_is_documented_as_the_code_has_it(topic: str) -> None:
    schemas = Schemas()
    assert messages_of("send")[topic]["payload"]["properties"]["data"] == schemas.schema(DATA[topic])
    for name, schema in json.loads(json.dumps(schemas.components)).items():
        assert document()["components"]["schemas"][name] == schema, f"put it into docs/asyncapi.yaml: {schema}"


@pytest.mark.parametrize("member", ["id", "source", "type", "time", "subject", "data", "sequence", "specversion"])
def test_the_check_finds_what_is_missing(member: str) -> None:
    message = dict(made()["inventory.stock-updated"][0])
    del message[member]
    assert faults("inventory.stock-updated", message) != []


def test_the_check_finds_what_is_not_documented() -> None:
    message = dict(made()["inventory.stock-updated"][0])
    assert faults("inventory.stock-updated", message | {"colour": "red"}) != []
    assert faults("inventory.stock-updated", message | {"data": message["data"] | {"colour": "red"}}) != []
    assert faults("inventory.stock-updated", message | {"colour": "red"}, strict=False) == []
