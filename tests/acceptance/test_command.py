"""The command `rowferry`, as an operator types it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.fernet import Fernet

from service.domain.states import Event, State
from service.store.migrate import migrate, pending
from tests.support.ports import free_port
from tests.support.processes import ChildProcess
from tests.support.reconcile import expected_rows, file_rows, reconcile
from tests.support.service import ServiceProcess
from tests.support.waiting import until
from tests.support.workshop import ACCOUNT, Workshop

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "an-admin-token-for-the-command"


async def rowferry(*arguments: str, folder: Path, **settings: str) -> tuple[int, str, str]:
    """Run the command to its end: exit code, standard output, standard error."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ROWFERRY_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "service",
        *arguments,
        env={**clean, "ROWFERRY_DATA_DIR": str(folder), **settings},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_version_is_printed_without_any_setting(tmp_path):
    assert await rowferry("version", folder=tmp_path) == (0, "rowferry 0.1.0\n", "")


async def test_migrate_brings_the_schema_and_says_when_there_is_nothing_to_do(tmp_path, database: str):
    first = await rowferry("migrate", folder=tmp_path, ROWFERRY_DATABASE_URL=database)
    assert first[0] == 0
    assert "initial" in first[1]
    assert await pending(database) == []
    second = await rowferry("migrate", folder=tmp_path, ROWFERRY_DATABASE_URL=database)
    assert (second[0], second[1]) == (0, "migrated: nothing: the schema is this version's\n")


async def test_check_names_every_dependency_and_what_is_wrong_with_it(tmp_path, database: str):
    gone = f"postgresql://rowferry@127.0.0.1:{free_port()}/rowferry"
    code, out, _ = await rowferry("check", folder=tmp_path, ROWFERRY_DATABASE_URL=gone)
    assert code == 1
    assert "settings: ok" in out
    assert "control database: FAILED" in out
    code, out, _ = await rowferry("check", folder=tmp_path, ROWFERRY_DATABASE_URL=database)
    assert code == 1
    assert "run `rowferry migrate`" in out
    await migrate(database)
    code, out, _ = await rowferry("check", folder=tmp_path, ROWFERRY_DATABASE_URL=database)
    assert (code, out) == (0, "settings: ok\ncontrol database: ok\nschema: ok\n")


async def test_check_looks_at_every_datasource(tmp_path, postgres_server, database: str, control_database: str):
    await postgres_server.create_user("checked_reader", "right-password-1")
    host = f"127.0.0.1:{postgres_server.port}"
    key = Fernet.generate_key().decode()
    settings = {"ROWFERRY_DATABASE_URL": control_database, "ROWFERRY_SECRET_KEY": key}
    service = ServiceProcess(control_database)
    service.secret_key = key
    async with service, service.client() as api:
        await api.put_datasource("good", f"postgresql://checked_reader:right-password-1@{host}/postgres")
        await api.put_datasource("bad", f"postgresql://checked_reader:other-password-2@{host}/postgres")
    code, out, _ = await rowferry("check", folder=tmp_path, **settings)
    lines = dict(line.split(": ", 1) for line in out.splitlines())
    assert code == 1
    assert not lines["datasource good"].startswith("FAILED")
    assert "password" in lines["datasource bad"]
    assert "other-password-2" not in out


async def test_serve_refuses_an_old_schema_when_it_may_not_migrate(tmp_path, database: str):
    code, _, err = await rowferry(
        "serve",
        "--no-migrate",
        folder=tmp_path,
        ROWFERRY_DATABASE_URL=database,
        ROWFERRY_ADMIN_TOKEN=TOKEN,
        ROWFERRY_LISTEN=f"127.0.0.1:{free_port()}",
    )
    assert code == 1
    assert "run `rowferry migrate`" in err


async def test_an_unknown_setting_is_named_with_its_neighbour(tmp_path):
    code, _, err = await rowferry("serve", folder=tmp_path, ROWFERRY_LISTENN="127.0.0.1:1")
    assert code == 1
    assert "ROWFERRY_LISTENN" in err
    assert "did you mean ROWFERRY_LISTEN?" in err


async def test_settings_may_stand_in_a_file(tmp_path, control_database: str):
    file = tmp_path / "rowferry.toml"
    file.write_text(f'[rowferry]\ndatabase_url = "{control_database}"\n')
    code, out, _ = await rowferry("--config", str(file), "check", folder=tmp_path)
    assert (code, out.splitlines()[-1]) == (0, "schema: ok")


async def test_a_worker_without_an_api_runs_the_jobs_of_the_database(tmp_path, database: str, control_database: str):
    async with Workshop(control_database, database) as shop:
        await shop.rows(3000)
        job = await shop.job("orders")
        await shop.verb(job, Event.START)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ROWFERRY_")}
        environment = {**clean, "ROWFERRY_DATABASE_URL": control_database, "ROWFERRY_DATA_DIR": str(shop.folder)}
        worker = ChildProcess(
            "worker", [sys.executable, "-m", "service", "worker"], log=tmp_path / "worker.log", env=environment
        )
        worker.launch()
        try:
            assert (await shop.state(job)).state is State.SUCCESSFUL
            worker.send(signal.SIGTERM)
            assert await asyncio.to_thread(worker.wait_exit, 20.0) == 0
        finally:
            worker.kill()
        found = reconcile(
            file_rows(shop.folder / "files" / ACCOUNT / "orders"), await expected_rows(shop.source_dsn, "orders")
        )
        assert found.exact, found.describe()


async def test_a_second_sigterm_leaves_at_once(database: str, control_database: str):
    service = ServiceProcess(control_database)
    async with service:
        service.process.send(signal.SIGTERM)
        await until(lambda: "service_stopping" in service.log_text() or not service.running, 10, "asked to end")
        if service.running:
            service.process.send(signal.SIGTERM)
        assert await asyncio.to_thread(service.process.wait_exit, 5.0) in {0, 1}


@pytest.fixture
def enterable() -> Iterator[Path]:
    """A folder that the user Postgres runs as may enter, when the tests run as root."""
    with tempfile.TemporaryDirectory(prefix="rowferry-own-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


async def test_the_service_brings_its_own_database_where_none_is_given(enterable: Path):
    settings = {"ROWFERRY_ADMIN_TOKEN": TOKEN, "ROWFERRY_LISTEN": f"127.0.0.1:{free_port()}"}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ROWFERRY_")}
    service = ChildProcess(
        "embedded",
        [sys.executable, "-m", "service", "serve"],
        log=enterable / "service.log",
        env={**clean, "ROWFERRY_DATA_DIR": str(enterable / "data"), "ROWFERRY_LOG_FORMAT": "json", **settings},
    )
    service.launch()
    try:
        await until(lambda: "service_started" in (enterable / "service.log").read_text(), 60, "service started")
        assert "embedded_database_started" in (enterable / "service.log").read_text()
        service.send(signal.SIGTERM)
        assert await asyncio.to_thread(service.wait_exit, 30.0) == 0
    finally:
        service.kill()


async def test_a_key_is_made_and_its_secret_is_told_this_once(tmp_path, database: str):
    settings = {"ROWFERRY_DATABASE_URL": database, "ROWFERRY_SECRET_KEY": Fernet.generate_key().decode()}
    code, out, err = await rowferry("keys", "create", "browser", folder=tmp_path, **settings)
    assert (code, out) == (1, "")
    assert "rowferry migrate" in err
    await migrate(database)
    code, out, err = await rowferry("keys", "create", "browser", "--role", "viewer", folder=tmp_path, **settings)
    assert (code, err) == (0, "")
    told = dict(line.split(": ") for line in out.splitlines())
    assert (told["account"], told["role"], len(told["key"]), len(told["secret"])) == ("default", "viewer", 32, 64)
    code, out, err = await rowferry("keys", "create", "browser", folder=tmp_path, **settings)
    assert (code, out) == (1, "")
    assert "there is a key 'browser' already" in err
    del settings["ROWFERRY_SECRET_KEY"]
    code, _, err = await rowferry("keys", "create", "second", folder=tmp_path, **settings)
    assert code == 1
    assert "ROWFERRY_SECRET_KEY" in err


async def test_secrets_are_encrypted_anew_and_the_old_key_may_go(tmp_path, control_database: str):
    old, new = (Fernet.generate_key().decode() for _ in range(2))
    at = {"ROWFERRY_DATABASE_URL": control_database}

    async def rekey(keys: str) -> tuple[int, str, str]:
        return await rowferry("secrets", "rekey", folder=tmp_path, ROWFERRY_SECRET_KEY=keys, **at)

    assert (await rowferry("keys", "create", "a", folder=tmp_path, ROWFERRY_SECRET_KEY=old, **at))[0] == 0
    code, out, _ = await rekey(new)
    assert code == 1
    assert "none of the keys opens the secret of: key a" in out
    code, out, _ = await rekey(f"{new},{old}")
    assert code == 0
    assert "renewed: 1" in out
    code, out, _ = await rekey(new)
    assert code == 0
    assert "renewed: 0" in out
    code, _, err = await rowferry("secrets", "rekey", folder=tmp_path, **at)
    assert code == 1
    assert "ROWFERRY_SECRET_KEY" in err
