"""The S3 sink's writer: the contract of `sinks.base.Writer` over multipart uploads.

What is staged goes into parts of an upload that nobody can read. A chunk of one part gets its name, its metadata and
its upload when it is cut; a larger one when its first part is full, which is before its key range is known. So the
short hash in a name is drawn at random, the same token stands in the object's metadata and in the chunk record, and
that is how an object is known as one of the tries: no two uploads share a token, whatever they hold.

Fencing is the abort of every open upload of the split: a chunk was uploaded whole before it was prepared, and the store
takes no prepare of an owner that has lost its lease. An older owner's CompleteMultipartUpload that is under way at that
moment wins or loses against the abort. If it loses, it fails with NoSuchUpload. If it wins, the object is there before
the repeat of the chunk asks for the same name, and `If-None-Match` refuses the repeat, which then adopts the object.
"""

from __future__ import annotations

import secrets
from collections import deque
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sinks import naming, s3_prefix, tries
from sinks.base import Mark, PositionConflict, Prepared, Receipt, Restage, SinkRefused, SinkUnavailable
from sinks.lanes import Lane
from sinks.s3_parts import Cutter
from sinks.s3_upload import Upload, drop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sinks.base import Batch, Cut, Owner
    from sinks.formats import Format
    from sinks.s3 import S3Sink
    from sinks.s3_parts import Part

LEAVING: Final = 0.6
"""Seconds that `discard` waits for the store to abort."""
LANE_LEAVING: Final = 0.2
TOKEN: Final = "rowferry-token"  # noqa: S105 - a name, no secret
"""The metadata by which an object is known as a try."""


class _Chunk:
    """One chunk on its way: the thread's side (`write`, `end`), and the upload once it has begun."""

    def __init__(self, form: Format, token: str) -> None:
        self.form = form
        self.token = token
        self.rows = 0
        self.upload: Upload | None = None
        self.abandoned = False
        self.cutter = Cutter()
        self._stream = form.stream()

    def write(self, values: Sequence[bytes]) -> list[Part]:
        """Encode, compress and cut; the parts that are full. Raises as `formats.Stream.encode`."""
        return [] if self.abandoned else self.cutter.put(self._stream.encode(values))

    def end(self) -> list[Part]:
        """The rest."""
        return [*self.cutter.put(self._stream.end()), self.cutter.end()]


class S3Writer:
    """Writes the chunks of one split as objects."""

    def __init__(self, sink: S3Sink, owner: Owner) -> None:
        self._sink = sink
        self._client = sink.client
        self._owner = owner
        self._lane = Lane(f"s3-{owner.job_id[:8]}-{owner.split}")
        self._staged: _Chunk | None = None
        self._ready: _Chunk | None = None
        self._repeat: Prepared | None = None
        self._settled = 0
        self._numbers = tries.Numbers()
        self._closed = False

    async def open(self) -> None:
        """Abort every open upload of the split; see the module's docstring."""
        self._check_open()
        await self._sink.abort_uploads([self._owner])

    def begin_after(self, sequence: int) -> None:
        """See `sinks.base.Numbered`."""
        self._settled = sequence

    def number_by(self, draw: Callable[[int], Awaitable[int]]) -> None:
        """See `sinks.base.CountsOverJob`."""
        self._numbers.by(draw)

    async def visible(self, prepared: Sequence[Prepared]) -> Mark | None:
        """Look for the name of the unsettled chunk; its metadata says which try it is."""
        self._check_open()
        for one in prepared:
            if upload := one.details.get("upload"):
                # Again by its id: a listing may be behind.
                await self._client.abort(one.target, str(upload))
        for target in dict.fromkeys(one.target for one in prepared):
            found = await self._client.head(target)
            if found is not None:
                return self._adopted(target, found, [one for one in prepared if one.target == target])
        self._repeat = tries.newest(prepared)
        return None

    def _adopted(self, target: str, found: dict[str, Any], prepared: Sequence[Prepared]) -> Mark:
        token = found.get("Metadata", {}).get(TOKEN)
        for one in prepared:
            if token is not None and token == one.details.get("token") and found["ContentLength"] == one.bytes:
                self._sink.note_etag(target, found.get("ETag"))
                return Mark(self._owner.generation, one.epoch, one.sequence, one.attempt)
        raise PositionConflict(
            "position_conflict",
            f"object {target!r} is there with {found['ContentLength']} bytes and is none of the {len(prepared)} "
            "prepared tries of its chunk: something else wrote it; move it away and start again, or PUT a checkpoint",
        )

    async def anchor(self, sequence: int) -> None:
        """Nothing: names need no anchor."""

    async def stage(self, batch: Batch) -> None:
        """Encode in the thread and send what fills a part; waits while as many parts as may be are on their way."""
        self._check_open()
        if not batch.values:
            return
        chunk = self._chunk()
        parts = await self._encoded(partial(chunk.write, batch.values))
        chunk.rows += batch.rows
        if parts and chunk.upload is None:
            await self._begin(chunk, await self._target(chunk, self._next()), self._metadata(chunk, self._next()))
        await self._send(chunk, parts)

    async def prepare(self, cut: Cut) -> Prepared:
        """Send the rest; every part is with the store, its checksum compared. A repeat takes name and format from the
        chunk it repeats, and is an empty object where no row is left."""
        self._check_open()
        tries.check_repeated(self._repeat, cut)
        chunk = self._chunk()
        repeat = cut.repeat_of
        tries.check_staged(cut, chunk.form, chunk.rows)
        parts = await self._encoded(chunk.end)
        upload = chunk.upload
        if upload is None:
            known = {"rowferry-try": str(cut.attempt), "rowferry-sha256": chunk.cutter.checksum.removeprefix("sha256:")}
            target = repeat.target if repeat is not None else await self._target(chunk, cut.sequence)
            upload = await self._begin(chunk, target, self._metadata(chunk, cut.sequence) | known)
        if repeat is not None and upload.key != repeat.target:
            raise Restage("name_fixed", f"chunk {cut.sequence} is repeated under the name it was prepared with")
        await self._send(chunk, parts)
        await upload.finished()
        self._staged, self._ready, self._repeat, self._settled = None, chunk, None, cut.sequence
        return self._prepared(cut, chunk, upload)

    def _prepared(self, cut: Cut, chunk: _Chunk, upload: Upload) -> Prepared:
        return Prepared(
            sequence=cut.sequence,
            epoch=self._owner.epoch,
            attempt=cut.attempt,
            rows=cut.rows,
            bytes=chunk.cutter.size,
            first_key=cut.first_key,
            last_key=cut.last_key,
            lower=cut.lower,
            target=upload.key,
            checksum=chunk.cutter.checksum,
            details={
                **chunk.form.details(),
                "token": chunk.token,
                "upload": upload.id,
                "digest": upload.digest,
            },
        )

    async def make_visible(self, prepared: Prepared) -> Receipt:
        """Complete the upload. A name that is taken, an upload that is gone, a lost answer: unknown, `visible` tells
        what is there."""
        chunk = self._ready
        if chunk is None or chunk.upload is None or chunk.token != prepared.details.get("token"):
            raise SinkRefused("not_prepared", f"{prepared.target!r} was not prepared by this writer; reopen and repeat")
        # From here on nothing is sent against it: what discard would abort may be what readers see.
        self._ready = None
        if not chunk.upload.abilities.conditional and await self._client.head(prepared.target) is not None:
            raise SinkUnavailable(
                "name_taken",
                f"object {prepared.target!r} is there already; it is compared with the prepared tries at the next open",
            )
        etag = await chunk.upload.complete()
        return Receipt(target=prepared.target, etag=etag)

    async def discard(self) -> None:
        """Abort what is not visible. An upload whose completion was asked for stays as it is."""
        chunks = [chunk for chunk in (self._staged, self._ready) if chunk is not None]
        self._staged = self._ready = None
        for chunk in chunks:
            chunk.abandoned = True
            if chunk.upload is not None:
                await drop(chunk.upload, LEAVING / len(chunks))

    async def close(self) -> None:
        """As `discard`, then give the thread back."""
        if self._closed:
            return
        self._closed = True
        await self.discard()
        await self._lane.close(LANE_LEAVING)

    def _chunk(self) -> _Chunk:
        if self._staged is None:
            repeat = self._repeat
            form = self._sink.form if repeat is None else tries.format_of(repeat, self._sink.form)
            self._staged = _Chunk(form, secrets.token_hex(4))
        return self._staged

    def _next(self) -> int:
        return self._settled + 1 if self._repeat is None else self._repeat.sequence

    async def _target(self, chunk: _Chunk, sequence: int) -> str:
        if self._repeat is not None:
            return self._repeat.target
        owner = self._owner
        folder = s3_prefix.expand(self._sink.spec.prefix, owner, datetime.now(UTC))
        extension, name = chunk.form.extension, self._sink.spec.name
        if name is not None:
            return folder + await self._numbers.name(name, owner, sequence, chunk.form)
        return folder + naming.chunk_name(owner.job_id, owner.generation, owner.split, sequence, chunk.token, extension)

    def _metadata(self, chunk: _Chunk, sequence: int) -> dict[str, str]:
        owner = self._owner
        return {
            TOKEN: chunk.token,
            "rowferry-job": owner.job_id,
            "rowferry-generation": str(owner.generation),
            "rowferry-split": owner.split,
            "rowferry-epoch": str(owner.epoch),
            "rowferry-sequence": str(sequence),
        }

    async def _begin(self, chunk: _Chunk, target: str, metadata: dict[str, str]) -> Upload:
        upload = Upload(self._client, self._sink.spec, self._sink.abilities, target)
        await upload.begin(metadata)
        chunk.upload = upload
        return upload

    async def _send(self, chunk: _Chunk, parts: list[Part]) -> None:
        # Handed over one by one, so that a part is let go as soon as it is sent.
        waiting = deque(parts)
        parts.clear()
        while waiting and chunk.upload is not None:
            await chunk.upload.send(waiting.popleft())

    async def _encoded(self, call: Any) -> list[Part]:
        try:
            return list(await self._lane.run(call, self._client.patience))
        except TimeoutError as error:
            raise SinkUnavailable("encoding_slow", "encoding took too long; this host is overloaded") from error
        except ValueError as error:
            raise SinkRefused("record_not_writable", f"a row can not be written: {error}") from error

    def _check_open(self) -> None:
        if self._closed:
            raise SinkRefused("writer_closed", f"the writer of split {self._owner.split} is closed; make a new one")
