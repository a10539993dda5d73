"""Writes the chunks of one split: held in memory until they are prepared, sent by `_bulk` to become visible.

Nothing can be staged in the target, so a writer holds the rows of one chunk (`chunk.bytes` and the keys) until they are
visible, plus one request. There is no fence either: what keeps a late owner from doing harm is its chunk's version.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Final

from sinks.base import Prepared, Receipt, SinkRefused
from sinks.elasticsearch_bulk import ANSWER, REQUEST_BYTES, Rows, judge
from sinks.elasticsearch_client import WORK_SECONDS, Client, path
from sinks.elasticsearch_errors import index_missing, index_recreated, too_busy
from sinks.elasticsearch_index import written

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sinks.base import Batch, Cut, Mark, Owner, Rejected
    from sinks.elasticsearch_index import Index
    from sinks.specs import ElasticsearchSinkSpec

BUSY_SECONDS: Final = 20.0
"""How long documents that the cluster had no room for are offered again before the runner backs off."""
_MOST_RACES: Final = 5
"""How often documents that lost a race for a new field's mapping are offered again: after the first time there is
nothing left to race for, unless they bring several new fields."""
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 3.0
_CLOSE_SECONDS: Final = 0.8


class ElasticsearchWriter:
    """One split's writer. Promises of the methods: `sinks.base.Writer`."""

    def __init__(
        self,
        client: Client,
        spec: ElasticsearchSinkSpec,
        owner: Owner,
        name: str,
        uuid: str | None,
        id_places: tuple[int, ...] = (),
    ) -> None:
        """Documents go to `name`; `uuid` is the index's own where it is known. `id_places`: which parts of a row's key
        are its document's id; none: all."""
        self._id_places = id_places
        self._client, self._spec, self._owner, self._name, self._uuid = client, spec, owner, name, uuid
        self._rows = Rows(id_places)
        self._ready: tuple[Prepared, Rows] | None = None
        self._request_bytes = REQUEST_BYTES

    async def open(self) -> None:
        """Make sure that the index is there, the one it was, and takes documents. Nobody is fenced: a chunk that an
        older owner still sends has a lower version than every one of ours."""
        self._uuid = (await writable(self._client, self._name, self._uuid, "opening")).uuid or None

    async def visible(self, prepared: Sequence[Prepared]) -> Mark | None:  # noqa: ARG002 - the contract's signature
        """None: documents do not tell which chunk they came with."""
        return None

    async def anchor(self, sequence: int) -> None:
        """Nothing: there is no position to show."""

    async def stage(self, batch: Batch) -> None:
        """Hold the rows."""
        self._rows.add(batch)

    async def prepare(self, cut: Cut) -> Prepared:
        """Fix the version under which the rows held since the last chunk are sent."""
        if cut.version is None:
            raise ValueError("an Elasticsearch sink needs a version with each cut (Sink.upserts)")
        rows, self._rows = self._rows, Rows(self._id_places)
        prepared = Prepared(
            sequence=cut.sequence,
            epoch=self._owner.epoch,
            attempt=cut.attempt,
            rows=cut.rows,
            bytes=rows.size,
            first_key=cut.first_key,
            last_key=cut.last_key,
            lower=cut.lower,
            target=self._name,
            details={"version": cut.version, "index_uuid": self._uuid},
        )
        self._ready = prepared, rows
        return prepared

    async def make_visible(self, prepared: Prepared) -> Receipt:
        """Send the chunk in requests of a bounded size and judge every item. Readers see each document with the next
        refresh of its shard, not all of a chunk at one moment."""
        if self._ready is None or self._ready[0] != prepared:
            raise SinkRefused("chunk_not_held", "only the chunk that this writer has prepared last can be sent.")
        rows, version = self._ready[1], prepared.details["version"]
        assert isinstance(version, int)
        rejected: list[Rejected] = []
        for part in rows.parts(self._request_bytes):
            rejected += await self._send(rows, part, version)
        self._ready = None
        return Receipt(target=prepared.target, rejected=tuple(rejected))

    async def discard(self) -> None:
        """Forget the rows."""
        self._rows, self._ready = Rows(self._id_places), None

    async def close(self) -> None:
        """Close the connections and forget the rows."""
        await self.discard()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._client.close()
        except TimeoutError:
            return

    async def _send(self, rows: Rows, part: Sequence[int], version: int) -> list[Rejected]:
        rejected: list[Rejected] = []
        give_up_at, attempt = time.monotonic() + BUSY_SECONDS, 0
        while part:
            answer = await self._client.call(
                "POST",
                path(self._name, "_bulk"),
                "sending documents",
                query=self._query(),
                body=rows.body(part, version),
                accept=(413, 429),
                seconds=WORK_SECONDS,
            )
            if answer.status == 413:
                return rejected + await self._send_smaller(rows, part, version)
            reason = answer.told.reason
            if answer.status != 429:
                races_again = attempt < _MOST_RACES
                verdict = judge(self._client.names, rows, part, answer.body, races_again=races_again)
                rejected += verdict.rejected
                part, reason = verdict.again, verdict.reason
            if part:
                if time.monotonic() > give_up_at:
                    raise too_busy(self._client.names, "sending documents", reason)
                attempt += 1
                await asyncio.sleep(_pause(attempt))
        return rejected

    async def _send_smaller(self, rows: Rows, part: Sequence[int], version: int) -> list[Rejected]:
        """The request was over the server's `http.max_content_length`: halve it, down to one row."""
        if len(part) == 1:
            size = len(rows.values[part[0]])
            reason = f"a request with this row alone ({size} bytes) is over the server's http.max_content_length"
            return [rows.rejected(part[0], "row_too_large", reason)]
        self._request_bytes = max(1, min(self._request_bytes, len(rows.body(part, version))) // 2)
        middle = len(part) // 2
        return await self._send(rows, part[:middle], version) + await self._send(rows, part[middle:], version)

    def _query(self) -> Mapping[str, str]:
        query = {"filter_path": f"{ANSWER},error"}
        if self._spec.pipeline is not None:
            query["pipeline"] = self._spec.pipeline
        return query


async def writable(client: Client, name: str, uuid: str | None, doing: str) -> Index:
    """The index that documents for `name` go to. Raises TargetGone where it is missing or not the one it was, and
    SinkRefused where it takes no documents. An alias may be moved to another index at any time: then `uuid` is not
    compared."""
    found = await written(client, name, doing)
    if found is None:
        raise index_missing(client.names, doing)
    index, alias = found
    if uuid is not None and not alias and index.uuid and index.uuid != uuid:
        raise index_recreated(client.names, uuid, index.uuid)
    index.refuse_unwritable(client, doing)
    return index


def _pause(attempt: int) -> float:
    full = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** (attempt - 1))
    return full / 2 + full / 2 * random.random()  # noqa: S311 - spreads retries, guards nothing
