"""The finish step of the S3 sink: every object is compared with its chunk record, then listed in a manifest object. And
the manifests of single days, for generations without an end."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from sinks import naming, s3_prefix
from sinks.file_path import joined
from sinks.manifest_text import PIECE_BYTES, ManifestText, differs, gone
from sinks.s3_parts import Cutter
from sinks.s3_upload import Abilities, Upload, drop
from sinks.s3_writer import TOKEN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import date

    from sinks.base import Owner, Prepared
    from sinks.s3_client import S3Client
    from sinks.specs import S3SinkSpec

AT_A_TIME: Final = 8
"""Objects that are looked at together: also the chunk records that are held."""
LEAVING: Final = 5.0


class Closing:
    """One finish step. Memory does not grow with the number of chunks, but for one count a folder.

    Raises PositionConflict naming the first object that is gone or differs, or telling that there are objects of this
    generation without a chunk.
    """

    def __init__(self, client: S3Client, spec: S3SinkSpec, abilities: Abilities, owner: Owner) -> None:
        self._client, self._spec, self._owner = client, spec, owner
        self._folder = s3_prefix.common_folder(spec.prefix, owner)
        self._text = ManifestText(owner, self._folder.removesuffix("/"))
        self._cutter = Cutter()
        self._waiting = bytearray()
        # The same finish step may be taken twice: its manifest replaces the one before.
        own = Abilities(conditional=False, checksums=abilities.checksums)
        key = self._folder + naming.manifest_name(owner.job_id, owner.generation)
        self._upload = Upload(client, spec, own, key)

    async def run(self, chunks: AsyncIterator[Prepared]) -> None:
        """Compare, and let the manifest be seen when everything is as recorded."""
        try:
            await self._upload.begin({"rowferry-job": self._owner.job_id})
            await self._write(self._text.head())
            await self._compare(chunks)
            await self._check_nothing_else()
            await self._write(self._text.tail(), at_once=True)
            await self._upload.send(await asyncio.to_thread(self._cutter.end))
            await self._upload.finished()
            await self._upload.complete()
        except BaseException:
            await drop(self._upload, LEAVING)
            raise

    async def _compare(self, chunks: AsyncIterator[Prepared]) -> None:
        window: deque[tuple[Prepared, asyncio.Task[Any]]] = deque()

        async def first_done() -> None:
            chunk, task = window[0]
            _compare(chunk, await task)
            window.popleft()
            await self._write(self._text.entry(chunk))

        try:
            async for chunk in chunks:
                window.append((chunk, asyncio.create_task(self._client.head(chunk.target))))
                if len(window) >= AT_A_TIME:
                    await first_done()
            while window:
                await first_done()
        finally:
            for _, task in window:
                task.cancel()

    async def _check_nothing_else(self) -> None:
        prefix = naming.generation_prefix(self._owner.job_id, self._owner.generation)
        for folder in self._text.folders:
            there = 0
            async for key in self._client.keys(joined(folder, prefix)):
                there += self._text.is_planned(key.removeprefix(joined(folder, "")))
            self._text.check_nothing_else(folder, there)

    async def _write(self, data: bytes, *, at_once: bool = False) -> None:
        """In pieces and in a thread: each part is hashed twice, and the event loop is everybody's."""
        self._waiting += data
        if at_once or len(self._waiting) >= PIECE_BYTES:
            piece = bytes(self._waiting)
            self._waiting.clear()
            for part in await asyncio.to_thread(self._cutter.put, piece):
                await self._upload.send(part)


async def list_day(
    client: S3Client, spec: S3SinkSpec, abilities: Abilities, owner: Owner, day: date, chunks: AsyncIterator[Prepared]
) -> None:
    """As `sinks.base.ListsDays`: into the folder that all objects of the generation share."""
    folder = s3_prefix.common_folder(spec.prefix, owner)
    own = Abilities(conditional=False, checksums=abilities.checksums)
    upload = Upload(client, spec, own, folder + naming.day_manifest_name(owner.job_id, owner.generation, day))
    cutter = Cutter()
    try:
        await upload.begin({"rowferry-job": owner.job_id})
        async for piece in ManifestText(owner, folder.removesuffix("/"), day).pieces(chunks):
            for part in await asyncio.to_thread(cutter.put, piece):
                await upload.send(part)
        await upload.send(await asyncio.to_thread(cutter.end))
        await upload.finished()
        if _is_there(await client.head(upload.key), cutter, upload):
            await drop(upload, LEAVING)
        else:
            await upload.complete()
    except BaseException:
        await drop(upload, LEAVING)
        raise


def _is_there(found: Any | None, cutter: Cutter, upload: Upload) -> bool:
    """Without checksums of the store, an object of ours with this name and size can be no other."""
    if found is None or found["ContentLength"] != cutter.size:
        return False
    if upload.digest is not None and isinstance(told := found.get("ChecksumSHA256"), str):
        return told == upload.digest
    return bool(found.get("Metadata", {}).get("rowferry-job"))


def _compare(chunk: Prepared, found: Any | None) -> None:
    if found is None:
        raise gone(chunk)
    if found["ContentLength"] != chunk.bytes:
        raise differs(chunk, f"has {found['ContentLength']} bytes, not {chunk.bytes}")
    if found.get("Metadata", {}).get(TOKEN) != chunk.details.get("token"):
        raise differs(chunk, "was written by somebody else, or by another try of its chunk")
    told, digest = found.get("ChecksumSHA256"), chunk.details.get("digest")
    # A store may keep a checksum of another make: only like is compared with like.
    if isinstance(told, str) and isinstance(digest, str) and "-" in told and told != digest:
        raise differs(chunk, "has another checksum")
