"""The file sink's writer: the contract of `sinks.base.Writer` over one thread and the files of one split."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from sinks import file_path, folders, naming, tries
from sinks.base import Fenced, Prepared, Receipt, SinkError, SinkRefused
from sinks.lanes import Lane, answered
from sinks.split_files import SplitFiles, Spool

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from sinks.base import Batch, Cut, Mark, Owner
    from sinks.formats import Format

T = TypeVar("T")

LONGEST_QUEUE: Final = 8 << 20
"""Bytes of rows that may wait for the thread before `stage` waits itself."""
SLOWEST: Final = 8 << 20
"""Bytes a second that a file system in working order manages; a call may take that much longer for its bytes."""
LEAVING: Final = 0.9
"""Seconds that `discard` and `close` wait for a thread that may hang."""


class FileWriter:
    """Writes the chunks of one split as files. `path` is a template; `patience` is how long one call of the file system
    may take."""

    def __init__(self, root: Path, path: str, form: Format, owner: Owner, patience: float) -> None:
        self._path = path
        self._form = form
        self._owner = owner
        self._patience = patience
        self._files = SplitFiles(root, path, owner)
        self._lane = Lane(f"files-{owner.job_id[:8]}-{owner.split}")
        self._staged: Spool | None = None
        self._ready: Spool | None = None
        self._repeat: Prepared | None = None
        self._queue: deque[tuple[asyncio.Future[None], int]] = deque()
        self._waiting = 0
        self._closed = False

    async def open(self) -> None:
        """Remove every older owner's temporary files; without them nothing of theirs can become visible any more.
        Raises Fenced when a newer owner has left some."""
        await self._call(self._files.open, "opening the split")

    async def visible(self, prepared: Sequence[Prepared]) -> Mark | None:
        """Look for the name of the unsettled chunk; of several tries with that content, the last one is told."""
        for target in dict.fromkeys(one.target for one in prepared):
            same = [one for one in prepared if one.target == target]
            look = partial(self._files.find, target, {one.bytes for one in same})
            found = await self._call(look, f"looking for {target!r}", max(one.bytes for one in same))
            if found is not None:
                return tries.adopted(self._owner, target, *found, same)
        self._repeat = tries.newest(prepared)
        return None

    async def anchor(self, sequence: int) -> None:
        """Nothing: names need no anchor."""

    async def stage(self, batch: Batch) -> None:
        """Hand rows to the thread; waits while more than `LONGEST_QUEUE` bytes are on their way to the disk. A format
        that may reject rows is waited for: when it does, none of the batch was taken."""
        self._check_open()
        if not batch.values:
            return
        spool = self._spool()
        size = batch.size + batch.rows
        if spool.form.rejects:
            await self._call(partial(spool.write, batch.values), "writing", size)
            spool.rows += batch.rows
            return
        spool.rows += batch.rows
        self._queue.append((self._lane.submit(partial(spool.write, batch.values)), size))
        self._waiting += size
        await self._drain(LONGEST_QUEUE)

    async def prepare(self, cut: Cut) -> Prepared:
        """Complete the temporary file and make it durable; fix the final name. A repeat takes name and format from
        the chunk it repeats, and is an empty file where no row is left."""
        self._check_open()
        repeat = cut.repeat_of
        tries.check_repeated(self._repeat, cut)
        spool = self._spool()
        tries.check_staged(cut, spool.form, spool.rows)
        await self._drain(0)
        size, checksum, identity = await self._call(spool.finish, "writing", spool.size)
        self._staged, self._ready, self._repeat = None, spool, None
        return Prepared(
            sequence=cut.sequence,
            epoch=self._owner.epoch,
            attempt=cut.attempt,
            rows=cut.rows,
            bytes=size,
            first_key=cut.first_key,
            last_key=cut.last_key,
            lower=cut.lower,
            target=self._target(cut, spool.form) if repeat is None else repeat.target,
            checksum=checksum,
            details={**spool.form.details(), "temporary": spool.name, "identity": identity},
        )

    def _target(self, cut: Cut, form: Format) -> str:
        try:
            folder = naming.check_path(file_path.expand(self._path, self._owner, datetime.now(UTC)), "sink.path")
        except ValueError as error:
            raise SinkRefused("path_not_allowed", str(error)) from error
        return tries.default_target(folder, self._owner, cut, form)

    async def make_visible(self, prepared: Prepared) -> Receipt:
        """Link the final name. A name that is taken, or a temporary file that is gone, is an unknown outcome:
        reopen, and `visible` tells what is there."""
        spool = self._ready
        if spool is None or spool.name != prepared.details.get("temporary"):
            raise SinkRefused("not_prepared", f"{prepared.target!r} was not prepared by this writer; reopen and repeat")
        # The lane keeps order: a discard that comes from here on removes the temporary name after the link.
        await self._call(partial(self._files.show, spool.name, prepared.target), f"naming {prepared.target!r}")
        self._ready = None
        return Receipt(target=prepared.target)

    async def discard(self) -> None:
        """Remove the temporary files. A link that was asked for comes first, and the chunk stays."""
        drop = self._abandon()
        if drop and not self._closed:
            with suppress(Exception):
                await self._lane.run(partial(_drop, drop), LEAVING)

    async def close(self) -> None:
        """As `discard`, then give the thread back; one that hangs does all this when it comes back."""
        if self._closed:
            return
        self._closed = self._files.leaving = True
        drop = self._abandon()
        self._lane.submit(partial(_drop, drop))
        self._lane.submit(self._files.close)
        await self._lane.close(LEAVING)

    def _abandon(self) -> list[Spool]:
        drop = [spool for spool in (self._staged, self._ready) if spool is not None]
        for spool in drop:
            spool.abandoned = True
        self._staged = self._ready = None
        self._queue.clear()
        self._waiting = 0
        return drop

    def _spool(self) -> Spool:
        if self._staged is None:
            repeat = self._repeat
            self._staged = self._files.begin(self._form if repeat is None else tries.format_of(repeat, self._form))
        return self._staged

    async def _drain(self, limit: int) -> None:
        while self._queue and (self._waiting > limit or self._queue[0][0].done()):
            future, size = self._queue[0]
            await self._told(answered(future, self._patience + size / SLOWEST), "writing")
            self._queue.popleft()
            self._waiting -= size

    async def _call(self, call: Callable[[], T], doing: str, size: int = 0) -> T:
        self._check_open()
        return await self._told(self._lane.run(call, self._patience + size / SLOWEST), doing)

    async def _told(self, answer: Awaitable[T], doing: str) -> T:
        try:
            return await answer
        except folders.FolderMissing as error:
            raise folders.refusal(error, self._path, doing) from error
        except FileNotFoundError as error:
            raise Fenced(
                "temporary_gone",
                f"{doing} in sink.path {self._path!r} failed: the temporary file or its folder was removed, by a newer "
                "owner of the split or by hand",
            ) from error
        except OSError as error:
            raise _unknown_or_refused(error, self._path, doing) from error
        except ValueError as error:
            raise SinkRefused("record_not_writable", f"{doing} in sink.path {self._path!r} failed: {error}") from error

    def _check_open(self) -> None:
        if self._closed:
            raise SinkRefused("writer_closed", f"the writer of split {self._owner.split} is closed; make a new one")


def _drop(spools: Sequence[Spool]) -> None:
    for spool in spools:
        spool.drop()


def _unknown_or_refused(error: OSError, path: str, doing: str) -> SinkError:
    if isinstance(error, FileExistsError):
        # Not a refusal: it may be our own link, executed by a call whose answer was lost.
        return folders.taken(path, doing)
    return folders.refusal(error, path, doing)
