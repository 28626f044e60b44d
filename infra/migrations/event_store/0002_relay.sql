-- How far the log has been published, one row per topic. Only the relay that holds the topic's advisory lock moves it, and
-- only from where it believes it to be; `stockhold relay --from` moves it back.
CREATE TABLE relay_checkpoints (
    name     text COLLATE "C" PRIMARY KEY,
    position bigint NOT NULL CHECK (position >= 0),
    epoch    bigint NOT NULL,
    moved_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (
    -- One row, moved a hundred times a second: new versions of it stay on its page, and it stays one page.
    fillfactor = 10,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_scale_factor = 0
);
