-- What a published refusal says beside its reason: which command it was, who asked, what caused it. Rows from before have nulls.
ALTER TABLE refusals
    ADD COLUMN command_id     text COLLATE "C",
    ADD COLUMN reservation_id text COLLATE "C",
    -- The scope of the command's key: the caller's identity, or the CloudEvents source.
    ADD COLUMN source         text COLLATE "C",
    ADD COLUMN correlation_id text,
    -- The id of the message that asked, if it was one.
    ADD COLUMN causation_id   text;
