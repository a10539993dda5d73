-- options.late_window: what a split that looks back remembers of the keys it has read, and how many rows came late.
ALTER TABLE rowferry.splits ADD COLUMN windowed boolean NOT NULL DEFAULT false;
ALTER TABLE rowferry.splits ADD COLUMN window_floor jsonb; -- null: everything that was read is remembered
ALTER TABLE rowferry.chunks ADD COLUMN late boolean NOT NULL DEFAULT false; -- keys behind the position, not a range
ALTER TABLE rowferry.runs ADD COLUMN rows_late bigint NOT NULL DEFAULT 0;
ALTER TABLE rowferry.jobs ADD COLUMN totals_rows_late bigint NOT NULL DEFAULT 0;

-- Kept as dead letters are: with a try, final with its settle, dropped with it. The bytes are the service's own.
CREATE TABLE rowferry.window_keys (
    job_id uuid NOT NULL,
    generation integer NOT NULL,
    ordinal integer NOT NULL,
    number bigint NOT NULL,
    sequence bigint, -- null: of rows that were all set aside
    epoch bigint NOT NULL,
    attempt integer NOT NULL,
    final boolean NOT NULL,
    keys integer NOT NULL,
    last_key jsonb NOT NULL,
    packed bytea NOT NULL,
    PRIMARY KEY (job_id, generation, ordinal, number),
    FOREIGN KEY (job_id, generation, ordinal) REFERENCES rowferry.splits ON DELETE CASCADE
);
ALTER TABLE rowferry.window_keys ALTER COLUMN packed SET STORAGE EXTERNAL; -- packed already
