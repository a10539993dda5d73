"""A service that can not start says what to set right, in one or two lines, and ends with exit code 1."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.days import with_login
from tests.support.ports import LOOPBACK, free_port
from tests.support.service import ServiceProcess

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.postgres import PostgresServer


async def refuses(database: str, settings: Mapping[str, str], *words: str) -> str:
    """It ends by itself with exit code 1, and what it said names all of `words`; no traceback, no secret."""
    service = ServiceProcess(database, settings=settings)
    try:
        service.launch()
        code = await asyncio.to_thread(service.process.wait_exit, 40)
        said = service.log_text()
        assert code == 1, said
        assert "Traceback" not in said
        assert service.admin_token not in said
        assert service.secret_key not in said
        lines = [line for line in said.splitlines() if line.startswith("rowferry: ")]
        assert 1 <= len(lines) <= 3, said
        told = "\n".join(lines)
        assert [word for word in words if word not in told] == [], told
        return told
    finally:
        service.close()


async def test_a_control_database_that_is_not_there(database: str):
    port = free_port()
    dsn = f"postgresql://rowferry:not-to-be-told@{LOOPBACK}:{port}/control"
    told = await refuses(dsn, {}, "control database", f"{LOOPBACK}:{port}", "ROWFERRY_DATABASE_URL")
    assert "not-to-be-told" not in told


async def test_a_control_database_that_does_not_exist_in_its_server(control_database: str):
    told = await refuses(control_database + "_not", {}, "control database", "_not", "ROWFERRY_DATABASE_URL")
    assert "does not exist" in told


async def test_a_wrong_password_for_the_control_database(control_database: str, postgres_server: PostgresServer):
    await postgres_server.create_user("rowferry_of_ours", "the-right-one")
    dsn = with_login(control_database, "rowferry_of_ours", "not-to-be-told")
    told = await refuses(dsn, {}, "control database", "rowferry_of_ours", "password", "ROWFERRY_DATABASE_URL")
    assert "not-to-be-told" not in told


async def test_a_role_that_may_not_make_the_schema(database: str, postgres_server: PostgresServer):
    await postgres_server.create_user("rowferry_reader", "the-right-one")
    dsn = with_login(database, "rowferry_reader", "the-right-one")
    await refuses(dsn, {}, "control database", "permission denied", "grant it CREATE")


async def test_a_port_that_is_taken(control_database: str):
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        address = f"{LOOPBACK}:{taken.getsockname()[1]}"
        await refuses(control_database, {"ROWFERRY_LISTEN": address}, address, "listen", "choose another")


async def test_no_way_to_come_in(control_database: str):
    code, said = await runs(control_database, "serve", without="ROWFERRY_ADMIN_TOKEN")
    assert code == 1
    assert "ROWFERRY_ADMIN_TOKEN" in said
    assert "python3 -c" in said


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ROWFERRY_LISTEN", "8080", ("host:port",)),
        ("ROWFERRY_ADMIN_TOKEN", "", ("not empty",)),
        ("ROWFERRY_MAX_SPLITS", "many", ("number",)),
        ("ROWFERRY_MAX_RUNS", "0", ()),
        ("ROWFERRY_ENGINE", "airflow", ("local",)),
        ("ROWFERRY_ENGINE", "temporal", ("local",)),
        ("ROWFERRY_SECRET_KEY", "not-a-key", ()),
        ("ROWFERRY_LOG_LEVEL", "loud", ("info",)),
        ("ROWFERRY_SECRETS_DIR", "/no/such/folder", ()),
        ("ROWFERRY_TLS_LISTEN", "127.0.0.1:0", ("ROWFERRY_TLS_CERT",)),
    ],
)
async def test_a_wrong_setting_is_named_with_its_value_and_what_it_may_be(
    control_database: str, name: str, value: str, words: tuple[str, ...]
):
    told = await refuses(control_database, {name: value}, name, *words)
    if name != "ROWFERRY_SECRET_KEY":
        assert value in told


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ROWFERRY_MAX_SPLIT", "3", ("unknown", "ROWFERRY_MAX_SPLITS")),
        ("ROWFERRY_DATABASE_URL", "mysql://localhost/x", ("postgresql://user:password@host:port/database",)),
        ("ROWFERRY_ADMIN_TOKEN_FILE", "/no/such/file", ("ROWFERRY_ADMIN_TOKEN and", "keep one")),
        ("ROWFERRY_LISTEN", "0.0.0.0:0", ("ROWFERRY_ALLOWED_DESTINATIONS", "0.0.0.0:0")),
    ],
)
async def test_a_setting_that_may_hold_a_secret_or_needs_another_is_named(
    control_database: str, name: str, value: str, words: tuple[str, ...]
):
    await refuses(control_database, {name: value}, *words)


async def test_an_older_schema_without_migrating(database: str):
    code, said = await runs(database, "serve", "--no-migrate")
    assert code == 1
    assert "rowferry migrate" in said


async def test_check_names_every_dependency_and_fails_where_one_does(control_database: str, database: str):
    async with ServiceProcess(control_database) as service:
        async with service.client() as api:
            await api.put_datasource("shop", database)
            await api.put_datasource("ledger", database + "_not")
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service", "check"), env=service.environment(), stdout=asyncio.subprocess.PIPE
        )
        said = (await process.communicate())[0].decode()
    assert process.returncode == 1, said
    lines = dict(line.split(": ", 1) for line in said.splitlines())
    assert (lines["settings"], lines["control database"], lines["schema"]) == ("ok", "ok", "ok")
    assert "datasource shop" in lines
    assert "_not" in lines["datasource ledger"]
    assert "does not exist" in lines["datasource ledger"]


async def runs(database: str, *arguments: str, without: str = "") -> tuple[int | None, str]:
    """`rowferry` with these arguments, to its end; exit code and what it wrote to standard error."""
    service = ServiceProcess(database)
    try:
        environment = {name: value for name, value in service.environment().items() if name != without}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "service", *arguments), env=environment, stderr=asyncio.subprocess.PIPE
        )
        _, said = await process.communicate()
        return process.returncode, said.decode()
    finally:
        service.close()
