"""The S3 sink: each chunk is one object, whole from the moment it has its name.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html: CompleteMultipartUpload with
`If-None-Match: *` fails with 412 instead of replacing, which makes it the one step that no late owner can take twice.
Stores without it (found out when a generation is planned) get the same names, the same abort of older uploads and a
look before the step, and a smaller promise.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from sinks import naming, s3_prefix
from sinks.base import Guarantee, Promise, Receipt, Shows
from sinks.s3_check import look, probe
from sinks.s3_client import PATIENCE_SECONDS, S3Client
from sinks.s3_closing import Closing, list_day
from sinks.s3_reader import S3Reader
from sinks.s3_upload import Abilities
from sinks.s3_writer import S3Writer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from datetime import date

    from sinks.base import Finding, Owner, Prepared
    from sinks.formats import Format
    from sinks.guarded import Guard
    from sinks.reading import Wanted
    from sinks.specs import S3SinkSpec

CONDITIONAL: Final = "conditional_writes"
AT_A_TIME: Final = 8
"""Aborts that are sent at the same time."""


class S3Sink:
    """
    A bucket and a prefix as one job's definition describes them, secrets resolved. Promises: `sinks.base.Sink`.

    `guard` is awaited with host and port before any connection, redirects and virtual hosts alike, and raises
    SinkRefused for an address that is not allowed. `target` is what `prepare_target` said for the generation.
    `ambient`: without keys in the definition the host's own may be used. `patience`: seconds that one call may take.
    """

    kind = "s3"
    shows = Shows.NAMES
    needs_anchor = False
    settles_with_prepare = False
    upserts = False

    def __init__(
        self,
        spec: S3SinkSpec,
        form: Format,
        *,
        guard: Guard | None = None,
        target: Mapping[str, object] | None = None,
        ambient: bool = False,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self.spec = spec
        self.form = form
        self.client = S3Client(spec, guard, ambient=ambient, patience=patience)
        known = (target or {}).get(CONDITIONAL)
        self._probed = known is not None
        self.abilities = Abilities(conditional=known is not False)
        self._etags: dict[str, str] = {}

    def promise(self) -> Promise:
        """Exactly once; unfenced where the store was found to have no conditional writes."""
        if self.abilities.conditional:
            note = "objects appear whole by a conditional write that cannot overwrite"
            if not self._probed:
                note += " (whether the store has such writes is found out when a generation is planned)"
            return Promise(Guarantee.EXACTLY_ONCE, note)
        return Promise(
            Guarantee.EXACTLY_ONCE_UNFENCED,
            "the store has no conditional writes: an owner that lost its lease is stopped by the abort of its uploads "
            "alone, and may replace an object by its own try of the same keys",
        )

    async def check(self) -> list[Finding]:
        """Reachability, bucket, keys, region, and each right that the job needs. Leaves nothing behind."""
        return await look(self.client, self.spec)

    async def prepare_target(self) -> Mapping[str, object]:
        """Refuse a bucket that can not be used; find out whether the store has conditional writes. Repeatable."""
        if not self._probed:
            self.abilities.conditional = await probe(self.client, self.spec, self.abilities)
            self._probed = True
        else:
            await self.client.call("ListMultipartUploads", MaxUploads=1)
        return {CONDITIONAL: self.abilities.conditional}

    def writer(self, owner: Owner) -> S3Writer:
        """A writer; all of a sink share its connections."""
        return S3Writer(self, owner)

    def receipt(self, prepared: Prepared) -> Receipt:
        """The name, and the ETag where a writer of this sink has seen the object."""
        return Receipt(target=prepared.target, etag=self._etags.pop(prepared.target, None))

    def reader(self, owner: Owner, wanted: Wanted) -> S3Reader:
        """A reader; it shares the sink's connections."""
        del owner
        return S3Reader(self.client, self.form, wanted)

    async def finish(self, owner: Owner, chunks: AsyncIterator[Prepared]) -> None:
        """Compare every object with its chunk, then write `_manifest-<job>-g<generation>.json` into the folder that all
        of them share and abort what is left of the generation's uploads: also of earlier tries at the manifest, which
        fences them. The same chunks give the same manifest."""
        await self._abort(owner, [naming.manifest_name(owner.job_id, owner.generation)])
        await Closing(self.client, self.spec, self.abilities, owner).run(chunks)
        await self._abort(owner, self._names(owner) or [naming.generation_prefix(owner.job_id, owner.generation) + "s"])

    async def list_day(self, owner: Owner, day: date, chunks: AsyncIterator[Prepared]) -> None:
        """Write `_manifest-<job>-g<generation>-<day>.json` into the folder that all objects of the generation share."""
        await self._abort(owner, [naming.day_manifest_name(owner.job_id, owner.generation, day)])
        await list_day(self.client, self.spec, self.abilities, owner, day, chunks)

    async def clean_up(self, owners: Sequence[Owner]) -> None:
        """Abort the open uploads of these splits, which fences them, and of manifests."""
        await self.abort_uploads(owners)
        for manifests in {naming.manifest_start(owner.job_id, owner.generation) for owner in owners}:
            for end in (".", "-"):
                await self._abort(owners[0], [manifests + end])

    async def close(self) -> None:
        """Give back the connections."""
        await self.client.close()

    async def abort_uploads(self, owners: Sequence[Owner]) -> None:
        """No older owner of these splits can show anything after it."""
        if owners:
            names = [naming.split_folder(owner.job_id, owner.generation, owner.split) + "-" for owner in owners]
            await self._abort(owners[0], self._names(owners[0]) or names)

    def note_etag(self, target: str, etag: str | None) -> None:
        """What `receipt` is to say of an object that is there already."""
        if etag:
            self._etags = {target: etag.strip('"')}

    def _names(self, owner: Owner) -> list[str]:
        """What the names of a definition's own begin with. They do not tell splits apart: such a job has one at a
        time."""
        return [] if self.spec.name is None else [naming.own_prefix(self.spec.name, owner.job_id)]

    async def _abort(self, owner: Owner, names: Sequence[str]) -> None:
        """Abort every open upload of the owner's job whose name, without its folder, begins with one of `names`."""
        prefix = s3_prefix.common(self.spec.prefix, owner)
        if s3_prefix.is_constant(self.spec.prefix):
            prefix += names[0] if len(names) == 1 else owner.job_id
        waiting: set[asyncio.Task[None]] = set()
        try:
            async for key, upload_id in self.client.uploads(prefix):
                if not key.rpartition("/")[2].startswith(tuple(names)):
                    continue
                if len(waiting) >= AT_A_TIME:
                    await _first_of(waiting)
                waiting.add(asyncio.create_task(self.client.abort(key, upload_id)))
            while waiting:
                await _first_of(waiting)
        finally:
            for task in waiting:
                task.cancel()


async def _first_of(tasks: set[asyncio.Task[None]]) -> None:
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    tasks -= done
    for task in done:
        task.result()
