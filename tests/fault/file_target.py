"""Files as the target of a fault scenario: one folder a job, read back with the standard library and zstandard."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from tests.support.reconcile import Delivered, file_lines, visible_files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class FileTarget:
    """The folder of an account; `root` is known once the service has its data folder."""

    def __init__(self) -> None:
        self.root: Path

    def sink(self, job: str) -> dict[str, Any]:
        """A folder of its own."""
        return {"kind": "file", "path": f"exports/{job}"}

    def folder(self, job: str) -> Path:
        """Where the job's files are."""
        return self.root / "exports" / job

    def rows(self, job: str, generation: int | None = None) -> Sequence[Delivered]:
        """What readers of the folder get, in the order of the files' names; of one generation, where given."""
        wanted = "" if generation is None else f"-g{generation:04d}-"
        files = [path for path in visible_files(self.folder(job)) if wanted in path.name]
        return [Delivered("files", (str(json.loads(line)["id"]),), line) for path in files for line in file_lines(path)]

    def check_outputs(self, job: str, outputs: Sequence[dict[str, Any]], *, finished: bool = True) -> None:
        """Each output is a file of that size, checksum and number of rows, each file an output, and the manifests say
        the same; nothing temporary is left."""
        files = {str(path.relative_to(self.root)): path for path in visible_files(self.folder(job))}
        assert sorted(output["target"] for output in outputs) == sorted(files), f"{job}: {outputs} and {sorted(files)}"
        for output in outputs:
            path = files[output["target"]]
            content = path.read_bytes()
            assert output["bytes"] == len(content), f"{job}: {output} and {len(content)} bytes"
            assert output["checksum"] == f"sha256:{hashlib.sha256(content).hexdigest()}", f"{job}: {output}"
            keys = [str(json.loads(line)["id"]) for line in file_lines(path)]
            assert (len(keys), keys[0], keys[-1]) == (output["rows"], output["first_id"], output["last_id"]), output
        if finished:
            self._check_manifests(job, outputs)
        temporary = list(self.folder(job).rglob("*.part"))
        assert not temporary, f"{job}: left behind: {temporary}"

    def _check_manifests(self, job: str, outputs: Sequence[dict[str, Any]]) -> None:
        """The last generation has one; each lists the outputs of its generation in order of split and sequence."""
        manifests = [json.loads(path.read_text()) for path in self.folder(job).glob("_manifest-*.json")]
        last = max(output["generation"] for output in outputs)
        assert last in {manifest["generation"] for manifest in manifests}, f"{job}: {manifests}"
        for manifest in manifests:
            mine = [output for output in outputs if output["generation"] == manifest["generation"]]
            mine.sort(key=lambda output: (output["split"], output["sequence"]))
            listed = [
                (f"{manifest['path']}/{f['file']}", f["rows"], f["bytes"], f["checksum"]) for f in manifest["files"]
            ]
            assert listed == [(o["target"], o["rows"], o["bytes"], o["checksum"]) for o in mine], f"{job}: {manifest}"
            totals = (manifest["file_count"], manifest["rows"], manifest["bytes"])
            assert totals == (len(mine), sum(o["rows"] for o in mine), sum(o["bytes"] for o in mine)), manifest

    def check_watch(self, job: str) -> None:
        """Nobody waits for a file."""
