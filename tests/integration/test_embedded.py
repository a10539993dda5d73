"""The private Postgres, for real: started, stopped, killed, and found again."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from config import settings
from service.domain.errors import Permanent
from service.store.embedded import available, embedded_postgres
from service.store.migrate import migrate
from tests.support.waiting import until, until_blocking

if TYPE_CHECKING:
    from collections.abc import Iterator

# Holds the database open as a service does, and says where; leaves in order at the end of its input.
_HOLDER = """
import asyncio, sys
from pathlib import Path
from config.logs import configure
from service.store.embedded import embedded_postgres
configure()
async def main():
    async with embedded_postgres(Path(sys.argv[1])) as dsn:
        print(dsn, flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A folder that every user may walk to; what was left running in it is ended."""
    folder = Path(tempfile.mkdtemp(prefix="rowferry-embedded-"))
    folder.chmod(0o711)
    yield folder
    pid = _postmaster(folder)
    if pid is not None:  # a test failed
        os.kill(pid, signal.SIGQUIT)
        until_blocking(lambda: not Path(f"/proc/{pid}/cwd").exists(), 10, "the postmaster ends")
    shutil.rmtree(folder, ignore_errors=True)


def _postmaster(data_dir: Path) -> int | None:
    data = data_dir / "system" / "postgres" / "data"
    try:
        pid = int((data / "postmaster.pid").read_text().splitlines()[0])
        return pid if Path(f"/proc/{pid}/cwd").samefile(data) else None
    except (OSError, ValueError, IndexError):
        return None


def _running(data_dir: Path) -> int:
    pid = _postmaster(data_dir)
    assert pid is not None
    return pid


async def _execute(dsn: str, statement: str) -> object:
    connection = await asyncpg.connect(dsn, timeout=5)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


def _hold(data_dir: Path) -> tuple[subprocess.Popen[str], str]:
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(data_dir)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None
    dsn = holder.stdout.readline().strip()
    if not dsn:
        pytest.fail(holder.communicate()[1])
    return holder, dsn


@contextmanager
def _replaced(folder: Path, elsewhere: Path) -> Iterator[None]:
    folder.rmdir()
    folder.symlink_to(elsewhere)
    yield
    folder.unlink()


async def test_starts_durable_and_private_and_keeps_what_was_written(data_dir: Path) -> None:
    assert available()
    async with embedded_postgres(data_dir) as dsn:
        assert await migrate(dsn)
        await _execute(dsn, "CREATE TABLE public.kept AS SELECT 42 AS answer")
        wanted = {"fsync": "on", "full_page_writes": "on", "listen_addresses": "", "TimeZone": "UTC"}
        for setting, value in wanted.items():
            assert await _execute(dsn, f"SELECT current_setting('{setting}')") == value, setting
    assert _postmaster(data_dir) is None
    # Under root another user must walk through.
    ours = 0o710 if os.geteuid() == 0 else 0o700
    assert (data_dir / "system").stat().st_mode & 0o777 == ours
    for name, mode in {"": ours, "run": 0o700, "data": 0o700, "log": 0o700}.items():
        folder = data_dir / "system" / "postgres" / name
        assert folder.stat().st_mode & 0o777 == mode, name
        assert (folder.stat().st_uid == os.geteuid()) == (name == "" or os.geteuid() != 0), name
    async with embedded_postgres(data_dir) as dsn:
        assert await _execute(dsn, "SELECT answer FROM public.kept") == 42
        assert await migrate(dsn) == []


async def test_a_killed_postgres_is_started_again_under_the_same_address(data_dir: Path) -> None:
    async with embedded_postgres(data_dir) as dsn:
        await _execute(dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
        idle = await asyncpg.connect(dsn)
        first = _running(data_dir)
        os.kill(first, signal.SIGKILL)

        async def answers() -> object:
            try:
                return await _execute(dsn, "SELECT answer FROM kept")
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                return None

        assert await until(answers, 40, "the database answers again") == 42
        assert _running(data_dir) != first
        idle.terminate()
    assert _postmaster(data_dir) is None


async def test_a_killed_service_leaves_it_to_the_next_one(data_dir: Path) -> None:
    holder, dsn = await asyncio.to_thread(_hold, data_dir)
    await _execute(dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
    first = _running(data_dir)
    holder.kill()
    await asyncio.to_thread(holder.communicate)
    assert _running(data_dir) == first
    async with embedded_postgres(data_dir) as again:
        assert again == dsn
        assert _running(data_dir) == first
        assert await _execute(again, "SELECT answer FROM kept") == 42
    assert _postmaster(data_dir) is None


async def test_both_killed_and_the_number_given_to_somebody_else(data_dir: Path) -> None:
    holder, dsn = await asyncio.to_thread(_hold, data_dir)
    await _execute(dsn, "CREATE TABLE kept AS SELECT 42 AS answer")
    holder.kill()
    os.kill(_running(data_dir), signal.SIGKILL)
    await asyncio.to_thread(holder.communicate)
    # What a container finds at its next start: the number in the file is a process, and not Postgres.
    record = data_dir / "system" / "postgres" / "data" / "postmaster.pid"
    lines = record.read_text().splitlines()
    record.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    async with embedded_postgres(data_dir) as again:
        assert await _execute(again, "SELECT answer FROM kept") == 42


async def test_a_second_service_on_the_folder_is_refused(data_dir: Path) -> None:
    async with embedded_postgres(data_dir) as dsn:
        with pytest.raises(Permanent) as refused:
            async with embedded_postgres(data_dir):
                pass
        assert refused.value.code == "embedded_in_use"
        assert f"pid {os.getpid()}" in refused.value.message
        assert "ROWFERRY_DATA_DIR" in refused.value.hint
        # What the hint tells a person to set is taken, and leads into the one that runs.
        told = settings.load({"ROWFERRY_DATABASE_URL": refused.value.hint.partition("ROWFERRY_DATABASE_URL=")[2]})
        assert told.database_url is not None
        await _execute(dsn, "CREATE TABLE here AS SELECT 7 AS answer")
        assert await _execute(told.database_url, "SELECT answer FROM here") == 7


async def test_a_start_cut_in_the_middle_leaves_nothing_half_made(data_dir: Path) -> None:
    draft = data_dir / "system" / "postgres" / "data.new"
    draft.mkdir(parents=True)
    (draft / "PG_VERSION").write_text("16\n")
    async with embedded_postgres(data_dir) as dsn:
        assert await _execute(dsn, "SELECT 1") == 1
    assert not draft.exists()


async def test_data_of_another_version_is_named(data_dir: Path) -> None:
    data = data_dir / "system" / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("9\n")
    with pytest.raises(Permanent) as refused:
        async with embedded_postgres(data_dir):
            pass
    assert refused.value.code == "embedded_version"
    assert "PostgreSQL 9" in refused.value.message


async def test_what_postgres_says_is_in_the_error(data_dir: Path) -> None:
    async with embedded_postgres(data_dir):
        pass
    control = data_dir / "system" / "postgres" / "data" / "global" / "pg_control"
    kept = control.read_bytes()
    control.unlink()
    with pytest.raises(Permanent) as refused:
        async with embedded_postgres(data_dir):
            pass
    assert refused.value.code == "embedded_not_started"
    assert "pg_control" in refused.value.message
    control.write_bytes(kept)


async def test_a_deep_folder_gets_a_short_socket(data_dir: Path) -> None:
    deep = data_dir / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    async with embedded_postgres(deep) as dsn:
        assert await _execute(dsn, "SELECT 1") == 1
        folder = str(await _execute(dsn, "SELECT current_setting('unix_socket_directories')")).strip('"')
        assert os.stat(folder).st_mode & 0o777 == 0o700  # noqa: PTH116
        assert len(folder) < 90
    shutil.rmtree(folder)


async def test_a_socket_folder_that_somebody_else_made_is_not_used(data_dir: Path) -> None:
    deep = data_dir / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    async with embedded_postgres(deep) as dsn:
        folder = str(await _execute(dsn, "SELECT current_setting('unix_socket_directories')")).strip('"')
    elsewhere = data_dir / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    with _replaced(Path(folder), elsewhere), pytest.raises(Permanent) as refused:
        async with embedded_postgres(deep):
            pass
    assert refused.value.code == "embedded_unreachable"
    assert elsewhere.stat().st_mode & 0o777 == 0o755


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user to run it as")
async def test_root_runs_it_as_somebody_else_who_must_reach_the_folder(data_dir: Path) -> None:
    async with embedded_postgres(data_dir):
        assert os.stat(f"/proc/{_running(data_dir)}").st_uid != 0  # noqa: PTH116
    closed = data_dir / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(Permanent) as refused:
        async with embedded_postgres(closed / "inside"):
            pass
    assert refused.value.code == "embedded_unreachable"
    assert str(closed) in refused.value.message


def test_the_holder_ends_it_when_it_ends_itself(data_dir: Path) -> None:
    holder, dsn = _hold(data_dir)
    assert dsn.startswith("postgresql://rowferry@/rowferry?host=")
    holder.communicate(timeout=60)
    assert holder.returncode == 0
    assert _postmaster(data_dir) is None
