"""The document of the messages as a test reads it: what is documented, and whether a message is as documented."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, FormatChecker

DOCUMENT = Path(__file__).parents[1] / "docs" / "asyncapi.yaml"


@cache
def document() -> dict[str, Any]:
    """The document, parsed."""
    loaded: dict[str, Any] = yaml.safe_load(DOCUMENT.read_text())
    return loaded


def lookup(reference: str) -> Any:
    """What a ``$ref`` of the document points at. Raises KeyError if it points nowhere."""
    found: Any = document()
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return found


def references(part: Any) -> list[str]:
    """Every ``$ref`` in a part of the document."""
    if isinstance(part, dict):
        mine = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return mine + [found for value in part.values() for found in references(value)]
    return [found for value in part for found in references(value)] if isinstance(part, list) else []


def messages_of(action: str) -> dict[str, dict[str, Any]]:
    """By topic, the documented message of each channel that Stockhold sends to (``send``) or takes from (``receive``)."""
    found = {}
    for operation in document()["operations"].values():
        if operation["action"] == action:
            channel = lookup(operation["channel"]["$ref"])
            (message,) = channel["messages"].values()
            found[channel["address"]] = lookup(message["$ref"])
    return found


@cache
def _validator(topic: str, action: str, strict: bool) -> Draft202012Validator:
    schema = {"$ref": "#/payload", "payload": messages_of(action)[topic]["payload"], **_components(strict)}
    if strict:
        schema["payload"] = _closed(schema["payload"])
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, format_checker=FormatChecker())


def _components(strict: bool) -> dict[str, Any]:
    schemas = document()["components"]["schemas"]
    return {"components": {"schemas": _closed(schemas) if strict else schemas}}


def _closed(part: Any) -> Any:
    """The same schema, but an object may have no member that is not documented."""
    if isinstance(part, list):
        return [_closed(each) for each in part]
    if not isinstance(part, dict):
        return part
    closed = {name: _closed(value) for name, value in copy.copy(part).items()}
    if "properties" in part and isinstance(part["properties"], dict) and part.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed


def faults(topic: str, event: Any, *, action: str = "send", strict: bool = True) -> list[str]:
    """What is wrong with a message of ``topic``. ``strict``: a member that the document does not name is wrong, too."""
    return [f"{error.json_path}: {error.message}" for error in _validator(topic, action, strict).iter_errors(event)]
