"""Connecting: settings that hold, errors that say what to do, and no secret in any of them."""

from __future__ import annotations

import asyncio

import pytest

from service.domain.errors import Permanent, RowferryError, Transient, chain
from tests.integration.source_cases import connected, datasource, source
from tests.support.ports import free_port
from tests.support.waiting import until
from workers.sources.budget import ConnectionBudget
from workers.sources.connection import PINNED, connect
from workers.sources.postgres import check_datasource

SECRET = "the-secret-that-nobody-shows"


@pytest.mark.parametrize(
    ("changes", "kind", "code"),
    [
        ({"user": "nobody_like_that", "password": SECRET}, Permanent, "authentication_failed"),
        ({"database": "no_such_database"}, Permanent, "database_unknown"),
        ({"port": 0}, Transient, "source_unreachable"),
        ({"host": "host.invalid"}, Transient, "source_unreachable"),
        ({"tls_mode": "require"}, Transient, "source_unreachable"),
        ({"properties": {"work_mem": "much"}}, Permanent, "datasource_properties"),
        ({"properties": {"no_such_setting": "1"}}, Permanent, "datasource_properties"),
    ],
)
async def test_what_goes_wrong_while_connecting_has_a_code_and_a_remedy(
    database: str, changes: dict, kind: type[RowferryError], code: str
) -> None:
    if changes.get("port") == 0:
        changes = {"port": free_port()}
    async with source(database, "t", store=datasource(database, **changes)) as made:
        with pytest.raises(kind) as caught:
            await made.inspect()
    assert caught.value.code == code
    assert caught.value.hint
    assert SECRET not in "".join(repr(link) + str(link) for link in chain(caught.value))


async def test_a_wrong_password_is_permanent_and_not_shown(database: str, postgres_server) -> None:
    await postgres_server.create_user("careful", "the right one")
    async with source(database, "t", store=datasource(database, user="careful", password=SECRET)) as made:
        with pytest.raises(Permanent) as caught:
            await made.inspect()
    assert caught.value.code == "authentication_failed"
    assert SECRET not in "".join(repr(link) + str(link) for link in chain(caught.value))


async def test_the_environment_of_the_service_gives_no_password(
    database: str, postgres_server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await postgres_server.create_user("careful", "the right one")
    monkeypatch.setenv("PGPASSWORD", "the right one")
    async with source(database, "t", store=datasource(database, user="careful", password=None)) as made:
        with pytest.raises(Permanent) as caught:
            await made.inspect()
    assert caught.value.code == "authentication_failed"


@pytest.mark.parametrize("tls_mode", ["disable", "prefer"])
async def test_a_session_is_pinned_read_only_and_named(database: str, tls_mode: str) -> None:
    properties = {"statement_timeout": "0", "DateStyle": "German", "application_name": "somebody", "work_mem": "6MB"}
    connection = await connect(datasource(database, tls_mode=tls_mode, properties=properties), "rowferry job-1 split-0")
    try:
        for name, value in PINNED.items():
            assert await connection.fetchval("SELECT setting FROM pg_settings WHERE name = $1", name) == value
        assert await connection.fetchval("SHOW application_name") == "rowferry job-1 split-0"
        assert await connection.fetchval("SHOW work_mem") == "6MB"
        with pytest.raises(Exception, match="read-only"):
            await connection.execute("CREATE TABLE t (i int)")
        with pytest.raises(Exception, match="statement timeout"):
            await connection.execute("SELECT pg_sleep(3)")
    finally:
        await connection.close()


async def test_settings_that_do_not_take_hold_are_noticed(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a pooler that ignores start-up settings: here the server is asked for what it was not told."""
    monkeypatch.setitem(PINNED, "TimeZone", "utc ")
    with pytest.raises(Permanent) as caught:
        await connect(datasource(database), "rowferry test")
    assert caught.value.code in {"pooled_connection", "datasource_properties"}


async def test_a_refused_destination_connects_nowhere(database: str) -> None:
    async def guard(host: str, port: int) -> None:
        raise Permanent("destination_refused", f"{host}:{port} is not allowed")

    with pytest.raises(Permanent) as caught:
        await check_datasource(datasource(database), connections=ConnectionBudget(), guard=guard)
    assert caught.value.code == "destination_refused"


async def test_a_datasource_is_looked_at(database: str, postgres_server) -> None:
    budget = ConnectionBudget()
    codes = {finding.code for finding in await check_datasource(datasource(database), connections=budget)}
    assert codes == {"server_version", "role_too_powerful"}
    await postgres_server.create_user("careful", "the right one")
    plain = datasource(database, user="careful", password="the right one")
    codes = {finding.code for finding in await check_datasource(plain, connections=budget)}
    assert codes == {"server_version", "holders_not_visible"}
    assert budget.held(plain) == 0


async def test_two_jobs_share_one_connection_by_turns(database: str) -> None:
    budget = ConnectionBudget(1)
    said: list[bool] = []
    async with connected(database) as other:
        await other.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 100)")
        async with source(database, "t", connections=budget) as one, source(database, "t", connections=budget) as two:
            two._session._waiting = said.append
            for after in range(0, 100, 10):
                pages = await asyncio.gather(
                    *(made.reader().read((str(after),), None, max_rows=10) for made in (one, two))
                )
                assert [len(page.values) for page in pages] == [10, 10]
            assert said[:2] == [True, False]
            count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rowferry test'"
            await until(lambda: _is_one(other, count), 5, "no more than one connection is open")
    assert budget.held(datasource(database)) == 0


async def _is_one(connection, query: str) -> bool:
    return await connection.fetchval(query) == 1


async def test_no_permission_is_said_with_the_grant(database: str, postgres_server) -> None:
    await postgres_server.create_user("careful", "the right one")
    async with connected(database) as other:
        await other.execute("CREATE TABLE t (id int PRIMARY KEY)")
    async with source(database, "t", store=datasource(database, user="careful", password="the right one")) as made:
        errors = [finding for finding in (await made.inspect()).findings if finding.severity == "error"]
    assert [(finding.code, "GRANT SELECT" in finding.hint) for finding in errors] == [("permission_denied", True)]


async def test_row_security_fails_instead_of_leaving_rows_out(database: str, postgres_server) -> None:
    await postgres_server.create_user("careful", "the right one")
    async with connected(database) as other:
        await other.execute(
            "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2); GRANT SELECT ON t TO careful;"
            "ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY one ON t USING (id = 1)"
        )
    async with source(database, "t", store=datasource(database, user="careful", password="the right one")) as made:
        errors = [finding for finding in (await made.inspect()).findings if finding.severity == "error"]
        assert [finding.code for finding in errors] == ["permission_denied"]
        assert "policy" in errors[0].hint
    async with connected(database) as other:
        await other.execute("DROP OWNED BY careful")
