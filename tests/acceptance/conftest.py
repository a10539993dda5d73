"""One service for all acceptance tests of a module, on a server of control databases alone, which tests may stop."""

from __future__ import annotations

import asyncio
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.days import Days
from tests.support.postgres import PostgresServer
from tests.support.service import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.support.kafka import KafkaServer


@pytest.fixture(scope="session")
def control_server() -> Iterator[PostgresServer]:
    """Postgres for the control databases alone."""
    with closing(PostgresServer()) as server:
        yield server.start()


@pytest.fixture(scope="module")
def service(control_server: PostgresServer) -> Iterator[ServiceProcess]:
    """The service, ready."""
    if not control_server.process.running:
        control_server.start()
    with ThreadPoolExecutor(1) as beside:  # fixtures of a module run outside the tests' event loops
        control = beside.submit(asyncio.run, control_server.create_database()).result()
    process = ServiceProcess(control, settings={"ROWFERRY_MAX_SPLITS": "8"})
    try:
        process.launch().wait_ready_blocking()
        yield process
    finally:
        process.close()


@pytest.fixture
async def days(
    service: ServiceProcess, kafka_server: KafkaServer, database: str, control_server: PostgresServer
) -> AsyncIterator[Days]:
    """The shared service with a fresh source database. Afterwards nothing runs in it any more."""
    if not control_server.process.running:
        control_server.start()
    if not service.running:
        await service.start()
    async with service.client() as api:
        day = Days(service, api, kafka_server, database, f"day-{uuid.uuid4().hex[:8]}")
        yield day
        job = await api.request("GET", f"/v1/jobs/{day.name}")
        if job.status == 200 and job.body["state"] in {"queued", "running", "stopping", "failing", "aborting"}:
            await api.abort(day.name, wait=10)
