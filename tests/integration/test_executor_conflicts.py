"""A conflict that comes back under the append lock: nobody else can have been first, so asking again does not help."""

import time

import psycopg
import pytest

from tests.support_write_side import Cluster, PostgresDatabase, ask, code_of, gather_answers, order, post

# What the index says of one key, whatever the log says: as a row would that nobody can see.
CURSE = """
CREATE FUNCTION stockhold.curse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the key is taken' USING ERRCODE = 'unique_violation';
END $$;
CREATE TRIGGER curse BEFORE INSERT ON stockhold.idempotency
    FOR EACH ROW WHEN (NEW.key = 'cursed') EXECUTE FUNCTION stockhold.curse()
"""


@pytest.mark.parametrize("optimistic", [False, True], ids=["lock-first", "optimistic"])
async def test_its_command_fails_alone_and_at_once(database_url: str, *, optimistic: bool) -> None:
    cluster = Cluster(PostgresDatabase(database_url), optimistic=optimistic)
    try:
        executor = await cluster.executor()
        await cluster.stock(executor, ("A", "W1", 10))
        with psycopg.connect(database_url) as connection:
            connection.execute(CURSE)
        started_s = time.monotonic()
        answers = await gather_answers([
            post(executor, order("before", ("A", 1, "W1"))),
            post(executor, order("cursed", ("A", 1, "W1")), "cursed"),
            post(executor, order("after", ("A", 1, "W1"))),
        ])  # fmt: skip
        assert [code_of(answer) for answer in answers] == ["201", "internal", "201"]
        assert time.monotonic() - started_s < 5, "it was tried until its deadline"
        assert (await ask(executor, order("more", ("A", 8, "W1")))).status == 201
        assert cluster.database.headers() == {"before", "after", "more"}
    finally:
        await cluster.close()
