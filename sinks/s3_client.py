"""One client of one S3 store: every call bounded in time, every address asked for first, every error one of ours.

aiobotocore is imported with the first connection, in a thread: importing it and reading its descriptions of S3 takes
longer than an event loop may be held. One session, whose loaded descriptions all clients share, lives as long as the
process; credentials live in the clients alone. Clients are made in that thread too, one after the other: many jobs that
begin at once hold nobody up, and a session is not made for several at a time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from botocore import xform_name  # type: ignore[import-untyped]
from botocore.exceptions import ClientError  # type: ignore[import-untyped]

from sinks.base import SinkUnavailable
from sinks.guarded import addresses_of
from sinks.s3_errors import Place, from_exception, keys_missing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiobotocore.session import AioSession  # type: ignore[import-untyped]

    from sinks.guarded import Guard
    from sinks.specs import S3SinkSpec

DEFAULT_REGION: Final = "us-east-1"
CONNECT_SECONDS: Final = 5.0
PATIENCE_SECONDS: Final = 30.0
SLOWEST: Final = 256 << 10
"""Bytes a second below which a store counts as hanging: a call may take that much longer for its body."""
TRIES: Final = 3
"""Of a call that may be repeated. Few: an early refusal of a large body can look like a cut connection."""
FIRST_DELAY_SECONDS: Final = 0.2
LEAVING_SECONDS: Final = 0.5
CONNECTIONS: Final = 16
_MAKER: Final = ThreadPoolExecutor(1, thread_name_prefix="s3-client")


class S3Client:
    """The calls of one sink. Connects with the first one; may be used by several tasks at a time.

    `ambient`: without keys of its own the definition may use the host's. `patience`: seconds that one call may take
    before it counts as hanging, without its body.
    """

    def __init__(
        self, spec: S3SinkSpec, guard: Guard | None, *, ambient: bool = False, patience: float = PATIENCE_SECONDS
    ) -> None:
        self._spec = spec
        self._guard = guard
        self._ambient = ambient
        self.patience = patience
        self.bucket = spec.bucket
        self.place = Place(spec.bucket, spec.region or DEFAULT_REGION, spec.endpoint_url, spec.access_key_id)
        self._stack = AsyncExitStack()
        self._lock = asyncio.Lock()
        self._client: Any = None

    async def call(self, operation: str, *, tries: int = 1, seconds: float | None = None, **arguments: Any) -> Any:
        """The reply to `operation` on the bucket. Raises a SinkError. With more `tries` what may pass is tried again
        after a moment; `seconds` bounds each try."""
        for number in range(1, tries + 1):
            try:
                return await self.try_call(operation, seconds=seconds, **arguments)
            except ClientError as error:
                found = from_exception(self.place, operation, error)
                if number == tries or not isinstance(found, SinkUnavailable):
                    raise found from error
            except SinkUnavailable:
                if number == tries:
                    raise
            await asyncio.sleep(FIRST_DELAY_SECONDS * 2**number * random.uniform(0.5, 1))  # noqa: S311 - jitter
        raise AssertionError

    async def try_call(self, operation: str, *, seconds: float | None = None, **arguments: Any) -> Any:
        """As `call`, once, and a reply of the store that is an error is raised as botocore's ClientError."""
        limit = self.patience if seconds is None else seconds
        try:
            async with asyncio.timeout(limit):
                client = await self._connected()
                return await getattr(client, xform_name(operation))(Bucket=self.bucket, **arguments)
        except ClientError:
            raise
        except Exception as error:
            raise from_exception(self.place, operation, error) from error

    async def uploads(self, prefix: str) -> AsyncIterator[tuple[str, str]]:
        """Key and id of every open multipart upload below `prefix`."""
        markers: dict[str, Any] = {}
        while True:
            page = await self.call("ListMultipartUploads", tries=TRIES, Prefix=prefix, **markers)
            for upload in page.get("Uploads", ()):
                yield upload["Key"], upload["UploadId"]
            if not page.get("IsTruncated"):
                return
            markers = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page.get("NextUploadIdMarker", "")}

    async def keys(self, prefix: str) -> AsyncIterator[str]:
        """Every object's key below `prefix`."""
        more: dict[str, Any] = {}
        while True:
            page = await self.call("ListObjectsV2", tries=TRIES, Prefix=prefix, **more)
            for found in page.get("Contents", ()):
                yield found["Key"]
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    async def head(self, key: str) -> Any | None:
        """What is known of an object, its checksum too; None when there is none."""
        try:
            return await self.try_call("HeadObject", Key=key, ChecksumMode="ENABLED")
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 404:
                # A HEAD has no body to tell a missing bucket from a missing object.
                await self.call("ListObjectsV2", Prefix=key, MaxKeys=1)
                return None
            raise from_exception(self.place, "HeadObject", error) from error

    async def abort(self, key: str, upload_id: str, *, seconds: float | None = None) -> None:
        """End a multipart upload; one that is gone already is fine."""
        try:
            await self.try_call("AbortMultipartUpload", Key=key, UploadId=upload_id, seconds=seconds)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") != "NoSuchUpload":
                raise from_exception(self.place, "AbortMultipartUpload", error) from error

    async def close(self) -> None:
        """Give back the connections. Never raises; may be called twice."""
        with suppress(Exception):
            async with asyncio.timeout(LEAVING_SECONDS):
                await self._stack.aclose()
        self._client = None

    async def _connected(self) -> Any:
        async with self._lock:
            if self._client is None:
                if self._spec.endpoint_url:
                    await addresses_of(self._guard, *_address(self._spec.endpoint_url))
                made = await asyncio.get_running_loop().run_in_executor(_MAKER, self._made, self._uses_host())
                self._stack.push_async_exit(made)
                self._client = made
                # Each request by its own address, so also where a redirect or a virtual host leads.
                self._client.meta.events.register("before-send.s3", self._ask_guard)
        return self._client

    def _uses_host(self) -> bool:
        complete = self._spec.access_key_id is not None and self._spec.secret_access_key is not None
        if not complete and (self._spec.access_key_id is not None or not self._ambient):
            raise keys_missing(self.place)
        return not complete

    def _made(self, ambient: bool) -> Any:
        """A client, entered. Blocks; nothing of it belongs to an event loop before its first request."""
        from aiobotocore.config import AioConfig  # type: ignore[import-untyped]  # noqa: PLC0415 - see the module's docstring

        from sinks.guarded_http import resolver_for  # noqa: PLC0415 - as aiobotocore, which brings aiohttp
        from sinks.s3_payload import send_parts  # noqa: PLC0415 - as aiobotocore, which brings aiohttp
        from sinks.s3_signing import sign_parts  # noqa: PLC0415 - as aiobotocore

        spec = self._spec
        path_style = spec.endpoint_url is not None if spec.path_style is None else spec.path_style
        config = AioConfig(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=self.patience,
            # Retries are ours: bounded, and never of what makes rows visible.
            retries={"mode": "standard", "total_max_attempts": 1},
            s3={"addressing_style": "path" if path_style else "virtual"},
            max_pool_connections=CONNECTIONS,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            ignore_configured_endpoint_urls=True,
            connector_args={} if self._guard is None else {"resolver": resolver_for(self._guard)},
        )
        keys: dict[str, str | None] = {}
        if spec.access_key_id is not None:
            token, secret = spec.session_token, spec.secret_access_key
            keys = {
                "aws_access_key_id": spec.access_key_id,
                "aws_secret_access_key": secret.get_secret_value() if secret else None,
                "aws_session_token": token.get_secret_value() if token else None,
            }
        made = _session(ambient=ambient).create_client(
            "s3", region_name=self.place.region, endpoint_url=spec.endpoint_url, config=config, **keys
        )
        client = asyncio.run(made.__aenter__())
        sign_parts(client)
        send_parts()
        return client

    async def _ask_guard(self, request: Any, **_: Any) -> None:
        await addresses_of(self._guard, *_address(str(request.url)))


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


@cache
def _session(*, ambient: bool) -> AioSession:
    """Blocks for a second the first time. Without `ambient` nothing of the host's own AWS settings is looked at."""
    from aiobotocore.session import AioSession  # noqa: PLC0415 - see the module's docstring

    from sinks.s3_descriptions import Descriptions  # noqa: PLC0415 - as aiobotocore

    # At DEBUG they write whole requests, session tokens and signatures among them.
    for name in ("botocore", "aiobotocore"):
        logger = logging.getLogger(name)
        logger.setLevel(max(logging.INFO, logger.level))
    # Name in the configuration, environment variable, default, conversion: without the first two nothing is looked up.
    foreign = dict.fromkeys(("config_file", "credentials_file"), (None, None, os.devnull, None))
    session = AioSession(session_vars=None if ambient else foreign | {"profile": (None, None, None, None)})

    session.get_component("data_loader").file_loader = Descriptions()

    async def warm() -> None:
        keys = {"aws_access_key_id": "warm", "aws_secret_access_key": "warm"}
        # Nothing is sent by this one: it needs no authorities, whose list takes a tenth of a second to read.
        async with session.create_client("s3", region_name=DEFAULT_REGION, verify=False, **keys):
            pass

    asyncio.run(warm())
    return session
