"""An OpenAPI document as one page of HTML: for browsers without scripts, networks without a way out, and printers."""

import json
import re
from collections.abc import Iterable
from html import escape
from typing import Any, Final

Json = dict[str, Any]

_METHODS: Final = ("get", "put", "post", "patch", "delete")
_LIMITS: Final = {
    "minimum": "≥ {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} of them",
    "maxItems": "at most {} of them",
    "pattern": "like {}",
    "default": "default {}",
}
_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1, h2 { border-bottom: 1px solid #ccc } h3 { margin-top: 2.5rem; font-size: 1.1rem }
h3 b { display: inline-block; min-width: 4rem; text-transform: uppercase }
code, pre { font: 14px/1.4 ui-monospace, monospace; background: #f4f4f4; border-radius: 3px; padding: 1px 3px }
pre { padding: .7rem; overflow-x: auto } table { border-collapse: collapse; width: 100% }
td, th { border-top: 1px solid #ddd; padding: .3rem .6rem .3rem 0; text-align: left; vertical-align: top }
a { color: #0645ad; text-decoration: none } nav li { list-style: none } .more { color: #666; font-size: .9em }
"""


def openapi_page(document: Json) -> str:
    """The page that shows ``document`` (OpenAPI 3.1). It refers to nothing outside itself but the document."""
    components = document.get("components", {})
    operations = [
        (method, path, item[method])
        for path, item in document["paths"].items()
        for method in _METHODS
        if method in item
    ]
    title = escape(document["info"]["title"])
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>',
        f"<h1>{title}</h1>{_prose(document['info'].get('description', ''))}",
        '<p>The same for machines: <a href="openapi.json">openapi.json</a></p>',
        "<nav><ul>",
        *(_link_to_operation(*operation) for operation in operations),
        "</ul></nav>",
        *(_operation(*operation, components) for operation in operations),
        "<h2>What is sent and answered</h2>",
        *(_type(name, schema) for name, schema in sorted(components.get("schemas", {}).items())),
        "</html>",
    ]
    return "\n".join(parts)


def _link_to_operation(method: str, path: str, operation: Json) -> str:
    summary = escape(operation.get("summary", ""))
    return (
        f'<li><a href="#{escape(operation["operationId"])}"><code>{method.upper()} {escape(path)}</code></a> {summary}'
    )


def _operation(method: str, path: str, operation: Json, components: Json) -> str:
    return "\n".join(
        [
            f'<h3 id="{escape(operation["operationId"])}"><b>{method}</b> <code>{escape(path)}</code></h3>',
            _prose(operation.get("summary", "")),
            _parameters([_resolved(parameter, components) for parameter in operation.get("parameters", [])]),
            _body(operation.get("requestBody")),
            _answers(operation["responses"]),
        ]
    )


def _resolved(part: Json, components: Json) -> Json:
    if "$ref" not in part:
        return part
    kind, name = part["$ref"].split("/")[-2:]
    found: Json = components[kind][name]
    return found


def _parameters(parameters: Iterable[Json]) -> str:
    rows = [
        (f"<code>{escape(p['name'])}</code>", escape(p["in"]), _kind(p["schema"]), _prose(p.get("description", "")))
        for p in parameters
    ]
    return _table(("parameter", "in", "is", ""), rows)


def _body(body: Json | None) -> str:
    if body is None:
        return ""
    content = body["content"]["application/json"]
    need = "" if body.get("required") else " (may be empty)"
    example = content.get("example")
    shown = "" if example is None else f"<pre>{escape(json.dumps(example, indent=2, ensure_ascii=False))}</pre>"
    return f"<p>Body{need}: {_kind(content['schema'])}</p>{shown}"


def _answers(answers: Json) -> str:
    rows = []
    for status, answer in sorted(answers.items()):
        kinds = [_kind(content.get("schema", {})) for content in answer.get("content", {}).values()]
        rows.append((escape(status), _prose(answer.get("description", "")), "".join(kinds)))
    return _table(("status", "meaning", "body"), rows)


def _type(name: str, schema: Json) -> str:
    required = schema.get("required", ())
    rows = [
        (
            f"<code>{escape(field)}</code>",
            "always" if field in required else "optional",
            _kind(part),
            _prose(part.get("description", "")),
        )
        for field, part in schema.get("properties", {}).items()
    ]
    whole = _table(("field", "", "is", ""), rows) if rows else f"<p>{_kind(schema)}</p>"
    return f'<h3 id="schema-{escape(name)}">{escape(name)}</h3>{_prose(schema.get("description", ""))}{whole}'


def _kind(schema: Json) -> str:
    """A schema in a few words; what has a name is linked to."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[-1])
        return f'<a href="#schema-{name}">{name}</a>' + _limits(schema)
    for combination, word in (("anyOf", " or "), ("allOf", ", ")):
        if combination in schema:
            return word.join(kind for kind in map(_kind, schema[combination]) if kind) + _limits(schema)
    if "enum" in schema:
        return " | ".join(f"<code>{escape(json.dumps(value))}</code>" for value in schema["enum"]) + _limits(schema)
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}{_limits(schema)}"
    return escape(" ".join(str(schema[key]) for key in ("type", "format") if key in schema)) + _limits(schema)


def _limits(schema: Json) -> str:
    limits = [text.format(json.dumps(schema[key])) for key, text in _LIMITS.items() if key in schema]
    return f' <span class="more">{escape("; ".join(limits))}</span>' if limits else ""


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    body = "\n".join("<tr>" + "".join(f"<td>{cell}" for cell in row) for row in rows)
    return f"<table><tr>{''.join(f'<th>{head}' for head in heads)}\n{body}</table>" if body else ""


def _prose(text: str) -> str:
    """Paragraphs, and code between backticks: the Markdown that descriptions here use."""
    paragraphs = [paragraph for paragraph in re.split(r"\n\s*\n", escape(text)) if paragraph.strip()]
    return "".join("<p>" + re.sub(r"(`+)(.+?)\1", r"<code>\2</code>", paragraph) for paragraph in paragraphs)
