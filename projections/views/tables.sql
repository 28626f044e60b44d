-- One generation of the views, in the schema that is on the search path. A generation is never altered:
-- another shape is another generation. Ids compare under "C". Keys and indexes are in indexes.sql, because
-- a rebuild fills the tables first.

-- The level of a stock item and the watermark of everything about it: hold rows and movements of the
-- versions up to `version` are there, none of a later one is. `revision` is the generation's transaction
-- that last wrote the row: what a cache must be given again. Nothing that changes with every event is
-- indexed, so that an update stays on its page.
CREATE TABLE stock_levels (
    version             bigint NOT NULL,
    revision            bigint NOT NULL,
    on_hand             bigint NOT NULL,
    reserved            bigint NOT NULL,
    committed           bigint NOT NULL,
    damaged             bigint NOT NULL,
    quarantined         bigint NOT NULL,
    in_transit          bigint NOT NULL,
    incoming            bigint NOT NULL,
    safety_stock        bigint NOT NULL,
    low_stock_threshold bigint NOT NULL,
    backorder_limit     bigint NOT NULL,
    sold                bigint NOT NULL,
    returned            bigint NOT NULL,
    lost                bigint NOT NULL,
    as_of               timestamptz NOT NULL,
    created_at          timestamptz NOT NULL,
    next_due_at         timestamptz,
    last_movement_at    timestamptz,
    last_restocked_at   timestamptz,
    last_sold_at        timestamptz,
    last_counted_at     timestamptz,
    discontinued        boolean NOT NULL,
    stale               boolean NOT NULL,
    sku                 text COLLATE "C" NOT NULL,
    warehouse           text COLLATE "C" NOT NULL
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.1);

-- The whole policy in force (JSON), and the version of the event that said it; written only when it changes.
CREATE TABLE policies (
    version   bigint NOT NULL,
    sku       text COLLATE "C" NOT NULL,
    warehouse text COLLATE "C" NOT NULL,
    policy    json NOT NULL
);

-- What a create said of its reservation as a whole; never changes. The JSON columns are msgspec's of
-- RequestedLine[], Allocated[] (the holds in their order), Shortage[] and Choice[].
CREATE TABLE reservations (
    created_at     timestamptz NOT NULL,
    reservation_id text COLLATE "C" NOT NULL,
    order_id       text COLLATE "C" NOT NULL,
    kind           text COLLATE "C" NOT NULL,
    customer_ref   text,
    created_by     text NOT NULL,
    digest         text COLLATE "C" NOT NULL,
    lines          json NOT NULL,
    allocations    json NOT NULL,
    shortages      json,
    choices        json
);

-- A hold, as domain.hold.Hold has it. `due_at`: when its active part ends, null if nothing is active.
CREATE TABLE holds (
    version        bigint NOT NULL,
    part           bigint NOT NULL,
    active         bigint NOT NULL,
    committed      bigint NOT NULL,
    shipped        bigint NOT NULL,
    returned       bigint NOT NULL,
    released       bigint NOT NULL,
    due_at         timestamptz,
    expires_at     timestamptz,
    committed_at   timestamptz,
    shipped_at     timestamptz,
    released_at    timestamptz,
    expired        boolean NOT NULL,
    cancelled      boolean NOT NULL,
    reservation_id text COLLATE "C" NOT NULL,
    sku            text COLLATE "C" NOT NULL,
    warehouse      text COLLATE "C" NOT NULL,
    order_id       text COLLATE "C" NOT NULL,
    released_by    text,
    release_reason text COLLATE "C",
    shipments      json
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.1);

-- What moved: one row per event that moved a quantity, never changed.
-- `before` and `after`: on_hand, reserved, committed, damaged, quarantined, in_transit, incoming, as
-- big-endian integers of 8 bytes each.
CREATE TABLE movements (
    version         bigint NOT NULL,
    at              timestamptz NOT NULL,
    quantity        bigint NOT NULL,
    sku             text COLLATE "C" NOT NULL,
    warehouse       text COLLATE "C" NOT NULL,
    type            text COLLATE "C" NOT NULL,
    before          bytea NOT NULL,
    after           bytea NOT NULL,
    actor           text COLLATE "C" NOT NULL,
    correlation_id  text COLLATE "C" NOT NULL,
    reason          text COLLATE "C",
    reservation_id  text COLLATE "C",
    order_id        text COLLATE "C",
    reference_type  text COLLATE "C",
    reference_id    text COLLATE "C",
    note            text,
    metadata        json,
    unit_cost       numeric,
    lot             text,
    supplier        text,
    idempotency_key text COLLATE "C"
);

-- A warehouse, and the watermark of its stream. `details` is msgspec's JSON of WarehouseDetails.
CREATE TABLE warehouses (
    code       text COLLATE "C" NOT NULL,
    version    bigint NOT NULL,
    revision   bigint NOT NULL,
    status     text COLLATE "C" NOT NULL,
    country    text COLLATE "C",
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    stale      boolean NOT NULL,
    details    json NOT NULL
);

-- How far each partition is. pg_position: everything up to this position of the log is in the tables, of
-- which pg_revision transactions have been made. redis_*: what Redis was known to have when this row was
-- last written. reconciled_position: up to here every stream's watermark has been compared with the log.
CREATE TABLE cursors (
    partition           smallint PRIMARY KEY,
    pg_position         bigint NOT NULL,
    pg_revision         bigint NOT NULL,
    redis_position      bigint NOT NULL,
    redis_revision      bigint NOT NULL,
    reconciled_position bigint NOT NULL,
    moved_at            timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Streams that stand still at an event that could not be read or folded. Everything after it waits too.
CREATE TABLE dead_letters (
    stream          text COLLATE "C" PRIMARY KEY,
    version         bigint NOT NULL,
    position        bigint,
    topic           text,
    error           text NOT NULL,
    attempts        integer NOT NULL DEFAULT 1,
    parked_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    retry_requested boolean NOT NULL DEFAULT false
);
