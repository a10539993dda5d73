"""No secret comes back: not in an answer, not in the log, not in the control database's readable columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncpg

from tests.support.secrecy import assert_silent, secret
from tests.support.service import ServiceProcess

if TYPE_CHECKING:
    from tests.support.client import Client

PASSWORD = "pa-ss/w%rd:with@signs"
SASL_PASSWORD = "kafka-sasl-password-1"
CREDENTIAL = "credential-password-22"


async def test_no_secret_comes_back_by_any_way(postgres_server, database: str, control_database: str):
    await postgres_server.create_user("careful_reader", secret(PASSWORD))
    host = f"127.0.0.1:{postgres_server.port}"
    service = ServiceProcess(control_database, settings={"ROWFERRY_SECRET_ONE": secret("from-the-environment")})
    try:
        await service.start()
        async with service.client() as api:
            await every_way_of_datasources(api, host, database)
            await every_way_of_jobs(api)
            await every_other_way(api)
        await service.restart()
        await service.terminate()
    finally:
        service.close()
    connection = await asyncpg.connect(control_database)
    try:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'rowferry'")
        for table in tables:
            rows = await connection.fetch(f"SELECT t::text FROM rowferry.{table['tablename']} AS t")
            assert_silent("\n".join(row["t"] for row in rows), f"table {table['tablename']}")
    finally:
        await connection.close()


async def every_way_of_datasources(api: Client, host: str, database: str) -> None:
    wrong = secret("this-password-is-wrong")
    quoted = "pa-ss%2Fw%25rd%3Awith%40signs"
    await api.put_datasource("right", f"postgresql://careful_reader:{quoted}@{host}{database[database.rindex('/') :]}")
    await api.put_datasource("wrong", f"postgresql://careful_reader:{wrong}@{host}/postgres")
    reference = {
        "host": "127.0.0.1",
        "port": 1,
        "database": "d",
        "user": "u",
        "password": "env:ROWFERRY_SECRET_ONE",
    }
    await api.call("PUT", "/v1/datasources/referring", json=reference)
    await api.call("PUT", "/v1/credentials/kafka", json={"secrets": {"password": secret(CREDENTIAL)}})
    for name in ("right", "wrong", "referring", "missing"):
        await api.request("POST", f"/v1/datasources/{name}:validate")
        await api.request("GET", f"/v1/datasources/{name}")
        await api.request("GET", f"/v1/datasources/{name}/tables")


async def every_way_of_jobs(api: Client) -> None:
    security = {"protocol": "SASL_PLAINTEXT", "mechanism": "PLAIN", "username": "u"}
    for name, extra in (
        ("own", {"security": {**security, "password": secret(SASL_PASSWORD)}}),
        ("stored", {"security": security, "credential": "kafka"}),
    ):
        sink = {"kind": "kafka", "bootstrap_servers": "127.0.0.1:1", "topic": "t", **extra}
        spec = {"name": name, "source": {"datasource": "wrong", "table": "t"}, "sink": sink}
        spec["options"] = {"retry": {"max_without_progress_seconds": 1}}
        for path in ("/v1/jobs:validate", "/v1/jobs:preview"):
            await api.request("POST", path, json=spec)
        await api.create(spec, start=True)
        await api.request("POST", f"/v1/jobs/{name}:clone", json={"name": f"{name}-2"})
        await api.wait_for_state(name, "error")
        for path in ("", "/events", "/log", "/runs", "/outputs", "/checkpoint"):
            await api.request("GET", f"/v1/jobs/{name}{path}")


async def every_other_way(api: Client) -> None:
    bad = {
        "name": "bad",
        "source": {"datasource": "wrong", "table": "t"},
        "sink": {"kind": "kafka", "password": secret("misplaced-password")},
    }
    assert (await api.request("POST", "/v1/jobs", json=bad)).status == 422
    token = await api.call("POST", "/v1/tokens", json={"name": "ana", "role": "viewer"})
    for path in (
        "/v1/tokens",
        "/v1/credentials",
        "/v1/datasources",
        "/v1/jobs",
        "/v1/log",
        "/v1/events",
        "/metrics",
    ):
        await api.request("GET", path)
    assert (await api.request("GET", f"/v1/jobs?token={token['token']}")).status == 422
