"""Values as Postgres writes them, on one line each, whatever the role's own settings say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.integration.source_cases import (
    connected,
    copied,
    datasource,
    lines,
    oracle,
    read_all,
    source,
    with_odd_values,
)
from workers.sources.csv_page import Dialect

if TYPE_CHECKING:
    from tests.support.postgres import PostgresServer

ORACLE = "SELECT row_to_json(o)::text FROM odd o ORDER BY id"


@pytest.fixture
async def odd(database: str) -> str:
    return await with_odd_values(database)


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
            "client_encoding = 'LATIN1'",
            "array_nulls = off",
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
        async with source(odd, "odd", store=styled, csv=Dialect()) as made:
            assert lines(await read_all(made)) == await copied(odd, "SELECT * FROM odd ORDER BY id", Dialect())
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
