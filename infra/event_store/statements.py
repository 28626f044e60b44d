"""The SQL of the write path. Every statement is prepared once per connection and takes whole batches as arrays."""

from infra.event_store.append_lock import CHANNEL, REFUSALS_CHANNEL
from infra.event_store.wire import (
    BYTEA_ARRAY,
    INT2_ARRAY,
    INT8,
    INT8_ARRAY,
    INTERVAL,
    TEXT_ARRAY,
    TIMESTAMPTZ,
    TIMESTAMPTZ_ARRAY,
)
from infra.postgres import Statement

BEGIN = Statement(b"begin", b"BEGIN ISOLATION LEVEL READ COMMITTED")
COMMIT = Statement(b"commit", b"COMMIT")
ROLLBACK = Statement(b"rollback", b"ROLLBACK")

# Alone in its statement: a lock and a read in one would read the snapshot from before the lock.
LOCK = Statement(b"lock", b"SELECT pg_advisory_xact_lock($1)", (INT8,))
CLOCK = Statement(b"clock", b"SELECT clock_timestamp()")

# Streams that memory has: what came after.
LATER_EVENTS = Statement(
    b"later_events",
    b"""SELECT e.originator_id, e.originator_version, e.topic, e.state
        FROM unnest($1, $2) AS k (id, version)
        CROSS JOIN LATERAL (
            SELECT * FROM stored_events s
            WHERE s.originator_id = k.id AND s.originator_version > k.version
            ORDER BY s.originator_version
        ) AS e""",
    (TEXT_ARRAY, INT8_ARRAY),
)

# Streams that memory does not have: the snapshot, then what came after it. One statement, so that a snapshot which is
# replaced meanwhile cannot leave a gap between the two.
WHOLE_STREAMS = Statement(
    b"whole_streams",
    b"""SELECT e.originator_id, e.originator_version, e.topic, e.state
        FROM unnest($1) AS k (id)
        LEFT JOIN snapshots n ON n.originator_id = k.id AND n.state_version = $2
        CROSS JOIN LATERAL (
            SELECT n.originator_id, n.originator_version, '' AS topic, n.state WHERE n.originator_id IS NOT NULL
            UNION ALL
            SELECT s.originator_id, s.originator_version, s.topic, s.state FROM stored_events s
            WHERE s.originator_id = k.id AND s.originator_version > coalesce(n.originator_version, 0)
        ) AS e
        ORDER BY 1, 2""",
    (TEXT_ARRAY, INT8),
)

# Key by key: `OFFSET 0` keeps the planner from turning the join around while it believes the table empty.
OUTCOMES = Statement(
    b"outcomes",
    b"""SELECT i.scope, i.key, i.digest, i.status, i.body
        FROM unnest($1, $2) AS k (scope, key)
        CROSS JOIN LATERAL (SELECT * FROM idempotency WHERE scope = k.scope AND key = k.key OFFSET 0) AS i""",
    (TEXT_ARRAY, TEXT_ARRAY),
)
HEADERS = Statement(b"headers", b"SELECT state FROM reservations WHERE reservation_id = ANY($1)", (TEXT_ARRAY,))
HOLDS = Statement(b"holds", b"SELECT state FROM holds WHERE reservation_id = ANY($1)", (TEXT_ARRAY,))
# Order by order, for the planner's sake as above.
HEADERS_OF_ORDERS = Statement(
    b"headers_of_orders",
    b"""SELECT r.state FROM unnest($1) AS k (order_id)
        CROSS JOIN LATERAL (SELECT * FROM reservations WHERE order_id = k.order_id OFFSET 0) AS r""",
    (TEXT_ARRAY,),
)
HOLDS_OF_ORDERS = Statement(
    b"holds_of_orders",
    b"""SELECT h.state FROM unnest($1) AS k (order_id)
        CROSS JOIN LATERAL (SELECT * FROM reservations WHERE order_id = k.order_id OFFSET 0) AS r
        CROSS JOIN LATERAL (SELECT * FROM holds WHERE reservation_id = r.reservation_id OFFSET 0) AS h""",
    (TEXT_ARRAY,),
)
PLACES = Statement(b"places", b"SELECT sku, warehouse FROM items WHERE sku = ANY($1)", (TEXT_ARRAY,))
CHANGED_WAREHOUSES = Statement(
    b"changed_warehouses",
    b"SELECT code, version, changed FROM warehouses WHERE changed > $1 ORDER BY changed",
    (INT8,),
)

ASSERT_UNCHANGED = Statement(
    b"assert_unchanged",
    b"SELECT assert_unchanged($1, $2, $3, $4, $5)",
    (TEXT_ARRAY, INT8_ARRAY, INT8, TIMESTAMPTZ, INTERVAL),
)

ASSERT_ORDERS = Statement(b"assert_orders", b"SELECT assert_orders($1, $2)", (TEXT_ARRAY, INT8_ARRAY))

APPEND_EVENTS = Statement(
    b"append_events",
    b"""WITH appended AS (
            INSERT INTO stored_events (originator_id, originator_version, topic, state)
            SELECT id, version, topic, state FROM unnest($1, $2, $3, $4) AS e (id, version, topic, state)
            RETURNING notification_id
        )
        SELECT max(notification_id), pg_notify('%s', '') FROM appended"""
    % CHANNEL.encode(),
    (TEXT_ARRAY, INT8_ARRAY, TEXT_ARRAY, BYTEA_ARRAY),
)
APPEND_OUTCOMES = Statement(
    b"append_outcomes",
    b"""INSERT INTO idempotency (scope, key, digest, status, body, recorded_at)
        SELECT o.*, $6 FROM unnest($1, $2, $3, $4, $5) AS o""",
    (TEXT_ARRAY, TEXT_ARRAY, BYTEA_ARRAY, INT2_ARRAY, BYTEA_ARRAY, TIMESTAMPTZ),
)
APPEND_HEADERS = Statement(
    b"append_headers",
    b"INSERT INTO reservations (reservation_id, order_id, state) SELECT * FROM unnest($1, $2, $3)",
    (TEXT_ARRAY, TEXT_ARRAY, BYTEA_ARRAY),
)
PUT_HOLDS = Statement(
    b"put_holds",
    b"""INSERT INTO holds (reservation_id, sku, warehouse, active, expires_at, state)
        SELECT * FROM unnest($1, $2, $3, $4, $5, $6)
        ON CONFLICT (reservation_id, sku, warehouse) DO UPDATE SET
            active = excluded.active, expires_at = excluded.expires_at, state = excluded.state""",
    (TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, INT8_ARRAY, TIMESTAMPTZ_ARRAY, BYTEA_ARRAY),
)
PUT_ITEMS = Statement(
    b"put_items",
    b"INSERT INTO items (sku, warehouse) SELECT * FROM unnest($1, $2) ON CONFLICT DO NOTHING",
    (TEXT_ARRAY, TEXT_ARRAY),
)
PUT_WAREHOUSES = Statement(
    b"put_warehouses",
    b"""INSERT INTO warehouses (code, version) SELECT * FROM unnest($1, $2)
        ON CONFLICT (code) DO UPDATE SET version = excluded.version, changed = excluded.changed""",
    (TEXT_ARRAY, INT8_ARRAY),
)
APPEND_REFUSALS = Statement(
    b"append_refusals",
    b"""WITH kept AS (
            INSERT INTO refusals (
                at, operation, code, order_id, actor, problem,
                command_id, reservation_id, source, correlation_id, causation_id
            )
            SELECT $11, r.* FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) AS r
            RETURNING refusal_id
        )
        SELECT max(refusal_id), pg_notify('%s', '') FROM kept"""
    % REFUSALS_CHANNEL.encode(),
    (
        TEXT_ARRAY,
        TEXT_ARRAY,
        TEXT_ARRAY,
        TEXT_ARRAY,
        BYTEA_ARRAY,
        TEXT_ARRAY,
        TEXT_ARRAY,
        TEXT_ARRAY,
        TEXT_ARRAY,
        TEXT_ARRAY,
        TIMESTAMPTZ,
    ),
)

PUT_SNAPSHOTS = Statement(
    b"put_snapshots",
    b"""INSERT INTO snapshots (originator_id, originator_version, state_version, state)
        SELECT * FROM unnest($1, $2, $3, $4)
        ON CONFLICT (originator_id) DO UPDATE SET
            originator_version = excluded.originator_version,
            state_version = excluded.state_version, state = excluded.state
        WHERE (excluded.state_version, excluded.originator_version)
            > (snapshots.state_version, snapshots.originator_version)""",
    (TEXT_ARRAY, INT8_ARRAY, INT8_ARRAY, BYTEA_ARRAY),
)

LOADING = (
    LATER_EVENTS,
    WHOLE_STREAMS,
    OUTCOMES,
    HEADERS,
    HOLDS,
    HEADERS_OF_ORDERS,
    HOLDS_OF_ORDERS,
    PLACES,
    CHANGED_WAREHOUSES,
    CLOCK,
)
WRITING = (
    BEGIN,
    COMMIT,
    ROLLBACK,
    LOCK,
    ASSERT_UNCHANGED,
    ASSERT_ORDERS,
    APPEND_EVENTS,
    APPEND_OUTCOMES,
    APPEND_HEADERS,
    PUT_HOLDS,
    PUT_ITEMS,
    PUT_WAREHOUSES,
    APPEND_REFUSALS,
)
