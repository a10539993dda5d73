-- Numbers of files and objects that count over the whole life of a job, for names without generation and split. A chunk
-- keeps the number it was given however often it is cut again: until it is prepared nothing of it was visible.
CREATE TABLE rowferry.output_numbers (
    job_id uuid NOT NULL REFERENCES rowferry.jobs ON DELETE CASCADE,
    generation integer NOT NULL,
    ordinal integer NOT NULL,
    sequence bigint NOT NULL,
    number bigint NOT NULL,
    PRIMARY KEY (job_id, generation, ordinal, sequence),
    UNIQUE (job_id, number)
);
