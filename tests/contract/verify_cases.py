"""What a sink brings to the contract of verification: a target, and another client that does damage to it."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import json
import uuid
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

import pyarrow as pa
import pyzipper
from confluent_kafka import Producer, TopicPartition
from pyarrow import parquet

from tests.support.topics import topic_ends

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import pytest

    from tests.integration.api_cases import ApiCase
    from tests.support.elasticsearch import SearchServer
    from tests.support.hdfs import HdfsServer
    from tests.support.kafka import KafkaServer
    from tests.support.s3 import S3Server

ROWS, SPLITS, CHUNK = 1000, 2, 100
"""Ids 1 to 1000, five chunks in each of two splits."""

Expected = dict[str, int]


class VerifyCase(ABC):
    """One sink. `damages`: a name -> what is done to the target, answering the differences that are to be found."""

    form: ClassVar[dict[str, str] | None] = {"kind": "json", "compression": "gzip"}
    loses_one: str
    """The damage after which one row, or as little as can be, is not there."""
    after_loss: ClassVar[Expected]
    """What is found after it when a row near by was deleted in the source too."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.request = request
        self.api: ApiCase

    async def start(self, api: ApiCase) -> None:
        """Make the empty target."""
        self.api = api

    async def stop(self) -> None:
        """Remove it."""
        del self.api

    @abstractmethod
    def sink(self) -> dict[str, Any]:
        """The sink of the job's definition."""

    @property
    @abstractmethod
    def damages(self) -> dict[str, Callable[[], Awaitable[Expected]]]:
        """See the class."""

    async def outputs(self) -> list[dict[str, Any]]:
        """The chunks of the job's newest generation by their first id."""
        found = (await self.api.ok("GET", "/v1/jobs/j/outputs?limit=500"))["outputs"]
        newest = max(one["generation"] for one in found)
        return sorted((one for one in found if one["generation"] == newest), key=lambda one: int(one["first_id"]))


class BytesCase(VerifyCase):
    """A target that keeps bytes under names: each damage is done to the object of ids 1 to 100."""

    loses_one = "a record less"
    after_loss: ClassVar[Expected] = {"checksum": 1, "missing": 1, "source_changed": 1}

    @abstractmethod
    async def read(self, target: str) -> bytes:
        """What has this name."""

    @abstractmethod
    async def write(self, target: str, content: bytes) -> None:
        """Put something else in its place."""

    @abstractmethod
    async def remove(self, target: str) -> None:
        """Remove it."""

    @property
    def damages(self) -> dict[str, Callable[[], Awaitable[Expected]]]:
        return {
            "removed": self._remove,
            "cut off in the middle": self._cut,
            "a record less": self._less,
            "a record twice": self._twice,
            "another key": self._other_key,
            "another value": self._other_value,
            "a byte that breaks the compression": self._broken,
        }

    async def _remove(self) -> Expected:
        await self.remove((await self.outputs())[0]["target"])
        return {"gone": 1, "missing": 100}

    async def _cut(self) -> Expected:
        target = (await self.outputs())[0]["target"]
        content = await self.read(target)
        await self.write(target, content[: len(content) // 2])
        return {"checksum": 1, "missing": -1}

    async def _broken(self) -> Expected:
        target = (await self.outputs())[0]["target"]
        content = await self.read(target)
        middle = len(content) // 2
        await self.write(target, content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :])
        return {"checksum": 1, "missing": -1, "foreign": -1}

    async def _less(self) -> Expected:
        await self._edit(lambda rows: [row for row in rows if row["id"] != 42])
        return {"checksum": 1, "missing": 1}

    async def _twice(self) -> Expected:
        await self._edit(lambda rows: [*rows, rows[7]])
        return {"checksum": 1, "doubled": 1}

    async def _other_key(self) -> Expected:
        await self._edit(lambda rows: [{**row, "id": 777_777} if row["id"] == 42 else row for row in rows])
        return {"checksum": 1, "missing": 1, "foreign": 1}

    async def _other_value(self) -> Expected:
        await self._edit(lambda rows: [{**row, "note": "x"} if row["id"] == 42 else row for row in rows])
        return {"checksum": 1}

    async def _edit(self, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
        target = (await self.outputs())[0]["target"]
        await self.write(target, self.edited(await self.read(target), change))

    def edited(self, content: bytes, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> bytes:
        """The object with other rows, in the format it had."""
        rows = [json.loads(line) for line in self.unpacked(content).splitlines()]
        lines = [json.dumps(row, separators=(",", ":")) + "\n" for row in change(rows)]
        return self.packed("".join(lines).encode())

    def unpacked(self, content: bytes) -> bytes:
        """Without its compression."""
        return gzip.decompress(content)

    def packed(self, content: bytes) -> bytes:
        """With it."""
        return gzip.compress(content)


class FileCase(BytesCase):
    """Files of the account's folder."""

    def sink(self) -> dict[str, Any]:
        return {"kind": "file", "path": "out/orders"}

    async def read(self, target: str) -> bytes:
        return (self.api.folder / "files" / "default" / target).read_bytes()

    async def write(self, target: str, content: bytes) -> None:
        (self.api.folder / "files" / "default" / target).write_bytes(content)

    async def remove(self, target: str) -> None:
        (self.api.folder / "files" / "default" / target).unlink()


class CsvCase(FileCase):
    """Files of CSV, written again by Python's own module."""

    form: ClassVar[dict[str, str] | None] = {"kind": "csv", "compression": "gzip", "delimiter": ";"}

    def edited(self, content: bytes, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> bytes:
        rows = list(csv.DictReader(io.StringIO(gzip.decompress(content).decode()), delimiter=";"))
        for row in rows:
            row["id"] = int(row["id"])
        out = io.StringIO()
        writer = csv.DictWriter(out, list(rows[0]), delimiter=";", lineterminator="\n")
        writer.writeheader()
        writer.writerows(change(rows))
        return gzip.compress(out.getvalue().encode())


class ParquetCase(FileCase):
    """Files of Parquet, written again by pyarrow."""

    form: ClassVar[dict[str, str] | None] = {"kind": "parquet", "compression": "zstd"}

    def edited(self, content: bytes, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> bytes:
        table = parquet.read_table(pa.BufferReader(content))
        out = pa.BufferOutputStream()
        parquet.write_table(pa.Table.from_pylist(change(table.to_pylist()), schema=table.schema), out)
        written: bytes = out.getvalue().to_pybytes()
        return written


CASES: dict[str, Callable[[pytest.FixtureRequest], VerifyCase]] = {
    "file": FileCase,
    "file-csv": CsvCase,
    "file-parquet": ParquetCase,
}


class S3Case(BytesCase):
    """Objects in versitygw, by botocore's own client."""

    async def start(self, api: ApiCase) -> None:
        await super().start(api)
        self.server: S3Server = self.request.getfixturevalue("s3_server")
        self.bucket = self.server.create_bucket()

    def sink(self) -> dict[str, Any]:
        return self.server.definition(self.bucket) | {"prefix": "out/{job}"}

    async def read(self, target: str) -> bytes:
        return await asyncio.to_thread(self.server.read, self.bucket, target)

    async def write(self, target: str, content: bytes) -> None:
        client = self.server.client()
        await asyncio.to_thread(client.put_object, Bucket=self.bucket, Key=target, Body=content)

    async def remove(self, target: str) -> None:
        client = self.server.client()
        await asyncio.to_thread(client.delete_object, Bucket=self.bucket, Key=target)


class LockedZipCase(S3Case):
    """ZIP archives under a password, as the Devo dialect's jobs into S3 have them."""

    form: ClassVar[dict[str, str] | None] = {"kind": "json", "compression": "zip"}
    password = "of-the-archive-0123"

    def sink(self) -> dict[str, Any]:
        return super().sink() | {"file_password": self.password}

    def unpacked(self, content: bytes) -> bytes:
        with pyzipper.AESZipFile(io.BytesIO(content)) as archive:
            found: bytes = archive.read(archive.namelist()[0], pwd=self.password.encode())
            return found

    def packed(self, content: bytes) -> bytes:
        out = io.BytesIO()
        with pyzipper.AESZipFile(out, "w", compression=pyzipper.ZIP_DEFLATED, encryption=pyzipper.WZ_AES) as archive:
            archive.setpassword(self.password.encode())
            archive.writestr("rows.jsonl", content)
        return out.getvalue()


class HdfsCase(BytesCase):
    """Files of a real HDFS, by the standard library's HTTP."""

    async def start(self, api: ApiCase) -> None:
        await super().start(api)
        self.server: HdfsServer = self.request.getfixturevalue("hdfs_server")
        self.path = f"/verify/{uuid.uuid4().hex}"

    async def stop(self) -> None:
        await asyncio.to_thread(lambda: self.server.call("DELETE", "DELETE", self.path, recursive="true"))

    def sink(self) -> dict[str, Any]:
        return {"kind": "hdfs", "url": self.server.url, "path": self.path, "user": "ann"}

    async def read(self, target: str) -> bytes:
        return await asyncio.to_thread(self.server.read, target)

    async def write(self, target: str, content: bytes) -> None:
        await self.remove(target)
        await asyncio.to_thread(self.server.write, target, content)

    async def remove(self, target: str) -> None:
        await asyncio.to_thread(lambda: self.server.call("DELETE", "DELETE", target))


CASES |= {"s3": S3Case, "s3-zip": LockedZipCase, "hdfs": HdfsCase}


class KafkaCase(VerifyCase):
    """A topic of three partitions that both splits write to at once, by librdkafka's clients."""

    form = None
    delivery = "exactly_once"
    loses_one = "a partition expired"
    after_loss: ClassVar[Expected] = {"not_verifiable": ROWS // CHUNK, "source_changed": 1}

    async def start(self, api: ApiCase) -> None:
        await super().start(api)
        self.server: KafkaServer = self.request.getfixturevalue("kafka_server")
        self.topic = self.server.create_topic(partitions=3)

    def sink(self) -> dict[str, Any]:
        return {
            "kind": "kafka",
            "bootstrap_servers": self.server.bootstrap,
            "topic": self.topic,
            "key": ["id"],
            "delivery": self.delivery,
            "compression": "zstd",
        }

    @property
    def damages(self) -> dict[str, Callable[[], Awaitable[Expected]]]:
        return {
            "somebody else's records": self._foreign,
            "a partition expired": self._expire,
            "deleted and made again": self._again,
        }

    async def _foreign(self) -> Expected:
        """Copies of a row by another producer: whose they are can be told, and they are not the job's."""
        producer = Producer({"bootstrap.servers": self.server.bootstrap})
        for partition in range(3):
            producer.produce(self.topic, key=b"42", value=b'{"id":42}', partition=partition)
        assert await asyncio.to_thread(producer.flush, 20) == 0
        return {}

    async def _expire(self) -> Expected:
        ends = await asyncio.to_thread(topic_ends, self.server.bootstrap, self.topic)
        wanted = [TopicPartition(self.topic, 1, ends[1].high)]
        admin = self.server.admin()
        (deleted,) = admin.delete_records(wanted).values()
        await asyncio.to_thread(deleted.result, 20)
        return {"not_verifiable": ROWS // CHUNK}

    async def _again(self) -> Expected:
        await asyncio.to_thread(self.server.delete_topic, self.topic)
        await asyncio.to_thread(self.server.create_topic, self.topic, partitions=3)
        return {"gone": ROWS // CHUNK, "missing": ROWS}


class KafkaPlainCase(KafkaCase):
    """Without transactions."""

    delivery = "at_least_once"


class OpenSearchCase(VerifyCase):
    """Documents of one index, by plain HTTP."""

    form = None
    loses_one = "a document deleted"
    after_loss: ClassVar[Expected] = {"missing": 1, "source_changed": 1}
    server_fixture = "opensearch_server"

    async def start(self, api: ApiCase) -> None:
        await super().start(api)
        self.server: SearchServer = self.request.getfixturevalue(self.server_fixture)
        self.index = self.server.index_name()

    def sink(self) -> dict[str, Any]:
        return {"kind": "elasticsearch", "url": self.server.url, "index": self.index, "routing": "note"}

    @property
    def damages(self) -> dict[str, Callable[[], Awaitable[Expected]]]:
        return {"a document deleted": self._delete, "a document replaced": self._replace, "index deleted": self._gone}

    async def _delete(self) -> Expected:
        await self._call("DELETE", self._document(42))
        return {"missing": 1}

    async def _replace(self) -> Expected:
        await self._call("PUT", self._document(42), {"id": 42, "note": "by hand"})
        return {"foreign": 1}

    async def _gone(self) -> Expected:
        await self._call("DELETE", f"/{self.index}")
        return {"gone": ROWS // CHUNK, "missing": ROWS}

    def _document(self, number: int) -> str:
        return f"/{self.index}/_doc/{quote(json.dumps([str(number)]), safe='')}?routing={quote(f'note {number}')}"

    async def _call(self, method: str, path: str, body: Any = None) -> None:
        await asyncio.to_thread(self.server.call, method, path, body)


class ElasticsearchCase(OpenSearchCase):
    """The same on Elasticsearch itself."""

    server_fixture = "elasticsearch_server"


CASES |= {
    "kafka": KafkaCase,
    "kafka-at-least-once": KafkaPlainCase,
    "opensearch": OpenSearchCase,
    "elasticsearch": ElasticsearchCase,
}
