-- What the publisher knows of the public topics, in the schema that the runner has put on the search path. Like the
-- views it follows from the log; unlike them it says what others have been told, so it is kept when views are rebuilt.

-- A stock item up to `version`, of which every message has been acknowledged by the brokers. `level`: msgspec's JSON of the
-- folded row, by the fold `fold`. `previous`: the version before the last write, by which two writers find each other out.
CREATE TABLE streams (
    stream   text COLLATE "C" PRIMARY KEY,
    version  bigint NOT NULL,
    previous bigint NOT NULL,
    fold     integer NOT NULL,
    level    json NOT NULL
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.1);

-- Open holds, which alone know the order that most events do not name: msgspec's JSON of domain.hold.Hold.
CREATE TABLE holds (
    stream         text COLLATE "C" NOT NULL,
    reservation_id text COLLATE "C" NOT NULL,
    hold           json NOT NULL,
    PRIMARY KEY (stream, reservation_id)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.1);

-- Up to which position of the log every stream of a partition has been compared with `streams`. Partitions of another
-- count are other partitions.
CREATE TABLE partitions (
    partitions          integer NOT NULL,
    partition           integer NOT NULL,
    reconciled_position bigint NOT NULL,
    PRIMARY KEY (partitions, partition)
);

-- Of which log all this is (null: of none yet), and the last refusal that was published.
CREATE TABLE progress (
    singleton  boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    log_epoch  bigint,
    refusal_id bigint NOT NULL DEFAULT 0
);
INSERT INTO progress DEFAULT VALUES;

-- Streams of which nothing more is published: they stand still at an event that could not be read or folded.
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
