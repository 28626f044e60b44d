"""OpenAPI from the structs that requests are parsed into and answers are encoded from.

FastAPI derives its page from pydantic models; the APIs parse and encode with msgspec, so the schemas come
from there: what is documented is what is checked, because it is the same type.
"""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType, inspect

from infra.problems import PROBLEM_JSON, PROBLEMS

_TEMPLATE = "#/components/schemas/{name}"


class InvalidField(msgspec.Struct):
    """Where a request is wrong, and how."""

    path: str
    message: str


class Problem(msgspec.Struct):
    """What went wrong (RFC 9457). Some codes add members with the facts of that error."""

    type: str
    title: str
    status: int
    detail: str
    code: Annotated[str, Meta(description="stable name of the error; act on it")]
    errors: list[InvalidField] | UnsetType = UNSET


class Schemas:
    """The components that an API's operations refer to."""

    def __init__(self) -> None:
        self.components: dict[str, Any] = {}

    def schema(self, described: Any) -> dict[str, Any]:
        """The schema of a type, whose structs become components."""
        (schema,), components = msgspec.json.schema_components([described], ref_template=_TEMPLATE)
        self.components |= {name: _plain(component) for name, component in components.items()}
        for struct in _structs_in(described):
            _mark_instants(self.components[struct.__name__], struct)
        plain: dict[str, Any] = _plain(schema)
        return plain

    def parameters(self, shape: type[msgspec.Struct], where: str) -> list[dict[str, Any]]:
        """The fields of ``shape`` as parameters in ``where`` (``query``, ``path``, ``header``)."""
        component = dict(self.schema(shape))
        if "$ref" in component:
            component = self.components.pop(shape.__name__)
        required = set(component.get("required", ()))
        return [
            _parameter(name, where, name in required, _without_null(schema))
            for name, schema in component["properties"].items()
        ]

    def operation(
        self,
        *,
        answers: Mapping[int, Any],
        problems: Iterable[str],
        path: type[msgspec.Struct] | None = None,
        query: type[msgspec.Struct] | None = None,
        headers: type[msgspec.Struct] | None = None,
        body: Any = None,
    ) -> dict[str, Any]:
        """What a route says of itself, for FastAPI's ``openapi_extra``. ``answers``: status → type of the body."""
        parameters = [
            parameter
            for shape, where in ((path, "path"), (query, "query"), (headers, "header"))
            if shape is not None
            for parameter in self.parameters(shape, where)
        ]
        operation: dict[str, Any] = {
            "parameters": parameters,
            "responses": {
                **{str(status): self._answer(status, described) for status, described in answers.items()},
                **self._problems(problems),
            },
        }
        if body is not None:
            content = {"application/json": {"schema": self.schema(body)}}
            operation["requestBody"] = {"required": True, "content": content}
        return operation

    def _answer(self, status: int, described: Any) -> dict[str, Any]:
        content = {"application/json": {"schema": self.schema(described)}}
        return {"description": HTTPStatus(status).phrase, "content": content}

    def _problems(self, codes: Iterable[str]) -> dict[str, Any]:
        by_status: dict[int, list[str]] = {}
        for code in codes:
            by_status.setdefault(PROBLEMS[code][0], []).append(code)
        content = {PROBLEM_JSON: {"schema": self.schema(Problem)}}
        return {
            str(status): {
                "description": ", ".join(f"`{code}`" for code in names),
                "content": content,
                **({"headers": _RETRY_AFTER} if status in {429, 503} else {}),
            }
            for status, names in by_status.items()
        }


_RETRY_AFTER = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}


def _plain(schema: Any) -> Any:
    """JSON Schema's ``$`` ends a text for good; the patterns' guard against Python's does not belong there."""
    if isinstance(schema, dict):
        return {
            key: value.removesuffix(r"(?!\n)") if key == "pattern" else _plain(value) for key, value in schema.items()
        }
    return [_plain(part) for part in schema] if isinstance(schema, list) else schema


def _parameter(name: str, where: str, required: bool, schema: dict[str, Any]) -> dict[str, Any]:
    said = {"description": schema.pop("description")} if "description" in schema else {}
    return {"name": name, "in": where, "required": required, **said, "schema": schema}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter is there or it is not: it is never null, and says its default in words if it has one."""
    choices = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        schema = {**{key: value for key, value in schema.items() if key != "anyOf"}, **choices[0]}
    return {key: value for key, value in schema.items() if (key, value) != ("default", None)}


def _structs_in(described: Any) -> set[type[msgspec.Struct]]:
    found: set[type[msgspec.Struct]] = set()
    _collect(inspect.type_info(described), found)
    return found


def _collect(info: Any, found: set[type[msgspec.Struct]]) -> None:
    if isinstance(info, inspect.StructType):
        if info.cls in found:
            return
        found.add(info.cls)
        for field in info.fields:
            _collect(field.type, found)
    for child in _children(info):
        _collect(child, found)


def _children(info: Any) -> Iterable[Any]:
    if isinstance(info, inspect.UnionType):
        return info.types
    if isinstance(info, inspect.Metadata):
        return (info.type,)
    if isinstance(info, inspect.TupleType):
        return info.item_types
    inner = getattr(info, "item_type", None)
    return () if inner is None else (inner,)


def _mark_instants(component: dict[str, Any], struct: type[msgspec.Struct]) -> None:
    """Msgspec leaves the format away where a time might be naive; ours never are."""
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    for field in info.fields:
        kinds = {type(kind) for kind in (field.type, *_children(field.type))}
        if inspect.DateTimeType in kinds:
            schema = component["properties"][field.encode_name]
            for choice in (schema, *schema.get("anyOf", ())):
                if choice.get("type") == "string":
                    choice["format"] = "date-time"
