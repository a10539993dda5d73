"""WebHDFS over aiohttp: the calls that the HDFS sink needs, each bounded in time, none repeated behind its back.

https://hadoop.apache.org/docs/r3.4.2/hadoop-project-dist/hadoop-hdfs/WebHDFS.html

Names go to a NameNode, bytes to the DataNode that it redirects to.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from sinks.base import SinkUnavailable
from sinks.hdfs_errors import NOT_EMPTY, NOT_FOUND, RemoteError, nonsense, translated
from sinks.hdfs_wire import CONNECT_SECONDS, Wire, checked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

_BLOCK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Status:
    """What GETFILESTATUS and LISTSTATUS_BATCH say of one name."""

    name: str
    folder: bool
    length: int


class WebHdfs(Wire):
    """The calls of one user. Raises `SinkError` only, but where a method says RemoteError."""

    # -- names ------------------------------------------------------------------------------------------------------

    async def status(self, path: str, what: str) -> Status | None:
        """What has this name; None for nothing."""
        try:
            found = await self.call("GET", "GETFILESTATUS", path, what)
        except RemoteError as error:
            if error.exception == NOT_FOUND:
                return None
            raise translated(self.place, what, error) from error
        try:
            return _status(found["FileStatus"])
        except (KeyError, TypeError, ValueError):
            raise nonsense(self.place, what) from None

    async def listed(self, path: str, what: str) -> AsyncIterator[Status]:
        """What is directly inside a folder, in pages; nothing for a folder that is not there."""
        after: dict[str, str] = {}
        while True:
            try:
                found = await self.call("GET", "LISTSTATUS_BATCH", path, what, **after)
            except RemoteError as error:
                if error.exception == NOT_FOUND:
                    return
                raise translated(self.place, what, error) from error
            try:
                listing = found["DirectoryListing"]
                page = [_status(one) for one in listing["partialListing"]["FileStatuses"]["FileStatus"]]
                more = bool(listing["remainingEntries"])
            except (KeyError, TypeError, ValueError):
                raise nonsense(self.place, what) from None
            for one in page:
                yield one
            if not page or not more:
                return
            after = {"startAfter": page[-1].name}

    async def make_folder(self, path: str, what: str) -> None:
        """Make a folder with all above it; it may be there."""
        await self.done("PUT", "MKDIRS", path, what)

    async def remove(self, path: str, what: str, *, recursive: bool = False) -> bool:
        """Remove a name, whoever still writes to it; False when it was not there, or is a folder with something in
        it while not `recursive`."""
        try:
            found = await self.call("DELETE", "DELETE", path, what, recursive=str(recursive).lower())
        except RemoteError as error:
            if error.exception == NOT_EMPTY or "is non empty" in error.message:
                return False
            raise translated(self.place, what, error) from error
        return bool(found.get("boolean"))

    async def rename(self, path: str, to: str, what: str, *, overwrite: bool = False) -> bool:
        """Rename a file; with `overwrite` over what is there. False when the server did not do it and says no more.
        Raises RemoteError where it says why."""
        options = "OVERWRITE" if overwrite else "NONE"
        found = await self.call("PUT", "RENAME", path, what, destination=to, renameoptions=options)
        # NameNodes answer with nothing when options are given; servers that know no options say true or false.
        return found.get("boolean") is not False

    async def done(self, method: str, op: str, path: str, what: str, **parameters: str) -> Mapping[str, Any]:
        """As `call`, every refusal translated; an answer of `false` is one too."""
        try:
            found = await self.call(method, op, path, what, **parameters)
        except RemoteError as error:
            raise translated(self.place, what, error) from error
        if found.get("boolean") is False:
            raise SinkUnavailable("sink_unavailable", f"{self.place.doing(what)}: the NameNode did not do {op}")
        return found

    async def call(self, method: str, op: str, path: str, what: str, **parameters: str) -> Mapping[str, Any]:
        """One call of a NameNode, and what its JSON says. Raises RemoteError for what the caller may understand."""
        answer, _ = await self.on_namenode(method, op, path, what, parameters)
        return answer

    # -- bytes ------------------------------------------------------------------------------------------------------

    async def create(
        self, path: str, body: Callable[[], AsyncIterator[bytes]], what: str, *, replication: int | None
    ) -> None:
        """Make a new file of what `body` gives, durable when this returns. Not bounded in time: whoever feeds the body
        knows how long it takes. Never overwrites, never makes a folder: a late owner finds none to write to."""
        parameters = {"overwrite": "false", "createparent": "false", "createflag": "CREATE,SYNC_BLOCK"}
        if replication is not None:
            parameters["replication"] = str(replication)
        headers = {"Content-Type": "application/octet-stream"}

        async def send(url: str) -> None:
            timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS)
            async with self.opened().put(
                url, data=body(), headers=headers, allow_redirects=False, timeout=timeout
            ) as answer:
                await checked(answer)

        await self.on_datanode("PUT", "CREATE", path, what, parameters, send)

    async def checksum(self, path: str, what: str) -> str:
        """HDFS's own checksum of a file: algorithm and value. The same bytes in blocks of another size have another."""

        async def ask(url: str) -> str:
            async with asyncio.timeout(self.patience), self.opened().get(url, allow_redirects=False) as answer:
                found = json.loads(await checked(answer))["FileChecksum"]
                return f"{found['algorithm']}:{found['bytes']}"

        return await self.on_datanode("GET", "GETFILECHECKSUM", path, what, {}, ask)

    async def read(self, path: str, offset: int, length: int, what: str) -> bytes:
        """A part of a file; shorter only where the file has become shorter."""

        async def read(url: str) -> bytes:
            async with asyncio.timeout(self.patience), self.opened().get(url, allow_redirects=False) as answer:
                return await checked(answer)

        return await self.on_datanode("GET", "OPEN", path, what, {"offset": str(offset), "length": str(length)}, read)

    async def sha256(self, path: str, what: str) -> tuple[int, str]:
        """Length and `sha256:<hex>` of a file, read in constant memory."""

        async def read(url: str) -> tuple[int, str]:
            digest, length = hashlib.sha256(), 0
            timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=self.patience)
            async with self.opened().get(url, allow_redirects=False, timeout=timeout) as answer:
                if answer.status != 200:
                    await checked(answer)
                async for block in answer.content.iter_chunked(_BLOCK):
                    await asyncio.to_thread(digest.update, block)
                    length += len(block)
            return length, f"sha256:{digest.hexdigest()}"

        return await self.on_datanode("GET", "OPEN", path, what, {}, read)


def _status(found: Mapping[str, Any]) -> Status:
    return Status(str(found["pathSuffix"]), found["type"] == "DIRECTORY", int(found["length"]))
