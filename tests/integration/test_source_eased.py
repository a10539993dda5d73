"""A source that has much else to do is left alone, and one that cancels a statement is asked for less."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import pytest

from service.domain.errors import Permanent, Transient
from tests.integration.api_cases import ApiCase, definition
from tests.integration.source_cases import connected, datasource, read_keys, source
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.postgres import PostgresServer

CONFLICT = """
    CREATE TABLE t (id int PRIMARY KEY);
    INSERT INTO t SELECT i FROM generate_series(1, 600) AS i;
    -- what a standby does to statements that take long, here to those that ask for many rows
    CREATE FUNCTION in_the_way(id int, most int) RETURNS bool STABLE LANGUAGE plpgsql AS $$
    BEGIN
      IF id % 10 = 0 AND substring(current_query() FROM 'LIMIT (\\d+)')::int > most THEN
        RAISE EXCEPTION 'canceling statement due to conflict with recovery' USING ERRCODE = '40001';
      END IF;
      RETURN true;
    END $$
"""


async def test_a_conflict_with_recovery_is_met_with_smaller_pages(database: str) -> None:
    async with connected(database) as connection:
        await connection.execute(CONFLICT)
    async with source(database, query="SELECT id FROM t WHERE in_the_way(id, 40)", key=["id"]) as made:
        assert await read_keys(made) == [(str(number),) for number in range(1, 601)]
    async with source(database, query="SELECT id FROM t WHERE in_the_way(id, 0)", key=["id"]) as made:
        with pytest.raises(Transient) as caught:
            await read_keys(made, ("9",))
        assert caught.value.code == "source_conflict"


@asynccontextmanager
async def busy(api: ApiCase, others: int) -> AsyncIterator[None]:
    """So many sessions of others have something to do."""
    sessions = [await asyncpg.connect(api.source_dsn) for _ in range(others)]
    work = [asyncio.create_task(session.execute("SELECT pg_sleep(120)")) for session in sessions]
    try:
        yield
    finally:
        for session in sessions:
            session.terminate()
        await asyncio.gather(*work, return_exceptions=True)
        await api.source.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(120)'"
        )


async def ease(api: ApiCase, most: int | None) -> None:
    """Change the running job; its rate goes too."""
    options = {"ease": None if most is None else {"active_sessions": most}, "rate": {"rows_per_second": None}}
    await api.ok("PATCH", "/v1/jobs/j", {"options": options}, Content_Type="application/merge-patch+json")


async def test_it_is_asked_for_while_the_job_runs_and_holds_retries_and_verifications_too(
    control_database: str, database: str
) -> None:
    async with ApiCase(control_database, database) as api:
        await api.shop()
        await api.rows(3000)
        await api.source.execute("UPDATE orders SET amount = 'NaN' WHERE id = 7")
        await api.engine.start()

        async def waits() -> bool:
            job = await api.ok("GET", "/v1/jobs/j")
            assert job["state"] in {"queued", "running"}, (job["totals"], job["errors"])
            return bool(job["waiting_for"] == "source")

        options = {"rate": {"rows_per_second": 50}, "dead_letters": {"max_rows": 1}, "chunk": {"rows": 100}}
        given = definition(sink={"kind": "file", "path": "out"}, format={"kind": "parquet"}, options=options)
        async with busy(api, 5):
            await api.ok("POST", "/v1/jobs?start=true", given, 201)
            await ease(api, 3)
            await until(waits, 20, "the running job waits for its source")
            assert (await api.ok("GET", "/v1/jobs/j"))["state"] == "running"
            await ease(api, None)
            ended = await api.until_state("j", "successful", "error")
            assert (ended["state"], ended["totals"]["rows_sent"], ended["waiting_for"]) == ("successful", 2999, None)

            await api.source.execute("UPDATE orders SET amount = 7 WHERE id = 7")
            for kind, path in (("verify", "verify"), ("retry", "dead-letters:retry")):
                await ease(api, 3)
                await api.ok("POST", f"/v1/jobs/j/{path}", {}, 202)

                async def held(kind: str = kind) -> bool:
                    steps = await api.control(
                        "SELECT kind FROM rowferry.steps WHERE condition ->> 'waiting_for' = 'source'"
                    )
                    return [step["kind"] for step in steps] == [kind]

                await until(held, 20, f"{kind} waits for the source")
                await ease(api, None)

                async def ended(kind: str = kind) -> bool:
                    found = await api.control(f"SELECT FROM rowferry.steps WHERE kind = '{kind}' AND state = 'leased'")
                    return not found

                await until(ended, 30, f"{kind} goes on by itself")
            assert (await api.ok("GET", "/v1/jobs/j/dead-letters"))["dead_letters"] == []


async def test_a_job_waits_while_its_source_has_much_else_to_do(control_database: str, database: str) -> None:
    async with ApiCase(control_database, database) as api:
        await api.shop()
        await api.rows(3000)
        await api.engine.start()
        async with busy(api, 5):
            given = definition(sink={"kind": "donothing"}, options={"ease": {"active_sessions": 3}})
            await api.ok("POST", "/v1/jobs?start=true", given, 201)

            async def waits() -> bool:
                return bool((await api.ok("GET", "/v1/jobs/j"))["waiting_for"] == "source")

            await until(waits, 20, "the job waits for its source")
            job = await api.ok("GET", "/v1/jobs/j")
            assert (job["state"], job["totals"]["rows_sent"]) == ("running", 0)
            open_ones = await api.source.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'rowferry %'"
                " AND xact_start IS NOT NULL AND state <> 'active' AND datname = current_database()"
            )
            assert open_ones == 0
        ended = await api.until_state("j", "successful", "error")
    assert (ended["state"], ended["totals"]["rows_sent"]) == ("successful", 3000)


async def test_a_role_that_can_not_see_the_load_can_not_give_way_to_it(
    database: str, postgres_server: PostgresServer
) -> None:
    await postgres_server.create_user("modest", "the right one")
    async with connected(database) as connection:
        await connection.execute("CREATE TABLE t (id int PRIMARY KEY); GRANT SELECT ON t TO modest")
        store = datasource(database, user="modest", password="the right one")
        options = {"ease": {"active_sessions": 1}}
        async with source(database, "t", store=store, options=options) as made:
            errors = [finding.code for finding in (await made.inspect()).findings if finding.severity == "error"]
            assert errors == ["load_not_visible"]
            with pytest.raises(Permanent) as caught:
                await made.active_sessions()
            assert "pg_read_all_stats" in caught.value.hint
            await connection.execute("GRANT pg_read_all_stats TO modest")
            before = await made.active_sessions()
            assert before >= 0
        await connection.execute("REVOKE pg_read_all_stats FROM modest; DROP OWNED BY modest")
