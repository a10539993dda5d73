"""A bucket as the target of a fault scenario: one prefix a job, read back with botocore's own client."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from tests.support.reconcile import Delivered, lines_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.s3 import S3Server


class S3Target:
    """A fresh bucket; jobs reach it at `endpoint`, readers always directly."""

    def __init__(self, server: S3Server, endpoint: str | None = None) -> None:
        self._server, self._endpoint = server, endpoint
        self.bucket = server.create_bucket()

    def sink(self, job: str) -> dict[str, Any]:
        """A folder of its own, by the job's name and the run that writes."""
        del job
        return self._server.definition(self.bucket, endpoint=self._endpoint) | {"prefix": "exports/{job}/{run}"}

    def rows(self, job: str) -> Sequence[Delivered]:
        """What readers of the bucket get, in the order of the objects' names without their folders."""
        return [
            Delivered("objects", (str(json.loads(line)["id"]),), line)
            for key in sorted(self._objects(job), key=lambda key: key.rpartition("/")[2])
            for line in lines_of(key, self._server.read(self.bucket, key))
        ]

    def check_outputs(self, job: str, outputs: Sequence[dict[str, Any]], *, finished: bool = True) -> None:
        """Each output is an object of that size, checksum, ETag and rows, each object an output, the manifest lists
        them all, and no upload is left open."""
        assert sorted(output["target"] for output in outputs) == sorted(self._objects(job)), f"{job}: {outputs}"
        for output in outputs:
            reply = self._server.client().get_object(Bucket=self.bucket, Key=output["target"])
            content = reply["Body"].read()
            assert output["bytes"] == len(content), f"{job}: {output} and {len(content)} bytes"
            assert output["checksum"] == f"sha256:{hashlib.sha256(content).hexdigest()}", f"{job}: {output}"
            assert output["etag"] == reply["ETag"].strip('"'), f"{job}: {output} and {reply['ETag']}"
            keys = [str(json.loads(line)["id"]) for line in lines_of(output["target"], content)]
            assert (len(keys), keys[0], keys[-1]) == (output["rows"], output["first_id"], output["last_id"]), output
        if finished:
            self._check_manifest(job, outputs)
        left = [key for key in self._server.uploads(self.bucket) if key.startswith(f"exports/{job}/")]
        assert not left, f"{job}: uploads left open: {left}"

    def check_watch(self, job: str) -> None:
        """Nobody waits for an object."""

    def _check_manifest(self, job: str, outputs: Sequence[dict[str, Any]]) -> None:
        found = self._server.objects(self.bucket, f"exports/{job}/_manifest-")
        manifest = json.loads(self._server.read(self.bucket, max(found)))
        mine = [output for output in outputs if output["generation"] == manifest["generation"]]
        mine.sort(key=lambda output: (output["split"], output["sequence"]))
        listed = [(f["file"].lstrip("/"), f["rows"], f["bytes"], f["checksum"]) for f in manifest["files"]]
        assert listed == [(o["target"], o["rows"], o["bytes"], o["checksum"]) for o in mine], f"{job}: {manifest}"
        assert (manifest["file_count"], manifest["rows"]) == (len(mine), sum(o["rows"] for o in mine)), manifest

    def _objects(self, job: str) -> list[str]:
        keys = self._server.objects(self.bucket, f"exports/{job}/")
        return [key for key in keys if not key.rpartition("/")[2].startswith("_")]
