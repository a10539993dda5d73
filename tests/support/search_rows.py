"""Short words for tests of the Elasticsearch sink: its definition, owners, rows and chunks."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

from sinks.base import Batch, Cut, Owner
from sinks.elasticsearch import ElasticsearchSink
from sinks.specs import ElasticsearchSinkSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sinks.base import Prepared, Receipt, Writer

OWNER = Owner(
    account="default",
    job_id="0199a1b2-0000-7000-8000-00c0ffee0001",
    job_name="orders",
    run_id="r1",
    generation=3,
    split="0",
    epoch=5,
)
_VERSIONS = itertools.count(1)


def search_sink(url: str, index: str, *, owner: Owner = OWNER, **changes: Any) -> ElasticsearchSink:
    """A sink on an index; `changes` are further fields of the definition, or `guard` and `target`."""
    extra = {name: changes.pop(name) for name in ("guard", "target") if name in changes}
    spec = {"kind": "elasticsearch", "url": url, "index": index} | changes
    return ElasticsearchSink(
        ElasticsearchSinkSpec.model_validate(spec), job_id=owner.job_id, generation=owner.generation, **extra
    )


def values(first: int, last: int, text: str = "as it was") -> list[bytes]:
    """One JSON row a number."""
    return [json.dumps({"id": number, "text": text}).encode() for number in range(first, last + 1)]


def batch(rows: Sequence[bytes], routing: Sequence[bytes | None] | None = None) -> Batch:
    """Rows with the keys that stand in their `id`."""
    ids = [json.dumps([str(json.loads(row)["id"])]).encode() for row in rows]
    return Batch(list(rows), None if routing is None else list(routing), ids)


def cut(sequence: int, rows: int, *, version: int | None = None) -> Cut:
    """A cut whose keys nobody looks at; a version above those before unless it is given."""
    return Cut(sequence, 1, rows, ("1",), (str(rows),), None, version=version or next(_VERSIONS))


async def prepared(writer: Writer, sequence: int, rows: Sequence[bytes], *, version: int | None = None) -> Prepared:
    """Stage and prepare one chunk."""
    await writer.stage(batch(rows))
    return await writer.prepare(cut(sequence, len(rows), version=version))


async def deliver(writer: Writer, sequence: int, rows: Sequence[bytes], *, version: int | None = None) -> Receipt:
    """One chunk, visible."""
    return await writer.make_visible(await prepared(writer, sequence, rows, version=version))


def key(number: int) -> str:
    """The `_id` of row `number`."""
    return json.dumps([str(number)])


def documents(rows: Sequence[bytes]) -> dict[str, bytes]:
    """What a search finds of these rows."""
    return {key(json.loads(row)["id"]): row for row in rows}
