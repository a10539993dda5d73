"""Each type of PostgreSQL from a table through the reader to JSON lines, on the oldest and the newest server there is:
byte for byte what `row_to_json` writes, and Postgres makes the same value of it again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from tests.integration.parquet_types import BEYOND, CASES, EXTENSIONS, OWN_TYPES, Case
from tests.integration.source_cases import oracle, read_all, source
from tests.integration.test_parquet_types import SETTINGS, WRITTEN, built_with_xml
from tests.support.postgres import PostgresServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

UUID = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
DOCUMENTS = ("json", "jsonb")
AGAIN = """
SELECT {0} FROM unnest($1::text[]) WITH ORDINALITY AS s (line, number), json_populate_record(NULL::{1}, line::json) AS r
ORDER BY number
"""


@pytest.fixture(params=[15, 16, 18])
async def every(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> AsyncIterator[str]:
    """The dsn of a fresh database on a server of this major version."""
    own: PostgresServer | None = None
    if request.param != 16:
        try:
            own = PostgresServer(version=request.param)
        except FileNotFoundError as error:
            pytest.skip(str(error))
    server = own.start() if own is not None else postgres_server
    dsn = await server.create_database()
    yield dsn
    if own is None:
        await server.drop_database(dsn)
    else:
        own.close()


async def filled(client: asyncpg.Connection, table: str, case: Case) -> None:
    """A table of the case's values, with those that Parquet refuses, and of lists of them."""
    literals = [f"$x${value}$x$::{case.type}" for value in (*case.values, *BEYOND.get(case.type, ()))] + ["NULL"]
    listed = (f"ARRAY[{', '.join(literals)}]::{case.type}[]", "'{}'", "NULL")
    rows = ", ".join(f"({number}, {literal}, {listed[min(number, 2)]})" for number, literal in enumerate(literals))
    await client.execute(
        f"CREATE TABLE {table} (n int PRIMARY KEY, v {case.type}, a {case.type}[]); INSERT INTO {table} VALUES {rows}"
    )


async def known(client: asyncpg.Connection) -> list[Case]:
    """The cases that this server can do."""
    found = [case for case in CASES if case.type != "xml" or await built_with_xml(client)]
    for case in EXTENSIONS:
        if await client.fetchval("SELECT true FROM pg_available_extensions WHERE name = $1", case.type):
            await client.execute(f"CREATE EXTENSION {case.type}")
            found.append(case)
    return found


def parsed(text: str | bytes) -> Any:
    """JSON with its numbers as they are written."""
    return json.loads(text, parse_int=str, parse_float=str)


async def test_every_type_is_what_row_to_json_writes_and_comes_back(every: str) -> None:
    client = await asyncpg.connect(every, server_settings=SETTINGS)
    try:
        await client.execute(OWN_TYPES)
        for number, case in enumerate(await known(client)):
            await comes_back(every, client, f"t{number}", case)
    finally:
        await client.close()


async def comes_back(dsn: str, client: asyncpg.Connection, table: str, case: Case) -> None:
    await filled(client, table, case)
    async with source(dsn, table) as made:
        lines = await read_all(made)
    assert lines == await oracle(dsn, f"SELECT row_to_json(t)::text FROM {table} t ORDER BY n"), case.type
    if case.type in (*DOCUMENTS, "hstore"):
        # What holds documents itself: a document `null` and NULL are the same in JSON, and so are two lists.
        texts = [row[0] for row in await client.fetch(f"SELECT v::json FROM {table} ORDER BY n")]
        assert [parsed(line)["v"] for line in lines] == [text and parsed(text) for text in texts], case.type
        return
    columns = ", ".join(WRITTEN.format(f"r.{name}") for name in "va")
    again = await client.fetch(AGAIN.format(columns, table), [line.decode() for line in lines])
    assert again == await client.fetch(f"SELECT {columns} FROM {table} AS r ORDER BY n"), case.type


async def test_a_cast_to_json_that_users_made_is_what_json_has(database: str) -> None:
    client = await asyncpg.connect(database, server_settings=SETTINGS)
    try:
        await client.execute(
            OWN_TYPES + "CREATE FUNCTION mood_json(mood) RETURNS json LANGUAGE sql IMMUTABLE AS "
            """$x$ SELECT ('{"is" :' || chr(10) || to_json($1::text) || '}')::json $x$;"""
            "CREATE CAST (mood AS json) WITH FUNCTION mood_json(mood);"
            "CREATE DOMAIN moods AS mood; CREATE TABLE t (n int PRIMARY KEY, v mood, d moods, a mood[]);"
            "INSERT INTO t VALUES (1, 'sad', 'sad', '{sad,NULL}')"
        )
        async with source(database, "t") as made:
            (line,) = await read_all(made)
        assert [line] == await oracle(database, "SELECT row_to_json(t)::text FROM t")
        assert json.loads(line)["v"] == {"is": "sad"}
    finally:
        await client.close()


async def test_names_of_columns_are_escaped_as_json(database: str) -> None:
    names = ['quo"ted', "back\\slash", "tab\tline\n", "\x01", "grün 𝄞", "'", "%s", "{", "$1", " "]
    client = await asyncpg.connect(database, server_settings=SETTINGS)
    try:
        columns = ", ".join('"{}" int'.format(name.replace('"', '""')) for name in names)
        values = ", ".join(map(str, range(len(names))))
        await client.execute(f"CREATE TABLE t (n int PRIMARY KEY, {columns}); INSERT INTO t VALUES (1, {values})")
    finally:
        await client.close()
    async with source(database, "t") as made:
        assert [json.loads(line) for line in await read_all(made)] == [
            {"n": 1, **{name: number for number, name in enumerate(names)}}
        ]
        assert await read_all(made) == await oracle(database, "SELECT row_to_json(t)::text FROM t")


async def test_a_row_of_more_columns_than_a_function_has_arguments_is_whole(database: str) -> None:
    kinds = ("int", "numeric", "uuid", "float8", "text", "boolean")
    columns = ", ".join(f"c{number} {kinds[number % len(kinds)]}" for number in range(300))
    client = await asyncpg.connect(database, server_settings=SETTINGS)
    try:
        await client.execute(f"CREATE TABLE t (n int PRIMARY KEY, {columns}); INSERT INTO t (n) VALUES (1)")
        await client.execute(
            "INSERT INTO t (n, c0, c1, c2, c3, c4, c5) VALUES (2, 1, 'NaN', $1, 'inf', 'x', true)", UUID
        )
    finally:
        await client.close()
    async with source(database, "t") as made:
        lines = await read_all(made)
    assert lines == await oracle(database, "SELECT row_to_json(t)::text FROM t ORDER BY n")
    assert json.loads(lines[1])["c3"] == "Infinity"
