-- Keys, what they used, and the log of who did what. The owner runs this; the services get exactly what is granted.

CREATE SCHEMA gateway;
GRANT USAGE ON SCHEMA gateway TO gateway, registry, worker;

-- A key is a kid with what it may do; its secrets are rows of their own, so that it stays the same key when it rotates.
-- Limits are null where the service's default applies.
CREATE TABLE gateway.api_key (
    kid          text        PRIMARY KEY CHECK (kid ~ '^[a-z2-7]{12}$'),
    name         text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 100),
    scopes       text[]      NOT NULL CHECK (cardinality(scopes) > 0 AND scopes <@ ARRAY[
                                 'chat', 'embeddings', 'models', 'tasks', 'tools:read', 'tools:call', 'tools:admin']),
    rpm          integer     CHECK (rpm > 0),
    concurrency  integer     CHECK (concurrency > 0),
    tpm          integer     CHECK (tpm > 0),
    tokens_day   bigint      CHECK (tokens_day > 0),
    tokens_month bigint      CHECK (tokens_month > 0),
    cache        boolean     NOT NULL DEFAULT false,
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    revoked_at   timestamptz
);

CREATE INDEX api_key_name ON gateway.api_key (name);

CREATE TABLE gateway.api_key_secret (
    id             bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kid            text        NOT NULL REFERENCES gateway.api_key (kid),
    hmac           bytea       NOT NULL CHECK (octet_length(hmac) = 32),
    pepper_version integer     NOT NULL CHECK (pepper_version > 0),
    created_at     timestamptz NOT NULL DEFAULT now(),
    not_before     timestamptz,
    expires_at     timestamptz,
    revoked_at     timestamptz,
    last_used_at   timestamptz,
    UNIQUE (kid, hmac)
);

GRANT SELECT ON gateway.api_key, gateway.api_key_secret TO gateway, registry;
GRANT UPDATE (last_used_at) ON gateway.api_key_secret TO gateway, registry;

-- Whoever changes a key, every replica hears of it at once. The note of the last use changes nothing for them.
CREATE FUNCTION gateway.key_changed() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_notify('mcpstack_keys', CASE WHEN TG_OP = 'DELETE' THEN OLD.kid ELSE NEW.kid END);
    RETURN NULL;
END $$;

CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE ON gateway.api_key
    FOR EACH ROW EXECUTE FUNCTION gateway.key_changed();
CREATE TRIGGER changed AFTER INSERT OR DELETE OR UPDATE OF kid, hmac, pepper_version, not_before, expires_at, revoked_at
    ON gateway.api_key_secret FOR EACH ROW EXECUTE FUNCTION gateway.key_changed();

CREATE TABLE gateway.usage_day (
    kid        text   NOT NULL,
    model      text   NOT NULL CHECK (char_length(model) BETWEEN 1 AND 300),
    day        date   NOT NULL,
    requests   bigint NOT NULL DEFAULT 0 CHECK (requests >= 0),
    tokens_in  bigint NOT NULL DEFAULT 0 CHECK (tokens_in >= 0),
    tokens_out bigint NOT NULL DEFAULT 0 CHECK (tokens_out >= 0),
    PRIMARY KEY (kid, model, day)
);

CREATE INDEX usage_day_day ON gateway.usage_day (day);
GRANT SELECT, INSERT, UPDATE ON gateway.usage_day TO gateway;
GRANT SELECT, DELETE ON gateway.usage_day TO worker;

-- Append-only. A service says what happened; which login wrote it, and when, is not for the service to say. The event's
-- number makes it harmless to send a batch again whose end was not heard.
CREATE TABLE gateway.audit_log (
    event            uuid        NOT NULL,
    at               timestamptz NOT NULL,
    service          text        NOT NULL CHECK (char_length(service) BETWEEN 1 AND 40),
    who              text        NOT NULL CHECK (char_length(who) BETWEEN 1 AND 200),
    action           text        NOT NULL CHECK (char_length(action) BETWEEN 1 AND 100),
    target           text        CHECK (char_length(target) <= 300),
    result           text        NOT NULL CHECK (char_length(result) BETWEEN 1 AND 100),
    request_id       text        CHECK (char_length(request_id) <= 100),
    arguments_sha256 bytea       CHECK (octet_length(arguments_sha256) = 32),
    written_at       timestamptz NOT NULL DEFAULT now(),
    written_by       text        NOT NULL DEFAULT session_user,
    PRIMARY KEY (event, at)
) PARTITION BY RANGE (at);

CREATE TABLE gateway.audit_log_default PARTITION OF gateway.audit_log DEFAULT;
CREATE INDEX audit_log_at ON gateway.audit_log (at);
CREATE INDEX audit_log_who ON gateway.audit_log (who, at);
GRANT INSERT (event, at, service, who, action, target, result, request_id, arguments_sha256)
    ON gateway.audit_log TO gateway, registry, worker;

-- Months of a table that is partitioned by time (UTC) and has a partition TABLE_default. Only for the owner: each table
-- has functions of its own for the worker, so that the worker cannot name another table. What lies in the default
-- partition moves into the new month.
CREATE FUNCTION gateway.make_months(parent regclass, key name, ahead integer) RETURNS text[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' SET "TimeZone" = 'UTC' AS $$
DECLARE
    space name;
    base  name;
    part  name;
    low   timestamptz;
    high  timestamptz;
    made  text[] := '{}';
BEGIN
    IF ahead IS NULL OR ahead NOT BETWEEN 0 AND 24 THEN
        RAISE EXCEPTION 'ahead must be from 0 to 24 months' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT n.nspname, c.relname INTO STRICT space, base
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = parent;
    FOR month IN 0..ahead LOOP
        low := date_trunc('month', now()) + make_interval(months => month);
        high := low + interval '1 month';
        part := base || to_char(low, '"_"YYYYMM');
        CONTINUE WHEN to_regclass(format('%I.%I', space, part)) IS NOT NULL;
        -- Whoever writes waits at the parent; at the default partition they would have chosen it already, and fail.
        EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', parent);
        CONTINUE WHEN to_regclass(format('%I.%I', space, part)) IS NOT NULL;  -- another one was at work
        EXECUTE format('CREATE TABLE %I.%I (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES)',
                       space, part, parent);
        EXECUTE format('WITH moved AS (DELETE FROM %I.%I WHERE %I >= %L AND %I < %L RETURNING *) '
                       'INSERT INTO %I.%I SELECT * FROM moved',
                       space, base || '_default', key, low, key, high, space, part);
        EXECUTE format('ALTER TABLE %s ATTACH PARTITION %I.%I FOR VALUES FROM (%L) TO (%L)',
                       parent, space, part, low, high);
        made := made || part::text;
    END LOOP;
    RETURN made;
END $$;

-- Whole months that ended more than `keep` months ago, and rows as old in the default partition.
CREATE FUNCTION gateway.drop_months(parent regclass, key name, keep integer) RETURNS text[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' SET "TimeZone" = 'UTC' AS $$
DECLARE
    space   name;
    base    name;
    part    name;
    oldest  timestamptz;
    dropped text[] := '{}';
BEGIN
    IF keep IS NULL OR keep NOT BETWEEN 1 AND 1200 THEN
        RAISE EXCEPTION 'keep must be from 1 to 1200 months' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT n.nspname, c.relname INTO STRICT space, base
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = parent;
    oldest := date_trunc('month', now()) - make_interval(months => keep);
    FOR part IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = parent AND c.relname ~ ('^' || base || '_[0-9]{6}$')
            AND right(c.relname, 6) < to_char(oldest, 'YYYYMM')
        ORDER BY c.relname
    LOOP
        EXECUTE format('DROP TABLE %I.%I', space, part);
        dropped := dropped || part::text;
    END LOOP;
    EXECUTE format('DELETE FROM %I.%I WHERE %I < %L', space, base || '_default', key, oldest);
    RETURN dropped;
END $$;

REVOKE ALL ON FUNCTION gateway.make_months(regclass, name, integer), gateway.drop_months(regclass, name, integer)
    FROM PUBLIC;

CREATE FUNCTION gateway.audit_log_make_months(ahead integer) RETURNS text[]
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT gateway.make_months('gateway.audit_log', 'at', ahead)
$$;

-- The worker may tidy up, it may not wipe recent traces: a quarter of a year always stays.
CREATE FUNCTION gateway.audit_log_drop_months(keep integer) RETURNS text[]
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT gateway.drop_months('gateway.audit_log', 'at', greatest(keep, 3))
$$;

REVOKE ALL ON FUNCTION gateway.audit_log_make_months(integer), gateway.audit_log_drop_months(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION gateway.audit_log_make_months(integer), gateway.audit_log_drop_months(integer) TO worker;

SELECT gateway.make_months('gateway.audit_log', 'at', 2);
