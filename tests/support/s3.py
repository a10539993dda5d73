"""
A real S3 server: versitygw over a folder of plain files. Beside it moto, for what versitygw does not have.

The program is built once by Go into a cache folder that all tests share; `ROWFERRY_JARS` moves it as it moves the jars.
`python -m tests.support.s3` builds it ahead of time.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import aiohttp
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.session import Session  # type: ignore[import-untyped]

from sinks.specs import S3SinkSpec
from tests.support.jars import _lock as lock
from tests.support.jars import cache_folder
from tests.support.ports import LOOPBACK, free_port
from tests.support.processes import ChildProcess
from tests.support.secrecy import secret
from tests.support.server import Server

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = "v1.8.0"
PROGRAM = f"github.com/versity/versitygw/cmd/versitygw@{VERSION}"
REGION = "us-east-1"
_BUILD_SECONDS = 900
_NOT_IMPLEMENTED = "<Error><Code>NotImplemented</Code><Message>no such header here</Message></Error>"
_READY_SECONDS = 60


class NoGo(RuntimeError):
    """There is no Go to build the server with."""


def versitygw() -> Path:
    """The program, built if it is not there yet; safe to call from several processes. Raises NoGo."""
    folder = cache_folder().parent / "versitygw" / VERSION
    program = folder / "versitygw"
    if program.exists():
        return program
    go = shutil.which("go")
    if go is None:
        raise NoGo("versitygw is built with Go 1.23 or later, and there is no `go` on the PATH")
    with lock(folder.parent / "lock"):
        if not program.exists():
            _build(go, folder)
    return program


def _build(go: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as draft:
        done = subprocess.run(
            [go, "install", "-trimpath", "-ldflags=-s -w", PROGRAM],
            env=os.environ | {"CGO_ENABLED": "0", "GOBIN": draft},
            capture_output=True,
            text=True,
            timeout=_BUILD_SECONDS,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"building {PROGRAM} failed\n{done.stdout}\n{done.stderr}")
        (Path(draft) / "versitygw").replace(folder / "versitygw")


class _Server(Server):
    """What both servers have in common: a port, keys, a client that is not ours."""

    def __init__(self, name: str, folder: Path | None) -> None:
        super().__init__(name, folder)
        self.port = free_port()
        self.access_key = f"ROWFERRY{secrets.token_hex(6).upper()}"
        self.secret_key = secret(f"s3-{secrets.token_urlsafe(24)}")
        self._client: Any = None

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://{LOOPBACK}:{self.port}"

    def client(self) -> Any:
        """botocore's own, blocking client."""
        if self._client is None:
            self._client = Session().create_client(
                "s3",
                region_name=REGION,
                endpoint_url=self.endpoint,
                aws_access_key_id=self.access_key,
                aws_secret_access_key=self.secret_key,
                config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, read_timeout=20),
            )
        return self._client

    def create_bucket(self) -> str:
        """A fresh bucket's name."""
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name

    def objects(self, bucket: str, prefix: str = "") -> dict[str, int]:
        """Key and size of every object."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return {found["Key"]: found["Size"] for page in pages for found in page.get("Contents", ())}

    def read(self, bucket: str, key: str) -> bytes:
        """An object's bytes."""
        content: bytes = self.client().get_object(Bucket=bucket, Key=key)["Body"].read()
        return content

    def uploads(self, bucket: str) -> list[str]:
        """The keys of all open multipart uploads."""
        return [one["Key"] for one in self.client().list_multipart_uploads(Bucket=bucket).get("Uploads", ())]

    def spec(self, name: str, *, endpoint: str | None = None, **changes: Any) -> S3SinkSpec:
        """A sink's definition on the bucket `name`; `endpoint` may be a proxy's."""
        return S3SinkSpec.model_validate(self.definition(name, endpoint=endpoint) | changes)

    def definition(self, bucket: str, *, endpoint: str | None = None) -> dict[str, Any]:
        """As `spec`, as a job gives it."""
        return {
            "kind": "s3",
            "bucket": bucket,
            "region": REGION,
            "endpoint_url": endpoint or self.endpoint,
            "access_key_id": self.access_key,
            "secret_access_key": self.secret_key,
        }

    def close(self) -> None:
        """Stop at once and remove the data."""
        if self._client is not None:
            self._client.close()
        super().close()

    def wait_ready_blocking(self) -> None:
        """Until it listens."""
        self.process.wait_ready(lambda: self.process.listens_on(self.port), _READY_SECONDS)

    def _launch(self, command: list[str | Path], env: Mapping[str, str] | None = None) -> None:
        if self._process is None:
            log = self.folder / f"{self.name}.log"
            self._process = ChildProcess(f"{self.name}:{self.port}", command, log=log, cwd=self.folder, env=env)
        self._process.launch()


class S3Server(_Server):
    """versitygw. Objects lie as plain files in `data / bucket`. Block, and start it from the main thread."""

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__("versitygw", folder)
        self.data = self.folder / "data"

    def launch(self) -> None:
        """Start the program, built before the first time. Raises NoGo."""
        for one in (self.data, self.folder / "iam"):
            one.mkdir(parents=True, exist_ok=True)
        keys = ["--access", self.access_key, "--secret", self.secret_key, "--region", REGION]
        command: list[str | Path] = [versitygw(), "--port", f"{LOOPBACK}:{self.port}", *keys, "--quiet"]
        self._launch([*command, "--health", "/health", "--iam-dir", self.folder / "iam", "posix", self.data])

    def create_user(self) -> tuple[str, str]:
        """Keys of somebody who may use no bucket that is there."""
        access, hidden = f"STRANGER{secrets.token_hex(4).upper()}", secret(f"s3-{secrets.token_urlsafe(24)}")
        command: list[str | Path] = [versitygw(), "admin", "--allow-insecure", "--endpoint-url", self.endpoint]
        keys = ["--access", self.access_key, "--secret", self.secret_key]
        new = ["create-user", "--access", access, "--secret", hidden, "--role", "user"]
        done = subprocess.run([*command, *keys, *new], capture_output=True, text=True, timeout=30, check=False)
        if done.returncode:
            raise RuntimeError(f"creating a user failed\n{done.stdout}\n{done.stderr}")
        return access, hidden


class MotoServer(_Server):
    """moto: knows storage classes, tags, encryption; checks no signature, so a proxy may change requests."""

    def __init__(self) -> None:
        super().__init__("moto", None)

    def launch(self) -> None:
        """Start the program."""
        self._launch([sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", str(self.port)])


class OlderStore:
    """A store that lacks what S3 learned late: forwards to moto, takes `If-None-Match` away and, without `checksums`,
    refuses uploads that ask for them. An async context manager."""

    def __init__(self, server: MotoServer, *, checksums: bool = True) -> None:
        self._server, self._checksums = server, checksums
        self.parts_with_md5 = 0
        self._runner: Any = None
        self._session: aiohttp.ClientSession | None = None
        self.endpoint = ""

    async def __aenter__(self) -> Self:
        """Listen."""
        from aiohttp import web

        self._session = aiohttp.ClientSession(auto_decompress=False)
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{tail:.*}", self._forward)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, LOOPBACK, port := free_port())
        await site.start()
        self.endpoint = f"http://{LOOPBACK}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    async def _forward(self, request: Any) -> Any:
        from aiohttp import web

        assert self._session is not None
        headers = {name: value for name, value in request.headers.items() if name.lower() != "if-none-match"}
        if not self._checksums and "x-amz-checksum-algorithm" in request.headers:
            return web.Response(status=501, text=_NOT_IMPLEMENTED, content_type="application/xml")
        self.parts_with_md5 += "Content-MD5" in request.headers and "partNumber" in request.query
        url = f"{self._server.endpoint}{request.rel_url}"
        body = await request.read()
        async with self._session.request(request.method, url, headers=headers, data=body) as reply:
            kept = {n: v for n, v in reply.headers.items() if n.lower() not in {"transfer-encoding", "content-length"}}
            length = reply.headers.get("Content-Length")
            if request.method == "HEAD" and length is not None:
                kept["Content-Length"] = length
            return web.Response(status=reply.status, headers=kept, body=await reply.read())


if __name__ == "__main__":
    print(versitygw())  # noqa: T201
