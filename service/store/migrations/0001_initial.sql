-- The whole of schema rowferry. Ids are UUIDv7 made by the service; times are the database's; keys are jsonb arrays of
-- texts and are never compared here: only the source's Postgres knows their order.

CREATE TABLE rowferry.accounts (
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE rowferry.datasources (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES rowferry.accounts,
    name text NOT NULL,
    revision integer NOT NULL DEFAULT 1,
    definition jsonb NOT NULL,
    password bytea, -- encrypted: a value, or the text of a reference
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (account_id, name)
);

CREATE TABLE rowferry.credentials (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES rowferry.accounts,
    name text NOT NULL,
    revision integer NOT NULL DEFAULT 1,
    secrets bytea NOT NULL, -- encrypted JSON {field: value or reference}
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (account_id, name)
);

CREATE TABLE rowferry.tokens (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES rowferry.accounts,
    name text NOT NULL,
    role text NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    digest bytea NOT NULL UNIQUE, -- SHA-256 of the token, which is shown once and never stored
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz,
    UNIQUE (account_id, name)
);

CREATE TABLE rowferry.jobs (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES rowferry.accounts,
    name text NOT NULL,
    owner text NOT NULL,
    spec jsonb NOT NULL, -- without secrets
    secrets bytea, -- encrypted JSON {JSON pointer into spec: value}; null: there are none
    secret_pointers text[] NOT NULL DEFAULT '{}',
    spec_revision integer NOT NULL DEFAULT 1,
    status_revision bigint NOT NULL DEFAULT 1, -- the trigger raises it with every update
    -- What lists are filtered by. Generated, so that they can not disagree with the definition.
    mode text NOT NULL GENERATED ALWAYS AS (coalesce(spec ->> 'mode', 'once')) STORED,
    sink_kind text NOT NULL GENERATED ALWAYS AS (spec -> 'sink' ->> 'kind') STORED,
    datasource text NOT NULL GENERATED ALWAYS AS (spec -> 'source' ->> 'datasource') STORED,
    credential text GENERATED ALWAYS AS (spec -> 'sink' ->> 'credential') STORED,
    labels jsonb NOT NULL GENERATED ALWAYS AS (coalesce(spec -> 'labels', '{}'::jsonb)) STORED,
    guarantee text NOT NULL,
    guarantee_note text NOT NULL,
    state text NOT NULL DEFAULT 'created' CHECK (state IN ('created', 'queued', 'running', 'stopping', 'stopped',
        'aborting', 'aborted', 'failing', 'error', 'successful')),
    desired text CHECK (desired IN ('run', 'stop', 'abort')),
    reason text,
    generation integer NOT NULL DEFAULT 0, -- 0: none yet
    generation_unrun boolean NOT NULL DEFAULT false,
    run_id uuid, -- the current run, or the last
    run_number integer NOT NULL DEFAULT 0,
    run_deadline timestamptz, -- from options.timeout_seconds, while a run with one is live
    stop_deadline timestamptz, -- from options.stop_timeout_seconds, while stopping or failing
    totals_rows_read bigint NOT NULL DEFAULT 0,
    totals_rows_sent bigint NOT NULL DEFAULT 0,
    totals_rows_dead bigint NOT NULL DEFAULT 0,
    totals_bytes_sent bigint NOT NULL DEFAULT 0,
    totals_runs integer NOT NULL DEFAULT 0,
    last_id jsonb,
    errors jsonb NOT NULL DEFAULT '[]',
    waiting_for text,
    retrying jsonb,
    horizon jsonb,
    lag jsonb,
    last_progress_at timestamptz,
    remove_when_ended boolean NOT NULL DEFAULT false,
    removed_at timestamptz, -- removed for everybody outside; the row goes when its clean-up has ended
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    state_changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    next_run_at timestamptz
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX jobs_name ON rowferry.jobs (account_id, name) WHERE removed_at IS NULL;
CREATE INDEX jobs_page ON rowferry.jobs (account_id, created_at, id) WHERE removed_at IS NULL;
CREATE INDEX jobs_page_by_change ON rowferry.jobs (account_id, state_changed_at, id) WHERE removed_at IS NULL;
CREATE INDEX jobs_page_of_state ON rowferry.jobs (account_id, state, created_at, id) WHERE removed_at IS NULL;
CREATE INDEX jobs_datasource ON rowferry.jobs (account_id, datasource) WHERE removed_at IS NULL;
CREATE INDEX jobs_labels ON rowferry.jobs USING gin (labels jsonb_path_ops) WHERE removed_at IS NULL;
-- The few jobs that work is looked for in, however many are stored.
CREATE INDEX jobs_wanted ON rowferry.jobs (id) WHERE desired = 'run' AND state IN ('queued', 'running');
CREATE INDEX jobs_ending ON rowferry.jobs (id) WHERE state IN ('stopping', 'aborting', 'failing');
CREATE INDEX jobs_run_deadline ON rowferry.jobs (run_deadline) WHERE run_deadline IS NOT NULL AND state = 'running';

CREATE TABLE rowferry.generations (
    job_id uuid NOT NULL REFERENCES rowferry.jobs ON DELETE CASCADE,
    number integer NOT NULL CHECK (number > 0),
    begins text NOT NULL CHECK (begins IN ('beginning', 'given', 'keep')),
    ranges jsonb, -- [[lower, upper], ...] when given
    spec jsonb NOT NULL, -- the snapshot that this generation works with
    secrets bytea,
    bound jsonb,
    estimated_rows bigint,
    target jsonb NOT NULL DEFAULT '{}', -- what the sink knew of its target when this generation was planned
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    planned_at timestamptz,
    finished_at timestamptz, -- its finish step is settled
    closed_at timestamptz, -- a successor has opened and fenced every split, or given up to
    fenced boolean NOT NULL DEFAULT false,
    PRIMARY KEY (job_id, number),
    CHECK ((begins = 'given') = (ranges IS NOT NULL))
);

CREATE TABLE rowferry.splits (
    job_id uuid NOT NULL,
    generation integer NOT NULL,
    ordinal integer NOT NULL,
    lower jsonb, -- exclusive
    upper jsonb, -- inclusive; null: without end
    position jsonb,
    scanned_to jsonb,
    tail boolean NOT NULL DEFAULT false,
    sequence bigint NOT NULL DEFAULT 0,
    rows_read bigint NOT NULL DEFAULT 0,
    anchored_at timestamptz,
    done_at timestamptz,
    PRIMARY KEY (job_id, generation, ordinal),
    FOREIGN KEY (job_id, generation) REFERENCES rowferry.generations ON DELETE CASCADE
) WITH (fillfactor = 70);

CREATE TABLE rowferry.steps (
    job_id uuid NOT NULL,
    generation integer NOT NULL,
    kind text NOT NULL CHECK (kind IN ('plan', 'split', 'finish', 'clean_up')),
    ordinal integer NOT NULL DEFAULT 0,
    state text NOT NULL CHECK (state IN ('waiting', 'ready', 'leased', 'done')),
    epoch bigint NOT NULL DEFAULT 0, -- only ever grows: sinks fence with it
    owner text,
    leased_until timestamptz,
    ready_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    not_before timestamptz,
    condition jsonb,
    PRIMARY KEY (job_id, generation, kind, ordinal),
    FOREIGN KEY (job_id, generation) REFERENCES rowferry.generations ON DELETE CASCADE,
    CHECK ((state = 'leased') = (owner IS NOT NULL AND leased_until IS NOT NULL))
) WITH (fillfactor = 70);
CREATE INDEX steps_ready ON rowferry.steps (job_id, generation) WHERE state = 'ready';
CREATE INDEX steps_ready_clean_up ON rowferry.steps (ready_at) WHERE state = 'ready' AND kind = 'clean_up';
CREATE INDEX steps_leased_until ON rowferry.steps (leased_until) WHERE state = 'leased';
CREATE INDEX steps_leased_job ON rowferry.steps (job_id) WHERE state = 'leased';

CREATE TABLE rowferry.chunks (
    job_id uuid NOT NULL,
    generation integer NOT NULL,
    ordinal integer NOT NULL,
    sequence bigint NOT NULL CHECK (sequence > 0),
    epoch bigint NOT NULL,
    attempt integer NOT NULL,
    run_id uuid NOT NULL, -- that prepared it; once settled, that counted it
    state text NOT NULL DEFAULT 'prepared' CHECK (state IN ('prepared', 'settled', 'dropped')),
    rows bigint NOT NULL,
    bytes bigint NOT NULL,
    rows_read bigint,
    rows_dead bigint,
    rows_maybe_doubled bigint,
    first_key jsonb,
    last_key jsonb NOT NULL,
    lower jsonb,
    target text NOT NULL,
    checksum text,
    details jsonb NOT NULL DEFAULT '{}',
    "partition" integer,
    first_offset bigint,
    last_offset bigint,
    etag text,
    prepared_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    settled_at timestamptz,
    PRIMARY KEY (job_id, generation, ordinal, sequence, epoch, attempt),
    FOREIGN KEY (job_id, generation, ordinal) REFERENCES rowferry.splits ON DELETE CASCADE
);
-- Whatever the code does, no sequence is counted twice.
CREATE UNIQUE INDEX chunks_settled_once ON rowferry.chunks (job_id, generation, ordinal, sequence)
    WHERE state = 'settled';
CREATE INDEX chunks_outputs ON rowferry.chunks (job_id, settled_at, generation, ordinal, sequence)
    WHERE state = 'settled';
CREATE INDEX chunks_prepared ON rowferry.chunks (job_id, generation, ordinal) WHERE state = 'prepared';

CREATE INDEX chunks_dropped ON rowferry.chunks (job_id, prepared_at) WHERE state = 'dropped'; -- retention

-- runs, events and log outlive their job, so they refer to it by value.
CREATE TABLE rowferry.runs (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES rowferry.accounts,
    job_id uuid NOT NULL,
    job_name text NOT NULL,
    number integer NOT NULL,
    generation integer NOT NULL,
    trigger text NOT NULL,
    state text NOT NULL,
    mode text NOT NULL,
    sink text NOT NULL,
    datasource text NOT NULL,
    labels jsonb NOT NULL DEFAULT '{}',
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    rows_read bigint NOT NULL DEFAULT 0,
    rows_sent bigint NOT NULL DEFAULT 0,
    rows_dead bigint NOT NULL DEFAULT 0,
    rows_maybe_doubled bigint NOT NULL DEFAULT 0,
    bytes_sent bigint NOT NULL DEFAULT 0,
    last_id jsonb,
    splits_done integer NOT NULL DEFAULT 0,
    splits_total integer NOT NULL DEFAULT 0,
    estimated_rows bigint,
    errors jsonb NOT NULL DEFAULT '[]',
    UNIQUE (job_id, number)
) WITH (fillfactor = 70);
CREATE INDEX runs_page ON rowferry.runs (account_id, started_at, id);
CREATE INDEX runs_page_of_state ON rowferry.runs (account_id, state, started_at, id);
CREATE INDEX runs_page_of_job ON rowferry.runs (job_id, started_at, id);
CREATE INDEX runs_page_of_job_name ON rowferry.runs (account_id, job_name, started_at, id);
CREATE INDEX runs_error ON rowferry.runs USING gin (errors jsonb_path_ops) WHERE errors <> '[]';
CREATE INDEX runs_ended ON rowferry.runs (ended_at) WHERE ended_at IS NOT NULL; -- retention

-- A reader that follows `seq` must not pass over a row that commits later than a higher one. So an event gets its number
-- last of all, under a lock that is held until the commit is seen by everybody.
CREATE TABLE rowferry.events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    seq bigint UNIQUE, -- null only inside the transaction that writes it
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    account_id uuid,
    event text NOT NULL,
    job_id uuid,
    job_name text,
    run_id uuid,
    actor text,
    origin text,
    request_id text,
    state_from text,
    state_to text,
    details jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX events_of_account ON rowferry.events (account_id, seq);
CREATE INDEX events_of_job ON rowferry.events (job_id, seq);
CREATE INDEX events_at ON rowferry.events (at);
CREATE SEQUENCE rowferry.events_seq OWNED BY rowferry.events.seq;
CREATE FUNCTION rowferry.number_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('rowferry events'));
    UPDATE rowferry.events SET seq = nextval('rowferry.events_seq') WHERE id = NEW.id;
    RETURN NULL;
END $$;
-- Deferred: every row lock of the transaction is taken by then, so nobody waits for it the other way round.
CREATE CONSTRAINT TRIGGER events_number AFTER INSERT ON rowferry.events
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION rowferry.number_event();

-- Followed by `seq` too: its one writer takes an advisory lock before the first line of a batch.
CREATE TABLE rowferry.log (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    level text NOT NULL,
    event text NOT NULL,
    message text NOT NULL,
    account_id uuid,
    job_id uuid,
    run_id uuid,
    split integer,
    epoch bigint,
    request_id text,
    fields jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX log_of_account ON rowferry.log (account_id, seq);
CREATE INDEX log_of_job ON rowferry.log (job_id, seq);
CREATE INDEX log_of_run ON rowferry.log (run_id, seq);
CREATE INDEX log_at ON rowferry.log (at);

CREATE TABLE rowferry.idempotency (
    account_id uuid NOT NULL REFERENCES rowferry.accounts,
    key text NOT NULL,
    fingerprint text NOT NULL,
    status integer, -- null while the first request is under way
    headers jsonb,
    body bytea,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (account_id, key)
);
CREATE INDEX idempotency_created_at ON rowferry.idempotency (created_at);

CREATE FUNCTION rowferry.touch_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.status_revision := OLD.status_revision + 1;
    NEW.updated_at := clock_timestamp();
    IF NEW.state IS DISTINCT FROM OLD.state THEN
        NEW.state_changed_at := NEW.updated_at;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER jobs_touch BEFORE UPDATE ON rowferry.jobs FOR EACH ROW EXECUTE FUNCTION rowferry.touch_job();

CREATE FUNCTION rowferry.notify_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('rowferry_jobs', coalesce(NEW.id, OLD.id)::text);
    RETURN NULL;
END $$;
CREATE TRIGGER jobs_notify AFTER INSERT OR UPDATE OR DELETE ON rowferry.jobs
    FOR EACH ROW EXECUTE FUNCTION rowferry.notify_job();
