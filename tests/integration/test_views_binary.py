"""What is written in binary is what PostgreSQL reads, by arrays and by COPY alike."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.postgres import Call, PipelineConnection, Statement
from projections.binary import (
    BOOL,
    COPY_HEADER,
    COPY_TRAILER,
    INT8,
    JSON,
    NUMERIC,
    SEVEN,
    TEXT,
    TIME,
    Column,
    Table,
    buckets_from,
)

TABLE = Table(
    "sample",
    (
        Column("number", INT8),
        Column("counts", SEVEN),
        Column("at", TIME),
        Column("truth", BOOL),
        Column("first", TEXT),
        Column("second", TEXT),
        Column("document", JSON),
        Column("cost", NUMERIC),
        Column("last", TEXT),
    ),
)
INSERT = Statement(b"insert", TABLE.unnested().encode(), TABLE.types)

_big = st.integers(-(2**63), 2**63 - 1)
_times = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - given below
_texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=300)
_costs = st.decimals(allow_nan=False, allow_infinity=False, places=None, min_value=-(10**12), max_value=10**12)
ROWS = st.lists(
    st.tuples(
        _big,
        st.lists(_big, min_size=7, max_size=7).map(tuple),
        st.none() | _times,
        st.booleans(),
        st.none() | _texts,
        _texts,
        st.none() | st.sampled_from([b"[]", b'{"a": [1, "\\u0000"]}']),
        st.none() | _costs,
        st.none() | _texts,
    ),
    min_size=1,
    max_size=6,
)


@pytest.fixture(scope="module")
def sample(module_database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(module_database_url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE sample (number bigint, counts bytea, at timestamptz, truth boolean, first text,"
            " second text, document json, cost numeric, last text, id bigserial)"
        )
        yield connection


def read(connection: psycopg.Connection) -> list[Any]:
    rows = connection.execute(
        "SELECT number, counts, at, truth, first, second, document::text, cost, last FROM sample ORDER BY id"
    ).fetchall()
    connection.execute("TRUNCATE sample")
    return [(number, buckets_from(counts), *rest) for number, counts, *rest in rows]


def as_read(rows: Sequence[tuple[Any, ...]]) -> list[Any]:
    return [
        (number, counts, at, truth, first, second, document and document.decode(), cost, last)
        for number, counts, at, truth, first, second, document, cost, last in rows
    ]


@given(rows=ROWS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_copy_reads_what_was_written(sample: psycopg.Connection, rows: list[tuple[Any, ...]]) -> None:
    columns = ", ".join(TABLE.names)
    with sample.cursor().copy(f"COPY sample ({columns}) FROM STDIN (FORMAT BINARY)") as copy:
        copy.write(COPY_HEADER + TABLE.copy_rows(rows) + COPY_TRAILER)
    assert read(sample) == as_read(rows)


@given(rows=ROWS)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_arrays_read_what_was_written(
    module_database_url: str, sample: psycopg.Connection, rows: list[tuple[Any, ...]]
) -> None:
    import asyncio

    async def insert() -> None:
        connection = await PipelineConnection.connect(module_database_url, [INSERT], {}, 5)
        try:
            await connection.run([Call(INSERT, TABLE.params(rows))])
        finally:
            await connection.close()

    asyncio.run(insert())
    assert read(sample) == as_read(rows)


@pytest.mark.parametrize(
    "cost", ["0", "0.00", "-0.01", "1", "10000", "9999.9999", "12345.6789", "0.00001", "1E+6", "-120.50", "1E-20"]
)
def test_costs_keep_their_value_and_their_places(sample: psycopg.Connection, cost: str) -> None:
    value = Decimal(cost)
    table = Table("sample", (Column("cost", NUMERIC),))
    with sample.cursor().copy("COPY sample (cost) FROM STDIN (FORMAT BINARY)") as copy:
        copy.write(COPY_HEADER + table.copy_rows([(value,)]) + COPY_TRAILER)
    row = sample.execute("SELECT cost, cost::text FROM sample").fetchone()
    sample.execute("TRUNCATE sample")
    assert row is not None
    assert row[0] == value
    assert row[1] == format(value, "f")


def test_what_is_no_number_is_refused() -> None:
    for cost in ("NaN", "Infinity", "1E+9000"):
        with pytest.raises(ArithmeticError):
            NUMERIC.encode(Decimal(cost))
