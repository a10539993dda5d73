"""What a sink's implementation brings to the contract suite: a target, and another client that reads it."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import json
import shutil
import uuid
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import pytest
from pyarrow import parquet

from sinks.formats import Format
from sinks.formats.columns import Column
from sinks.kafka import KafkaSink
from sinks.specs import ElasticsearchSinkSpec, FileSinkSpec, HdfsSinkSpec, KafkaSinkSpec
from tests.support.disk import fill, make_room, mounted, unmounted
from tests.support.hdfs import HdfsProxies
from tests.support.proxy import FaultProxy
from tests.support.topics import read_topic

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sinks.base import Sink
    from tests.support.elasticsearch import SearchServer
    from tests.support.hdfs import HdfsServer
    from tests.support.kafka import KafkaServer
    from tests.support.s3 import S3Server


def needs_own(disk: Path) -> None:
    """Skips the test where `disk` is no file system of our own."""
    if not disk.is_mount():
        pytest.skip("no file system of our own can be mounted here: it takes root")


class SinkCase(ABC):
    """
    One implementation on one fresh target.

    To plug in another sink: subclass, and add one line to `CASES`. `start` may ask for fixtures through
    `self.request.getfixturevalue(...)`; whatever it makes, `stop` removes. Several calls of `sink` must behave
    like several processes that write to the same target.
    """

    keeps_rows = True
    """False for a sink that only counts."""
    rejected: bytes | None = None
    """A row that this target never takes and that the writer knows of when it is staged; None: there is none."""
    unfit_row: bytes | None = None
    """A record that the case's format can not hold, where there is one."""
    takes_large_rows = True
    """False where one row of 20 MB is over a limit of the target."""
    takes_tombstones = False
    """Whether an empty value takes a row back; of the others definitions ask for none."""
    can_be_lost = True
    """False where the target has no way of being away (`lose` is then never called)."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.request = request

    def row(self, number: int, text: str | None = None) -> bytes:
        """A record of the case's format, as the source would give it."""
        return b'{"id":%d,"text":"%s"}' % (number, (text or f"value of {number}").encode())

    @abstractmethod
    async def start(self) -> None:
        """Make the empty target."""

    @abstractmethod
    async def stop(self) -> None:
        """Remove it."""

    @abstractmethod
    def sink(self, **changes: Any) -> Sink:
        """A new sink object on the target; `changes` are fields of its definition."""

    @abstractmethod
    async def read(self) -> list[bytes]:
        """The values that readers of the target see, in order within each split, by a client that is not ours."""

    async def last(self) -> dict[int, bytes | None]:
        """By number, what a reader keeps of each row that was ever there and is not known to be gone; None: it is."""
        raise NotImplementedError

    async def manifest(self, name: str, content: bytes | None = None) -> tuple[bytes, str] | None:
        """A manifest of the job, by a client that is not ours, and what tells it from a new one with the same bytes;
        with `content`, replace it first. Only for sinks that list days."""
        raise NotImplementedError

    async def lose(self) -> None:
        """Make the target unreachable (the broker hangs up, the folder is gone)."""
        raise NotImplementedError

    async def mend(self) -> None:
        """Undo `lose`."""
        raise NotImplementedError

    async def destroy(self) -> str:
        """Delete the target with all that is in it; answers the code by which its loss is told."""
        raise NotImplementedError

    def needs_a_limit(self) -> None:
        """Skips the test where nobody can fill the target here: before it has opened anything."""
        pytest.skip("this target has no limit that somebody could reach")

    async def fill(self) -> None:
        """From now on the target has no room for another row."""
        raise NotImplementedError

    async def make_room(self) -> None:
        """Undo `fill`."""
        raise NotImplementedError


class KafkaCase(SinkCase):
    """Exactly once, through a fault proxy; read back with librdkafka and `read_committed`."""

    delivery = "exactly_once"
    rejected = b'{"id":0,"text":"%s"}' % (b"x" * 2_000_000)  # the topic takes a megabyte
    takes_large_rows = False
    takes_tombstones = True

    async def start(self) -> None:
        self.server: KafkaServer = self.request.getfixturevalue("kafka_server")
        self.topic = self.server.create_topic()
        self.proxy = FaultProxy(self.server.proxied_port, port=self.server.proxy_port, framing="kafka")
        await self.proxy.__aenter__()

    async def stop(self) -> None:
        await self.proxy.__aexit__(None, None, None)

    def sink(self, **changes: Any) -> Sink:
        spec = {"kind": "kafka", "bootstrap_servers": self.server.proxied_bootstrap, "topic": self.topic}
        return KafkaSink(KafkaSinkSpec.model_validate(spec | {"delivery": self.delivery} | changes))

    async def read(self) -> list[bytes]:
        return [record.value or b"" for record in read_topic(self.server.bootstrap, self.topic)]

    async def last(self) -> dict[int, bytes | None]:
        """What compaction leaves, before it drops the keys without a value."""
        return {int(record.key or b""): record.value for record in read_topic(self.server.bootstrap, self.topic)}

    async def destroy(self) -> str:
        await asyncio.to_thread(self.server.delete_topic, self.topic)
        return "topic_missing"

    def needs_a_limit(self) -> None:
        pytest.skip("a broker whose disk is full ends itself, and is away (tests/acceptance/test_bad_days.py)")

    async def lose(self) -> None:
        await self.proxy.refuse()
        self.proxy.cut()

    async def mend(self) -> None:
        await self.proxy.accept_again()


class KafkaPlainCase(KafkaCase):
    """At least once: the idempotent producer without transactions."""

    delivery = "at_least_once"


CASES: dict[str, Callable[[pytest.FixtureRequest], SinkCase]] = {
    "kafka": KafkaCase,
    "kafka-at-least-once": KafkaPlainCase,
}


class CsvRows:
    """Mixed into a case: records of CSV whose texts hold quotes and line feeds, read back with Python's own reader."""

    form = Format("csv", "gzip", columns=(Column("id", "bigint"), Column("text", "text")))

    def row(self, number: int, text: str | None = None) -> bytes:
        """As COPY would write it: quoted, since it holds quotes."""
        text = text or f'value "of"\n{number}'
        return b'%d,"%s"' % (number, text.replace('"', '""').encode()) if '"' in text else f"{number},{text}".encode()

    def records(self, file: bytes) -> list[bytes]:
        """What is in one file, under its header."""
        csv.field_size_limit(1 << 30)
        head, *found = csv.reader(io.StringIO(gzip.decompress(file).decode(), newline=""))
        assert head == ["id", "text"]
        return [self.row(int(number), text) for number, text in found]


class ParquetRows(CsvRows):
    """Mixed into a case: the same records, as Parquet, read back with pyarrow."""

    form = Format("parquet", columns=CsvRows.form.columns)
    unfit_row = b"twelve,not a number"

    def records(self, file: bytes) -> list[bytes]:
        """What is in one file, under its schema."""
        table = parquet.read_table(io.BytesIO(file))
        assert [(field.name, str(field.type)) for field in table.schema] == [("id", "int64"), ("text", "string")]
        return [self.row(row["id"], row["text"]) for row in table.to_pylist()]


class FileCase(SinkCase):
    """Files below a temporary folder, read back with Python's own means."""

    path = "exports/orders"
    form = Format("json", "gzip")

    def records(self, file: bytes) -> list[bytes]:
        """What is in one file."""
        return gzip.decompress(file).splitlines()

    async def start(self) -> None:
        self.root: Path = self.request.getfixturevalue("tmp_path") / "files" / "default"
        self._away = self.root / "away"
        self.root.mkdir(parents=True)
        self._own_disk = mounted(self.root)

    async def stop(self) -> None:
        """pytest removes the folder."""
        if self._own_disk:
            unmounted(self.root)

    def sink(self, **changes: Any) -> Sink:
        from sinks.file import FileSink

        spec = FileSinkSpec.model_validate({"kind": "file", "path": self.path} | changes)
        return FileSink(spec, self.form, self.root)

    async def read(self) -> list[bytes]:
        files = sorted((self.root / self.path).glob(f"*{self.form.extension}"))
        return [row for file in files for row in self.records(file.read_bytes())]

    async def manifest(self, name: str, content: bytes | None = None) -> tuple[bytes, str] | None:
        file = self.root / self.path / name
        if content is not None:
            file.write_bytes(content)
        return (file.read_bytes(), str(file.stat().st_ino)) if file.exists() else None

    async def lose(self) -> None:
        folder = self.root / self.path
        folder.rename(self._away)
        folder.write_text("a file where the folder was")

    async def mend(self) -> None:
        folder = self.root / self.path
        folder.unlink()
        self._away.rename(folder)

    async def destroy(self) -> str:
        shutil.rmtree(self.root / self.path)
        return "folder_missing"

    def needs_a_limit(self) -> None:
        needs_own(self.root)

    async def fill(self) -> None:
        fill(self.root)

    async def make_room(self) -> None:
        make_room(self.root)


class FileCsvCase(CsvRows, FileCase):
    """The same in CSV."""


class FileParquetCase(ParquetRows, FileCase):
    """The same in Parquet."""


class DonothingCase(SinkCase):
    """Counts only: there is no target."""

    keeps_rows = False
    can_be_lost = False

    async def start(self) -> None:
        """Nothing to make."""

    async def stop(self) -> None:
        """Nothing to remove."""

    def sink(self, **changes: Any) -> Sink:
        from sinks.donothing import DonothingSink

        assert not changes
        return DonothingSink()

    async def read(self) -> list[bytes]:
        raise NotImplementedError


CASES |= {"file": FileCase, "file-csv": FileCsvCase, "file-parquet": FileParquetCase, "donothing": DonothingCase}


class OpenSearchCase(SinkCase):
    """One index behind a fault proxy, read back by searches; documents in the order of their key."""

    server_fixture = "opensearch_server"
    takes_tombstones = True

    async def start(self) -> None:
        self.server: SearchServer = self.request.getfixturevalue(self.server_fixture)
        self.index = self.server.index_name()
        self.proxy = FaultProxy(self.server.port)
        await self.proxy.start()

    async def stop(self) -> None:
        await self.proxy.close()

    def sink(self, **changes: Any) -> Sink:
        from sinks.elasticsearch import ElasticsearchSink

        spec = {"kind": "elasticsearch", "url": f"http://{self.proxy.address}", "index": self.index}
        return ElasticsearchSink(ElasticsearchSinkSpec.model_validate(spec | changes))

    async def read(self) -> list[bytes]:
        found = await asyncio.to_thread(self.server.documents, self.index)
        return [found[key] for key in sorted(found, key=lambda key: int(json.loads(key)[0]))]

    async def last(self) -> dict[int, bytes | None]:
        found = await asyncio.to_thread(self.server.documents, self.index)
        return {int(json.loads(key)[0]): document for key, document in found.items()}

    async def destroy(self) -> str:
        self.server.call("DELETE", f"/{self.index}")
        return "index_missing"

    def needs_a_limit(self) -> None:
        """It has one."""

    async def fill(self) -> None:
        # What a node does by itself at its flood-stage watermark.
        self._block(True)

    async def make_room(self) -> None:
        self._block(None)

    def _block(self, how: bool | None) -> None:
        self.server.call("PUT", f"/{self.index}/_settings", {"index.blocks.read_only_allow_delete": how})

    async def lose(self) -> None:
        await self.proxy.refuse()
        self.proxy.cut()

    async def mend(self) -> None:
        await self.proxy.accept_again()


class ElasticsearchCase(OpenSearchCase):
    """The same on Elasticsearch itself."""

    server_fixture = "elasticsearch_server"


CASES |= {"opensearch": OpenSearchCase, "elasticsearch": ElasticsearchCase}


class S3Case(SinkCase):
    """Objects in versitygw, through a fault proxy; read back with botocore's own client."""

    form = Format("json", "gzip")

    def records(self, file: bytes) -> list[bytes]:
        """What is in one object."""
        return gzip.decompress(file).splitlines()

    async def start(self) -> None:
        self.server: S3Server = self.request.getfixturevalue("s3_server")
        self.bucket = self.server.create_bucket()
        self._own_disk = mounted(self.server.data / self.bucket)
        self.proxy = FaultProxy(self.server.port)
        await self.proxy.__aenter__()
        self._sinks: list[Sink] = []

    async def stop(self) -> None:
        for sink in self._sinks:
            await sink.close()
        await self.proxy.__aexit__(None, None, None)
        if self._own_disk:
            unmounted(self.server.data / self.bucket)

    async def destroy(self) -> str:
        if self._own_disk:
            unmounted(self.server.data / self.bucket)
            self._own_disk = False
        shutil.rmtree(self.server.data / self.bucket)
        return "bucket_missing"

    def needs_a_limit(self) -> None:
        needs_own(self.server.data / self.bucket)

    async def fill(self) -> None:
        fill(self.server.data / self.bucket)

    async def make_room(self) -> None:
        make_room(self.server.data / self.bucket)

    def sink(self, **changes: Any) -> Sink:
        from sinks.s3 import S3Sink

        endpoint = f"http://{self.proxy.address}"
        spec = self.server.spec(self.bucket, endpoint=endpoint, prefix="exports/{job}", **changes)
        self._sinks.append(S3Sink(spec, self.form, patience=10))
        return self._sinks[-1]

    async def read(self) -> list[bytes]:
        def read() -> list[bytes]:
            keys = sorted(key for key in self.server.objects(self.bucket) if key.endswith(self.form.extension))
            return [row for key in keys for row in self.records(self.server.read(self.bucket, key))]

        return await asyncio.to_thread(read)

    async def manifest(self, name: str, content: bytes | None = None) -> tuple[bytes, str] | None:
        def look() -> tuple[bytes, str] | None:
            place = {"Bucket": self.bucket, "Key": f"exports/orders/{name}"}
            client = self.server.client()
            if content is not None:
                client.put_object(**place, Body=content)
            if place["Key"] not in self.server.objects(self.bucket):
                return None
            found = client.get_object(**place)
            return found["Body"].read(), str(found["LastModified"])

        return await asyncio.to_thread(look)

    async def lose(self) -> None:
        await self.proxy.refuse()
        self.proxy.cut()

    async def mend(self) -> None:
        await self.proxy.accept_again()


class S3CsvCase(CsvRows, S3Case):
    """The same in CSV."""


class S3ParquetCase(ParquetRows, S3Case):
    """The same in Parquet."""


CASES |= {"s3": S3Case, "s3-csv": S3CsvCase, "s3-parquet": S3ParquetCase}


class HdfsCase(SinkCase):
    """Files of a real HDFS, through fault proxies; read back with the standard library's HTTP."""

    form = Format("json", "gzip")

    def records(self, file: bytes) -> list[bytes]:
        """What is in one file."""
        return gzip.decompress(file).splitlines()

    async def start(self) -> None:
        self.server: HdfsServer = self.request.getfixturevalue("hdfs_server")
        self.path = f"/contract/{uuid.uuid4().hex}"
        self.proxies = HdfsProxies(self.server)
        await self.proxies.__aenter__()

    async def stop(self) -> None:
        await self.proxies.__aexit__(None, None, None)
        self.server.call("DELETE", "DELETE", self.path, recursive="true")

    def sink(self, **changes: Any) -> Sink:
        from sinks.hdfs import HdfsSink

        spec = {"kind": "hdfs", "url": self.proxies.url, "path": self.path, "user": "ann"}
        return HdfsSink(HdfsSinkSpec.model_validate(spec | changes), self.form)

    async def read(self) -> list[bytes]:
        def rows() -> list[bytes]:
            names = [name for name in self.server.names(self.path) if name.endswith(self.form.extension)]
            return [row for name in names for row in self.records(self.server.read(f"{self.path}/{name}"))]

        return await asyncio.to_thread(rows)

    async def destroy(self) -> str:
        await asyncio.to_thread(lambda: self.server.call("DELETE", "DELETE", self.path, recursive="true"))
        return "folder_missing"

    def needs_a_limit(self) -> None:
        """It has one."""

    async def fill(self) -> None:
        await asyncio.to_thread(self.server.limit_space, self.path, 1)

    async def make_room(self) -> None:
        await asyncio.to_thread(self.server.limit_space, self.path, None)

    async def manifest(self, name: str, content: bytes | None = None) -> tuple[bytes, str] | None:
        def look() -> tuple[bytes, str] | None:
            path = f"{self.path}/{name}"
            if content is not None:
                self.server.call("DELETE", "DELETE", path)
                self.server.write(path, content)
            if name not in self.server.names(self.path):
                return None
            status = json.loads(self.server.call("GET", "GETFILESTATUS", path))["FileStatus"]
            return self.server.read(path), str(status["fileId"])

        return await asyncio.to_thread(look)

    async def lose(self) -> None:
        await self.proxies.refuse()

    async def mend(self) -> None:
        await self.proxies.accept_again()


class HdfsCsvCase(CsvRows, HdfsCase):
    """The same in CSV."""


class HdfsParquetCase(ParquetRows, HdfsCase):
    """The same in Parquet."""


CASES |= {"hdfs": HdfsCase, "hdfs-csv": HdfsCsvCase, "hdfs-parquet": HdfsParquetCase}
