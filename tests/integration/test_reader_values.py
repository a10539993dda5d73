"""Values as Postgres writes them, on one line each, whatever the role's own settings say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.integration.source_cases import connected, datasource, read_all, source

if TYPE_CHECKING:
    from tests.support.postgres import PostgresServer

ODD = """
CREATE TYPE mood AS ENUM ('sad', 'glad "quoted"');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS int CHECK (value > 0);
CREATE TABLE odd (
  id bigint PRIMARY KEY, n numeric, f float8, f4 float4, t text, j json, jb jsonb, b bytea, ts timestamp,
  tz timestamptz, d date, iv interval, m money, a int[], ta text[], r int4range, u uuid, ip inet, bits bit(5), x xml,
  v tsvector, p point, e mood, c pair, pos positive, tt timetz, "Quoted ""col" int, ch char(5), mr nummultirange
);
"""
ROWS = [
    r"""(1, 'NaN', 'Infinity', '-Infinity', E'tab\there\nnew\\line\r\b\f\x0b', E'{"a" :\n\t1,\r "b": "x\\ny"}',
    '{"b": 1e400}', '\x00ff5c', 'infinity', '-infinity', 'infinity', '1 year 2 mons -3 days 04:05:06.789', 1234.5,
    '{{1,NULL},{3,4}}', '{"a,b",NULL,"c\\d"}', '[1,5)', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '10.0.0.1/8', B'10110',
    NULL, 'a:1 b:2', '(1.5,2)', 'glad "quoted"', '(1,"x y")', 5, '12:00+05', 7, 'ab', '{[1,2),[5,6]}')""",
    r"""(2, 12345678901234567890123456789012345678901234567890.12345678901234567890, 0.1, 0.1, '\N', E'[1,\t2]', '{}',
    '', '0001-01-01', '294276-12-31 23:59:59.999999+00', '5874897-12-31', '-1 mons', '-0.01', '{}', '{}', 'empty', NULL,
    NULL, NULL, NULL, '', NULL, 'sad', NULL, NULL, NULL, NULL, '', NULL)""",
    f"(3{', NULL' * 28})",
]
ORACLE = "SELECT row_to_json(o)::text FROM odd o ORDER BY id"


@pytest.fixture
async def odd(database: str) -> str:
    async with connected(database) as connection:
        await connection.execute(ODD)
        for row in ROWS:
            await connection.execute(f"INSERT INTO odd VALUES {row}")
    return database


async def oracle(dsn: str, query: str) -> list[bytes]:
    """What Postgres says over the extended protocol, with raw line breaks and tabs of type json as spaces."""
    async with connected(dsn) as connection:
        await connection.execute("SET timezone = 'UTC'; SET extra_float_digits = 3; SET lc_monetary = 'C'")
        values = [row[0] for row in await connection.fetch(query)]
    return ["".join(" " if character in "\n\r\t" else character for character in value).encode() for value in values]


async def test_every_value_is_what_row_to_json_writes(odd: str) -> None:
    async with source(odd, "odd") as made:
        rows = await read_all(made)
    assert rows == await oracle(odd, ORACLE)
    assert all(b"\n" not in row and b"\t" not in row and b"\r" not in row for row in rows)
    first = json.loads(rows[0])
    assert (first["n"], first["f"], first["f4"]) == ("NaN", "Infinity", "-Infinity")
    assert first["t"] == "tab\there\nnew\\line\r\b\f\v"
    assert first["j"] == {"a": 1, "b": "x\ny"}


async def test_chosen_columns_keep_their_names_and_the_key_may_be_left_out(odd: str) -> None:
    async with source(odd, "odd", columns=["t", 'Quoted "col', "n"]) as made:
        rows = await read_all(made)
    assert rows == await oracle(
        odd, 'SELECT row_to_json(o)::text FROM (SELECT t, "Quoted ""col", n FROM odd ORDER BY id) o'
    )


async def test_settings_of_the_role_and_the_datasource_change_nothing(
    odd: str, postgres_server: PostgresServer
) -> None:
    name = odd.rpartition("/")[2]
    await postgres_server.create_user("styled", "secret-of-styled")
    async with connected(odd) as connection:
        await connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO styled")
        for setting in (
            "timezone = 'Asia/Tokyo'",
            "datestyle = 'German, DMY'",
            "intervalstyle = 'sql_standard'",
            "extra_float_digits = -5",
            "bytea_output = 'escape'",
            "xmloption = 'document'",
            "search_path = 'nowhere'",
            "default_transaction_read_only = off",
            "statement_timeout = 0",
            "quote_all_identifiers = on",
        ):
            await connection.execute(f"ALTER ROLE styled IN DATABASE {name} SET {setting}")
    styled = datasource(
        odd, user="styled", password="secret-of-styled", properties={"TimeZone": "Asia/Tokyo", "work_mem": "8MB"}
    )
    try:
        async with source(odd, "odd", store=styled) as made:
            assert await read_all(made) == await oracle(odd, ORACLE)
            async with made._session.in_use() as connection:
                assert await connection.fetchval("SHOW work_mem") == "8MB"
    finally:
        async with connected(odd) as connection:
            await connection.execute("DROP OWNED BY styled; DROP ROLE styled")


async def test_a_column_named_like_the_row_is_no_trap(database: str) -> None:
    async with connected(database) as connection:
        await connection.execute(
            "CREATE TABLE traps (id int PRIMARY KEY, traps text, r text, k0 text, j text, q text, m int);"
            "INSERT INTO traps SELECT i, 'a', 'b', 'c', 'd', 'e', 11 - i FROM generate_series(1, 11) i"
        )
    async with source(database, "traps", message_key=["m", "k0"]) as made:
        page = await made.reader().read(None, None)
    assert page.values[9] == b'{"id":10,"traps":"a","r":"b","k0":"c","j":"d","q":"e","m":1}'
    assert [page.key(index) for index in range(11)] == [(str(index),) for index in range(1, 12)]
    assert page.message_keys is not None
    assert page.message_keys[0] == b'["10","c"]'


async def test_message_keys_are_texts_and_null_is_none(database: str) -> None:
    async with connected(database) as connection:
        await connection.execute(
            "CREATE TABLE keyed (id int PRIMARY KEY, k text);"
            r"INSERT INTO keyed VALUES (1, E'tab\there\\'), (2, NULL), (3, '\N'), (4, '')"
        )
    async with source(database, "keyed", message_key=["k"], columns=["id"]) as made:
        page = await made.reader().read(None, None)
    assert page.message_keys == [b"tab\there\\", None, b"\\N", b""]
    assert page.values[0] == b'{"id":1}'


async def test_the_time_range_is_read_in_the_datasources_zone(database: str) -> None:
    async with connected(database) as connection:
        await connection.execute(
            "CREATE TABLE timed (id int PRIMARY KEY, local timestamp, at timestamptz);"
            "INSERT INTO timed SELECT i, timestamp '2026-01-01' + i * interval '1 hour',"
            " timestamptz '2026-01-01 00:00+00' + i * interval '1 hour' FROM generate_series(0, 9) i"
        )
    store = datasource(database, time_zone="Europe/Madrid")
    bounds = {"from": "2026-01-01T03:00:00Z", "to": "2026-01-01T05:00:00Z"}
    async with source(database, "timed", store=store, time={"column": "at", **bounds}) as made:
        assert [json.loads(row)["id"] for row in await read_all(made)] == [3, 4]
    async with source(database, "timed", store=store, time={"column": "local", **bounds}) as made:
        assert [json.loads(row)["id"] for row in await read_all(made)] == [4, 5]
