-- GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
-- SPDX-License-Identifier: GPL-3.0-or-later

-- What there is to do. Whoever defers a job names one of these; the worker holds the same list and a test compares.
-- Jobs of one kind that share a lock never run at the same time.
CREATE TABLE jobs.kind (
    name       text    PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_]{0,62}$'),
    priority   integer NOT NULL,
    lock       text,
    by_users   boolean NOT NULL
);

INSERT INTO jobs.kind (name, priority, lock, by_users) VALUES
    ('health_check',  20, 'health_check',  true),
    ('registry_sync', 10, NULL,            true),
    ('vector_index',  10, 'vector_index',  true),
    ('model_cache',    0, 'model_cache',   true),
    ('usage_rollup', -10, 'usage_rollup',  false),
    ('data_cleanup', -10, 'data_cleanup',  false);

-- What came of the last run of a job: its result, or why it failed.
CREATE TABLE jobs.outcome (
    job_id  bigint      PRIMARY KEY REFERENCES jobs.procrastinate_jobs ON DELETE CASCADE,
    attempt integer     NOT NULL,
    at      timestamptz NOT NULL DEFAULT now(),
    reason  text        CHECK (length(reason) <= 64),
    message text        CHECK (length(message) <= 1000),
    result  jsonb
);

-- Which key started which job.
CREATE TABLE jobs.task (
    id              text        PRIMARY KEY CHECK (id ~ '^task_[0-9a-f]{32}$'),
    kid             text        NOT NULL CHECK (length(kid) BETWEEN 1 AND 64),
    kind            text        NOT NULL REFERENCES jobs.kind,
    payload         jsonb       NOT NULL CHECK (jsonb_typeof(payload) = 'object'),
    idempotency_key text        CHECK (length(idempotency_key) BETWEEN 1 AND 255),
    job_id          bigint      NOT NULL UNIQUE REFERENCES jobs.procrastinate_jobs ON DELETE CASCADE,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (kid, idempotency_key)
);
CREATE INDEX task_kid ON jobs.task (kid, created_at DESC, id DESC);

CREATE VIEW jobs.task_status AS
SELECT task.id, task.kid, task.kind, task.payload, task.created_at, job.status::text AS status, job.attempts,
       job.abort_requested, job.scheduled_at, outcome.reason, outcome.message, outcome.result,
       (SELECT max(event.at) FROM jobs.procrastinate_events event
         WHERE event.job_id = job.id AND event.type = 'started') AS started_at,
       (SELECT max(event.at) FROM jobs.procrastinate_events event
         WHERE event.job_id = job.id AND event.type IN ('succeeded', 'failed', 'cancelled', 'aborted')
           AND job.status NOT IN ('todo', 'doing')) AS finished_at
  FROM jobs.task task
  JOIN jobs.procrastinate_jobs job ON job.id = task.job_id
  LEFT JOIN jobs.outcome outcome ON outcome.job_id = job.id;

-- The last tick of each scheduled job, by the clock of the database: workers whose clocks differ still agree.
CREATE TABLE jobs.schedule (
    kind text        PRIMARY KEY REFERENCES jobs.kind,
    tick timestamptz NOT NULL
);

CREATE TABLE jobs.service_health (
    service    text             PRIMARY KEY CHECK (length(service) <= 64),
    up         boolean          NOT NULL,
    reason     text             CHECK (length(reason) <= 200),
    latency_ms double precision,
    checked_at timestamptz      NOT NULL,
    since      timestamptz      NOT NULL
);

CREATE TABLE jobs.model_file (
    name       text        PRIMARY KEY CHECK (length(name) <= 512),
    sha256     text        NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    size       bigint,
    mtime_ns   bigint,
    state      text        NOT NULL CHECK (state IN ('good', 'missing', 'wrong_size', 'wrong_hash', 'unreadable')),
    checked_at timestamptz NOT NULL
);

-- Defer a job of a known kind, in the caller's transaction. With `dedupe`, a job that is still waiting under the same
-- word is returned instead of a second one; it is kept from starting until the caller's transaction ends, so that
-- what the caller has just written is seen by it.
CREATE FUNCTION jobs.defer(kind text, args jsonb DEFAULT '{}', dedupe text DEFAULT NULL, lock text DEFAULT NULL,
                           delay interval DEFAULT NULL)
    RETURNS bigint
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = jobs, pg_temp
AS $$
DECLARE
    known jobs.kind;
    job   bigint;
BEGIN
    SELECT * INTO known FROM jobs.kind WHERE kind.name = defer.kind;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'There is no task of the kind %.', left(defer.kind, 64) USING ERRCODE = 'check_violation';
    END IF;
    IF jsonb_typeof(args) IS DISTINCT FROM 'object' OR octet_length(args::text) > 65536 THEN
        RAISE EXCEPTION 'The arguments of a task are an object of at most 64 KiB.' USING ERRCODE = 'check_violation';
    END IF;
    LOOP
        IF dedupe IS NOT NULL THEN
            SELECT waiting.id INTO job FROM jobs.procrastinate_jobs waiting
             WHERE waiting.queueing_lock = dedupe AND waiting.status = 'todo' FOR SHARE;
            IF FOUND THEN
                PERFORM pg_notify('procrastinate_any_queue_v1', json_build_object('type', 'job_inserted', 'job_id', job)::text);
                RETURN job;
            END IF;
        END IF;
        BEGIN
            RETURN (jobs.procrastinate_defer_jobs_v1(ARRAY[ROW(
                'default', known.name, known.priority, coalesce(defer.lock, known.lock), dedupe, args, now() + delay
            )]::jobs.procrastinate_job_to_defer_v1[]))[1];
        EXCEPTION WHEN unique_violation THEN
            -- Somebody was faster with the same word: their job is found in the next round.
            IF dedupe IS NULL THEN
                RAISE;
            END IF;
        END;
    END LOOP;
END;
$$;

-- A key starts a task: the row that says whose it is and the job, or neither. Calls of one key come one after another.
-- outcome: created, repeated (same idempotency key and request), conflict (same idempotency key, other request),
-- full (too many open ones), unknown (no kind that users may start).
CREATE FUNCTION jobs.submit(kid text, kind text, payload jsonb, idempotency_key text, lock text, open_limit integer,
                            OUT outcome text, OUT id text)
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = jobs, pg_temp
AS $$
DECLARE
    known jobs.task;
BEGIN
    IF NOT EXISTS (SELECT FROM jobs.kind WHERE kind.name = submit.kind AND kind.by_users) THEN
        outcome := 'unknown';
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('jobs.submit ' || submit.kid, 0));
    IF submit.idempotency_key IS NOT NULL THEN
        SELECT * INTO known FROM jobs.task
         WHERE task.kid = submit.kid AND task.idempotency_key = submit.idempotency_key;
        IF FOUND THEN
            id := known.id;
            outcome := CASE WHEN known.kind = submit.kind AND known.payload = submit.payload
                            THEN 'repeated' ELSE 'conflict' END;
            RETURN;
        END IF;
    END IF;
    IF (SELECT count(*) FROM jobs.task JOIN jobs.procrastinate_jobs job ON job.id = task.job_id
         WHERE task.kid = submit.kid AND job.status IN ('todo', 'doing')) >= open_limit THEN
        outcome := 'full';
        RETURN;
    END IF;
    id := 'task_' || replace(gen_random_uuid()::text, '-', '');
    INSERT INTO jobs.task (id, kid, kind, payload, idempotency_key, job_id)
    VALUES (submit.id, submit.kid, submit.kind, submit.payload, submit.idempotency_key,
            jobs.defer(submit.kind, submit.payload, NULL, submit.lock));
    outcome := 'created';
END;
$$;

-- A key takes a task of its own back. One that has not started never will; one that runs is asked to stop.
CREATE FUNCTION jobs.cancel(kid text, id text)
    RETURNS text
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = jobs, pg_temp
AS $$
DECLARE
    job jobs.procrastinate_jobs;
BEGIN
    SELECT j.* INTO job FROM jobs.procrastinate_jobs j JOIN jobs.task ON task.job_id = j.id
     WHERE task.kid = cancel.kid AND task.id = cancel.id FOR UPDATE OF j;
    IF NOT FOUND THEN
        RETURN 'not_found';
    ELSIF job.status NOT IN ('todo', 'doing') THEN
        RETURN 'finished';
    END IF;
    PERFORM jobs.procrastinate_cancel_job_v1(job.id, job.status = 'doing', false);
    RETURN CASE job.status WHEN 'todo' THEN 'cancelled' ELSE 'stopping' END;
END;
$$;

REVOKE ALL ON FUNCTION jobs.defer, jobs.submit, jobs.cancel FROM PUBLIC;
GRANT EXECUTE ON FUNCTION jobs.submit, jobs.cancel TO gateway;
GRANT EXECUTE ON FUNCTION jobs.defer TO worker, registry;
GRANT SELECT ON jobs.task_status, jobs.service_health TO gateway;
GRANT SELECT ON jobs.service_health TO registry;
GRANT SELECT ON jobs.kind TO worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON jobs.outcome, jobs.task, jobs.schedule, jobs.service_health, jobs.model_file TO worker;

-- Usage of a month, so that the days can be deleted.
CREATE TABLE jobs.usage_month (
    kid        text        NOT NULL,
    model      text        NOT NULL,
    month      date        NOT NULL CHECK (extract(day FROM month) = 1),
    requests   bigint      NOT NULL,
    tokens_in  bigint      NOT NULL,
    tokens_out bigint      NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (kid, model, month)
);
GRANT SELECT ON jobs.usage_month TO gateway;
GRANT SELECT, INSERT, UPDATE ON jobs.usage_month TO worker;

-- A row that somebody edits by hand must still be one that can be run: procrastinate stumbles over other arguments
-- before it can write that the job failed.
ALTER TABLE jobs.procrastinate_jobs
    ADD CONSTRAINT mcpstack_args_object CHECK (jsonb_typeof(args) = 'object');
CREATE INDEX mcpstack_jobs_open ON jobs.procrastinate_jobs (status, queue_name, task_name)
    WHERE status IN ('todo', 'doing', 'failed');
