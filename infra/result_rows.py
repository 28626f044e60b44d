"""Rows of a binary result as Python values, for results that come without a cursor."""

from typing import Any

from psycopg import adapters, postgres
from psycopg.adapt import AdaptersMap, Transformer
from psycopg.pq.abc import PGresult
from psycopg.types.string import ByteaBinaryLoader

_ADAPTERS = AdaptersMap(adapters)
# JSON stays bytes: who reads it knows its struct, and decodes it with that.
_ADAPTERS.register_loader(postgres.types["json"].oid, ByteaBinaryLoader)


def rows_of(result: PGresult) -> list[tuple[Any, ...]]:
    """All rows of ``result``, which must be in binary format. Times are in UTC, json and bytea are bytes."""
    transformer = Transformer(_ADAPTERS)
    transformer.set_pgresult(result)
    return transformer.load_rows(0, result.ntuples, tuple)
