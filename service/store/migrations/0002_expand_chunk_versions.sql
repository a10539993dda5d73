-- One sequence of versions for every chunk of every job whose target compares versions instead of showing a position
-- (Elasticsearch, `version_type=external_gte`): a chunk prepared later always wins over one prepared before.
--
-- It starts at the present time in microseconds, so that a control database that is made anew goes on above the
-- versions that documents were given by the one before it.
DO $$
BEGIN
    EXECUTE format('CREATE SEQUENCE rowferry.chunk_versions AS bigint START WITH %s',
        floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
END
$$;
