"""Indices and aliases: what is there, what has to be made, and how a finished generation takes the alias over.

With `strategy: replace` every generation writes into an index of its own, `<index>-<end of the job's id>-g<number>`,
or with `staging_prefix` `<staging_prefix>-<index>-<number>`; where another job has that name, the end of the job's id
stands before the number. It is marked as this job's in its mapping's `_meta`. Readers use the alias `<index>`, which
the finish step moves in one request; until then, and after an error or an abort, they see the documents of the
generation before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sinks.base import PositionConflict, SinkRefused
from sinks.elasticsearch_client import WORK_SECONDS, path
from sinks.elasticsearch_errors import index_closed, index_missing, index_read_only

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sinks.elasticsearch_client import Client
    from sinks.specs import ElasticsearchSinkSpec

SHOWN: Final = (
    "*.settings.index.uuid,*.settings.index.blocks,*.settings.index.verified_before_close,*.aliases,*.data_stream,"
    "*.mappings._meta"
)
MARK: Final = "rowferry"
_ID_LETTERS: Final = 12
"""The end of a UUIDv7 is random; its beginning is the time."""


@dataclass(frozen=True, slots=True)
class Index:
    """One index as it is now."""

    name: str
    uuid: str
    aliases: Mapping[str, Any]
    closed: bool
    blocked: str
    """The blocks that keep documents out; empty when there are none."""
    data_stream: bool
    mark: Mapping[str, Any]
    """Whose generation it is; empty for an index that is not ours."""

    def refuse_unwritable(self, client: Client, doing: str) -> None:
        """Raises SinkRefused when no document can be written."""
        if self.closed:
            raise index_closed(client.names, doing)
        if self.blocked:
            raise index_read_only(client.names, doing, f"{self.blocked} is set.")
        if self.data_stream:
            raise SinkRefused(
                "data_stream_not_supported",
                f"sink.index {client.names.index!r} is a data stream, which takes no document by its id and version. "
                "Name an index or an alias of one.",
            )


def generation_index(spec: ElasticsearchSinkSpec, job_id: str, generation: int) -> str:
    """The index that a generation writes to."""
    if spec.strategy == "incremental":
        return spec.index
    if spec.staging_prefix is not None:
        return f"{spec.staging_prefix}-{spec.index}-{generation}"
    return f"{spec.index}-{short_id(job_id)}-g{generation:04d}"


def job_indices(spec: ElasticsearchSinkSpec, job_id: str) -> str:
    """A pattern of every generation's index of one job; with a prefix of their own also those of others, which their
    mark tells apart."""
    if spec.staging_prefix is not None:
        return f"{spec.staging_prefix}-{spec.index}-*"
    return f"{spec.index}-{short_id(job_id)}-g*"


async def look(client: Client, name: str, doing: str) -> list[Index] | None:
    """The index `name`, the indices behind the alias `name`, or those that match a pattern; None when there is
    nothing of that name. Raises SinkError."""
    query = {"filter_path": f"{SHOWN},error", "expand_wildcards": "open,closed,hidden"}
    answer = await client.call("GET", path(name), doing, query=query, accept=(404,))
    if answer.status == 404:
        return None
    return [_index(found, shown) for found, shown in answer.body.items() if isinstance(shown, dict)]


async def written(client: Client, name: str, doing: str) -> tuple[Index, bool] | None:
    """The one index that documents for `name` go to, and whether `name` is an alias. Raises SinkRefused where it is
    an alias without one."""
    found = await look(client, name, doing)
    if not found:
        return None
    for index in found:
        if index.name == name or index.data_stream:
            return index, False
    chosen = [one for one in found if one.aliases.get(name, {}).get("is_write_index")]
    chosen = chosen or (found if len(found) == 1 else [])
    if not chosen:
        raise SinkRefused(
            "index_ambiguous",
            f"sink.index {name!r} is an alias of {len(found)} indices and none of them is its write index. Set "
            "is_write_index on one, or name an index.",
        )
    return chosen[0], True


async def create(client: Client, spec: ElasticsearchSinkSpec, name: str, mark: Mapping[str, Any] | None) -> None:
    """Make an index with the definition's mapping and settings; one that is there already is left as it is. Raises
    SinkRefused `mapping_refused`."""
    mapping = spec.mapping or {}
    body: dict[str, Any] = dict(mapping)
    if mark is not None:
        mappings = dict(mapping.get("mappings", {}))
        body["mappings"] = {**mappings, "_meta": {**mappings.get("_meta", {}), MARK: dict(mark)}}
    doing = f"making index {name!r}"
    answer = await client.call("PUT", path(name), doing, body=body, accept=(400,), seconds=WORK_SECONDS)
    if answer.status == 400 and answer.told.type != "resource_already_exists_exception":
        raise SinkRefused(
            "mapping_refused",
            f"{doing} with sink.mapping was refused: {answer.told.type}: {answer.told.reason}. Correct sink.mapping.",
        )


async def own_generation(client: Client, spec: ElasticsearchSinkSpec, job_id: str, generation: int) -> Index:
    """Make the generation's index, or find it made by an earlier try. Raises SinkRefused where the alias's name is an
    index's, PositionConflict where the index is somebody else's."""
    for there in await look(client, spec.index, "looking at the alias") or []:
        if there.name == spec.index or there.data_stream:
            raise SinkRefused(
                "alias_taken",
                f"sink.index {spec.index!r} is an index, and strategy replace needs the name for an alias. Choose "
                "another name, or move the documents and delete the index.",
            )
    mark = {"job_id": job_id, "generation": generation}
    name = generation_index(spec, job_id, generation)
    # A job of the past may have left its index, which readers see: its name is not the job's own.
    names = [name, f"{spec.staging_prefix}-{spec.index}-{short_id(job_id)}-{generation}"]
    for name in names if spec.staging_prefix is not None else names[:1]:
        await create(client, spec, name, mark)
        found = await written(client, name, "looking at the new index")
        if found is None:
            raise index_missing(client.names, "looking at the new index")
        if dict(found[0].mark) == mark:
            return found[0]
    raise PositionConflict(
        "index_taken", f"index {name!r} was not made by this generation; move it away, then start again."
    )


async def take_over(client: Client, spec: ElasticsearchSinkSpec, job_id: str, name: str) -> None:
    """Let the alias lead to `name` alone, in one request that also removes the indices of earlier generations; then
    remove what unfinished generations of the job have left. Repeatable."""
    behind = await look(client, spec.index, "looking at the alias") or []
    actions: list[dict[str, Any]] = []
    if name not in {index.name for index in behind}:
        actions.append({"add": {"index": name, "alias": spec.index}})
    for index in behind:
        if index.name == name:
            continue
        if index.mark:
            actions.append({"remove_index": {"index": index.name}})
        else:  # an index that somebody else put behind the alias keeps its documents
            actions.append({"remove": {"index": index.name, "alias": spec.index}})
    if actions:
        doing = f"moving alias {spec.index!r} to {name!r}"
        await client.call("POST", "/_aliases", doing, body={"actions": actions}, seconds=WORK_SECONDS)
    await remove_others(client, spec, job_id, name)


async def remove_others(client: Client, spec: ElasticsearchSinkSpec, job_id: str, keep: str | None = None) -> None:
    """Remove the job's generations that no reader sees: not behind the alias, and not `keep`. Repeatable."""
    for index in await look(client, job_indices(spec, job_id), "looking for unfinished generations") or []:
        if index.name != keep and spec.index not in index.aliases and index.mark.get("job_id") == job_id:
            await client.call(
                "DELETE", path(index.name), f"removing index {index.name!r}", accept=(404,), seconds=WORK_SECONDS
            )


def _index(name: str, shown: Mapping[str, Any]) -> Index:
    settings = shown.get("settings", {}).get("index", {})
    blocks = settings.get("blocks", {})
    # read_only_allow_delete is the disk watermark's: it comes and goes by itself, and a bulk request tells of it.
    blocked = [f"index.blocks.{block}" for block in ("read_only", "write") if str(blocks.get(block)).lower() == "true"]
    mark = (shown.get("mappings", {}).get("_meta") or {}).get(MARK)
    return Index(
        name=name,
        uuid=str(settings.get("uuid", "")),
        aliases=shown.get("aliases", {}),
        closed=str(settings.get("verified_before_close")).lower() == "true",
        blocked=" and ".join(blocked),
        data_stream="data_stream" in shown,
        mark=mark if isinstance(mark, dict) else {},
    )


def short_id(job_id: str) -> str:
    """The end of a job's id, as it stands in names."""
    return re.sub(r"[^a-z0-9]", "", job_id.lower())[-_ID_LETTERS:]
