"""The body of `_bulk` requests, and its answer, item by item.

https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-bulk

A row's bytes go into the body as they are. Versions are external: a document is written when its version is at least
the one that is there (`external_gte`), so the same chunk may be sent again, and a chunk that was prepared earlier can
not undo a later one, however late it arrives.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sinks.base import Rejected, SinkUnavailable
from sinks.elasticsearch_errors import Names, Told, concerns_all, lost_a_race, refusal, row_code

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sinks.base import Batch

LONGEST_ID: Final = 512
"""Bytes of an `_id`; longer ones are refused by the server, so a longer key is hashed."""
REQUEST_BYTES: Final = 4 * 1024 * 1024
REQUEST_ROWS: Final = 5000
ANSWER: Final = "errors,items.*.status,items.*.error"
_PLAIN: Final = re.compile(rb"[^\x00-\x1f]*")
_PER_ROW: Final = 80
"""About what the action line holds beside the id."""


@dataclass(slots=True)
class Rows:
    """The rows of one chunk as columns, held until they are visible."""

    id_places: tuple[int, ...] = ()
    """Which parts of a key are the document's id; none: all of it."""
    values: list[bytes] = field(default_factory=list)
    ids: list[bytes] = field(default_factory=list)
    routing: list[bytes | None] | None = None
    size: int = 0

    def add(self, batch: Batch) -> None:
        """Keep a batch. Raises ValueError when it came without ids, which a runner never does."""
        if batch.ids is None or len(batch.ids) != len(batch.values):
            raise ValueError("an Elasticsearch sink needs the key of each row (Batch.ids)")
        if batch.keys is not None:
            self.routing = (self.routing or []) + batch.keys
        self.values += batch.values
        self.ids += batch.ids
        self.size += batch.size + sum(map(len, batch.ids))

    def parts(self, most_bytes: int = REQUEST_BYTES) -> Iterator[list[int]]:
        """Numbers of rows that go into one request together: at least one, at most about `most_bytes`."""
        part: list[int] = []
        size = 0
        for number, value in enumerate(self.values):
            more = len(value) + len(self.ids[number]) + _PER_ROW
            if part and (size + more > most_bytes or len(part) >= REQUEST_ROWS):
                yield part
                part, size = [], 0
            part.append(number)
            size += more
        if part:
            yield part

    def rejected(self, number: int, code: str, reason: str) -> Rejected:
        """The row, refused."""
        route = self.routing[number] if self.routing is not None else None
        return Rejected(self.ids[number].decode(), code, reason, self.values[number], route)

    def body(self, part: Sequence[int], version: int) -> bytes:
        """One request for these rows; an empty value deletes the document."""
        versioned = b'","version":%d,"version_type":"external_gte"' % version
        lines: list[bytes] = []
        for number in part:
            route = self.routing[number] if self.routing is not None else None
            value = self.values[number]
            action = b'{"index":{"_id":"' if value else b'{"delete":{"_id":"'
            lines += (action, in_quotes(document_id(self.ids[number], self.id_places)), versioned)
            if route:
                lines += (b',"routing":"', in_quotes(route), b'"')
            lines += (b"}}\n", value, b"\n") if value else (b"}}\n",)
        return b"".join(lines)


@dataclass(slots=True)
class Verdict:
    """What became of the rows of one request; those that are in neither list are as they should be."""

    rejected: list[Rejected] = field(default_factory=list)
    again: list[int] = field(default_factory=list)
    """The cluster had no room for them, or took another's mapping of a new field; nothing else is wrong."""
    reason: str = ""


def judge(
    names: Names, rows: Rows, part: Sequence[int], answer: Mapping[str, Any], *, races_again: bool = True
) -> Verdict:
    """Read the answer item by item. 409 is done: what is there has a higher version. `races_again`: a row that lost a
    race for a new field's mapping comes again, or else is refused. Raises SinkError for what is not one row's fault;
    what the other rows of the request met is then unknown."""
    items = answer.get("items")
    if not isinstance(items, list) or len(items) != len(part):
        raise SinkUnavailable("sink_unavailable", f"{names.url} answered a bulk request without an item for each row.")
    verdict = Verdict()
    if answer.get("errors") is False:
        return verdict
    for number, item in zip(part, items, strict=True):
        (outcome,) = item.values()
        status = int(outcome.get("status", 500))
        if status < 300 or status == 409:
            continue
        if status == 404 and "error" not in outcome:
            continue  # a document to delete that was never there
        told = Told.of(outcome.get("error"))
        if (status == 429 and told.type != "cluster_block_exception") or (races_again and lost_a_race(told)):
            verdict.again.append(number)
            verdict.reason = told.reason
        elif concerns_all(status, told):
            raise refusal(names, "sending documents", status, told)
        else:
            reason = f"{told.type}: {told.reason}"
            verdict.rejected.append(rows.rejected(number, row_code(told), reason))
    return verdict


def document_id(key: bytes, places: tuple[int, ...] = ()) -> bytes:
    """The `_id` of a row: its key (or the parts of it at `places`) as canonical JSON, or the hash of that where it
    would be too long."""
    if places:
        parts = json.loads(key)
        key = json.dumps([parts[place] for place in places], ensure_ascii=False, separators=(",", ":")).encode()
    return key if len(key) <= LONGEST_ID else b"sha256:" + hashlib.sha256(key).hexdigest().encode()


def in_quotes(text: bytes) -> bytes:
    """UTF-8 text as the inside of a JSON string."""
    if _PLAIN.fullmatch(text):
        return text.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return json.dumps(text.decode(), ensure_ascii=False)[1:-1].encode()
