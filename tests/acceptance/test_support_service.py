"""The service as a subprocess can be killed, frozen, doubled and asked: the acceptance and fault suites rest on it."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import aiohttp
import asyncpg
import pytest

from tests.support.client import ApiError
from tests.support.processes import StartError
from tests.support.service import ServiceProcess

if TYPE_CHECKING:
    from tests.support.postgres import PostgresServer


def counting_job(name: str) -> dict[str, object]:
    return {"name": name, "source": {"datasource": "here", "table": "public.numbers"}, "sink": {"kind": "donothing"}}


async def make_numbers(dsn: str, rows: int) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("CREATE TABLE numbers (id bigserial PRIMARY KEY, word text)")
        await connection.execute(f"INSERT INTO numbers (word) SELECT 'w' || n FROM generate_series(1, {rows}) n")
    finally:
        await connection.close()


@pytest.mark.parametrize("loaded", [False, True])
async def test_it_serves_survives_a_kill_and_ends_in_order(database: str, control_database: str, loaded: bool):
    await make_numbers(database, 1000)
    async with ServiceProcess(control_database, loaded=loaded) as service:
        first = service.process.pid
        async with service.client() as api:
            await api.put_datasource("here", database)
            await api.create(counting_job("count"), start=True)
            job = await api.wait_for_state("count", "successful")
            assert job["totals"]["rows_sent"] == 1000
            service.kill()
            assert service.process.exit_code == -signal.SIGKILL
            with pytest.raises(aiohttp.ClientConnectorError):
                await api.get("count")
            await service.start()
            assert service.process.pid != first
            assert (await api.get("count"))["id"] == job["id"]
            assert [run["rows_sent"] for run in await api.runs("count")] == [1000]
        assert service.rss_bytes() > 10_000_000
        assert service.peak_rss_bytes() >= service.rss_bytes()
        assert service.cpu_seconds() > 0
        assert len(service.log_events("service_started")) == 2
        assert service.admin_token not in service.log_text()
        assert await service.terminate() == 0
    assert not service.folder.exists()


@pytest.mark.parametrize("loaded", [False, True])
async def test_a_frozen_service_is_silent_until_the_thaw_and_its_twin_goes_on(control_database: str, loaded: bool):
    async with ServiceProcess(control_database, loaded=loaded) as service:
        twin = service.twin()
        try:
            await twin.start()
            service.freeze()
            async with service.client() as frozen, twin.client() as other:
                silent = asyncio.create_task(frozen.request("GET", "/healthz"))
                assert (await other.request("GET", "/readyz")).status == 200
                assert not silent.done()
                service.thaw()
                assert (await silent).status == 200
        finally:
            twin.close()


async def test_an_unexpected_answer_and_a_wrong_end_are_errors(database: str, control_database: str):
    await make_numbers(database, 10)
    async with ServiceProcess(control_database) as service, service.client() as api:
        with pytest.raises(ApiError) as missing:
            await api.get("nobody")
        assert missing.value.status == 404
        async with service.client(token="not-the-token-not-the-token") as stranger:
            with pytest.raises(ApiError) as refused:
                await stranger.get("nobody")
        assert refused.value.status == 401
        await api.put_datasource("here", database)
        await api.create(counting_job("count"), start=True)
        with pytest.raises(AssertionError, match="ended as successful instead of"):
            await api.wait_for_state("count", "stopped", timeout=30)
        with pytest.raises(AssertionError, match="did not send 11 rows"):
            await api.wait_for_rows("count", 11, timeout=30)


@pytest.mark.parametrize("loaded", [False, True])
async def test_a_service_that_cannot_start_shows_its_log(postgres_server: PostgresServer, loaded: bool):
    service = ServiceProcess(postgres_server.dsn("no_such_database"), loaded=loaded)
    try:
        with pytest.raises(StartError, match="no_such_database"):
            await service.start()
        assert service.process.exit_code == 1
    finally:
        service.close()
