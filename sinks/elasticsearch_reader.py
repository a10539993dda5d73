"""Looks documents up by the keys of their rows, for a verification.

https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-mget: by id and in real time, so that nothing has
to be refreshed. Which documents belong to a chunk only the keys tell: a document of a row that the source does not have
any more is not looked at.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from sinks.base import SinkUnavailable
from sinks.elasticsearch_bulk import document_id
from sinks.elasticsearch_client import WORK_SECONDS, path
from sinks.elasticsearch_errors import Told, refusal
from sinks.elasticsearch_index import written
from sinks.reading import Flaw, Standing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sinks.base import Batch, Prepared
    from sinks.elasticsearch_client import Client
    from sinks.reading import Wanted

_DOING: Final = "looking documents up"
_MISSING: Final = "index_not_found_exception"


class ElasticsearchReader:
    """Promises of the methods: `sinks.reading.KeyReader`."""

    def __init__(self, client: Client, wanted: Wanted, id_places: tuple[int, ...] = (), *, as_sent: bool) -> None:
        """`as_sent`: documents are stored as they were sent, so that values can be compared; a pipeline may change
        them. The client is closed with the reader."""
        self._client = client
        self._id_places = id_places
        self._values = wanted.values and as_sent
        self._uuids: dict[str, str | None] = {}

    async def look_up(self, chunk: Prepared, rows: Batch) -> Sequence[Standing] | Flaw:
        """One `_mget`."""
        if (flaw := await self._index_flaw(chunk)) is not None:
            return flaw
        assert rows.ids is not None, "a sink that upserts is given ids"
        routes = rows.keys or [None] * rows.rows
        asked = [
            {"_id": document_id(key, self._id_places).decode()} | ({"routing": route.decode()} if route else {})
            for key, route in zip(rows.ids, routes, strict=True)
        ]
        answer = await self._client.call(
            "POST",
            path(chunk.target, "_mget"),
            _DOING,
            query={} if self._values else {"_source": "false"},
            body={"docs": asked},
            accept=(404,),
            seconds=WORK_SECONDS,
        )
        if answer.status == 404:
            return self._gone(chunk, answer.told)
        found = answer.body.get("docs")
        if not isinstance(found, list) or len(found) != rows.rows:
            raise SinkUnavailable("sink_unavailable", f"{self._client.names.url} answered without each document.")
        standings = []
        for document, value in zip(found, rows.values, strict=True):
            if "error" in document:
                told = Told.of(document["error"])
                if told.type == _MISSING:
                    return self._gone(chunk, told)
                raise refusal(self._client.names, _DOING, 500, told)
            standings.append(self._standing(chunk, document, value))
        return standings

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _standing(self, chunk: Prepared, document: Mapping[str, Any], value: bytes) -> Standing:
        if not value:
            return self._deleted(chunk, document)
        if not document.get("found"):
            return Standing(there=False)
        version, sent = document.get("_version"), chunk.details.get("version")
        if sent is not None and version != sent:
            note = "another version: written again later, or by somebody else"
            return Standing(True, Flaw("foreign", chunk.target, {"version": sent}, {"version": version}, note))
        if self._values and document.get("_source") != json.loads(value):
            return Standing(True, Flaw("checksum", chunk.target, None, None, "another value"))
        return Standing(True)

    @staticmethod
    def _deleted(chunk: Prepared, document: Mapping[str, Any]) -> Standing:
        """What is to be said of the document of a row that is deleted: that it is not there is as it should be."""
        if not document.get("found"):
            return Standing(there=True)
        version, sent = document.get("_version"), chunk.details.get("version")
        if version == sent:
            note = "delivered before the row was deleted in the source"
            return Standing(True, Flaw("source_changed", chunk.target, None, None, note))
        note = "the row is deleted, and its document is there in another version"
        return Standing(True, Flaw("foreign", chunk.target, {"version": sent}, {"version": version}, note))

    async def _index_flaw(self, chunk: Prepared) -> Flaw | None:
        """An index that was deleted and made again holds nothing of the chunk."""
        sent = chunk.details.get("index_uuid")
        if chunk.target not in self._uuids:
            found = await written(self._client, chunk.target, _DOING)
            self._uuids[chunk.target] = None if found is None or found[1] else found[0].uuid
        uuid = self._uuids[chunk.target]
        if not isinstance(sent, str) or not uuid or uuid == sent:
            return None
        return Flaw("gone", chunk.target, sent, uuid, "the index was deleted and made again")

    def _gone(self, chunk: Prepared, told: Told) -> Flaw:
        return Flaw(
            "gone", chunk.target, chunk.details.get("index_uuid"), None, told.reason or "there is no such index"
        )
