"""A source that has much else to do is left alone, and one that cancels a statement is asked for less."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest

from service.domain.errors import Permanent, Transient
from tests.integration.api_cases import ApiCase, definition
from tests.integration.source_cases import connected, datasource, read_keys, source
from tests.support.waiting import until

if TYPE_CHECKING:
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


async def test_a_job_waits_while_its_source_has_much_else_to_do(control_database: str, database: str) -> None:
    async with ApiCase(control_database, database) as api:
        await api.shop()
        await api.rows(3000)
        await api.engine.start()
        others = [await asyncpg.connect(database) for _ in range(5)]
        work = [asyncio.create_task(other.execute("SELECT pg_sleep(120)")) for other in others]
        try:
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
        finally:
            for other in others:
                other.terminate()
            await asyncio.gather(*work, return_exceptions=True)
            await api.source.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(120)'"
            )
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
