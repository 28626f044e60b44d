-- What a good engineer would write by hand for the same promises: never below zero, no key twice, every movement kept.
DROP TABLE IF EXISTS levels, reservations, movements;

CREATE TABLE levels (
    product   integer NOT NULL,
    warehouse integer NOT NULL,
    available bigint  NOT NULL CHECK (available >= 0),
    reserved  bigint  NOT NULL CHECK (reserved >= 0),
    PRIMARY KEY (product, warehouse)
) WITH (fillfactor = 50);

CREATE TABLE reservations (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    idempotency_key text        NOT NULL UNIQUE,
    status          text        NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    expires_at      timestamptz NOT NULL
);

CREATE TABLE movements (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    product    integer     NOT NULL,
    warehouse  integer     NOT NULL,
    quantity   bigint      NOT NULL,
    type       text        NOT NULL,
    reserved_by text       NOT NULL,
    at         timestamptz NOT NULL DEFAULT now()
);
