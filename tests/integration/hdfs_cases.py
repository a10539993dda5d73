"""What the tests of the HDFS sink share: a job's folder on the session's cluster, and short ways to write chunks."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sinks.base import Batch, Cut, Owner
from sinks.formats import Format
from sinks.hdfs import HdfsSink
from sinks.specs import HdfsSinkSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from sinks.base import Prepared
    from sinks.guarded import Guard
    from sinks.hdfs_writer import HdfsWriter
    from tests.support.hdfs import HdfsServer

JOB = "0199a1b2-0000-7000-8000-000000000001"
OWNER = Owner(account="default", job_id=JOB, job_name="orders", run_id="r", generation=2, split="0", epoch=5)
FINISHER = replace(OWNER, split="finish", epoch=1)
USER = "ann"
HIDDEN = ".rowferry"


class Folder:
    """One job's folder on a real cluster, read with the standard library's HTTP client."""

    def __init__(self, server: HdfsServer, path: str) -> None:
        self.server = server
        self.path = path

    def sink(
        self,
        compression: str = "none",
        *,
        url: str | None = None,
        patience: float = 20.0,
        guard: Guard | None = None,
        **fields: Any,
    ) -> HdfsSink:
        """A sink on the folder; `fields` are fields of its definition."""
        spec = {"kind": "hdfs", "url": url or self.server.url, "path": self.path, "user": USER, **fields}
        return HdfsSink(HdfsSinkSpec.model_validate(spec), Format("json", compression), guard=guard, patience=patience)

    async def outputs(self) -> list[str]:
        """The names that a reader of the folder sees."""
        names = await asyncio.to_thread(self.server.names, self.path)
        return [name for name in names if not name.startswith((".", "_"))]

    async def temporaries(self) -> list[str]:
        """Every file below the hidden folder."""
        return await asyncio.to_thread(self.server.files_below, f"{self.path}/{HIDDEN}")

    async def read(self, name: str) -> bytes:
        """A file of the folder, or by its whole path."""
        return await asyncio.to_thread(self.server.read, name if name.startswith("/") else f"{self.path}/{name}")

    async def call(self, method: str, op: str, path: str, **parameters: str) -> dict[str, Any]:
        """A call of the superuser, by another client."""
        answer = await asyncio.to_thread(lambda: self.server.call(method, op, path, **parameters))
        return json.loads(answer) if answer else {}

    async def write(self, path: str, body: bytes, **parameters: str) -> None:
        """A file of somebody else's."""
        await asyncio.to_thread(
            lambda: self.server.call("PUT", "CREATE", path, body=body, overwrite="true", **parameters)
        )


def rows(first: int, last: int) -> list[bytes]:
    """Small rows."""
    return [b'{"id":%d}' % number for number in range(first, last + 1)]


def large_rows(megabytes: int) -> list[bytes]:
    """Rows of 64 KiB."""
    return [b'{"id":%d,"filler":"%s"}' % (number, b"x" * 65_500) for number in range(megabytes * 16)]


def cut(sequence: int, first: int, last: int, *, attempt: int = 1, repeat_of: Prepared | None = None) -> Cut:
    """The cut of `rows(first, last)`."""
    lower = (str(first - 1),) if first > 1 else None
    return Cut(sequence, attempt, last - first + 1, (str(first),), (str(last),), lower, repeat_of)


async def opened(sink: HdfsSink, epoch: int = 5, **changes: Any) -> HdfsWriter:
    """An open writer; closed when it can not be opened."""
    writer = sink.writer(replace(OWNER, epoch=epoch, **changes))
    try:
        await writer.open()
    except BaseException:
        await writer.close()
        raise
    return writer


async def prepare(writer: HdfsWriter, sequence: int, first: int, last: int, **more: Any) -> Prepared:
    """A prepared chunk of `rows(first, last)`."""
    await writer.stage(Batch(rows(first, last)))
    return await writer.prepare(cut(sequence, first, last, **more))


async def write(sink: HdfsSink, count: int, *, split: str = "0") -> list[Prepared]:
    """`count` visible chunks of ten rows."""
    writer = await opened(sink, split=split)
    chunks = []
    for number in range(1, count + 1):
        chunks.append(await prepare(writer, number, number * 10 - 9, number * 10))
        await writer.make_visible(chunks[-1])
    await writer.close()
    return chunks


async def stream(chunks: Iterable[Prepared]) -> AsyncIterator[Prepared]:
    """The chunks as the finish step gets them."""
    for chunk in chunks:
        yield chunk
