-- Keys are found by kid; only a keyed hash of the key is kept. rpm and concurrency are null where the
-- gateway's default applies.
CREATE TABLE api_key (
    kid            text        PRIMARY KEY CHECK (kid ~ '^[a-z2-7]{12}$'),
    name           text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 100),
    hmac           bytea       NOT NULL CHECK (octet_length(hmac) = 32),
    pepper_version integer     NOT NULL CHECK (pepper_version > 0),
    scopes         text[]      NOT NULL CHECK (cardinality(scopes) > 0),
    rpm            integer     CHECK (rpm > 0),
    concurrency    integer     CHECK (concurrency > 0),
    created_at     timestamptz NOT NULL DEFAULT now(),
    expires_at     timestamptz,
    revoked_at     timestamptz,
    last_used_at   timestamptz
);

CREATE INDEX api_key_name ON api_key (name);
