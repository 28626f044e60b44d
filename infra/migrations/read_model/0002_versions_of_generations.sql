-- Which code a generation is of, and when readers were pointed to it.
ALTER TABLE generations
    -- What the folds wrote when it was built: a runner of another fold does not follow it.
    ADD COLUMN fold_version  integer NOT NULL DEFAULT 1,
    -- The shape of its tables and of its keys in Redis: a reader of another shape does not read it.
    ADD COLUMN shape_version integer NOT NULL DEFAULT 1,
    -- When readers were last pointed to it; null: never, it has not passed its verification.
    ADD COLUMN pointed_at    timestamptz,
    DROP CONSTRAINT generations_state_check,
    -- 'dropping': nobody follows or reads it any more, and what is left of it goes, here or in Redis.
    ADD CONSTRAINT generations_state_check CHECK (state IN ('building', 'live', 'dropping'));

UPDATE generations SET pointed_at = created_at WHERE state = 'live';
