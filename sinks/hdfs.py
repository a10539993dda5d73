"""The HDFS sink: each chunk is one file below the job's folder, whole from the moment it has its name.

Over WebHDFS, so that it needs neither Java nor Hadoop's configuration here: see `sinks.hdfs_client`.
"""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from sinks import naming
from sinks.base import Finding, Guarantee, Promise, Receipt, Shows, SinkError, SinkRefused
from sinks.hdfs_client import WebHdfs
from sinks.hdfs_errors import EXISTS, Place, RemoteError, translated
from sinks.hdfs_finish import close_generation, list_day, remove_temporaries
from sinks.hdfs_quota import refuse_full
from sinks.hdfs_reader import HdfsReader
from sinks.hdfs_upload import Upload
from sinks.hdfs_wire import NameNodes
from sinks.hdfs_writer import HdfsWriter, hidden

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from datetime import date

    from sinks.base import Owner, Prepared
    from sinks.formats import Format
    from sinks.guarded import Guard
    from sinks.reading import Wanted
    from sinks.specs import HdfsSinkSpec

LITTLE_SPACE: Final = 1 << 30


class HdfsSink:
    """
    A folder of HDFS as one job's definition describes it. Promises of the methods: `sinks.base.Sink`.

    `guard` is awaited with host and port before any connection, NameNodes' and DataNodes' alike, and raises
    SinkRefused for an address that is not allowed. `patience`: seconds that one call may take.
    """

    kind = "hdfs"
    shows = Shows.NAMES
    needs_anchor = False
    upserts = False
    settles_with_prepare = False

    def __init__(self, spec: HdfsSinkSpec, form: Format, *, guard: Guard | None = None, patience: float = 30.0) -> None:
        self._path = spec.path
        self._form = form
        self._replication = spec.replication
        self._name = spec.name
        self._guard = guard
        self._patience = patience
        self._place = Place(spec.url, spec.path, spec.user)
        self._nodes = NameNodes(spec.addresses())

    def promise(self) -> Promise:
        """Exactly once: what has a name is whole, and no name is given twice."""
        return Promise(Guarantee.EXACTLY_ONCE, "files appear whole by a rename that cannot overwrite")

    async def check(self) -> list[Finding]:
        """Reachability, safe mode, whether the folder can be made and written, how much space is left. Changes
        nothing."""
        async with self._client() as client:
            try:
                return await self._look(client)
            except SinkError as error:
                pointer = "/sink/path" if error.code in _OF_THE_PATH else "/sink/url"
                return [Finding(pointer, "error", error.code, error.message)]

    async def prepare_target(self) -> Mapping[str, object]:
        """Make the folder, and try whether files can be written there and a rename does not overwrite. Repeatable."""
        async with self._client() as client:
            await client.make_folder(hidden(self._path), "making the folder")
            await self._try_rename(client)
        return {}

    def writer(self, owner: Owner) -> HdfsWriter:
        """A writer with connections of its own."""
        client = WebHdfs(self._nodes, self._place, self._guard, self._patience)
        return HdfsWriter(client, self._path, self._form, owner, secrets.token_hex(4), self._replication, self._name)

    def receipt(self, prepared: Prepared) -> Receipt:
        """The name says it all."""
        return Receipt(target=prepared.target)

    def reader(self, owner: Owner, wanted: Wanted) -> HdfsReader:
        """A reader with connections of its own."""
        del owner
        return HdfsReader(WebHdfs(self._nodes, self._place, self._guard, self._patience), self._form, wanted)

    async def finish(self, owner: Owner, chunks: AsyncIterator[Prepared]) -> None:
        """Compare every file with its chunk, then write `_manifest-<job>-g<generation>.json` beside them and remove
        the generation's temporary files. The same chunks give the same manifest."""
        async with self._client() as client:
            await close_generation(client, self._path, owner, chunks, self._replication)

    async def list_day(self, owner: Owner, day: date, chunks: AsyncIterator[Prepared]) -> None:
        """Write `_manifest-<job>-g<generation>-<day>.json` into the job's folder."""
        async with self._client() as client:
            await list_day(client, self._path, owner, day, chunks, self._replication)

    async def clean_up(self, owners: Sequence[Owner]) -> None:
        """Remove the temporary files of these splits, which fences them, and of their finish steps."""
        names = {naming.split_folder(owner.job_id, owner.generation, owner.split) for owner in owners}
        names |= {naming.finish_folder(owner.job_id, owner.generation) for owner in owners}
        names |= {naming.days_folder(owner.job_id, owner.generation) for owner in owners}
        async with self._client() as client:
            await remove_temporaries(client, self._path, names.__contains__)

    async def close(self) -> None:
        """Nothing is held: every call has its own connections."""

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[WebHdfs]:
        client = WebHdfs(self._nodes, self._place, self._guard, self._patience)
        try:
            yield client
        finally:
            await client.close()

    async def _try_rename(self, client: WebHdfs) -> None:
        """With two small files: what the promise rests on, and that DataNodes take what they are sent."""
        what = "trying a file"
        base = f"{hidden(self._path)}/{naming.PROBE}{secrets.token_hex(4)}"
        names = [base, f"{base}-taken"]
        try:
            for name in names:
                upload = Upload(client, name, self._replication)
                await upload.send(b"probe\n")
                await upload.finish()
            try:
                renamed = await client.rename(names[0], names[1], what)
            except RemoteError as error:
                if error.exception != EXISTS:
                    raise translated(self._place, what, error) from error
                renamed = False
            if renamed:
                raise SinkRefused(
                    "rename_overwrites",
                    f"{self._place.doing(what)}: RENAME replaced a file in spite of renameoptions=NONE; this is not "
                    "the WebHDFS of a Hadoop NameNode, name that one in sink.url",
                )
        finally:
            for name in names:
                await client.remove(name, what)

    async def _look(self, client: WebHdfs) -> list[Finding]:
        what = "checking"
        folder = self._path
        while (found := await client.status(folder or "/", what)) is None and folder:
            folder = folder.rpartition("/")[0]
        if found is not None and not found.folder:
            raise SinkRefused(
                "folder_not_writable",
                f"{self._place.doing(what)} failed: {folder!r} is a file; remove it or choose another path",
            )
        await client.done("GET", "CHECKACCESS", folder or "/", what, fsaction="-wx")
        # Removing what is not there changes nothing, and is refused in safe mode.
        await client.remove(f"{folder}/{naming.PROBE}{secrets.token_hex(8)}", what)
        await refuse_full(client, folder or "/")
        findings = [] if folder == self._path else [_will_be_made(self._path, folder or "/")]
        return [*findings, *await self._space(client)]

    async def _space(self, client: WebHdfs) -> list[Finding]:
        try:
            free = int((await client.call("GET", "GETSTATUS", "/", "checking"))["FsStatus"]["remaining"])
        except (RemoteError, KeyError, TypeError, ValueError):
            return []  # Hadoop 3.3 and older do not tell
        message = f"{free / (1 << 20):.0f} MiB are free in HDFS, before replication"
        if free < LITTLE_SPACE:
            hint = "a full cluster only makes the job wait, but it waits until somebody makes room"
            return [Finding("/sink/path", "warning", "little_space", message, hint)]
        return [Finding("/sink/path", "info", "free_space", message)]


_OF_THE_PATH: Final = frozenset({"folder_not_writable", "permission_denied", "path_not_allowed", "no_space"})


def _will_be_made(path: str, above: str) -> Finding:
    message = f"sink.path {path!r} is not there and will be made below {above!r}"
    return Finding("/sink/path", "info", "folder_will_be_created", message)
