-- When the owner of a partition was last at it: by this one that stands by sees that nobody is.
ALTER TABLE partitions ADD COLUMN tended_at timestamptz NOT NULL DEFAULT clock_timestamp();
