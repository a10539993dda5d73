"""What a definition's shape of rows can not be, seen without connecting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.domain.inspection import Finding
from service.domain.shape import METADATA, ShapedColumn, held_as, names_of
from sinks.registry import TAKES_TOMBSTONES
from workers.sources.sql import SqlError, parse_expression

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.domain.spec import JobSpec


def check_shape(job: JobSpec) -> Sequence[Finding]:
    """Findings on columns, envelope and soft deletes."""
    return [*_columns(job), *_masked_key(job), *_document_id(job), *_soft_delete(job)]


def _columns(job: JobSpec) -> list[Finding]:
    found = []
    for index, one in enumerate(job.source.columns):
        if isinstance(one, ShapedColumn) and one.expression is not None:
            try:
                parse_expression(one.expression)
            except SqlError as error:
                pointer = f"/source/columns/{index}/expression"
                message = f"source.columns: {error.placed}"
                found.append(Finding(pointer, "error", "sql_refused", message, "give one SQL expression"))
    enveloped = getattr(job.format, "envelope", None) == "with_metadata"
    if enveloped and METADATA in names_of(job.source.columns):
        message = f"source.columns gives {METADATA!r}, which is the field that format.envelope with_metadata adds"
        found.append(Finding("/source/columns", "error", "column_doubled", message, "give it another name with `as`"))
    return found


def _masked_key(job: JobSpec) -> list[Finding]:
    """A mask hides a value in the rows, and the key is more than that."""
    masked = {one.column for one in job.source.columns if isinstance(one, ShapedColumn) and one.mask and one.column}
    if not (hidden := sorted(masked & set(job.source.key or ()))):
        return []
    message = (
        f"source.columns masks {', '.join(map(repr, hidden))}, which is of the key: positions, dead letters and, in "
        "Elasticsearch, `_id` hold the key as it is"
    )
    hint = "read by another unique key, if its values must not leave the source"
    return [Finding("/source/key", "warning", "key_not_masked", message, hint)]


def _document_id(job: JobSpec) -> list[Finding]:
    if getattr(job.sink, "kind", "") != "elasticsearch":
        return []
    wanted, key = getattr(job.sink, "id", None) or (), job.source.key or ()
    if other := [name for name in wanted if name not in key]:
        message = f"sink.id names {', '.join(map(repr, other))}, and source.key does not"
        hint = "name the key in source.key, as updated_at, id, and of its columns those that stay with a row in sink.id"
        return [Finding("/sink/id", "error", "column_unknown", message, hint)]
    return []


def _soft_delete(job: JobSpec) -> list[Finding]:
    if job.source.soft_delete is None:
        return []
    kind = getattr(job.sink, "kind", "")
    if kind not in TAKES_TOMBSTONES:
        message = f"source.soft_delete makes tombstones, and a sink of kind {kind!r} has no way to take a row back"
        hint = "leave it out and deliver the column itself, or leave deleted rows out with source.where"
        return [Finding("/source/soft_delete", "error", "soft_delete_not_supported", message, hint)]
    if kind == "kafka" and not getattr(job.sink, "key", None):
        message = "source.soft_delete needs sink.key: a tombstone is a message key without a value"
        hint = "set sink.key to the columns of source.key"
        return [Finding("/sink/key", "error", "tombstone_without_key", message, hint)]
    found = []
    key = held_as(job.source.columns, job.source.key or ())
    if kind == "kafka" and job.source.key and not set(key or ()) <= set(job.sink.key):  # type: ignore[attr-defined]
        message = "sink.key does not hold the whole of source.key: one tombstone stands for every row with its text"
        hint = "name the key's columns in sink.key"
        found.append(Finding("/sink/key", "warning", "tombstone_of_many", message, hint))
    if job.mode in {"incremental", "continuous"}:
        message = (
            "a row that is removed is never seen again and no tombstone comes of it; what is updated is seen only "
            "where its key moves with the update, as (updated_at, id)"
        )
        hint = "keep deleted rows until every job has read them, and set the column in the same UPDATE as the key's"
        found.append(Finding("/source/soft_delete", "info", "hard_deletes_unseen", message, hint))
    return found
