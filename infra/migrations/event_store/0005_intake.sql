-- Messages of the intake that came before what they build on. Each is tried again when a message of its order has been
-- applied, and now and then without one.
CREATE TABLE waiting_messages (
    source            text COLLATE "C" NOT NULL,
    id                text COLLATE "C" NOT NULL,
    -- What wakes it; null: nothing but time.
    order_id          text COLLATE "C",
    topic             text COLLATE "C" NOT NULL,
    message_partition integer NOT NULL,
    message_offset    bigint NOT NULL,
    key               bytea,
    body              bytea NOT NULL,
    -- Of what it asks for: another message of the same name is not the same.
    digest            bytea NOT NULL,
    code              text NOT NULL,
    detail            text NOT NULL,
    tries             integer NOT NULL DEFAULT 1,
    since             timestamptz NOT NULL DEFAULT clock_timestamp(),
    next_try          timestamptz NOT NULL,
    PRIMARY KEY (source, id)
);
CREATE INDEX waiting_messages_order_id_idx ON waiting_messages (order_id);
CREATE INDEX waiting_messages_next_try_idx ON waiting_messages (next_try);

-- Messages that can never be applied, or have waited too long: to be looked at, repaired and tried again.
CREATE TABLE dead_messages (
    -- A digest of topic and body: the same message again counts once.
    message_id        text COLLATE "C" PRIMARY KEY,
    topic             text COLLATE "C" NOT NULL,
    message_partition integer NOT NULL,
    message_offset    bigint NOT NULL,
    key               bytea,
    -- Null if it was too large to be kept, or there was none.
    body              bytea,
    size              bigint NOT NULL,
    source            text COLLATE "C",
    id                text COLLATE "C",
    order_id          text COLLATE "C",
    code              text NOT NULL,
    detail            text NOT NULL,
    times             integer NOT NULL DEFAULT 1,
    first_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    retry_requested   boolean NOT NULL DEFAULT false
);
CREATE INDEX dead_messages_retry_idx ON dead_messages (message_id) WHERE retry_requested;
