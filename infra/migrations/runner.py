"""Applies numbered SQL files, each once and in order.

A set is a folder beside this file, `event_store`, `read_model` or `public`, with files named `0001_what_it_does.sql`. A file is run
with its set's schema as the search path, so that it names its tables without one. It must hold no COMMIT of its own.
What was applied is recorded in the table `migrations` of that schema, with a digest: an applied file must not change.
"""

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

import psycopg
from psycopg import sql

FILE_NAME = re.compile(r"(?P<number>\d{4})_[a-z0-9_]+\.sql")
CONNECT_TIMEOUT_S = 10


class MigrationError(Exception):
    """The files and the database do not fit together, or a file is not well named."""


@dataclass(frozen=True)
class MigrationSet:
    """A folder of files, and the schema that they describe."""

    folder: Traversable
    schema: str


@dataclass(frozen=True)
class Migration:
    number: int
    name: str
    text: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


EVENT_STORE = MigrationSet(files("infra.migrations") / "event_store", "stockhold")
READ_MODEL = MigrationSet(files("infra.migrations") / "read_model", "stockhold_views")
PUBLIC = MigrationSet(files("infra.migrations") / "public", "stockhold_public")
"""What the publisher of the public topics keeps, in the database of the read model."""


def migrate(url: str, migration_set: MigrationSet) -> list[str]:
    """Bring the schema of `migration_set` up to date and return the names of the files applied now.

    Several callers at once are fine: they take turns, file by file. Raises MigrationError, also for a file that fails
    (which then has left nothing behind); psycopg.OperationalError if the server is away.
    """
    applied_now = []
    migrations = load(migration_set.folder)
    with psycopg.connect(url, connect_timeout=CONNECT_TIMEOUT_S) as connection:
        for migration in migrations:
            with connection.transaction():
                if _apply(connection, migration_set.schema, migration):
                    applied_now.append(migration.name)
        with connection.transaction():
            _refuse_unknown(connection, migration_set.schema, migrations)
    return applied_now


def load(folder: Traversable) -> list[Migration]:
    """The files of a set in the order of their numbers. Raises MigrationError for a bad name or a number used twice."""
    migrations: list[Migration] = []
    if not folder.is_dir():
        return migrations
    for file in folder.iterdir():
        if not file.name.endswith(".sql"):
            continue
        matched = FILE_NAME.fullmatch(file.name)
        if matched is None:
            raise MigrationError(f"{file.name}: migrations are named like 0001_what_it_does.sql")
        migrations.append(Migration(int(matched["number"]), file.name, file.read_text(encoding="utf-8")))
    migrations.sort(key=lambda migration: migration.number)
    for earlier, later in itertools.pairwise(migrations):
        if earlier.number == later.number:
            raise MigrationError(f"{earlier.name} and {later.name} have the same number")
    return migrations


def _apply(connection: psycopg.Connection, schema: str, migration: Migration) -> bool:
    """Apply one file in the current transaction, unless it has been. The lock is the first thing, and ends with it."""
    # Two processes that start at once would both find the file unapplied. The lock alone in its statement: what is
    # read next must be read after the other one has committed.
    connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [f"stockhold migrations {schema}"])
    _ensure_table(connection, schema)
    row = connection.execute("SELECT digest FROM migrations WHERE number = %s", [migration.number]).fetchone()
    if row is not None:
        if row[0] != migration.digest:
            raise MigrationError(
                f"{migration.name} has changed since it was applied to schema {schema}: add a new file"
            )
        return False
    try:
        connection.execute(migration.text.encode())
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        raise MigrationError(f"{migration.name}: {error}") from error
    _use_schema(connection, schema)  # a file may have set another path
    connection.execute(
        "INSERT INTO migrations (number, name, digest) VALUES (%s, %s, %s)",
        [migration.number, migration.name, migration.digest],
    )
    return True


def _ensure_table(connection: psycopg.Connection, schema: str) -> None:
    # CREATE ... IF NOT EXISTS would demand the right to create from a role that has nothing left to do.
    if connection.execute("SELECT to_regclass(%s)", [f'"{schema}".migrations']).fetchone() != (None,):
        _use_schema(connection, schema)
        return
    if connection.execute("SELECT to_regnamespace(%s)", [f'"{schema}"']).fetchone() == (None,):
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
    _use_schema(connection, schema)
    connection.execute(
        """
        CREATE TABLE migrations (
            number integer PRIMARY KEY,
            name text NOT NULL,
            digest text NOT NULL,
            applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
        )
        """
    )


def _use_schema(connection: psycopg.Connection, schema: str) -> None:
    connection.execute(sql.SQL("SET LOCAL search_path TO {}").format(sql.Identifier(schema)))


def _refuse_unknown(connection: psycopg.Connection, schema: str, known: Sequence[Migration]) -> None:
    """A database that is ahead of this program would be written to in ways that it no longer means."""
    if connection.execute("SELECT to_regclass(%s)", [f'"{schema}".migrations']).fetchone() == (None,):
        return
    _use_schema(connection, schema)
    numbers = [migration.number for migration in known]
    row = connection.execute(
        "SELECT name FROM migrations WHERE number <> ALL (%s) ORDER BY number", [numbers]
    ).fetchone()
    if row is not None:
        raise MigrationError(f"schema {schema} knows migration {row[0]}, which this version of Stockhold does not")
