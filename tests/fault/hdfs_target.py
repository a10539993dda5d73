"""A folder of HDFS as the target of a fault scenario, read back with the standard library's HTTP client."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import TYPE_CHECKING, Any

from tests.support.reconcile import Delivered, lines_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.hdfs import HdfsServer


class HdfsTarget:
    """Jobs reach the NameNode at `url`, readers always directly."""

    def __init__(self, server: HdfsServer, url: str | None = None) -> None:
        self._server, self._url = server, url or server.url
        self._root = f"/fault/{uuid.uuid4().hex}"

    def path(self, job: str) -> str:
        """The folder of a job."""
        return f"{self._root}/{job}"

    def sink(self, job: str) -> dict[str, Any]:
        """A folder of its own."""
        return {"kind": "hdfs", "url": self._url, "path": self.path(job), "user": "ann"}

    def rows(self, job: str) -> Sequence[Delivered]:
        """What readers of the folder get, in the order of the files' names."""
        return [
            Delivered("files", (str(json.loads(line)["id"]),), line)
            for name in self._files(job)
            for line in lines_of(name, self._server.read(f"{self.path(job)}/{name}"))
        ]

    def check_outputs(self, job: str, outputs: Sequence[dict[str, Any]], *, finished: bool = True) -> None:
        """Each output is a file of that size, checksum and rows, each file an output, the manifest lists them all, and
        nothing temporary is left."""
        path = self.path(job)
        assert sorted(output["target"] for output in outputs) == [f"{path}/{name}" for name in self._files(job)]
        for output in outputs:
            content = self._server.read(output["target"])
            assert output["bytes"] == len(content), f"{job}: {output} and {len(content)} bytes"
            assert output["checksum"] == f"sha256:{hashlib.sha256(content).hexdigest()}", f"{job}: {output}"
            keys = [str(json.loads(line)["id"]) for line in lines_of(output["target"], content)]
            assert (len(keys), keys[0], keys[-1]) == (output["rows"], output["first_id"], output["last_id"]), output
        if finished:
            self._check_manifest(job, outputs)
        assert ".rowferry" not in self._server.names(path), f"{job}: left behind: {self._server.files_below(path)}"

    def check_watch(self, job: str) -> None:
        """Nobody waits for a file."""

    def _check_manifest(self, job: str, outputs: Sequence[dict[str, Any]]) -> None:
        names = [name for name in self._server.names(self.path(job)) if name.startswith("_manifest-")]
        manifest = json.loads(self._server.read(f"{self.path(job)}/{max(names)}"))
        mine = [output for output in outputs if output["generation"] == manifest["generation"]]
        mine.sort(key=lambda output: (output["split"], output["sequence"]))
        listed = [(f["file"], f["rows"], f["bytes"], f["checksum"]) for f in manifest["files"]]
        assert listed == [(o["target"].rpartition("/")[2], o["rows"], o["bytes"], o["checksum"]) for o in mine]
        assert (manifest["file_count"], manifest["rows"]) == (len(mine), sum(o["rows"] for o in mine)), manifest

    def _files(self, job: str) -> list[str]:
        return [name for name in self._server.names(self.path(job)) if not name.startswith((".", "_"))]
