-- Schedules: whoever looks for what is due asks by time, and sleeps until the next one is. It must hear of one that comes
-- sooner.
ALTER TABLE rowferry.jobs
    ADD COLUMN ticks_skipped integer NOT NULL DEFAULT 0, -- that no event has told yet
    ADD COLUMN tick_told_at timestamptz; -- the last event of a skipped tick, of the present run
CREATE INDEX jobs_due ON rowferry.jobs (next_run_at) WHERE next_run_at IS NOT NULL;

CREATE FUNCTION rowferry.notify_schedule() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('rowferry_schedules', '');
    RETURN NULL;
END $$;
CREATE TRIGGER jobs_scheduled AFTER INSERT ON rowferry.jobs
    FOR EACH ROW WHEN (NEW.next_run_at IS NOT NULL) EXECUTE FUNCTION rowferry.notify_schedule();
CREATE TRIGGER jobs_rescheduled AFTER UPDATE OF next_run_at ON rowferry.jobs
    FOR EACH ROW WHEN (NEW.next_run_at IS DISTINCT FROM OLD.next_run_at AND NEW.next_run_at IS NOT NULL)
    EXECUTE FUNCTION rowferry.notify_schedule();

-- Tables under a public, dotted name, for the query dialect.
CREATE TABLE rowferry.tables (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES rowferry.accounts,
    name text NOT NULL,
    revision integer NOT NULL DEFAULT 1,
    definition jsonb NOT NULL,
    datasource text NOT NULL GENERATED ALWAYS AS (definition ->> 'datasource') STORED,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (account_id, name)
);
CREATE INDEX tables_datasource ON rowferry.tables (account_id, datasource);
