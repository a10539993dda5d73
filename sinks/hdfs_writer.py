"""The HDFS sink's writer: the contract of `sinks.base.Writer` over WebHDFS.

A chunk is written under a temporary name in the split's own hidden folder, then gets its final name by RENAME with
`renameoptions=NONE`, which can not overwrite. Fencing is the removal of the older owners' temporary files, also of
those that are still written to: a chunk was complete under its temporary name before it was prepared, and the store
takes no prepare of an owner that has lost its lease. So when a new owner has emptied the folder, the RENAME of every
older one fails for want of its source, however late it comes.

Who leaves takes the empty folder along. Between a successor's opening and its first file that is the successor's
folder too, so a folder that is not there is Fenced and no more: the runner asks the store, and opens again, which makes
it. (The writer makes none by itself: a late owner would bring back what the job's clean-up has removed.)
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from sinks import naming, tries
from sinks.base import Fenced, Prepared, Receipt, SinkRefused, SinkUnavailable
from sinks.hdfs_errors import EXISTS, NOT_FOUND, RemoteError, folder_missing, name_taken, temporary_gone, translated
from sinks.hdfs_upload import ChunkUpload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sinks.base import Batch, Cut, Mark, Owner
    from sinks.formats import Format
    from sinks.hdfs_client import WebHdfs

LEAVING: Final = 0.9
"""Seconds that `discard` and `close` wait for a cluster that may hang."""


def hidden(path: str) -> str:
    """The folder of everything temporary."""
    return f"{path}/{naming.HIDDEN}"


async def leave_folder(client: WebHdfs, path: str, folder: str, what: str) -> None:
    """Remove a folder below the hidden one, and the hidden one, as far as nothing is in them."""
    if await client.remove(folder, what):
        await client.remove(hidden(path), what)


class HdfsWriter:
    """Writes the chunks of one split as files in HDFS."""

    def __init__(
        self,
        client: WebHdfs,
        path: str,
        form: Format,
        owner: Owner,
        token: str,
        replication: int | None,
        name: str | None = None,
    ) -> None:
        """`name`: how files are called, where they are not called as always."""
        self._client = client
        self._path = path
        self._form = form
        self._owner = owner
        self._token = token
        self._replication = replication
        self._name = name
        self._numbers = tries.Numbers()
        self._folder = f"{hidden(path)}/{naming.split_folder(owner.job_id, owner.generation, owner.split)}"
        self._begun = 0
        self._staged: ChunkUpload | None = None
        self._ready: ChunkUpload | None = None
        self._repeat: Prepared | None = None
        self._opened = self._closed = False
        self._superseded = False
        """What was complete is gone: a newer owner has opened the split, and its folder is not ours to take away."""

    def number_by(self, draw: Callable[[int], Awaitable[int]]) -> None:
        """See `sinks.base.CountsOverJob`."""
        self._numbers.by(draw)

    async def open(self) -> None:
        """Remove every older owner's temporary files; without them nothing of theirs can become visible any more.
        Raises Fenced when a newer owner has left some, TargetGone when the job's folder is gone."""
        self._check_open()
        what = "opening the split"
        found = await self._client.status(self._path, what)
        if found is None:
            raise folder_missing(self._client.place, what)
        self._opened = True
        await self._client.make_folder(self._folder, what)
        names = [one.name async for one in self._client.listed(self._folder, what)]
        newest = max((naming.epoch_of(name) or 0 for name in names), default=0)
        if newest > self._owner.epoch:
            raise Fenced(
                "newer_owner",
                f"split {self._owner.split} of sink.path {self._path!r} holds a temporary file of epoch {newest}, "
                f"above our {self._owner.epoch}; when the lease is still ours, remove that file",
            )
        for name in names:
            await self._client.remove(f"{self._folder}/{name}", what, recursive=True)

    async def visible(self, prepared: Sequence[Prepared]) -> Mark | None:
        """Look for the name of the unsettled chunk, and read the file where its size is that of a try."""
        self._check_open()
        for target in dict.fromkeys(one.target for one in prepared):
            same = [one for one in prepared if one.target == target]
            what = f"looking for {target!r}"
            found = await self._client.status(target, what)
            if found is None:
                continue
            size, checksum = found.length, None
            if not found.folder and size in {one.bytes for one in same}:
                size, checksum = await self._client.sha256(target, what)
            mark = tries.adopted(self._owner, target, size, checksum, same)
            # The NameNode's log is one sequence: an entry that is acknowledged makes durable the rename before it,
            # which another's call saw and its own may not have survived.
            await self._client.done(
                "PUT", "SETTIMES", self._folder, what, modificationtime=str(time.time_ns() // 10**6)
            )
            return mark
        self._repeat = tries.newest(prepared)
        return None

    async def anchor(self, sequence: int) -> None:
        """Nothing: names need no anchor."""

    async def stage(self, batch: Batch) -> None:
        """Encode and send rows; waits while more than `hdfs_upload.LONGEST_QUEUE` bytes are on their way."""
        self._check_open()
        if not batch.values:
            return
        upload = self._upload()
        try:
            await upload.write(batch.values)
        except ValueError as error:
            raise SinkRefused(
                "record_not_writable", f"{self._client.place.doing('writing')} failed: {error}"
            ) from error

    async def prepare(self, cut: Cut) -> Prepared:
        """Complete the temporary file; fix the final name. A repeat takes name and format from the chunk it repeats,
        and is an empty file where no row is left."""
        self._check_open()
        repeat = cut.repeat_of
        tries.check_repeated(self._repeat, cut)
        upload = self._upload()
        tries.check_staged(cut, upload.form, upload.rows)
        await upload.finish()
        stored = await self._stored(upload)
        target = repeat.target if repeat is not None else await self._target(cut, upload.form)
        self._staged, self._ready, self._repeat = None, upload, None
        return Prepared(
            sequence=cut.sequence,
            epoch=self._owner.epoch,
            attempt=cut.attempt,
            rows=cut.rows,
            bytes=upload.size,
            first_key=cut.first_key,
            last_key=cut.last_key,
            lower=cut.lower,
            target=target,
            checksum=upload.checksum,
            details={
                **upload.form.details(),
                "temporary": upload.path.rpartition("/")[2],
                "stored": stored,
            },
        )

    async def make_visible(self, prepared: Prepared) -> Receipt:
        """Rename. A name that is taken, or a temporary file that is gone, is an unknown outcome: reopen, and `visible`
        tells what is there."""
        self._check_open()
        upload = self._ready
        if upload is None or upload.path.rpartition("/")[2] != prepared.details.get("temporary"):
            raise SinkRefused("not_prepared", f"{prepared.target!r} was not prepared by this writer; reopen and repeat")
        # From here on nothing is sent against it: a discard leaves the file, whoever opens next removes it.
        self._ready = None
        what = f"naming {prepared.target!r}"
        try:
            renamed = await self._client.rename(upload.path, prepared.target, what)
        except RemoteError as error:
            if error.exception == EXISTS:
                raise name_taken(self._client.place, what) from error
            self._superseded = error.exception == NOT_FOUND
            if error.exception == NOT_FOUND and "destination" in error.message:
                raise folder_missing(self._client.place, what) from error
            raise translated(self._client.place, what, error) from error
        if not renamed:
            # A server that knows no options says `false` and not why.
            if await self._client.status(upload.path, what) is None:
                raise temporary_gone(self._client.place, what)
            raise name_taken(self._client.place, what)
        return Receipt(target=prepared.target)

    async def discard(self) -> None:
        """Remove the temporary files. A chunk whose rename was sent stays."""
        staged, ready = self._staged, self._ready
        self._staged = self._ready = None
        drop = [one for one in (ready, staged) if one is not None]
        for upload in drop:
            upload.abandon()
        with suppress(Exception):
            async with asyncio.timeout(LEAVING):
                removed = await asyncio.gather(
                    *(self._client.remove(one.path, "discarding") for one in drop if one.begun), return_exceptions=True
                )
                if ready is not None and ready.begun and removed[0] is False:
                    self._superseded = True

    async def close(self) -> None:
        """As `discard`, then remove the split's folder when nothing is in it, and give back the connections."""
        if self._closed:
            return
        self._closed = True
        with suppress(Exception):
            async with asyncio.timeout(LEAVING):
                await self.discard()
                if self._opened and not self._superseded:
                    await leave_folder(self._client, self._path, self._folder, "leaving")
        await self._client.close()

    async def _stored(self, upload: ChunkUpload) -> str:
        """HDFS's own checksum of the file, once its length is what was sent."""
        what = "writing"
        found, stored = await asyncio.gather(
            self._client.status(upload.path, what), self._client.checksum(upload.path, what)
        )
        if found is None:
            raise temporary_gone(self._client.place, what)
        if found.length != upload.size:
            raise SinkUnavailable(
                "length_differs",
                f"{self._client.place.doing(what)}: the temporary file has {found.length} bytes of {upload.size}; it "
                "is written again",
            )
        return stored

    async def _target(self, cut: Cut, form: Format) -> str:
        if self._name is None:
            return tries.default_target(self._path, self._owner, cut, form)
        return f"{self._path}/{await self._numbers.name(self._name, self._owner, cut.sequence, form)}"

    def _upload(self) -> ChunkUpload:
        if self._staged is None:
            repeat = self._repeat
            form = self._form if repeat is None else tries.format_of(repeat, self._form)
            self._begun += 1
            name = naming.temporary_name(self._owner.epoch, self._begun, self._token)
            self._staged = ChunkUpload(self._client, f"{self._folder}/{name}", form, self._replication)
        return self._staged

    def _check_open(self) -> None:
        if self._closed:
            raise SinkRefused("writer_closed", f"the writer of split {self._owner.split} is closed; make a new one")
