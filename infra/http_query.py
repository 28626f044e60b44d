"""Paths and queries as the structs that document them: text in, typed values or :class:`InvalidRequest` out."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Final, NamedTuple, TypeVar
from urllib.parse import parse_qsl, unquote

import msgspec
from msgspec import inspect

from infra.problems import InvalidRequest

T = TypeVar("T", bound=msgspec.Struct)

PARAMETERS_MAX: Final = 2_000
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
_AT = re.compile(r"^(.*?)(?: - at `\$\.?(.*)`)?$", re.DOTALL)


class _Shape(NamedTuple):
    lists: frozenset[str]
    integers: frozenset[str]
    names: frozenset[str]


def parse_query(raw: bytes, shape: type[T]) -> T:
    """The query string ``raw`` as a ``shape``; parameters that it does not have are ignored.

    A field that is a list takes every occurrence, any other at most one. Raises InvalidRequest.
    """
    names = _shape(shape)
    values: dict[str, str | list[str]] = {}
    for name, value in _pairs(raw):
        if name in names.lists:
            several = values.setdefault(name, [])
            assert isinstance(several, list)
            several.append(value)
        elif name in values:
            raise InvalidRequest([(f"query.{name}", "given more than once")])
        elif name in names.names:
            values[name] = value
    return _convert(values, shape, "query")


def parse_path(values: Mapping[str, str], shape: type[T]) -> T:
    """The parts of a path, as they were sent, as a ``shape``. Raises InvalidRequest."""
    try:
        plain = {name: unquote(value, errors="strict") for name, value in values.items()}
    except UnicodeDecodeError:
        raise InvalidRequest([("path", "not UTF-8")]) from None
    return _convert(plain, shape, "path")


def _pairs(raw: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=PARAMETERS_MAX)
    except UnicodeDecodeError:
        raise InvalidRequest([("query", "not UTF-8")]) from None
    except ValueError:
        raise InvalidRequest([("query", f"more than {PARAMETERS_MAX} parameters")]) from None


def _convert(values: Mapping[str, str | list[str]], shape: type[T], where: str) -> T:
    integers = _shape(shape).integers
    # Not msgspec's lax mode, which would also take 1.0 for a quantity and 123 for an instant.
    typed = {
        name: int(value) if name in integers and isinstance(value, str) and _INTEGER.fullmatch(value) else value
        for name, value in values.items()
    }
    try:
        return msgspec.convert(typed, shape)
    except msgspec.ValidationError as error:
        found = _AT.match(str(error))
        assert found is not None
        raise InvalidRequest([(".".join(filter(None, (where, found[2]))), found[1])]) from None


@cache
def _shape(shape: type[msgspec.Struct]) -> _Shape:
    info = inspect.type_info(shape)
    assert isinstance(info, inspect.StructType)
    kinds = {field.encode_name: _kinds(field.type) for field in info.fields}
    return _Shape(
        frozenset(name for name, found in kinds.items() if inspect.ListType in found),
        frozenset(name for name, found in kinds.items() if inspect.IntType in found),
        frozenset(kinds),
    )


def _kinds(info: object) -> set[type]:
    if isinstance(info, inspect.Metadata):
        return _kinds(info.type)
    if isinstance(info, inspect.UnionType):
        return {kind for choice in info.types for kind in _kinds(choice)}
    return {type(info)}
