-- The days (UTC, by `chunks.settled_at`) of a continuous generation that are listed in a manifest of their own: up to and
-- with this one. Their chunk records may go with retention while the generation goes on.
ALTER TABLE rowferry.generations ADD COLUMN listed_through date;
