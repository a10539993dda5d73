-- Verifications: source and sink compared by a leased step of their own, which is no part of any run.

ALTER TABLE rowferry.steps DROP CONSTRAINT steps_kind_check;
ALTER TABLE rowferry.steps ADD CONSTRAINT steps_kind_check
    CHECK (kind IN ('plan', 'split', 'finish', 'clean_up', 'retry', 'verify'));
CREATE INDEX steps_ready_verify ON rowferry.steps (ready_at) WHERE state = 'ready' AND kind = 'verify';

-- Like runs, they outlive their job and refer to it by value.
CREATE TABLE rowferry.verifications (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES rowferry.accounts,
    job_id uuid NOT NULL,
    job_name text NOT NULL,
    generation integer NOT NULL,
    run_id uuid, -- only the chunks of this run
    checksums boolean NOT NULL,
    state text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'successful', 'error', 'aborted')),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(), -- what was settled until now is compared
    started_at timestamptz,
    ended_at timestamptz,
    -- With `sequence`: the chunk that was compared last. Retries of dead letters have ordinals below zero, and come first.
    ordinal integer NOT NULL DEFAULT -2147483648,
    sequence bigint NOT NULL DEFAULT 0,
    chunks_done bigint NOT NULL DEFAULT 0,
    chunks_total bigint NOT NULL,
    rows_done bigint NOT NULL DEFAULT 0,
    rows_total bigint NOT NULL,
    findings jsonb NOT NULL DEFAULT '{}',
    errors jsonb NOT NULL DEFAULT '[]',
    CHECK ((state IN ('queued', 'running')) = (ended_at IS NULL))
) WITH (fillfactor = 70);
-- One at a time: the step of a generation belongs to the one that is open.
CREATE UNIQUE INDEX verifications_open ON rowferry.verifications (job_id) WHERE state IN ('queued', 'running');
CREATE INDEX verifications_ended ON rowferry.verifications (ended_at) WHERE ended_at IS NOT NULL; -- retention
