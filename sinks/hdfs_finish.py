"""The finish step of the HDFS sink: every file is compared with its chunk record, then listed in a manifest. And the
manifests of single days, for generations without an end."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from sinks import naming
from sinks.base import SinkError, SinkRefused, SinkUnavailable
from sinks.hdfs_errors import RemoteError, translated
from sinks.hdfs_upload import Upload
from sinks.hdfs_writer import hidden, leave_folder
from sinks.manifest_text import ManifestText, differs, gone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import date

    from sinks.base import Owner, Prepared
    from sinks.hdfs_client import WebHdfs

AT_ONCE: Final = 4
"""Files that are compared at the same time."""
AHEAD: Final = 16
"""Chunk records that are held while their files are compared."""
_WHAT: Final = "finishing"
_LISTING: Final = "listing a day"
_CLEANING: Final = "cleaning up"


async def close_generation(
    client: WebHdfs, path: str, owner: Owner, chunks: AsyncIterator[Prepared], replication: int | None
) -> None:
    """Compare, write the manifest, remove temporary files. Memory does not grow with the number of chunks.

    Raises PositionConflict naming the first file that is gone or differs, or telling that there are files of this
    generation without a chunk; Fenced when a newer owner of the finish step has taken over.
    """
    folder = f"{hidden(path)}/{naming.finish_folder(owner.job_id, owner.generation)}"
    await client.make_folder(folder, _WHAT)
    async for left in client.listed(folder, _WHAT):
        await client.remove(f"{folder}/{left.name}", _WHAT)
    text = ManifestText(owner, path)
    temporary = f"{folder}/manifest-{secrets.token_hex(4)}.part"
    upload = Upload(client, temporary, replication)
    try:
        await upload.send(text.head())
        async for chunk in _compared(client, chunks):
            await upload.send(text.entry(chunk))
        text.check_nothing_else(path, await _planned(client, path, text))
        await upload.send(text.tail())
        await upload.finish()
    finally:
        upload.abandon()
    await _publish(client, path, owner, temporary)


async def _compared(client: WebHdfs, chunks: AsyncIterator[Prepared]) -> AsyncIterator[Prepared]:
    """The chunks in their order, each once its file is what it should be."""
    window: deque[tuple[Prepared, asyncio.Task[None]]] = deque()
    places = asyncio.Semaphore(AT_ONCE)

    async def compare(chunk: Prepared) -> None:
        async with places:
            await _compare(client, chunk)

    try:
        async for chunk in chunks:
            window.append((chunk, asyncio.create_task(compare(chunk))))
            if len(window) >= AHEAD:
                await window[0][1]
                yield window.popleft()[0]
        while window:
            await window[0][1]
            yield window.popleft()[0]
    finally:
        for _, task in window:
            task.cancel()
        await asyncio.gather(*(task for _, task in window), return_exceptions=True)


async def _compare(client: WebHdfs, chunk: Prepared) -> None:
    found = await client.status(chunk.target, _WHAT)
    if found is None:
        raise gone(chunk)
    if found.folder:
        raise differs(chunk, "is a folder")
    if found.length != chunk.bytes:
        raise differs(chunk, f"has {found.length} bytes, not {chunk.bytes}")
    stored = chunk.details.get("stored")
    if isinstance(stored, str) and await client.checksum(chunk.target, _WHAT) == stored:
        return
    # A copy that was brought back may lie in blocks of another size, which has another one: the bytes decide.
    _, checksum = await client.sha256(chunk.target, _WHAT)
    if checksum != chunk.checksum:
        raise differs(chunk, "has another checksum")


async def _planned(client: WebHdfs, path: str, text: ManifestText) -> int:
    """How many files of the generation's planned splits lie in the folder."""
    there = 0
    async for one in client.listed(path, _WHAT):
        there += text.is_planned(one.name)
    return there


async def _publish(client: WebHdfs, path: str, owner: Owner, temporary: str) -> None:
    await _rename(client, temporary, f"{path}/{naming.manifest_name(owner.job_id, owner.generation)}")
    # The generation is closed: nothing of its planned splits can become visible any more.
    mine = naming.planned_folders(owner.job_id, owner.generation)
    with suppress(SinkRefused):  # an answer that is lost brings the whole step again, which finds the manifest
        await remove_temporaries(client, path, mine.fullmatch)


async def _rename(client: WebHdfs, temporary: str, name: str) -> None:
    try:
        renamed = await client.rename(temporary, name, _WHAT, overwrite=True)
    except RemoteError as error:
        raise translated(client.place, _WHAT, error) from error
    if not renamed:
        raise SinkUnavailable("sink_unavailable", f"{client.place.doing(_WHAT)}: the manifest was not renamed")


async def list_day(
    client: WebHdfs, path: str, owner: Owner, day: date, chunks: AsyncIterator[Prepared], replication: int | None
) -> None:
    """As `sinks.base.ListsDays`."""
    folder = f"{hidden(path)}/{naming.days_folder(owner.job_id, owner.generation)}"
    await client.make_folder(folder, _LISTING)
    async for left in client.listed(folder, _LISTING):
        if left.name.startswith(naming.day_temporaries(owner.split)):
            await client.remove(f"{folder}/{left.name}", _LISTING)
    upload = Upload(client, f"{folder}/{naming.day_temporary(owner.split, secrets.token_hex(4))}", replication)
    try:
        async for piece in ManifestText(owner, path, day).pieces(chunks):
            await upload.send(piece)
        await upload.finish()
    finally:
        upload.abandon()
    name = f"{path}/{naming.day_manifest_name(owner.job_id, owner.generation, day)}"
    there = await client.status(name, _LISTING)
    same = there is not None and not there.folder and there.length == upload.size
    if same and (await client.sha256(name, _LISTING))[1] == upload.checksum:
        await client.remove(upload.path, _LISTING)
    else:
        await _rename(client, upload.path, name)
    with suppress(SinkError):
        await leave_folder(client, path, folder, _LISTING)


async def remove_temporaries(client: WebHdfs, path: str, mine: Callable[[str], object]) -> None:
    """Remove the folders below the hidden one that are `mine`, with all that is in them, and the hidden one itself
    where nothing is left in it. Probes are removed too: one that is found was left by a process that died."""
    names = [one.name async for one in client.listed(hidden(path), _CLEANING)]
    for name in names:
        if mine(name) or name.startswith(naming.PROBE):
            await client.remove(f"{hidden(path)}/{name}", _CLEANING, recursive=True)
    await client.remove(hidden(path), _CLEANING)
