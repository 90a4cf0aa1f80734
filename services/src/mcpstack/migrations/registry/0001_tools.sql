-- GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
-- SPDX-License-Identifier: GPL-3.0-or-later
-- The tool registry: servers, their tools, embeddings beside the tools, calls by month.

-- pgvector may be installed by a superuser only: the role that prepares the database has done it by now.
CREATE EXTENSION IF NOT EXISTS vector;

CREATE SCHEMA IF NOT EXISTS registry;
GRANT USAGE ON SCHEMA registry TO registry, worker;

CREATE TABLE registry.mcp_server (
    id                text        PRIMARY KEY CHECK (id ~ '^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$'),
    name              text        NOT NULL UNIQUE CHECK (length(name) BETWEEN 3 AND 200),
    title             text        NOT NULL DEFAULT '' CHECK (length(title) <= 200),
    description       text        NOT NULL DEFAULT '' CHECK (length(description) <= 2000),
    version           text        NOT NULL DEFAULT '0.0.0' CHECK (length(version) BETWEEN 1 AND 255),
    url               text        CHECK (length(url) <= 2048),
    transport         text        NOT NULL DEFAULT 'streamable-http' CHECK (transport IN ('streamable-http', 'sse')),
    auth_ref          text        CHECK (auth_ref ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    headers           jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(headers) = 'object'),
    trust             text        NOT NULL DEFAULT 'untrusted' CHECK (trust IN ('trusted', 'untrusted')),
    enabled           boolean     NOT NULL DEFAULT true,
    call_timeout      real        NOT NULL DEFAULT 30 CHECK (call_timeout BETWEEN 0.1 AND 3600),
    sync_interval     integer     NOT NULL DEFAULT 900 CHECK (sync_interval BETWEEN 30 AND 604800),
    status            text        NOT NULL DEFAULT 'new' CHECK (status IN ('new', 'ok', 'failing')),
    failures          integer     NOT NULL DEFAULT 0,
    last_error        text        CHECK (length(last_error) <= 500),
    last_sync         timestamptz,
    last_success      timestamptz,
    next_sync         timestamptz NOT NULL DEFAULT now(),
    etag              text        CHECK (length(etag) <= 512),
    protocol_version  text        CHECK (length(protocol_version) <= 64),
    server_info       jsonb,
    breaker_until     timestamptz,
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX mcp_server_due ON registry.mcp_server (next_sync) WHERE enabled AND url IS NOT NULL;

-- What the registry API (v0.1) lists: one row for each version of a server, kept when the server is deleted.
CREATE TABLE registry.server_entry (
    name         text        NOT NULL CHECK (length(name) BETWEEN 3 AND 200),
    version      text        NOT NULL CHECK (length(version) BETWEEN 1 AND 255),
    server_id    text        NOT NULL,
    document     jsonb       NOT NULL CHECK (jsonb_typeof(document) = 'object'),
    status       text        NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'deprecated', 'deleted')),
    is_latest    boolean     NOT NULL,
    published_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (name, version)
);
CREATE UNIQUE INDEX server_entry_latest ON registry.server_entry (name) WHERE is_latest;
CREATE INDEX server_entry_updated ON registry.server_entry (updated_at);

-- "createPullRequest" and "create_pull_request" are three words each.
CREATE FUNCTION registry.words(text) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT pg_catalog.regexp_replace(
        pg_catalog.regexp_replace($1, '([a-z0-9])([A-Z])', '\1 \2', 'g'), '[_./:-]+', ' ', 'g')
$$;

-- Any of the words of a text, stemmed as the tools' words were. Null where there is none.
CREATE FUNCTION registry.any_word(text) RETURNS tsquery LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT pg_catalog.string_agg($q$'$q$ || pg_catalog.replace(pg_catalog.replace(lexeme, $q$\$q$, $q$\\$q$), $q$'$q$, $q$''$q$)
        || $q$'$q$, ' | ')::pg_catalog.tsquery
    FROM pg_catalog.unnest(pg_catalog.to_tsvector('pg_catalog.english', registry.words($1)))
$$;

CREATE TABLE registry.tool (
    id            bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- A search reads these of every row: what comes first in a row is read fastest.
    status        text        NOT NULL CHECK (status IN ('active', 'quarantined', 'disabled')),
    server_id     text        NOT NULL REFERENCES registry.mcp_server ON DELETE CASCADE,
    -- Each trigram of name and description sets one bit: how many of a query's trigrams a tool has is then a matter of
    -- a third of a microsecond, where word_similarity() of pg_trgm takes twenty.
    trigrams      bit(1024)   NOT NULL,
    name          text        NOT NULL CHECK (name ~ '^[A-Za-z0-9_.-]{1,128}$'),
    -- The definition in force: the approved one, or the first one seen while nothing is approved yet.
    title         text        NOT NULL DEFAULT '',
    description   text        NOT NULL DEFAULT '',
    input_schema  jsonb       NOT NULL,
    output_schema jsonb,
    annotations   jsonb,
    extra         jsonb,                           -- icons, execution: only passed on
    arguments     text        NOT NULL DEFAULT '', -- their names, for the search
    def_hash      text        NOT NULL,            -- of what the server says now
    approved_hash text,                            -- of the definition in force; null while never approved
    pending       jsonb,                           -- what the server says now, where it is not what was approved
    disabled_by   text        CHECK (disabled_by IN ('sync', 'admin')),
    source        text        NOT NULL CHECK (source IN ('sync', 'manual')),
    content_hash  text        NOT NULL,            -- of the text that is embedded
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    tsv           tsvector    GENERATED ALWAYS AS (
        setweight(to_tsvector('english', registry.words(name) || ' ' || title), 'A') ||
        setweight(to_tsvector('english', description), 'B') ||
        setweight(to_tsvector('english', registry.words(server_id)), 'C') ||
        setweight(to_tsvector('english', registry.words(arguments)), 'D')) STORED,
    UNIQUE (server_id, name),
    CHECK ((status = 'disabled') = (disabled_by IS NOT NULL)),
    CHECK (status <> 'active' OR approved_hash = def_hash)
);
CREATE INDEX tool_lower_name ON registry.tool (lower(name));
CREATE INDEX tool_tsv ON registry.tool USING gin (tsv);

-- The model in force, and the one that is being indexed to take its place.
CREATE TABLE registry.embedding_model (
    model        text        PRIMARY KEY CHECK (length(model) BETWEEN 1 AND 256),
    dim          integer     CHECK (dim BETWEEN 1 AND 16000), -- known once it has answered
    state        text        NOT NULL CHECK (state IN ('current', 'next', 'retired')),
    created_at   timestamptz NOT NULL DEFAULT now(),
    changed_at   timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX embedding_model_one_current ON registry.embedding_model (state) WHERE state = 'current';
CREATE UNIQUE INDEX embedding_model_one_next ON registry.embedding_model (state) WHERE state = 'next';

CREATE TABLE registry.tool_embedding (
    tool_id      bigint        NOT NULL REFERENCES registry.tool ON DELETE CASCADE,
    model        text          NOT NULL REFERENCES registry.embedding_model ON DELETE CASCADE,
    dim          integer       NOT NULL,
    content_hash text          NOT NULL,
    vec          public.vector NOT NULL,
    created_at   timestamptz   NOT NULL DEFAULT now(),
    PRIMARY KEY (model, tool_id),
    CHECK (public.vector_dims(vec) = dim)
);
ALTER TABLE registry.tool_embedding ALTER COLUMN vec SET STORAGE MAIN; -- an exact scan reads them all
CREATE INDEX tool_embedding_tool ON registry.tool_embedding (tool_id);

CREATE TABLE registry.tool_call (
    at          timestamptz NOT NULL DEFAULT now(),
    server_id   text        NOT NULL,
    tool        text        NOT NULL,
    subject     text        NOT NULL, -- kid of the API key, or who the token names
    via         text        NOT NULL CHECK (via IN ('rest', 'mcp', 'job')),
    request_id  text        NOT NULL,
    status      text        NOT NULL CHECK (length(status) BETWEEN 1 AND 64), -- ok, or the code of the error
    duration_ms real        NOT NULL,
    bytes_in    integer     NOT NULL,
    bytes_out   integer     NOT NULL,
    args_hash   text        NOT NULL,
    summarised  boolean     NOT NULL DEFAULT false,
    truncated   boolean     NOT NULL DEFAULT false
) PARTITION BY RANGE (at);
CREATE INDEX tool_call_at ON registry.tool_call (at);
CREATE INDEX tool_call_tool ON registry.tool_call (server_id, tool, at);
CREATE TABLE registry.tool_call_default PARTITION OF registry.tool_call DEFAULT;

-- Makes the partitions of this month and the next ones; returns the names of those that were missing. Rows that waited
-- in the default partition move along.
CREATE FUNCTION registry.tool_call_make_partitions(ahead integer DEFAULT 2) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    first timestamptz := date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
    low   timestamptz;
    high  timestamptz;
    part  text;
BEGIN
    IF ahead NOT BETWEEN 0 AND 24 THEN
        RAISE EXCEPTION 'ahead must be from 0 to 24' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('registry.tool_call partitions'));
    FOR step IN 0..ahead LOOP
        low := (first AT TIME ZONE 'UTC' + make_interval(months => step)) AT TIME ZONE 'UTC';
        high := (first AT TIME ZONE 'UTC' + make_interval(months => step + 1)) AT TIME ZONE 'UTC';
        part := 'tool_call_' || to_char(low AT TIME ZONE 'UTC', 'YYYYMM');
        CONTINUE WHEN to_regclass('registry.' || part) IS NOT NULL;
        EXECUTE format('CREATE TABLE registry.%I (LIKE registry.tool_call INCLUDING DEFAULTS INCLUDING CONSTRAINTS)',
            part);
        LOCK TABLE registry.tool_call IN SHARE ROW EXCLUSIVE MODE;
        EXECUTE format('WITH moved AS (DELETE FROM registry.tool_call_default WHERE at >= $1 AND at < $2 RETURNING *) '
            'INSERT INTO registry.%I SELECT * FROM moved', part) USING low, high;
        EXECUTE format('ALTER TABLE registry.tool_call ATTACH PARTITION registry.%I FOR VALUES FROM (%L) TO (%L)',
            part, low, high);
        RETURN NEXT part;
    END LOOP;
END $$;

-- Drops the partitions that hold nothing younger than `keep` months; returns their names.
CREATE FUNCTION registry.tool_call_drop_partitions(keep integer) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    oldest text;
    part   text;
BEGIN
    IF keep NOT BETWEEN 1 AND 1200 THEN
        RAISE EXCEPTION 'keep must be from 1 to 1200' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    oldest := 'tool_call_' || to_char(now() AT TIME ZONE 'UTC' - make_interval(months => keep), 'YYYYMM');
    FOR part IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'registry.tool_call'::regclass AND c.relname ~ '^tool_call_[0-9]{6}$'
            AND c.relname < oldest COLLATE "C" ORDER BY 1
    LOOP
        EXECUTE format('DROP TABLE registry.%I', part);
        RETURN NEXT part;
    END LOOP;
    DELETE FROM registry.tool_call_default
        WHERE at < date_trunc('month', now() AT TIME ZONE 'UTC' - make_interval(months => keep)) AT TIME ZONE 'UTC';
END $$;
REVOKE ALL ON FUNCTION registry.tool_call_make_partitions(integer), registry.tool_call_drop_partitions(integer)
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION registry.tool_call_make_partitions(integer), registry.tool_call_drop_partitions(integer)
    TO worker;
SELECT registry.tool_call_make_partitions(2);

-- The registry writes what people ask for; the worker synchronises and indexes. Calls are written once and only read.
GRANT SELECT, INSERT, UPDATE, DELETE ON registry.mcp_server, registry.tool, registry.server_entry TO registry;
GRANT SELECT, INSERT, UPDATE ON registry.mcp_server, registry.tool, registry.server_entry TO worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON registry.tool_embedding, registry.embedding_model TO registry, worker;
GRANT SELECT, INSERT ON registry.tool_call TO registry, worker;
