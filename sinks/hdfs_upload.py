"""A file on its way into HDFS under its temporary name: one CREATE, in bounded memory, hashed while it is sent."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from sinks.base import SinkError, SinkUnavailable
from sinks.hdfs_quota import refuse_full

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sinks.formats import Format
    from sinks.hdfs_client import WebHdfs

LONGEST_QUEUE: Final = 8 << 20
"""Bytes that may wait for the network before `write` waits itself."""
BEGIN_BYTES: Final = 1 << 20
"""Bytes that are kept back before the request is sent: a small chunk that fills slowly holds no connection open."""
SLOWEST: Final = 2 << 20
"""Bytes a second that a cluster in working order takes; a call may last that much longer for its bytes."""
_PIECE: Final = 256 << 10
_ASKING: Final = 2.0
"""Seconds to ask why a connection ended."""


class Upload:
    """A temporary file, being written. Not safe for concurrent calls, except `abandon`."""

    def __init__(self, client: WebHdfs, path: str, replication: int | None) -> None:
        self.path = path
        self.size = 0
        """Bytes of the file so far, sent or not."""
        self.begun = False
        """Whether the temporary file may be there."""
        self._client = client
        self._replication = replication
        self._digest = hashlib.sha256()
        self._blocks: deque[bytes] = deque()
        self._waiting = 0
        self._ended = False
        self._more = asyncio.Event()
        self._less = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def checksum(self) -> str:
        """`sha256:<hex>` of the bytes so far."""
        return f"sha256:{self._digest.hexdigest()}"

    async def send(self, data: bytes) -> None:
        """Hand over bytes; returns when memory for the next ones is free. Raises what became of the request."""
        if data:
            await asyncio.to_thread(self._digest.update, data)
            self.size += len(data)
            self._waiting += len(data)
            self._blocks.append(data)
            self._more.set()
        self._check_alive()
        if self._waiting >= BEGIN_BYTES:
            self._begin()
        while self._waiting > LONGEST_QUEUE:
            await self._progress()

    async def finish(self) -> None:
        """End the file, also an empty one; returns when it is complete and durable."""
        self._ended = True
        self._more.set()
        self._begin()
        assert self._task is not None
        while self._waiting:
            await self._progress()
        # The last answer: when every DataNode of the pipeline has it on disk.
        patience = self._client.patience + self.size / SLOWEST
        done, _ = await asyncio.wait({self._task}, timeout=patience)
        if not done:
            raise self._slow(patience)
        self._task.result()

    def abandon(self) -> None:
        """Send no more; the connection is cut, which leaves a partial file to remove."""
        self._ended = True
        self._blocks.clear()
        self._waiting = 0
        if self._task is not None:
            self._task.cancel()

    def _begin(self) -> None:
        if self._task is None:
            self.begun = True
            self._task = asyncio.create_task(self._send())
            # An outcome that nobody waits for any more (abort, time-out) is no event worth a warning.
            self._task.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _send(self) -> None:
        try:
            await self._client.create(self.path, self._body, "writing", replication=self._replication)
        except SinkUnavailable as error:
            if error.code == "sink_unreachable":
                await self._refuse_full()
            raise
        if self._blocks or not self._ended:
            raise SinkUnavailable("sink_unavailable", f"HDFS answered before {self.path!r} was written to its end")

    async def _refuse_full(self) -> None:
        """Raises `no_space` where a quota is full: a server that refuses in the midst of the bytes ends the connection,
        and its word is lost where the end arrives first."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_ASKING):
                try:
                    await refuse_full(self._client, self.path.rpartition("/")[0])
                except SinkUnavailable as found:
                    if found.code == "no_space":
                        raise

    async def _body(self) -> AsyncIterator[bytes]:
        while True:
            while self._blocks:
                block = self._blocks[0]
                for start in range(0, len(block), _PIECE):
                    piece = block[start : start + _PIECE]
                    yield piece
                    self._waiting -= len(piece)
                    self._less.set()
                if self._blocks:
                    self._blocks.popleft()
            if self._ended:
                return
            self._more.clear()
            await self._more.wait()

    async def _progress(self) -> None:
        """Wait until some bytes are gone, or raise what became of the request."""
        assert self._task is not None
        self._check_alive()
        self._less.clear()
        waiter = asyncio.create_task(self._less.wait())
        try:
            done, _ = await asyncio.wait(
                {self._task, waiter}, timeout=self._client.patience, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            waiter.cancel()
        if not done:
            raise self._slow(self._client.patience)

    def _check_alive(self) -> None:
        """Raise what became of a request that has ended although there is more to send."""
        if self._task is not None and self._task.done():
            self._task.result()
            raise SinkUnavailable("sink_unavailable", f"HDFS answered before {self.path!r} was written to its end")

    def _slow(self, patience: float) -> SinkError:
        said = self._client.place.doing("writing")
        return SinkUnavailable(
            "sink_timeout", f"{said}: no byte was taken for {patience:.0f} s; look at the DataNodes and the network"
        )


class ChunkUpload(Upload):
    """The file of one chunk: rows in a format."""

    def __init__(self, client: WebHdfs, path: str, form: Format, replication: int | None) -> None:
        super().__init__(client, path, replication)
        self.form = form
        self.rows = 0
        """Rows handed over."""
        self._stream = form.stream()

    async def write(self, values: Sequence[bytes]) -> None:
        """Encode rows and hand them over, as `send`. Raises as `formats.Stream.encode`."""
        data = await asyncio.to_thread(self._stream.encode, values)
        self.rows += len(values)
        await self.send(data)

    async def finish(self) -> None:
        """With the format's own end."""
        await self.send(await asyncio.to_thread(self._stream.end))
        await super().finish()
