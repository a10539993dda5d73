"""What can be known of a bucket before rows go there: rights, terms, and whether writes can be conditional."""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from sinks import s3_prefix
from sinks.base import Finding, SinkError
from sinks.s3_client import TRIES
from sinks.s3_errors import code_of, from_exception, status_of, unsupported
from sinks.s3_parts import Cutter
from sinks.s3_upload import Abilities, Upload

if TYPE_CHECKING:
    from sinks.s3_client import S3Client
    from sinks.specs import S3SinkSpec

PROBE: Final = "_rowferry-probe-"
"""The underscore keeps it out of readers that take whole folders."""

_POINTERS: Final = {
    "bucket_missing": "/sink/bucket",
    "region_wrong": "/sink/region",
    "authentication_failed": "/sink/secret_access_key",
    "credentials_required": "/sink/access_key_id",
    "credentials_missing": "/sink/access_key_id",
    "storage_class_refused": "/sink/storage_class",
    "encryption_refused": "/sink/encryption",
    "no_s3": "/sink/endpoint_url",
    "sink_unreachable": "/sink/endpoint_url",
    "tls_failed": "/sink/endpoint_url",
    "destination_refused": "/sink/endpoint_url",
}


async def look(client: S3Client, spec: S3SinkSpec) -> list[Finding]:
    """Every right that a job needs, tried on an upload that is aborted and on an object that is not there."""
    try:
        await client.call("ListMultipartUploads", MaxUploads=1)
        key = _probe_name(spec)
        upload = Upload(client, spec, Abilities(), key)
        await upload.begin({})
        await upload.abort()
        await client.head(key)
    except SinkError as error:
        return [Finding(_POINTERS.get(error.code, "/sink"), "error", error.code, error.message)]
    return []


async def probe(client: S3Client, spec: S3SinkSpec, abilities: Abilities) -> bool:
    """Whether completing an upload can be made to fail where its name is taken. Tried on an object of a random name,
    which is deleted again, if that is allowed."""
    key = _probe_name(spec)
    # Not only for the answer: a missing bucket and wrong keys are told with a body here.
    await client.call("ListMultipartUploads", tries=TRIES, MaxUploads=1)
    try:
        await _written(client, spec, Abilities(conditional=False, checksums=abilities.checksums), key)
        return not await _replaced(client, spec, key)
    finally:
        with suppress(SinkError):
            await client.call("DeleteObject", Key=key)


async def _replaced(client: S3Client, spec: S3SinkSpec, key: str) -> bool:
    upload = await _uploaded(client, spec, Abilities(), key)
    try:
        await client.try_call(
            "CompleteMultipartUpload",
            Key=key,
            UploadId=upload.id,
            MultipartUpload={"Parts": upload.parts},
            IfNoneMatch="*",
        )
    except ClientError as error:
        await upload.abort()
        if status_of(error) == 412 or code_of(error) == "PreconditionFailed":
            return False
        if unsupported(error) or code_of(error) == "InvalidArgument":
            return True
        raise from_exception(client.place, "CompleteMultipartUpload", error) from error
    return True


async def _written(client: S3Client, spec: S3SinkSpec, abilities: Abilities, key: str) -> None:
    await (await _uploaded(client, spec, abilities, key)).complete()


async def _uploaded(client: S3Client, spec: S3SinkSpec, abilities: Abilities, key: str) -> Upload:
    upload = Upload(client, spec, abilities, key)
    await upload.begin({})
    await upload.send(Cutter().end())
    await upload.finished()
    return upload


def _probe_name(spec: S3SinkSpec) -> str:
    return f"{s3_prefix.constant(spec.prefix)}{PROBE}{secrets.token_hex(8)}"
