"""Blocking calls of one writer, in order, in a thread of its own.

Not an executor: the interpreter joins an executor's threads at exit, and a few calls that hang in a dead file system
would use up the shared one for everybody. A lane that hangs is left behind and harms only itself.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Lane:
    """Runs calls one after another in a daemon thread, which starts with the first call."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._ended: asyncio.Future[None] | None = None

    def submit(self, call: Callable[[], T]) -> asyncio.Future[T]:
        """Queue `call`; the future carries its result. Cancelling the future does not take the call back."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        # An outcome that nobody waits for any more (abort, time-out) is no event worth a warning.
        future.add_done_callback(_retrieved)
        if self._thread is None:
            self._ended = loop.create_future()
            self._thread = threading.Thread(target=self._run, args=(self._ended,), name=self._name, daemon=True)
            self._thread.start()
        self._calls.put((call, future))
        return future

    async def run(self, call: Callable[[], T], patience: float) -> T:
        """Queue `call` and wait for it. Raises what it raises, and TimeoutError after `patience` seconds; the call
        goes on in its thread, also after a cancellation."""
        return await answered(self.submit(call), patience)

    async def close(self, patience: float) -> bool:
        """Take no more calls; wait for those queued, at most `patience` seconds. True when the thread has ended."""
        self._calls.put(None)
        if self._ended is None:
            return True
        done, _ = await asyncio.wait({self._ended}, timeout=patience)
        return bool(done)

    def _run(self, ended: asyncio.Future[None]) -> None:
        while (item := self._calls.get()) is not None:
            call, future = item
            try:
                result, error = call(), None
            except BaseException as raised:  # noqa: BLE001 - it belongs to the waiting task, not to this thread
                result, error = None, raised
            _deliver(future, result, error)
            # Held until the next call otherwise: the last batch of every idle writer.
            del item, call, future, result, error
        _deliver(ended, None, None)


async def answered(future: asyncio.Future[T], patience: float) -> T:
    """The future's result. Raises TimeoutError after `patience` seconds and never cancels the future."""
    done, _ = await asyncio.wait({future}, timeout=patience)
    if not done:
        raise TimeoutError(f"no answer within {patience:.0f} s")
    return future.result()


def _deliver(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    def settle() -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    with suppress(RuntimeError):  # the loop is closed: nobody waits
        future.get_loop().call_soon_threadsafe(settle)


def _retrieved(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
