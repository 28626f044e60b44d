-- Which generations of the views there are, and which one is read. The tables of a generation are in a
-- schema of its own, made and dropped by the projections.

CREATE TABLE generations (
    generation   integer PRIMARY KEY,
    -- 'building': being filled by the rebuild that holds its lock; 'live': complete, a runner keeps it up to date.
    state        text COLLATE "C" NOT NULL CHECK (state IN ('building', 'live')),
    schema_name  text COLLATE "C" NOT NULL UNIQUE,
    redis_prefix text COLLATE "C" NOT NULL UNIQUE,
    partitions   smallint NOT NULL DEFAULT 1,
    -- The log's epoch when it was built: under another one versions repeat with other content.
    log_epoch    bigint NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The generation that readers read. Every change of the pointer comes with NOTIFY stockhold_views.
CREATE TABLE pointer (
    singleton  boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    generation integer NOT NULL REFERENCES generations,
    moved_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);
