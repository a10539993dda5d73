"""The table that is moved: ten mixed columns, about 300 bytes a row as JSON.

And three others, which are hard on memory: rows of a megabyte, many small ones before such rows, and many columns.
"""

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


# Texts that nobody can make smaller, stored as they are.
_MAKE_LARGE: Final = """
CREATE UNLOGGED TABLE bench (id bigserial PRIMARY KEY, kind int NOT NULL, document text NOT NULL);
ALTER TABLE bench ALTER COLUMN document SET STORAGE EXTERNAL
"""
_FILL_SMALL: Final = """
INSERT INTO bench (kind, document) SELECT n % 7, 'small ' || md5(n::text) FROM generate_series(1, $1::bigint) AS n
"""
_FILL_LARGE: Final = """
INSERT INTO bench (kind, document)
SELECT n % 7, (SELECT string_agg(md5(n || '/' || part), '') FROM generate_series(1, 32768) AS part)
FROM generate_series(1, $1::bigint) AS n
"""
SMALL_BEFORE: Final = 20_000
"""Rows of `make_mixed` that are small: the reader has learnt from them how many rows to ask for."""
_COLUMNS: Final = 100
_KINDS: Final = (
    ("int", "n % {k}"),
    ("text", "'text ' || md5((n * {k})::text)"),
    ("numeric(12,2)", "(n * {k} % 1000000) / 100.0"),
    ("timestamptz", "timestamptz '2026-01-01 00:00:00+00' + n * interval '{k} seconds'"),
    ("float8", "n / {k}::float8"),
)


async def make(dsn: str, rows: int) -> float:
    """Make the table with `rows` rows in cache and on disk; returns the mean bytes of a row as JSON."""
    return await _made(dsn, _MAKE, (_FILL, rows))


async def make_large(dsn: str, rows: int) -> float:
    """The same of rows of a megabyte."""
    return await _made(dsn, _MAKE_LARGE, (_FILL_LARGE, rows))


async def make_mixed(dsn: str, rows: int) -> float:
    """The same of `SMALL_BEFORE` small rows and then rows of a megabyte, `rows` in all."""
    small = min(rows, SMALL_BEFORE)
    return await _made(dsn, _MAKE_LARGE, (_FILL_SMALL, small), (_FILL_LARGE, rows - small))


async def make_wide(dsn: str, rows: int) -> float:
    """The same of a hundred columns."""
    columns = [(f"c{number}", *_KINDS[number % len(_KINDS)]) for number in range(1, _COLUMNS)]
    made = ", ".join(["id bigserial PRIMARY KEY", *(f"{name} {kind}" for name, kind, _ in columns)])
    values = ", ".join(value.format(k=number) for number, (_, _, value) in enumerate(columns, start=1))
    names = ", ".join(name for name, *_ in columns)
    fill = f"INSERT INTO bench ({names}) SELECT {values} FROM generate_series(1, $1::bigint) AS n"
    return await _made(dsn, f"CREATE UNLOGGED TABLE bench ({made})", (fill, rows))


async def _made(dsn: str, make: str, *fills: tuple[str, int]) -> float:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(make)
        for fill, rows in fills:
            await connection.execute(fill, rows, timeout=900)
        await connection.execute(f"VACUUM ANALYZE {NAME}", timeout=900)
        sample = "SELECT avg(octet_length(row_to_json(t)::text)) FROM (SELECT * FROM bench LIMIT 10000) t"
        return float(await connection.fetchval(sample))
    finally:
        await connection.close()
