"""Lists in pages: how many rows, and where the next page begins."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from infra.documents import encode
from read_api.cursors import encode_cursor
from read_api.parameters import PageQuery

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class PageSizes:
    """Rows on a page whose request names no limit, and at most."""

    usual: int
    most: int

    def of(self, query: PageQuery) -> int:
        return min(self.usual if query.limit is None else query.limit, self.most)


def cut(rows: Sequence[Row], size: int, key: Callable[[Row], tuple[Any, ...]]) -> tuple[Sequence[Row], str | None]:
    """The first ``size`` of the rows, of which one more was asked for, and the cursor if that one came."""
    if len(rows) <= size:
        return rows, None
    page = rows[:size]
    return page, encode_cursor(key(page[-1]))


def page_body(items: Sequence[bytes], next_cursor: str | None) -> bytes:
    """The page of items that are JSON already."""
    return b'{"items":[' + b",".join(items) + b'],"next_cursor":' + encode(next_cursor) + b"}"


def page_of(items: Sequence[msgspec.Struct], next_cursor: str | None) -> bytes:
    """The page of items that are yet to be encoded."""
    return page_body([encode(item) for item in items], next_cursor)
