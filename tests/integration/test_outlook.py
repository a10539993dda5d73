"""Validate and preview say what a job will meet before its first row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.api_cases import ApiCase, definition
from tests.integration.source_cases import connected, datasource, source
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.postgres import PostgresServer


@pytest.fixture
async def api(control_database: str, database: str) -> AsyncIterator[ApiCase]:
    async with ApiCase(control_database, database) as made:
        await made.shop()
        await made.rows(500)
        await made.source.execute("ANALYZE orders")
        yield made


def _codes(seen: dict[str, Any]) -> set[str]:
    return {finding["code"] for finding in seen["findings"]}


async def test_validate_and_preview_say_key_index_size_and_guarantee(api: ApiCase) -> None:
    given = definition(sink={"kind": "donothing"})
    seen = await api.ok("POST", "/v1/jobs:validate", given)
    assert seen["valid"]
    assert (seen["key"], seen["index"]) == (["id"], "orders_pkey")
    assert seen["estimate"]["rows"] == 500
    assert 500 * 8 < seen["estimate"]["bytes"] < 500 * 200
    created = await api.ok("POST", "/v1/jobs", given, 201)
    assert (seen["guarantee"], seen["guarantee_note"]) == (created["guarantee"], created["guarantee_note"])
    rows = await api.ok("POST", "/v1/jobs:preview?limit=3", given)
    assert [row["key"] for row in rows["rows"]] == ["1", "2", "3"]
    assert {name: rows[name] for name in seen if name != "valid"} == {k: v for k, v in seen.items() if k != "valid"}


async def test_a_key_at_its_owners_word_shows_in_the_job(api: ApiCase) -> None:
    await api.source.execute("CREATE TABLE loose (n int NOT NULL); INSERT INTO loose VALUES (1), (2)")
    given = definition(sink={"kind": "donothing"})
    given["source"] |= {"table": "loose", "key": ["n"]}
    seen = await api.ok("POST", "/v1/jobs:validate", given)
    assert not seen["valid"]
    assert "key_not_unique_by_index" in _codes(seen)
    assert (seen["index"], seen["estimate"]) == (None, {"rows": None, "bytes": None})
    given["options"] = {"key_is_unique": True}
    seen = await api.ok("POST", "/v1/jobs:validate", given)
    assert seen["valid"]
    assert {"key_checked_while_reading", "key_not_walked"} <= _codes(seen)
    created = await api.ok("POST", "/v1/jobs", given, 201)
    assert "key_is_unique" in created["guarantee_note"]
    assert "key_is_unique" in seen["guarantee_note"]


async def test_a_job_that_looks_back_says_what_it_loses_as_exactly_as_validate_once_it_was_planned(
    api: ApiCase,
) -> None:
    await api.source.execute(
        "CREATE TABLE tickets (number int PRIMARY KEY); INSERT INTO tickets VALUES (1);"
        "CREATE VIEW seen AS SELECT * FROM orders WHERE note <> ''"
    )
    await api.engine.start()

    async def noted(name: str, table: str, key: str, said: str) -> dict[str, Any]:
        given = definition(name, mode="continuous", options={"late_window": 70, "key_is_unique": table == "seen"})
        given["source"] |= {"table": table, "key": [key]}
        seen = await api.ok("POST", "/v1/jobs:validate", given)
        assert seen["valid"], seen["findings"]
        created = await api.ok("POST", "/v1/jobs", given, 201)
        assert "where no barrier can be kept for the key" in created["guarantee_note"], "nobody has looked yet"
        assert await run(name, said) == seen["guarantee_note"]
        return given

    async def run(name: str, said: str) -> str:
        """Start, until the job says it, and stop."""
        await api.ok("POST", f"/v1/jobs/{name}/start", status=202)

        async def says() -> bool:
            return said in (await api.ok("GET", f"/v1/jobs/{name}"))["guarantee_note"]

        await until(says, 20, f"{name} says {said}")
        return str((await api.ok("POST", f"/v1/jobs/{name}/stop?wait=20"))["guarantee_note"])

    await noted("drawn", "tickets", "number", "no barrier can be kept for the key, and rows that commit after")
    await noted("shown", "seen", "id", "the view's joins and conditions only after")
    given = await noted("numbered", "orders", "id", "a barrier is kept for the key")
    given["options"] |= {"poll_seconds": 2.0}
    assert "where no barrier" in (await api.ok("PUT", "/v1/jobs/numbered", given))["guarantee_note"]
    await run("numbered", "a barrier is kept for the key")  # the generation goes on, with its facts
    await api.source.execute("ALTER SEQUENCE orders_id_seq CACHE 20")  # while nobody looks
    await run("numbered", "no barrier can be kept for the key, and rows that commit after")


async def test_types_that_parquet_keeps_as_text_are_named(api: ApiCase) -> None:
    await api.source.execute(
        "CREATE TABLE kinds (id int PRIMARY KEY, n numeric, d numeric(9, 2), i interval, t text, v varchar(9),"
        " m money[])"
    )
    given = definition(sink={"kind": "file", "path": "kinds"}, format={"kind": "parquet"})
    given["source"] |= {"table": "kinds"}
    seen = await api.ok("POST", "/v1/jobs:validate", given)
    (told,) = [finding["message"] for finding in seen["findings"] if finding["code"] == "type_as_text"]
    assert "n (numeric), i (interval), m (money[])" in told
    assert "type_as_text" not in _codes(await api.ok("POST", "/v1/jobs:validate", given | {"format": {"kind": "csv"}}))


async def test_a_query_that_begins_with_its_last_row_is_warned_of(api: ApiCase) -> None:
    await api.source.execute("INSERT INTO orders SELECT i, 1, i FROM generate_series(1001, 25000) i; ANALYZE orders")
    given = definition(sink={"kind": "donothing"})
    given["source"] = {"datasource": "shop", "query": "SELECT note, id FROM orders", "key": ["note"]}
    seen = await api.ok("POST", "/v1/jobs:validate", given)
    assert (seen["valid"], seen["index"], seen["key"]) == (True, None, ["note"])
    assert "query_not_walked" in _codes(seen)
    given["source"]["key"] = ["id"]
    assert "query_not_walked" not in _codes(await api.ok("POST", "/v1/jobs:validate", given))


@pytest.mark.parametrize(
    ("grants", "spec", "code", "remedy"),
    [
        ("", {"table": "shut.t"}, "permission_denied", 'GRANT USAGE ON SCHEMA "shut" TO'),
        (
            "GRANT USAGE ON SCHEMA shut TO narrow",
            {"table": "shut.t"},
            "permission_denied",
            'GRANT SELECT ON "shut"."t" TO',
        ),
        (
            "GRANT USAGE ON SCHEMA shut TO narrow; GRANT SELECT (id, a) ON shut.t TO narrow",
            {"table": "shut.t"},
            "permission_denied",
            'GRANT SELECT ("b", "C d") ON "shut"."t" TO',
        ),
        (
            "GRANT USAGE ON SCHEMA shut TO narrow; GRANT SELECT (a) ON shut.t TO narrow",
            {"table": "shut.t", "columns": ["a"]},
            "permission_denied",
            'GRANT SELECT ("id") ON "shut"."t" TO',
        ),
        (
            "GRANT USAGE ON SCHEMA shut TO narrow",
            {"query": "SELECT o.id FROM shut.t o JOIN public.p USING (id)", "key": ["id"]},
            "permission_denied",
            'GRANT SELECT ON "shut"."t" TO',
        ),
        (
            "GRANT USAGE ON SCHEMA shut TO narrow; GRANT SELECT (id, a) ON shut.t TO narrow",
            {"table": "shut.t", "columns": ["id", "a"]},
            None,
            "",
        ),
    ],
)
async def test_rights_that_are_missing_are_named_with_their_grant(
    database: str, postgres_server: PostgresServer, grants: str, spec: dict[str, Any], code: str | None, remedy: str
) -> None:
    await postgres_server.create_user("narrow", "the right one")
    async with connected(database) as other:
        await other.execute(
            'CREATE SCHEMA shut; CREATE TABLE shut.t (id int PRIMARY KEY, a int, b int, "C d" int);'
            f"CREATE TABLE public.p (id int); GRANT SELECT ON public.p TO narrow; {grants}"
        )
        try:
            store = datasource(database, user="narrow", password="the right one")
            async with source(database, **spec, store=store) as made:
                findings = (await made.inspect()).findings
        finally:
            await other.execute("DROP OWNED BY narrow")
    errors = [finding for finding in findings if finding.severity == "error"]
    assert [finding.code for finding in errors] == ([code] if code else [])
    assert remedy in "".join(finding.hint for finding in errors)
    if not code:
        assert "holders_not_visible" in {finding.code for finding in findings}


@pytest.mark.parametrize(
    ("mode", "options", "told"),
    [
        ("once", {}, 1),
        ("continuous", {}, 1),
        ("once", {"snapshot": True}, 0),
        ("once", {"safety": {"kind": "none"}}, 0),
    ],
)
async def test_a_role_that_sees_no_holders_hears_it_once_where_somebody_is_waited_for(
    database: str, postgres_server: PostgresServer, mode: str, options: dict[str, Any], told: int
) -> None:
    await postgres_server.create_user("short_sighted", "the right one")
    async with connected(database) as other:
        await other.execute(
            "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY);"
            "GRANT SELECT ON t, t_id_seq TO short_sighted"
        )
        try:
            store = datasource(database, user="short_sighted", password="the right one")
            async with source(database, "t", mode=mode, options=options, store=store) as made:
                codes = [finding.code for finding in (await made.inspect()).findings]
        finally:
            await other.execute("DROP OWNED BY short_sighted")
    assert codes.count("holders_not_visible") == told
