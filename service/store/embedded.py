"""The private Postgres of the `embedded` extra: a control database for one machine, started and stopped with the
service.

It lives in `<data dir>/system/postgres`: `data/` (the cluster), `log/`, `run/` (its socket), `lock`. It takes no TCP
connections; whoever may enter `run/` (0700) is the service. Postgres does not run as root: under a service that does,
it runs as the user `postgres` or `nobody`, who owns `data/`, `log/` and `run/` and may walk through what they lie in.

A service that was killed leaves it running, and the next one takes it up. One that dies is started again; callers see
a lost connection meanwhile, as with any other database.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shlex
import shutil
import signal
import threading
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import IO, TYPE_CHECKING, Final
from urllib.parse import quote

import asyncpg
import structlog

from config.names import LogEvent
from service.domain.errors import Permanent
from service.store.embedded_processes import ended, processes_in, reap, works_in
from service.store.embedded_programs import OWNER, Account, Programs, account_for, installed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

_log = structlog.get_logger("rowferry.store")

_DATABASE: Final = OWNER
_PORT: Final = 5432  # names the socket's file only
# sockaddr_un holds 108 bytes, the last one is NUL.
_LONGEST_SOCKET: Final = 107
_START_SECONDS: Final = 60.0  # after a crash it replays its log first
_STOP_SECONDS: Final = 30
_ORPHANS_SECONDS: Final = 10.0
_PAUSES: Final = (0.1, 0.5, 2.0, 10.0)

_SETTINGS: Final = {
    "listen_addresses": "",
    "port": str(_PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # One file a weekday, overwritten a week later.
    "logging_collector": "on",
    "log_filename": "postgres-%u.log",
    "log_truncate_on_rotation": "on",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
}


def available() -> bool:
    """Whether the `embedded` extra is installed."""
    return installed() is not None


@asynccontextmanager
async def embedded_postgres(data_dir: Path) -> AsyncIterator[str]:
    """
    The dsn of the private Postgres below `data_dir`, which answers when the context is entered, is started again if
    it dies, and is stopped when the context is left.

    Raises Permanent before anything was changed: `embedded_missing` (the extra is not installed), `embedded_in_use`
    (another service holds the folder), `embedded_unreachable` (the user that Postgres runs as can not enter it),
    `embedded_version` (data of another major version); `embedded_not_started` with what Postgres said.
    """
    server = _Server(data_dir)
    with server.locked():
        pid = await asyncio.to_thread(server.start)
        watch: asyncio.Task[None] | None = None
        try:
            await server.answer()
            _log.info(LogEvent.EMBEDDED_DATABASE_STARTED, pid=pid, folder=str(server.home), user=server.account.name)
            watch = asyncio.create_task(server.keep(pid))
            yield server.dsn
        finally:
            if watch is not None:
                watch.cancel()
                await asyncio.wait([watch])
            await asyncio.to_thread(server.stop)


class _Server:
    """One cluster. What blocks is called in a thread."""

    def __init__(self, data_dir: Path) -> None:
        self.system = data_dir.absolute() / "system"
        self.home = self.system / "postgres"
        self.data = self.home / "data"
        self.account: Account = account_for(self.data)
        self._programs = Programs(self.home, self.account)
        self._sockets = self._socket_folder()
        # A start under way in its thread outlives the cancelling of whoever awaits it: a stop waits for it.
        self._turn = threading.Lock()

    @property
    def dsn(self) -> str:
        """As asyncpg takes it."""
        return f"postgresql://{OWNER}@/{_DATABASE}?host={quote(str(self._sockets), safe='')}&port={_PORT}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The folders made, and held against another service; the kernel frees them when this process ends."""
        try:
            self._make_folders()
        except OSError as error:
            raise Permanent(
                "embedded_unreachable",
                f"{error.filename}: {error.strerror}",
                hint="name a ROWFERRY_DATA_DIR that belongs to the user of the service",
            ) from error
        with (self.home / "lock").open("a+") as handle:
            self._lock(handle)
            yield

    def start(self) -> int:
        """Its pid. Takes up one that a killed service left running."""
        with self._turn:
            return self._running() or self._start()

    def _start(self) -> int:
        self._end_orphans()
        self._programs.require(self.data)
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        log = self.home / "log" / "start.log"
        log.unlink(missing_ok=True)
        # On the command line and not in a file: a root service writes nothing into what another user owns.
        options = " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in self._settings().items())
        done = self._programs.run(
            "pg_ctl", "start", "-D", self.data, "-w", "-t", str(int(_START_SECONDS)), "-s", "-l", log, "-o", options
        )
        running = self._running()
        if done.returncode or running is None:
            raise Permanent(
                "embedded_not_started",
                f"the private Postgres in {self.home} did not start: {self._said(log) or done.stderr.strip()}",
                hint="mend what it says, or set ROWFERRY_DATABASE_URL to a Postgres of your own",
            )
        return running

    def stop(self) -> None:
        """Disconnects who is left; a server that does not end in time is ended without a checkpoint, and replays its
        log at the next start."""
        with self._turn:
            pid = self._running()
            if pid is not None:
                self._stop(pid)

    def _stop(self, pid: int) -> None:
        for mode in ("fast", "immediate"):
            done = self._programs.run(
                "pg_ctl", "stop", "-D", self.data, "-m", mode, "-w", "-t", str(_STOP_SECONDS), "-s"
            )
            if not done.returncode:
                break
        reap(pid)

    async def answer(self) -> None:
        """Wait until it takes connections, and make the database. Raises Permanent `embedded_not_started`."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                await self._ensure_database()
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                if time.monotonic() > deadline:
                    raise Permanent(
                        "embedded_not_started",
                        f"the private Postgres in {self.home} runs and does not answer: {error}",
                        hint=f"read {self.home / 'log'}; if it hangs, end its process and start again",
                    ) from error
                await asyncio.sleep(0.1)
            else:
                return

    async def keep(self, pid: int) -> None:
        """Start it again whenever it ends, until cancelled."""
        while True:
            await ended(pid)
            reap(pid)
            _log.error(LogEvent.EMBEDDED_DATABASE_LOST, pid=pid, folder=str(self.home))
            attempt = 0
            while True:
                try:
                    pid = await asyncio.to_thread(self.start)
                    break
                except Permanent as error:
                    _log.error(LogEvent.EMBEDDED_DATABASE_LOST, message=error.message, hint=error.hint)
                    await asyncio.sleep(_PAUSES[min(attempt, len(_PAUSES) - 1)])
                    attempt += 1
            _log.warning(LogEvent.EMBEDDED_DATABASE_STARTED, pid=pid, folder=str(self.home), user=self.account.name)

    def _make_folders(self) -> None:
        """`data`, `log` and `run` are Postgres's; what they lie in is ours, and Postgres only walks through."""
        for folder in (self.system, self.home):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.account.let_through(folder)
        self.account.require_way(self.system)
        for folder in (self.home / "log", self._sockets):
            self.account.make(folder)

    def _lock(self, handle: IO[str]) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            raise Permanent(
                "embedded_in_use",
                f"the private Postgres in {self.home} belongs to another running service (pid {holder})",
                hint="stop that one, give this one a ROWFERRY_DATA_DIR of its own, or use the same Postgres beside it:"
                f" ROWFERRY_DATABASE_URL={self.dsn}",
            ) from None
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()

    def _socket_folder(self) -> Path:
        usual = self.home / "run"
        if len(os.fsencode(usual / f".s.PGSQL.{_PORT}")) <= _LONGEST_SOCKET:
            return usual
        return self.account.runtime_folder(self.home)

    def _initialise(self) -> None:
        """Into a folder that takes the cluster's name when it is whole: a kill in between leaves nothing half made."""
        draft = self.home / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        self.account.make(draft)
        done = self._programs.run(
            "initdb", "-D", draft, "-U", OWNER, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-instructions"
        )
        if done.returncode:
            raise Permanent(
                "embedded_not_started",
                f"the private Postgres could not be made in {self.home}: {done.stderr.strip()}",
                hint="mend what it says, or set ROWFERRY_DATABASE_URL to a Postgres of your own",
            )
        draft.rename(self.data)

    def _settings(self) -> dict[str, str]:
        quoted = str(self._sockets).replace('"', '""')
        places = {"unix_socket_directories": f'"{quoted}"', "log_directory": str(self.home / "log")}
        return {**_SETTINGS, **places}

    def _running(self) -> int | None:
        """The pid of a postmaster of this very cluster. One that can not be looked at counts: better to fail to
        connect to it than to start a second one."""
        with suppress(OSError, ValueError, IndexError):
            pid = int((self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0])
            return pid if works_in(pid, self.data) is not False else None
        return None

    def _end_orphans(self) -> None:
        """Backends outlive a killed postmaster for a moment and hold its memory. Then remove what names a pid
        that the kernel gave to somebody else meanwhile (in a container: at every start) or keeps for a parent that
        never asks, or that is empty: Postgres would refuse to start over it."""
        deadline = time.monotonic() + _ORPHANS_SECONDS
        while orphans := processes_in(self.data):
            if time.monotonic() > deadline:
                for pid in orphans:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        for stale in (self.data / "postmaster.pid", *self._sockets.glob(".s.PGSQL.*")):
            stale.unlink(missing_ok=True)

    async def _ensure_database(self) -> None:
        connection = await asyncpg.connect(
            host=str(self._sockets), port=_PORT, user=OWNER, database="postgres", timeout=5.0
        )
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", _DATABASE):
                await connection.execute(f"CREATE DATABASE {_DATABASE}")
        finally:
            await connection.close()

    def _said(self, log: Path) -> str:
        """The last lines of what it logged before it gave up."""
        files = [log, *sorted((self.home / "log").glob("postgres-*.log"), key=lambda one: one.stat().st_mtime)[-1:]]
        lines = [line for one in files if one.exists() for line in one.read_text(errors="replace").splitlines()]
        telling = [line for line in lines if any(word in line for word in ("FATAL", "PANIC", "ERROR", "could not"))]
        return "; ".join((telling or lines)[-3:])
