"""What all servers of the tests have in common: one process that is started, broken and started again."""

from __future__ import annotations

import asyncio
import shutil
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.processes import ChildProcess


class Server(ABC):
    """
    A program with a folder of its own, which is removed at `close` where it was made here.

    What starts it blocks and must run in the main thread; `start_async` leaves the event loop free while it comes up,
    which a proxy in the same loop needs. `async with` starts and closes it.
    """

    stop_seconds: ClassVar[float] = 30.0
    """How long an orderly end may take."""

    def __init__(self, name: str, folder: Path, *, made: bool) -> None:
        """`made`: the folder is ours to remove."""
        self.name = name
        self.folder = folder
        self._made_folder = made
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
        if self._process is not None:
            self._process.stop(self.stop_seconds)

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
        self.process.kill()

    def freeze(self) -> None:
        """SIGSTOP: connections stay, nothing answers."""
        self.process.freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        self.process.thaw()

    def close(self) -> None:
        """Stop at once and remove the data."""
        if self._process is not None:
            self._process.kill()
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
