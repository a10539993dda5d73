"""OpenSearch as the target of a fault scenario: one index a job, read back by searches."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.support.reconcile import Delivered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.elasticsearch import SearchServer


class SearchTarget:
    """Indices of one node; jobs reach it at `url`, readers always directly."""

    def __init__(self, server: SearchServer, url: str | None = None) -> None:
        self._server, self._url = server, url or server.url
        self.indices: dict[str, str] = {}

    def sink(self, job: str) -> dict[str, Any]:
        """An index of its own."""
        self.indices[job] = f"{job}-{uuid.uuid4().hex[:8]}"
        mapping = {"settings": {"number_of_replicas": 0}}
        return {"kind": "elasticsearch", "url": self._url, "index": self.indices[job], "mapping": mapping}

    def rows(self, job: str) -> Sequence[Delivered]:
        """What a search finds; documents have no order of their own, so by their key."""
        found = self._server.documents(self.indices[job])
        rows = [Delivered("documents", tuple(json.loads(key)), source) for key, source in found.items()]
        return sorted(rows, key=lambda row: int(row.key[0] or 0))

    def check_outputs(self, job: str, outputs: Sequence[dict[str, Any]], *, finished: bool = True) -> None:
        """The ranges of the outputs hold every document, each as many as it says."""
        del finished  # readers see the same documents before and after
        keys = [int(row.key[0] or 0) for row in self.rows(job)]
        for output in outputs:
            mine = [key for key in keys if int(output["first_id"]) <= key <= int(output["last_id"])]
            assert len(mine) == output["rows"], f"{job}: {len(mine)} documents in the range of {output}"
        of_all, of_each = sum(output["rows"] for output in outputs), Counter[int]()
        for output in outputs:
            of_each[output["generation"]] += output["rows"]
        # A generation that began at the beginning has sent every document again.
        assert of_all == len(keys) or set(of_each.values()) == {len(keys)}, f"{job}: {len(keys)} documents, {of_each}"

    def check_watch(self, job: str) -> None:
        """Nothing is watched: readers are never held up."""
