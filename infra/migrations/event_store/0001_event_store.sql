-- The write side's tables, in the schema that the runner has put on the search path.
-- Ids compare under the "C" collation: byte order, the same on every machine and in every release.

-- The log, as the eventsourcing library's application recorder lays it out (text ids).
-- Only what holds the append lock inserts here, so notification_id is in commit order; it may have holes.
CREATE TABLE stored_events (
    originator_id      text COLLATE "C" NOT NULL,
    originator_version bigint NOT NULL,
    topic              text COLLATE "C" NOT NULL,
    state              bytea NOT NULL,
    notification_id    bigserial NOT NULL,
    PRIMARY KEY (originator_id, originator_version)
) WITH (
    autovacuum_vacuum_insert_scale_factor = 0.5,
    autovacuum_analyze_scale_factor = 0.05
);
CREATE UNIQUE INDEX stored_events_notification_id_idx ON stored_events (notification_id);

-- The composite type by which the library's recorder passes events.
CREATE TYPE stored_event_text AS (
    originator_id      text,
    originator_version bigint,
    topic              text,
    state              bytea
);

-- One row per stock item: the newest state that was worth keeping. A cache, like everything but the log.
CREATE TABLE snapshots (
    originator_id      text COLLATE "C" PRIMARY KEY,
    originator_version bigint NOT NULL,
    state_version      integer NOT NULL,
    state              bytea NOT NULL
);

-- A restore raises the epoch: versions may then repeat with other content, and every view must be rebuilt.
CREATE TABLE log_epoch (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    epoch     bigint NOT NULL DEFAULT 1
);
INSERT INTO log_epoch DEFAULT VALUES;

-- The outcome of every decision, refusals too, under the caller's key: the body is the answer as it was sent.
CREATE TABLE idempotency (
    scope       text COLLATE "C" NOT NULL,
    key         text COLLATE "C" NOT NULL,
    digest      bytea NOT NULL,
    status      smallint NOT NULL,
    body        bytea NOT NULL,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (scope, key)
);
CREATE INDEX idempotency_recorded_at_idx ON idempotency (recorded_at);

-- A reservation's header never changes; what became of it is in its holds. Of both, only what is searched by has a column:
-- the rest is one JSON state, written whole and read whole (a column costs every command; nobody else reads these tables).
CREATE TABLE reservations (
    reservation_id text COLLATE "C" PRIMARY KEY,
    order_id       text COLLATE "C" NOT NULL,
    state          bytea NOT NULL
);
CREATE INDEX reservations_order_id_idx ON reservations (order_id);

-- One row per hold: the state that the stock item's aggregate folded.
CREATE TABLE holds (
    reservation_id text COLLATE "C" NOT NULL,
    sku            text COLLATE "C" NOT NULL,
    warehouse      text COLLATE "C" NOT NULL,
    active         bigint NOT NULL,
    expires_at     timestamptz,
    state          bytea NOT NULL,
    PRIMARY KEY (reservation_id, sku, warehouse)
);
-- What the sweeper asks: active holds in the order in which they end.
CREATE INDEX holds_due_idx ON holds (expires_at) WHERE active > 0;

-- Which warehouses have ever stocked a SKU: where a line that names none may be served from.
CREATE TABLE items (
    sku       text COLLATE "C" NOT NULL,
    warehouse text COLLATE "C" NOT NULL,
    PRIMARY KEY (sku, warehouse)
);

-- One row per warehouse. `changed` grows with every change, so a process asks with one probe what is new to it.
CREATE TABLE warehouses (
    code    text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL,
    changed bigserial NOT NULL
);
CREATE UNIQUE INDEX warehouses_changed_idx ON warehouses (changed);

-- Refused decisions, from every door: they are demand that was not met.
CREATE TABLE refusals (
    refusal_id bigserial PRIMARY KEY,
    at         timestamptz NOT NULL,
    operation  text COLLATE "C" NOT NULL,
    code       text COLLATE "C" NOT NULL,
    order_id   text COLLATE "C",
    actor      text NOT NULL,
    problem    bytea NOT NULL
);
CREATE INDEX refusals_at_idx ON refusals (at);

-- For what was decided on memory alone: fails unless, under the append lock, every stream that was read is still where it
-- was and no warehouse has changed (SQLSTATE SH409), and the decision is not older than it may be (SH408).
CREATE FUNCTION assert_unchanged(
    streams text[], versions bigint[], warehouses_known bigint, decided_at timestamptz, age_max interval
) RETURNS void LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF clock_timestamp() - decided_at > age_max THEN
        RAISE EXCEPTION 'decided % ago', clock_timestamp() - decided_at USING ERRCODE = 'SH408';
    END IF;
    IF EXISTS (SELECT FROM warehouses w WHERE w.changed > warehouses_known) THEN
        RAISE EXCEPTION 'a warehouse has changed' USING ERRCODE = 'SH409';
    END IF;
    IF EXISTS (
        SELECT FROM unnest(streams, versions) AS k (id, version)
        CROSS JOIN LATERAL (
            SELECT FROM stored_events e WHERE e.originator_id = k.id AND e.originator_version = k.version + 1
            OFFSET 0  -- keeps the planner from turning the join around while it believes the table empty
        ) AS grown
    ) THEN
        RAISE EXCEPTION 'a stream has grown' USING ERRCODE = 'SH409';
    END IF;
END $$;
