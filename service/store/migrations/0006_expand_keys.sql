-- Key and secret pairs that requests are signed with. The secret can not be kept as a digest: checking a signature needs
-- it back.
CREATE TABLE rowferry.keys (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES rowferry.accounts,
    name text NOT NULL,
    key text NOT NULL UNIQUE, -- in every signed request, and in no way secret
    role text NOT NULL CHECK (role IN ('viewer', 'operator', 'admin')),
    secret bytea NOT NULL, -- encrypted JSON {"secret": text}
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (account_id, name)
);
