-- The job log as search: every filter of it is answered from an index that is in the order of the page, however many runs
-- are stored and however many of them fit.
CREATE INDEX runs_page_of_sink ON rowferry.runs (account_id, sink, started_at, id);
CREATE INDEX runs_page_of_trigger ON rowferry.runs (account_id, trigger, started_at, id);
CREATE INDEX runs_page_of_mode ON rowferry.runs (account_id, mode, started_at, id);
DROP INDEX rowferry.runs_error; -- finds, but in no order: run_terms has both

-- What a run can be found by beside its columns: labels, and codes and words of its cause chain. GIN would have no order,
-- so that a page of what fits a hundred thousand runs would sort them all; trigrams need an extension besides.
CREATE TABLE rowferry.run_terms (
    account_id uuid NOT NULL,
    term text NOT NULL, -- cut off at 120 characters: who looks one up compares the run itself then
    started_at timestamptz NOT NULL,
    run_id uuid NOT NULL, -- no foreign key, which would be checked term by term: triggers keep both together
    PRIMARY KEY (account_id, term, started_at, run_id)
);
CREATE INDEX run_terms_of_run ON rowferry.run_terms (run_id);

CREATE FUNCTION rowferry.words_of(said text) RETURNS SETOF text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT DISTINCT left(word, 100) FROM regexp_split_to_table(lower(said), '[^[:alnum:]]+') AS word WHERE word <> ''
$$;

CREATE FUNCTION rowferry.terms_of(labels jsonb, errors jsonb) RETURNS SETOF text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT left('label:' || key || ':' || value, 120) FROM jsonb_each_text(labels)
    UNION
    SELECT left('code:' || (link ->> 'code'), 120) FROM jsonb_array_elements(errors) AS link
    UNION
    (SELECT 'word:' || word FROM jsonb_array_elements(errors) AS link, rowferry.words_of(link ->> 'message') AS word
      LIMIT 1000)
$$;

CREATE FUNCTION rowferry.index_new_runs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO rowferry.run_terms (account_id, term, started_at, run_id)
    SELECT r.account_id, t.term, r.started_at, r.id
      FROM made r CROSS JOIN LATERAL rowferry.terms_of(r.labels, r.errors) AS t(term)
     WHERE r.labels <> '{}' OR r.errors <> '[]';
    RETURN NULL;
END $$;
CREATE TRIGGER runs_terms_made AFTER INSERT ON rowferry.runs
    REFERENCING NEW TABLE AS made FOR EACH STATEMENT EXECUTE FUNCTION rowferry.index_new_runs();

CREATE FUNCTION rowferry.index_changed_run() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM rowferry.run_terms WHERE run_id = NEW.id;
    INSERT INTO rowferry.run_terms (account_id, term, started_at, run_id)
    SELECT NEW.account_id, t.term, NEW.started_at, NEW.id FROM rowferry.terms_of(NEW.labels, NEW.errors) AS t(term);
    RETURN NULL;
END $$;
-- Counts of a run change with every chunk, these hardly ever.
CREATE TRIGGER runs_terms_changed AFTER UPDATE OF labels, errors, started_at ON rowferry.runs
    FOR EACH ROW WHEN ((OLD.labels, OLD.errors, OLD.started_at) IS DISTINCT FROM (NEW.labels, NEW.errors, NEW.started_at))
    EXECUTE FUNCTION rowferry.index_changed_run();

CREATE FUNCTION rowferry.forget_runs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM rowferry.run_terms t USING gone WHERE t.run_id = gone.id;
    RETURN NULL;
END $$;
CREATE TRIGGER runs_terms_gone AFTER DELETE ON rowferry.runs
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION rowferry.forget_runs();

INSERT INTO rowferry.run_terms (account_id, term, started_at, run_id)
SELECT r.account_id, t.term, r.started_at, r.id
  FROM rowferry.runs r CROSS JOIN LATERAL rowferry.terms_of(r.labels, r.errors) AS t(term)
 WHERE r.labels <> '{}' OR r.errors <> '[]';
