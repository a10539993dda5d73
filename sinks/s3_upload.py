"""One object on its way: parts sent a few at a time, and the one call that shows the whole.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpuoverview.html: nothing of an upload can be read before
CompleteMultipartUpload, which takes effect once.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from sinks.base import SinkUnavailable
from sinks.s3_client import SLOWEST, TRIES
from sinks.s3_errors import code_of, from_exception, no_s3, unsupported
from sinks.s3_parts import Body

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sinks.s3_client import S3Client
    from sinks.s3_parts import Part
    from sinks.specs import S3SinkSpec

IN_FLIGHT: Final = 2
"""Parts of one object that are sent at the same time: memory is these and the one that fills."""
COMPLETE_TIMES: Final = 3
"""How many times the patience of other calls: a store joins many parts while this one waits."""

_NO_CHECKSUMS: Final = frozenset({"InvalidArgument", "InvalidRequest", "NotImplemented", "UnsupportedArgument"})


@dataclass(slots=True)
class Abilities:
    """What the store was found to have. `conditional` comes from the probe when the target was prepared."""

    conditional: bool = True
    checksums: bool = True
    compares: bool = False
    """It told a part's checksum, so it does look at the header that the checksum was sent in."""


@dataclass(slots=True)
class Upload:
    """One multipart upload. `send` and `finished` may be cancelled; `abort` is then still to be called."""

    client: S3Client
    spec: S3SinkSpec
    abilities: Abilities
    key: str
    id: str = ""
    digest: str | None = None
    """The checksum of the parts' checksums, as the store tells it of the whole object; known when all are sent."""
    _sent: dict[int, dict[str, Any]] = field(default_factory=dict)
    _digests: dict[int, bytes] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _failed: BaseException | None = None

    async def begin(self, metadata: Mapping[str, str]) -> None:
        """Open the upload. One whose answer is lost is found by its name and aborted by the split's next owner."""
        terms = {"Key": self.key, "Metadata": dict(metadata), **_terms(self.spec)}
        if self.abilities.checksums:
            try:
                await self._begin(**terms, ChecksumAlgorithm="SHA256")
            except ClientError as error:
                if not unsupported(error) and code_of(error) not in _NO_CHECKSUMS:
                    raise from_exception(self.client.place, "CreateMultipartUpload", error) from error
            else:
                return
        try:
            await self._begin(**terms)
        except ClientError as error:
            raise from_exception(self.client.place, "CreateMultipartUpload", error) from error
        # The same without a checksum was taken: it is the checksum that the store does not know.
        self.abilities.checksums = False

    async def _begin(self, **terms: Any) -> None:
        reply = await self.client.try_call("CreateMultipartUpload", **terms)
        if not reply.get("UploadId"):  # a page instead of an answer
            raise no_s3(self.client.place, "CreateMultipartUpload")
        self.id = reply["UploadId"]

    async def send(self, part: Part) -> None:
        """Returns when it is on its way and memory for the next is free. Raises what an earlier part failed with."""
        while len(self._tasks) >= IN_FLIGHT:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        self._raise()
        self._digests[part.number] = part.sha256
        task = asyncio.create_task(self._send(part), name=f"s3-part-{part.number}")
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def finished(self) -> None:
        """Every part is with the store, its checksum compared."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        self._raise()
        whole = hashlib.sha256(b"".join(self._digests[number] for number in sorted(self._digests))).digest()
        self.digest = f"{base64.b64encode(whole).decode()}-{len(self._sent)}" if self.abilities.checksums else None

    @property
    def parts(self) -> list[dict[str, Any]]:
        """What was sent, as CompleteMultipartUpload asks for it."""
        return [self._sent[number] for number in sorted(self._sent)]

    async def complete(self) -> str | None:
        """Show the object; answers its ETag. Sent once: any exception means unknown."""
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if self.abilities.conditional else {}
        reply = await self.client.call(
            "CompleteMultipartUpload",
            seconds=self.client.patience * COMPLETE_TIMES,
            Key=self.key,
            UploadId=self.id,
            MultipartUpload={"Parts": self.parts},
            **condition,
        )
        return str(reply["ETag"]).strip('"') if reply.get("ETag") else None

    async def abort(self, seconds: float | None = None) -> None:
        """Send no more, and let the store forget what it has."""
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self.id:
            await self.client.abort(self.key, self.id, seconds=seconds)

    async def _send(self, part: Part) -> None:
        sha256 = base64.b64encode(part.sha256).decode()
        if self.abilities.checksums:
            checks: dict[str, Any] = {"ChecksumSHA256": sha256}
        else:
            # Only here, and not for every part: it takes longer than the rest of what is done to a row.
            checks = {"ContentMD5": base64.b64encode(await asyncio.to_thread(part.md5)).decode()}
        where = {"Key": self.key, "UploadId": self.id, "PartNumber": part.number}
        limit = self.client.patience + part.size / SLOWEST
        reply = await self._until_taken(part, limit, where | checks)
        told = reply.get("ChecksumSHA256")
        if told is not None and told != sha256:
            text = f"part {part.number} of {self.key!r} arrived as something else; it is sent again"
            raise SinkUnavailable("checksum_refused", text)
        self.abilities.compares = self.abilities.compares or told is not None
        entry = {"PartNumber": part.number, "ETag": reply["ETag"]}
        self._sent[part.number] = entry | ({"ChecksumSHA256": sha256} if self.abilities.checksums else {})

    async def _until_taken(self, part: Part, limit: float, arguments: dict[str, Any]) -> Any:
        for number in range(1, TRIES + 1):
            try:
                # A stream of its own for each try.
                body = Body(part, compared=self.abilities.checksums and self.abilities.compares)
                return await self.client.call("UploadPart", seconds=limit, Body=body, **arguments)
            except SinkUnavailable:
                if number == TRIES:
                    # A store that refuses a large body at once hangs up before its answer is read: a small question
                    # to the same upload brings the reason, if there is one.
                    await self.client.call("ListParts", Key=self.key, UploadId=self.id, MaxParts=1)
                    raise
                await asyncio.sleep(0.1 * 2**number)
        raise AssertionError

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed = self._failed or error

    def _raise(self) -> None:
        if self._failed is not None:
            raise self._failed


async def drop(upload: Upload, seconds: float) -> None:
    """Abort within `seconds`, or leave it to the split's next owner. Never raises."""
    with suppress(Exception):
        async with asyncio.timeout(seconds):
            await upload.abort(seconds)


def _terms(spec: S3SinkSpec) -> dict[str, Any]:
    """What the definition says about every object."""
    terms: dict[str, Any] = {}
    if spec.storage_class is not None:
        terms["StorageClass"] = spec.storage_class
    if spec.tags:
        terms["Tagging"] = urlencode(spec.tags)
    if spec.encryption is not None:
        terms["ServerSideEncryption"] = spec.encryption.algorithm
        if spec.encryption.kms_key_id is not None:
            terms["SSEKMSKeyId"] = spec.encryption.kms_key_id
    return terms
