"""Every statement of the projections is served by an index, planned as it is: once, and perhaps on empty tables."""

import asyncio

import psycopg
import pytest
from psycopg import sql

from infra.event_store import log_reader
from infra.event_store.append_lock import SCHEMA
from infra.postgres import Statement
from projections import row_reader, statements
from tests.support_views import new_generation

LARGE = ("stock_levels", "holds", "movements", "reservations", "policies", "stored_events")


@pytest.fixture(scope="module")
def views_schema(module_database_url: str) -> str:
    async def make() -> str:
        async with new_generation(module_database_url) as generation:
            return generation.schema

    return asyncio.run(make())


def planned(url: str, schema: str, session: dict[str, str], statement: Statement) -> str:
    options = " ".join(f"-c {name}={value}" for name, value in (session | {"search_path": schema}).items())
    with psycopg.connect(url, options=options) as connection:
        oids = list(statement.types)
        types = [row[0] for row in connection.execute("SELECT unnest(%s::oid[])::regtype::text", [oids])]
        signature = f"({', '.join(types)})" if types else ""
        connection.execute(f"PREPARE planned {signature} AS {statement.sql.decode()}")
        values = f"({', '.join(['NULL'] * len(types))})" if types else ""
        return "\n".join(row[0] for row in connection.execute(f"EXPLAIN EXECUTE planned{values}"))


def plannable(some: tuple[Statement, ...]) -> list[Statement]:
    return [each for each in some if each.sql.split()[0] in {b"SELECT", b"INSERT", b"UPDATE", b"DELETE"}]


@pytest.mark.parametrize("statement", plannable(statements.ALL), ids=lambda statement: statement.name.decode())
def test_the_writer(module_database_url: str, views_schema: str, statement: Statement) -> None:
    assert_indexed(planned(module_database_url, views_schema, statements.SESSION, statement))


@pytest.mark.parametrize("statement", plannable(row_reader._STATEMENTS), ids=lambda statement: statement.name.decode())
def test_the_reader_of_rows(module_database_url: str, views_schema: str, statement: Statement) -> None:
    plan = planned(module_database_url, views_schema, row_reader._SESSION, statement)
    assert_indexed(plan)
    assert "Sort Key: l." not in plan  # the pages come in the order of the key; an item's few holds may be sorted


@pytest.mark.parametrize("statement", plannable(log_reader._STATEMENTS), ids=lambda statement: statement.name.decode())
def test_the_reader_of_the_log(module_database_url: str, statement: Statement) -> None:
    plan = planned(module_database_url, SCHEMA, log_reader._SESSION, statement)
    assert_indexed(plan)
    assert "Sort" not in plan or statement is log_reader._VERSIONS


@pytest.mark.parametrize("statement", plannable(statements.ALL), ids=lambda statement: statement.name.decode())
def test_the_writer_looks_up_key_by_key_though_the_tables_were_seen_empty(
    module_database_url: str, views_schema: str, statement: Statement
) -> None:
    with psycopg.connect(module_database_url, autocommit=True) as connection:
        for table in LARGE[:-1]:
            connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(views_schema, table)))
    assert "Join Filter" not in planned(module_database_url, views_schema, statements.SESSION, statement)


def assert_indexed(plan: str) -> None:
    for table in LARGE:
        assert f"Seq Scan on {table}" not in plan, plan
