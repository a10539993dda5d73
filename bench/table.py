"""The table that is moved: ten mixed columns, about 300 bytes a row as JSON."""

from __future__ import annotations

from typing import Final

import asyncpg

NAME: Final = "bench"

_MAKE: Final = """
CREATE UNLOGGED TABLE bench (
  id         bigserial PRIMARY KEY,
  created_at timestamptz NOT NULL,
  reference  uuid NOT NULL,
  customer   text NOT NULL,
  amount     numeric(12,2) NOT NULL,
  quantity   int NOT NULL,
  paid       bool NOT NULL,
  weight     float8 NOT NULL,
  details    jsonb NOT NULL,
  note       text
)
"""
# The same rows at every run: nothing random in it.
_FILL: Final = """
INSERT INTO bench (created_at, reference, customer, amount, quantity, paid, weight, details, note)
SELECT timestamptz '2026-01-01 00:00:00+00' + n * interval '1.234567 seconds',
       md5(n::text)::uuid,
       'customer ' || (n * 7919) % 100000,
       (n * 37 % 1000000) / 100.0,
       n % 50,
       n % 3 = 0,
       n / 7.0::float8,
       jsonb_build_object('tag', 't' || n % 97, 'ok', n % 2 = 0, 'size', n % 1000),
       CASE WHEN n % 10 > 0 THEN 'note ' || md5((n * 3)::text) END
FROM generate_series(1, $1::bigint) AS n
"""


async def make(dsn: str, rows: int) -> float:
    """Make the table with `rows` rows in cache and on disk; returns the mean bytes of a row as JSON."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(_MAKE)
        await connection.execute(_FILL, rows, timeout=900)
        await connection.execute(f"VACUUM ANALYZE {NAME}", timeout=900)
        sample = "SELECT avg(octet_length(row_to_json(t)::text)) FROM (SELECT * FROM bench LIMIT 10000) t"
        return float(await connection.fetchval(sample))
    finally:
        await connection.close()
