"""The service as a subprocess: `python -m service serve`, known by HTTP, signals and its log alone."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cryptography.fernet import Fernet

from tests.support.client import Client
from tests.support.loaded import LoadedProcess
from tests.support.ports import LOOPBACK, free_port
from tests.support.processes import ChildProcess
from tests.support.secrecy import assert_silent, secret

if TYPE_CHECKING:
    from collections.abc import Mapping

_ROOT = Path(__file__).resolve().parents[2]


class ServiceProcess:
    """
    One `rowferry serve` on a free port, its data below `folder` (a temporary one is removed at `close`).

    `settings` are further ROWFERRY_* variables, for instance {"ROWFERRY_MAX_SPLITS": "4"}; variables of that
    kind in our own environment are not passed on. `module` is run instead of `service`:
    `tests.support.signalled` asks at the socket `signals` before it passes a worker's point. `loaded`: forked from a
    process that has loaded everything, where a start is not what is tested. Start it from the main
    thread. A restart keeps port, data folder, token and secret key; `twin()` is a second service beside it
    on the same database and data.
    """

    def __init__(
        self,
        database_url: str,
        *,
        folder: Path | None = None,
        settings: Mapping[str, str] | None = None,
        signals: Path | None = None,
        module: str = "service",
        loaded: bool = False,
        name: str = "service",
    ) -> None:
        self._made_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="rowferry-service-"))
        self.data_dir = self.folder / "data"
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.database_url = database_url
        self.admin_token = secret(f"test-admin-{secrets.token_urlsafe(18)}")
        self.secret_key = secret(Fernet.generate_key().decode())
        self.settings = dict(settings or {})
        if signals is not None:
            self.settings["ROWFERRY_TEST_SIGNALS"] = str(signals)
        self.name = name
        self.module, self.loaded = module, loaded
        self._child: ChildProcess | None = None

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def log(self) -> Path:
        """Everything it logged and printed, over all its starts."""
        return self.folder / f"{self.name}-{self.port}.log"

    @property
    def process(self) -> ChildProcess:
        """The running program: kill, freeze, rss_bytes, cpu_seconds; RuntimeError before the first start."""
        if self._child is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._child

    @property
    def running(self) -> bool:
        """Whether the program runs."""
        return self._child is not None and self._child.running

    def twin(self, *, settings: Mapping[str, str] | None = None) -> ServiceProcess:
        """A second service on the same database, data folder and keys, on a port of its own; not started."""
        other = ServiceProcess(
            self.database_url,
            folder=self.folder,
            settings={**self.settings, **(settings or {})},
            module=self.module,
            loaded=self.loaded,
            name=f"{self.name}-twin",
        )
        other.admin_token, other.secret_key = self.admin_token, self.secret_key
        return other

    def files(self, path: str = "", account: str = "default") -> Path:
        """The folder that the file sink's `path` means."""
        return self.data_dir / "files" / account / path

    def environment(self) -> dict[str, str]:
        """What it is started with."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ROWFERRY_")}
        return {
            **inherited,
            "ROWFERRY_DATABASE_URL": self.database_url,
            "ROWFERRY_LISTEN": f"{LOOPBACK}:{self.port}",
            "ROWFERRY_ADMIN_TOKEN": self.admin_token,
            "ROWFERRY_SECRET_KEY": self.secret_key,
            "ROWFERRY_DATA_DIR": str(self.data_dir),
            "ROWFERRY_LOG_FORMAT": "json",
            **self.settings,
        }

    def launch(self) -> Self:
        """Start the program and return at once."""
        given: dict[str, Any] = {"log": self.log, "env": self.environment(), "cwd": _ROOT}
        name = f"{self.name}:{self.port}"
        if self.loaded:
            self._child = LoadedProcess(
                name, ["service.cli" if self.module == "service" else self.module, "serve"], **given
            )
        else:
            self._child = ChildProcess(name, [sys.executable, "-m", self.module, "serve"], **given)
        self._child.launch()
        return self

    def wait_ready_blocking(self, timeout: float = 30.0) -> None:
        """Wait until /readyz says ready; StartError with the log's tail when it ends or time is up."""
        self.process.wait_ready(self._ready, timeout)

    async def wait_ready(self, timeout: float = 30.0) -> None:  # noqa: ASYNC109
        """As `wait_ready_blocking`, the event loop stays free."""
        await asyncio.to_thread(self.wait_ready_blocking, timeout)

    async def start(self) -> Self:
        """Start and wait until ready."""
        self.launch()
        await self.wait_ready()
        return self

    async def terminate(self, timeout: float = 40.0) -> int:  # noqa: ASYNC109
        """SIGTERM; returns the exit code, TimeoutError with the log's tail if it stays."""
        self.process.send(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait_exit, timeout)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()

    def freeze(self) -> None:
        """SIGSTOP."""
        self.process.freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        self.process.thaw()

    async def restart(self) -> None:
        """Orderly end (SIGTERM) if it runs, then start on the same port and data."""
        if self.running:
            await self.terminate()
        await self.start()

    def close(self) -> None:
        """Kill it if it still runs, and remove a folder that was made here. AssertionError when its log told a
        secret."""
        if self._child is not None:
            self._child.kill()
        said = self.log_text()
        if self._made_folder:
            shutil.rmtree(self.folder, ignore_errors=True)
        assert_silent(said, f"the log of {self.name}")

    async def __aenter__(self) -> Self:
        """Start, and close when that fails."""
        try:
            return await self.start()
        except BaseException:
            self.close()
            raise

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def client(self, *, account: str | None = None, token: str | None = None) -> Client:
        """A client with the admin token, or another one; an async context manager."""
        return Client(self.url, token or self.admin_token, account=account)

    def log_text(self) -> str:
        """Everything logged so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def log_events(self, event: str | None = None) -> list[dict[str, Any]]:
        """The JSON lines of the log, all or those of one `event`; other lines are left out."""
        found = []
        for line in self.log_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict) and event in {None, entry.get("event")}:
                found.append(entry)
        return found

    def rss_bytes(self) -> int:
        """Resident memory now."""
        return self.process.rss_bytes()

    def peak_rss_bytes(self) -> int:
        """Largest resident memory since its last start."""
        return self.process.peak_rss_bytes()

    def open_files(self) -> int:
        """How many file descriptors it has open now."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def cpu_seconds(self) -> float:
        """User and system time since its last start."""
        return self.process.cpu_seconds()

    def _ready(self) -> bool:
        if not self.process.listens_on(self.port):
            return False
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=3) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            error.close()
            return False
        except OSError:
            return False
