"""What a look at the generations of the views finds: of which release each is, and whether anybody keeps it."""

import psycopg
from psycopg import AsyncConnection, sql

from infra.doctor_findings import Finding
from projections import generations, versions
from projections.generations import Generation
from projections.runners import kept_partitions

REBUILD = "run `stockhold rebuild`"


async def inspect_generations(read_model_url: str) -> tuple[list[Generation], list[Finding]]:
    """The live generations and a finding for each of them; no findings if the database could not be asked."""
    try:
        async with await generations.connect(read_model_url) as connection:
            read = await generations.current(connection)
            found = [each for each in await generations.generations(connection) if each.state == "live"]
            return found, [await _finding(connection, each, is_read=each == read) for each in found]
    except psycopg.Error:  # the server is away, or the views were dropped: others say so
        return [], []


async def _finding(connection: AsyncConnection, generation: Generation, *, is_read: bool) -> Finding:
    check = f"generation {generation.number}"
    try:
        parked = await _parked(connection, generation)
    except psycopg.errors.UndefinedTable:
        return Finding(check, not is_read, f"its tables were dropped: {REBUILD}")
    kept = await kept_partitions(connection, generation)
    facts = [
        "read" if is_read else "not read",
        f"fold {generation.fold_version}, shape {generation.shape_version}",
        _kept(len(kept), generation.partitions),
        f"{parked} dead letters",
    ]
    if not is_read or generation.is_of_this_code:
        return Finding(check, True, ", ".join(facts))
    facts.append(
        f"no runner of this release (fold {versions.FOLD_VERSION}, shape {versions.SHAPE_VERSION}) keeps it: {REBUILD}"
    )
    return Finding(check, False, ", ".join(facts))


def _kept(kept: int, of: int) -> str:
    if kept == 0:
        return "nobody keeps it up to date at this moment"
    return "kept up to date" if kept == of else f"{kept} of {of} partitions kept up to date"


async def _parked(connection: AsyncConnection, generation: Generation) -> int:
    rows = await connection.execute(
        sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(generation.schema, "dead_letters"))
    )
    row = await rows.fetchone()
    assert row is not None
    count: int = row[0]
    return count
