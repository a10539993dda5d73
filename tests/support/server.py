"""What all servers of the tests have in common: processes that are started, broken and started again."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from tests.support.memory import VARIABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.processes import ChildProcess


class Server(ABC):
    """
    A program with a folder of its own: the one given, or a fresh one, which is removed at `close`.

    What starts it blocks and must run in the main thread; `start_async` leaves the event loop free while it comes up,
    which a proxy in the same loop needs. `async with` starts and closes it.
    """

    stop_seconds: ClassVar[float] = 30.0
    """How long an orderly end may take."""

    def __init__(self, name: str, folder: Path | None) -> None:
        """A fresh folder is made where `fresh_folder` says."""
        self.name = name
        self.folder = folder or fresh_folder(name.lower())
        self.folder.mkdir(parents=True, exist_ok=True)
        self._made_folder = folder is None
        self._process: ChildProcess | None = None

    @abstractmethod
    def launch(self) -> None:
        """Start the program and return before it is ready."""

    @abstractmethod
    def wait_ready_blocking(self) -> None:
        """What `start` waits for, after a `launch`; StartError with the log's tail when it does not come."""

    @property
    def process(self) -> ChildProcess:
        """The program; RuntimeError before the first start."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._process

    @property
    def processes(self) -> Sequence[ChildProcess]:
        """What has been started of it, in the order in which it is started."""
        return () if self._process is None else (self._process,)

    @property
    def running(self) -> bool:
        """Whether all of it runs."""
        return bool(self.processes) and all(process.running for process in self.processes)

    def start(self) -> Self:
        """Start and wait until it is ready; StartError with the log's tail otherwise."""
        self.launch()
        self.wait_ready_blocking()
        return self

    async def start_async(self) -> Self:
        """As `start`, the event loop stays free while it comes up."""
        self.launch()
        await self.wait_ready()
        return self

    async def wait_ready(self) -> None:
        """As `wait_ready_blocking`, the event loop stays free."""
        await asyncio.to_thread(self.wait_ready_blocking)

    def stop(self) -> None:
        """An orderly shutdown."""
        for process in reversed(self.processes):
            process.stop(self.stop_seconds)

    def restart(self) -> None:
        """Stop and start on the same ports and data."""
        self.stop()
        self.start()

    async def restart_async(self) -> None:
        """As `restart`, the event loop stays free."""
        await asyncio.to_thread(self.stop)
        await self.start_async()

    def kill(self) -> None:
        """A crash: SIGKILL, with all children."""
        for process in self.processes:
            process.kill()

    def freeze(self) -> None:
        """SIGSTOP: connections stay, nothing answers."""
        for process in self.processes:
            process.freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        for process in self.processes:
            process.thaw()

    def close(self) -> None:
        """Stop at once and remove the data."""
        self.kill()
        if self._made_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    async def __aenter__(self) -> Self:
        """Start as `start_async`, and close when that fails."""
        try:
            return await self.start_async()
        except BaseException:
            self.close()
            raise

    async def __aexit__(self, *_: object) -> None:
        """Close, as `close`."""
        self.close()


def fresh_folder(name: str) -> Path:
    """A folder for the data of a server: in memory where the tests have a folder there, else in the temporary one."""
    return Path(tempfile.mkdtemp(prefix=f"rowferry-{name}-", dir=os.environ.get(VARIABLE) or None))
