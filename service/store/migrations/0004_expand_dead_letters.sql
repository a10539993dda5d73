-- Rows that could not be delivered, and what sends them again.

CREATE TABLE rowferry.dead_letters (
    id uuid PRIMARY KEY,
    job_id uuid NOT NULL,
    generation integer NOT NULL,
    ordinal integer NOT NULL, -- of the split
    sequence bigint, -- of the chunk whose try it belongs to; null: no row of its chunk was visible
    epoch bigint NOT NULL,
    attempt integer NOT NULL,
    run_id uuid NOT NULL, -- that prepared it; once final, that counted it
    key jsonb NOT NULL,
    code text NOT NULL,
    message text NOT NULL,
    payload bytea, -- the record as sent, its beginning where it is long; null: it could not be read
    payload_bytes bigint, -- of the whole record
    message_key bytea,
    version bigint, -- the chunk was sent with, where the target compares versions
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    final_at timestamptz, -- null while its try is prepared
    retries integer NOT NULL DEFAULT 0,
    note text, -- what came of the last retry, beside the reason
    retry integer, -- number of the retry that has it in hand
    FOREIGN KEY (job_id, generation) REFERENCES rowferry.generations ON DELETE CASCADE
);
-- Whatever the code does, no row of a generation is dead twice. The hash, because a key may be longer than an index takes.
CREATE UNIQUE INDEX dead_letters_once ON rowferry.dead_letters (job_id, generation, ordinal, md5(key::text))
    WHERE final_at IS NOT NULL;
CREATE INDEX dead_letters_page ON rowferry.dead_letters (job_id, final_at, id) WHERE final_at IS NOT NULL;
CREATE INDEX dead_letters_prepared ON rowferry.dead_letters (job_id, generation, ordinal) WHERE final_at IS NULL;
CREATE INDEX dead_letters_in_hand ON rowferry.dead_letters (job_id, generation, retry) WHERE retry IS NOT NULL;

CREATE TABLE rowferry.retries (
    job_id uuid NOT NULL,
    generation integer NOT NULL,
    number integer NOT NULL CHECK (number > 0),
    origin text NOT NULL CHECK (origin IN ('source', 'payload')),
    letters integer NOT NULL, -- asked for
    sequence bigint NOT NULL DEFAULT 0,
    anchored_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    done_at timestamptz,
    PRIMARY KEY (job_id, generation, number),
    FOREIGN KEY (job_id, generation) REFERENCES rowferry.generations ON DELETE CASCADE
);

-- A retry's chunks stand beside those of the splits, under the negative of its number. Not validated: every row was held
-- to more by the key that goes.
ALTER TABLE rowferry.chunks DROP CONSTRAINT chunks_job_id_generation_ordinal_fkey;
ALTER TABLE rowferry.chunks ADD CONSTRAINT chunks_of_generation
    FOREIGN KEY (job_id, generation) REFERENCES rowferry.generations ON DELETE CASCADE NOT VALID;
ALTER TABLE rowferry.chunks ADD COLUMN letters jsonb; -- what the try does to the dead letters that it sends again

ALTER TABLE rowferry.steps DROP CONSTRAINT steps_kind_check;
ALTER TABLE rowferry.steps ADD CONSTRAINT steps_kind_check
    CHECK (kind IN ('plan', 'split', 'finish', 'clean_up', 'retry'));
CREATE INDEX steps_ready_retry ON rowferry.steps (ready_at) WHERE state = 'ready' AND kind = 'retry';
