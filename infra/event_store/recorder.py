"""The eventsourcing library's own door to the log, for imports, migrations, tests and tools.

The executor's hot path (:mod:`infra.event_store.postgres`) does not go through it; both write the same table, hold
the same lock and wake the same readers. What is recorded here are events alone: the write-side index, the items and
the warehouses follow from them, and whoever appends here sees to them.
"""

from collections.abc import Sequence
from typing import Any

from eventsourcing.persistence import ProgrammingError, StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from psycopg.conninfo import conninfo_to_dict
from psycopg.sql import SQL

from infra.event_store.append_lock import CHANNEL, SCHEMA, append_lock_key


def connect_datastore(
    url: str, *, schema: str = SCHEMA, lock_timeout_s: int = 5, pool_size: int = 1
) -> PostgresDatastore:
    """The library's pool of connections to the log at ``url``. Close it."""
    facts = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    return PostgresDatastore(
        facts.get("dbname", ""),
        facts.get("host", ""),
        facts.get("port", ""),
        facts.get("user", ""),
        facts.get("password", ""),
        schema=schema,
        originator_id_type="text",
        lock_timeout=lock_timeout_s,
        pool_size=pool_size,
    )


class StockholdRecorder(PostgresApplicationRecorder):
    """The library's recorder of events on our table, under our lock, waking our readers.

    The migrations make the table and its types; this makes nothing. Raises ProgrammingError for a datastore in the
    library's "DB functions" mode, which would insert without any lock, so that positions were not in commit order.
    """

    def __init__(self, datastore: PostgresDatastore) -> None:
        if datastore.enable_db_functions:
            raise ProgrammingError("DB functions insert without the append lock")
        super().__init__(datastore)
        self.sql_create_statements.clear()
        self.channel_name = CHANNEL
        self.lock_table_statements = [
            SQL("SET LOCAL lock_timeout = {}").format(f"{datastore.lock_timeout}s"),
            SQL("SELECT pg_advisory_xact_lock({})").format(append_lock_key(datastore.schema)),
        ]

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        """Append, all or nothing; the positions, in order.

        Raises IntegrityError if a version is taken, OperationalError if the lock was not to be had in time or the
        connection was lost: whether the events are in the log is then not known, and it is for the caller to look.
        The library would insert again, up to ten times.
        """
        once = PostgresApplicationRecorder.insert_events.__wrapped__  # what @retry wraps
        positions: Sequence[int] | None = once(self, stored_events, **kwargs)
        return positions
