"""Datasources in Siren's language, over the store that `/v1/datasources` uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.integration.api_cases import definition
from tests.integration.siren_cases import SirenCase, of_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HUSH = "hush-hush-siren-password"
PATH = "/datasource/shop"


@pytest.fixture
async def case(control_database: str, database: str) -> AsyncIterator[SirenCase]:
    async with SirenCase(control_database, database, rate_limit=100_000) as case:
        yield case


def jdbc(case: SirenCase, **more: Any) -> dict[str, Any]:
    """The source's own address as a body."""
    at = urlsplit(case.source_dsn)
    url = f"jdbc:postgresql://{at.hostname}:{at.port}{at.path}"
    given = {"url": url, "username": unquote(at.username or ""), **more}
    if at.password and "password" not in more:
        given["password"] = unquote(at.password)
    return {"jdbc": given}


async def test_it_is_created_shown_listed_updated_and_removed(case: SirenCase) -> None:
    body = jdbc(case, driver="org.postgresql.Driver", password=HUSH, timezone="Europe/Madrid")
    made = await case.siren("PUT", PATH, body)
    assert (made.status, made.raw) == (201, b'{"_id":"shop","result":"created"}')
    shown = await case.siren("GET", PATH)
    assert list(shown.body) == ["_id", "found", "_source"]
    assert shown.body["_source"] == {
        "jdbc": {
            "driver": "org.postgresql.Driver",
            "url": body["jdbc"]["url"],
            "username": body["jdbc"]["username"],
            "timezone": "Europe/Madrid",
        }
    }
    native = await case.ok("GET", "/v1/datasources/shop")
    assert (native["time_zone"], native["password"], native["tls"]["mode"]) == ("Europe/Madrid", "***", "prefer")
    body["jdbc"] |= {"url": body["jdbc"]["url"] + "?sslmode=disable&connectTimeout=5"}
    body["jdbc"] |= {"properties": {"options": "-c work_mem=8MB"}}
    again = await case.siren("PUT", PATH, body)
    assert (again.status, again.body["result"]) == (200, "updated")
    assert again.headers["Warning"].startswith('299 Rowferry "without effect')
    listed = await case.told("GET", "/datasource/_search")
    assert (listed["hits"]["total"], [hit["_id"] for hit in listed["hits"]["hits"]]) == (1, ["shop"])
    source = listed["hits"]["hits"][0]["_source"]["jdbc"]
    assert source["url"].endswith("?sslmode=disable")
    assert source["properties"] == {"options": "-c work_mem=8MB"}
    for path in (PATH, "/datasource/_search"):
        assert HUSH.encode() not in (await case.siren("GET", path)).raw
    assert await case.told("DELETE", PATH) == {"_id": "shop", "result": "deleted"}
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/_validate"), ("POST", "/_metadata")):
        gone = await case.siren(method, PATH + path)
        assert (gone.status, gone.body) == (404, {"_id": "shop", "found": False}), (method, path)


async def test_a_password_that_is_left_out_is_kept_unless_host_or_user_changed(case: SirenCase) -> None:
    await case.told("PUT", PATH, jdbc(case, password=HUSH), 201)
    kept = jdbc(case)
    kept["jdbc"].pop("password", None)
    await case.told("PUT", PATH, kept)
    stored = await case.store.datasource("default", "shop")
    assert stored is not None
    assert stored.password == HUSH
    for change in ({"username": "somebody_else"}, {"url": "jdbc:postgresql://127.0.0.2/other"}):
        said = await case.reason("PUT", PATH, {"jdbc": {**kept["jdbc"], **change}})
        assert "must be sent again" in said
        said = await case.reason("POST", f"{PATH}/_validate", {"jdbc": {**kept["jdbc"], **change}})
        assert "must be sent again" in said
    assert (await case.store.datasource("default", "shop")) == stored


async def test_what_this_language_has_no_word_for_stays_as_it_is(case: SirenCase) -> None:
    given = {"url": case.source_dsn, "max_connections": 3, "tls": {"mode": "verify-ca", "ca": "PEM"}}
    await case.ok("PUT", "/v1/datasources/shop", given, 201)
    await case.told("PUT", PATH, jdbc(case, password=HUSH))
    native = await case.ok("GET", "/v1/datasources/shop")
    assert (native["max_connections"], native["tls"]) == (3, {"mode": "prefer", "ca": "PEM"})


async def test_what_can_not_be_a_datasource_is_refused_and_nothing_is_stored(case: SirenCase) -> None:
    good = jdbc(case, password=HUSH)["jdbc"]
    wrong: list[tuple[Any, str]] = [
        ({}, "jdbc is missing"),
        ({"elastic": {"alias": "x"}}, "not supported"),
        ({"jdbc": {**good, "driver": "com.mysql.cj.jdbc.Driver"}}, "driver"),
        ({"jdbc": {**good, "url": "jdbc:mysql://h/d"}}, "PostgreSQL"),
        ({"jdbc": {**good, "url": "jdbc:postgresql://a,b/d"}}, "more than one host"),
        ({"jdbc": {**good, "nothing": 1}}, "unknown field"),
        ({"jdbc": {**good, "url": 7}}, "jdbc.url"),
        ({"jdbc": {**good, "properties": {"options": "-c search_path=evil"}}}, "search_path"),
        ({"jdbc": {**good, "password": "env:HOME"}, "extra": 1}, "extra"),
        ({"jdbc": [good]}, "jdbc"),
    ]
    for body, said in wrong:
        reply = await case.siren("PUT", PATH, body)
        assert reply.status == 400, (body, reply)
        assert said in of_error(reply), (body, reply)
        assert HUSH.encode() not in reply.raw
    for name in ("-x", "a b", "0199a1b2-0000-7000-8000-000000000000", "%00", "x" * 200):
        assert (await case.siren("PUT", f"/datasource/{name}", {"jdbc": good})).status == 400, name
        assert (await case.siren("GET", f"/datasource/{name}")).status == 404, name
    assert await case.told("GET", "/datasource/_search") == {"hits": {"total": 0, "hits": []}}


async def test_one_that_a_job_uses_can_not_be_removed(case: SirenCase) -> None:
    await case.told("PUT", PATH, jdbc(case), 201)
    await case.ok("POST", "/v1/jobs", definition("user-of-it"), 201)
    assert "user-of-it" in await case.reason("DELETE", PATH, status=409)


async def test_validate_connects_with_what_is_stored_or_given(case: SirenCase) -> None:
    unsaved = await case.told("POST", "/datasource/new/_validate", jdbc(case))
    assert list(unsaved) == ["_id", "valid", "warnings"]
    assert (unsaved["_id"], unsaved["valid"]) == ("new", True)
    assert (await case.siren("GET", "/datasource/new")).status == 404
    await case.told("PUT", PATH, jdbc(case), 201)
    assert (await case.told("POST", f"{PATH}/_validate"))["valid"] is True
    for url in ("jdbc:postgresql://169.254.169.254/latest", "jdbc:postgresql://203.0.113.1/d"):
        body = {"jdbc": {"url": url, "username": "ana", "password": HUSH}}
        said = await case.reason("POST", "/datasource/new/_validate", body)
        assert "not allowed" in said, said
    for reference in ("env:HOME", "file:/etc/passwd", "env:ROWFERRY_SECRET_NOBODY"):
        said = await case.reason("POST", "/datasource/new/_validate", jdbc(case, password=reference))
        assert "root:" not in said
    said = await case.reason(
        "POST", "/datasource/new/_validate", {"jdbc": {"url": "jdbc:postgresql://127.0.0.1:1/d", "username": "ana"}}
    )
    assert "can not be reached" in said


async def test_metadata_has_the_database_its_schemas_and_their_tables(case: SirenCase) -> None:
    await case.source.execute('CREATE SCHEMA "Odd one"; CREATE TABLE "Odd one"."a.b" (id int)')
    await case.told("PUT", PATH, jdbc(case), 201)
    database = urlsplit(case.source_dsn).path.lstrip("/")
    odd = {"name": "Odd one", "resources": [{"name": "a.b"}]}
    public = {"name": "public", "resources": [{"name": "orders"}]}
    whole = await case.told("POST", f"{PATH}/_metadata")
    assert whole == {"catalogs": [{"name": database, "schemas": [odd, public]}]}
    narrowed = await case.told("POST", f"{PATH}/_metadata?catalog={database}&schema=Odd%20one")
    assert narrowed == {"catalogs": [{"name": database, "schemas": [odd]}]}
    assert await case.told("POST", f"{PATH}/_metadata?catalog=other") == {"catalogs": []}


async def test_a_sample_has_types_and_values_as_postgres_writes_them(case: SirenCase) -> None:
    await case.told("PUT", PATH, jdbc(case), 201)
    await case.rows(3)
    asked = {"query": "SELECT id, amount, note, note FROM orders ORDER BY id", "row_limit": 2, "max_text_size": 4}
    assert await case.told("POST", f"{PATH}/_sample", asked) == {
        "_id": "shop",
        "types": [
            {"name": "id", "type": "bigint"},
            {"name": "amount", "type": "numeric"},
            {"name": "note", "type": "text"},
            {"name": "note", "type": "text"},
        ],
        "values": [["1", "1.25", "note", "note"], ["2", "2.50", "note", "note"]],
    }
    nothing = await case.told("POST", f"{PATH}/_sample", {"query": "SELECT NULL::int AS n, true AS b;"})
    assert nothing["values"] == [[None, "true"]]


CHANGES_OR_READS = (
    "",
    "DROP TABLE orders",
    "SELECT 1; DROP TABLE orders",
    "SELECT 1) q; DROP TABLE orders; --",
    "SELECT * FROM orders FOR UPDATE",
    "SELECT 1 INTO stolen",
    "WITH gone AS (DELETE FROM orders RETURNING 1) SELECT * FROM gone",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_sleep(60)",
    "SELECT nextval('orders_id_seq')",
    "SELECT random()",
    "COPY orders TO PROGRAM 'id'",
    "SELECT true)) q) TO PROGRAM 'id' --",
    "SELECT $1",
)


async def test_no_sample_changes_or_reads_what_it_may_not(case: SirenCase) -> None:
    await case.told("PUT", PATH, jdbc(case), 201)
    await case.rows(1)
    for query in CHANGES_OR_READS:
        said = await case.reason("POST", f"{PATH}/_sample", {"query": query})
        assert "root:" not in said, query
    assert await case.source.fetchval("SELECT count(*) FROM orders") == 1
    assert await case.source.fetchval("SELECT to_regclass('stolen')") is None


async def test_limits_of_a_sample_are_limits(case: SirenCase) -> None:
    await case.told("PUT", PATH, jdbc(case), 201)
    for wrong in ({"row_limit": 0}, {"row_limit": 10_000_000}, {"max_text_size": -1}, {"row_limit": "2"}, {"rows": 2}):
        await case.reason("POST", f"{PATH}/_sample", {"query": "SELECT 1", **wrong})
    await case.reason("POST", f"{PATH}/_sample")
    slow = "SELECT count(*) FROM generate_series(1, 100000000) a, generate_series(1, 100000000) b"
    assert "longer than" in await case.reason("POST", f"{PATH}/_sample", {"query": slow})
    wide = await case.told("POST", f"{PATH}/_sample", {"query": "SELECT repeat('x', 1000000) AS x", "max_text_size": 9})
    assert wide["values"] == [["x" * 9]]
