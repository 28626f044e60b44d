"""The SQL of the projections' writer. Every statement is prepared once per connection and takes whole batches as arrays."""
# ruff: noqa: S608  (every name that is put into a statement here is this program's own)

from collections.abc import Sequence
from typing import Final, NamedTuple

from infra.event_store.wire import INT2_ARRAY, INT8, INT8_ARRAY, TEXT, TEXT_ARRAY
from infra.postgres import Statement
from projections import binary
from projections.binary import Column, Table
from projections.tables import (
    HOLD_SELECT,
    HOLDS,
    LEVEL_SELECT,
    MOVEMENTS,
    POLICIES,
    RESERVATIONS,
    STOCK_LEVELS,
    WAREHOUSE_SELECT,
    WAREHOUSES,
)

CHANNEL: Final = "stockhold_views"
"""NOTIFY: payload ``pointer`` (generations or the pointer changed) or ``warehouses`` (a warehouse's row changed)."""


class Cursor(NamedTuple):
    """A row of ``cursors``: how far a partition is. A revision grows with every transaction, and never comes back.

    Whoever writes several partitions moves them together, so that while it leads their rows are one and the same.
    """

    pg_position: int
    pg_revision: int
    redis_position: int
    redis_revision: int
    reconciled_position: int


CURSOR_COLUMNS = ", ".join(Cursor._fields)


def common_cursor(cursors: Sequence[Cursor]) -> Cursor:
    """Where partitions that were written apart are together: what one of them lacks counts as missing.

    Its own revision alone is the latest, because the next must be later than all.
    """
    positions, revisions, redis_positions, redis_revisions, reconciled = zip(*cursors, strict=True)
    return Cursor(min(positions), max(revisions), min(redis_positions), min(redis_revisions), min(reconciled))


_DUE_OF_ITEM = """(SELECT h.due_at FROM holds h
    WHERE h.sku = r.sku AND h.warehouse = r.warehouse AND (h.active > 0 OR h.committed > 0) AND h.due_at IS NOT NULL
    ORDER BY h.due_at LIMIT 1)"""

# One column more than the table has: whether next_due_at is exact. If not, it is what the holds say, which
# the statement before this one has brought up to date.
LEVEL_PARAMS = Table("", (*STOCK_LEVELS.columns, Column("due_is_exact", binary.BOOL)))
_UPSERT_LEVELS = (
    STOCK_LEVELS.unnested(
        extra=LEVEL_PARAMS.columns[-1:],
        next_due_at=f"CASE WHEN r.due_is_exact THEN r.next_due_at ELSE {_DUE_OF_ITEM} END",
    )
    + STOCK_LEVELS.overwriting("sku", "warehouse")
    + " RETURNING sku, warehouse, next_due_at"
)


def _statement(name: str, text: str, *types: int) -> Statement:
    return Statement(name.encode(), text.encode(), types)


BEGIN = _statement("begin", "BEGIN")
COMMIT = _statement("commit", "COMMIT")
ROLLBACK = _statement("rollback", "ROLLBACK")
# All or none: who stands by with a part of the locks would keep others from theirs.
TRY_LEAD = _statement("try_lead", "SELECT bool_and(pg_try_advisory_lock(k)) FROM unnest($1) AS k", INT8_ARRAY)
LET_GO = _statement("let_go", "SELECT pg_advisory_unlock_all()")
NOTIFY = _statement("notify", f"SELECT pg_notify('{CHANNEL}', 'warehouses')")
LOCK_CURSORS = _statement(
    "lock_cursors",
    f"SELECT {CURSOR_COLUMNS} FROM cursors WHERE partition = ANY($1) ORDER BY partition FOR UPDATE",
    INT2_ARRAY,
)
MOVE_CURSORS = _statement(
    "move_cursors",
    f"""UPDATE cursors SET ({CURSOR_COLUMNS}, moved_at) = ($2, $3, $4, $5, $6, clock_timestamp())
        WHERE partition = ANY($1)""",
    *(INT2_ARRAY, INT8, INT8, INT8, INT8, INT8),
)
# What is looked up by many keys is looked up key by key: `OFFSET 0` keeps the planner from turning the join around, which it
# does as long as it believes a table empty, and then compares every row with every key.
# Levels in key order, so that two writers that name the same items cannot wait for each other in a circle.
FIND_LEVELS = _statement(
    "levels",
    f"""SELECT {LEVEL_SELECT} FROM (
            SELECT sku, warehouse FROM unnest($1, $2) AS u (sku, warehouse)
            ORDER BY sku COLLATE "C", warehouse COLLATE "C"
        ) AS k CROSS JOIN LATERAL (
            SELECT * FROM stock_levels WHERE sku = k.sku AND warehouse = k.warehouse OFFSET 0
        ) AS l FOR UPDATE OF l""",
    *(TEXT_ARRAY, TEXT_ARRAY),
)
FIND_HOLDS = _statement(
    "holds",
    f"""SELECT {HOLD_SELECT} FROM unnest($1, $2, $3) AS k (reservation_id, sku, warehouse)
        CROSS JOIN LATERAL (
            SELECT * FROM holds
            WHERE reservation_id = k.reservation_id AND sku = k.sku AND warehouse = k.warehouse OFFSET 0
        ) AS h""",
    *(TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY),
)
FIND_WAREHOUSES = _statement(
    "warehouses", f"SELECT {WAREHOUSE_SELECT} FROM warehouses w WHERE w.code = ANY($1) FOR UPDATE", TEXT_ARRAY
)
FIND_PARKED = _statement("parked", "SELECT stream FROM dead_letters WHERE stream = ANY($1)", TEXT_ARRAY)
WATERMARKS = _statement(
    "watermarks",
    """SELECT 'stock:' || l.sku || '@' || l.warehouse, l.version FROM unnest($1, $2) AS k (sku, warehouse)
       CROSS JOIN LATERAL (
           SELECT * FROM stock_levels WHERE sku = k.sku AND warehouse = k.warehouse OFFSET 0
       ) AS l
       UNION ALL SELECT 'warehouse:' || w.code, w.version FROM warehouses w WHERE w.code = ANY($3)""",
    *(TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY),
)
RETRIES = _statement("retries", "SELECT stream FROM dead_letters WHERE retry_requested ORDER BY stream")
DEAD_LETTERS = _statement("dead_letters", "SELECT count(*) FROM dead_letters")
PARK = _statement(
    "park",
    """INSERT INTO dead_letters (stream, version, position, topic, error) VALUES ($1, $2, $3, $4, $5)
       ON CONFLICT (stream) DO UPDATE SET version = excluded.version, position = excluded.position,
           topic = excluded.topic, error = excluded.error, attempts = dead_letters.attempts + 1,
           retry_requested = false""",
    *(TEXT, INT8, INT8, TEXT, TEXT),
)
UNPARK = _statement("unpark", "DELETE FROM dead_letters WHERE stream = ANY($1)", TEXT_ARRAY)
WRITE_LEVELS = _statement("write_levels", _UPSERT_LEVELS, *LEVEL_PARAMS.types)
WRITE_HOLDS = _statement(
    "write_holds", HOLDS.unnested() + HOLDS.overwriting("reservation_id", "sku", "warehouse"), *HOLDS.types
)
WRITE_POLICIES = _statement(
    "write_policies", POLICIES.unnested() + POLICIES.overwriting("sku", "warehouse"), *POLICIES.types
)
WRITE_RESERVATIONS = _statement(
    "write_reservations", RESERVATIONS.unnested() + " ON CONFLICT DO NOTHING", *RESERVATIONS.types
)
# A movement is its event's for ever: one that is there already is the same.
WRITE_MOVEMENTS = _statement("write_movements", MOVEMENTS.unnested() + " ON CONFLICT DO NOTHING", *MOVEMENTS.types)
WRITE_WAREHOUSES = _statement(
    "write_warehouses", WAREHOUSES.unnested() + WAREHOUSES.overwriting("code"), *WAREHOUSES.types
)
ALL = tuple(value for value in globals().copy().values() if isinstance(value, Statement))

SESSION = {
    # A crash of the server may take the last transactions, rows and cursor together; the log still has them.
    "synchronous_commit": "off",
    # Prepared once, perhaps while the tables were empty: only what an index serves may be planned.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    "application_name": "stockhold-projection",
}
