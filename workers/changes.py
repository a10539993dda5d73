"""What a generation knows of its source's columns, from lease to lease and from run to run.

The plan step keeps the columns that the source has, whatever is given out of them. Whoever leases a split holds those
against the ones of now, before the first page; while the split is read, each page looks for itself
(`workers.sources.drift`). `options.schema_change` decides: `fail` ends the run, naming the change; `continue` tells of
it once, keeps what is there now, and goes on. Files that name their columns begin anew with those of now: what was
staged into the open one is read again, by the next lease of the split, whose sink and source know them.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

import structlog

from config.names import LogEvent
from service.domain.errors import Permanent
from service.domain.options import Options
from service.domain.spec import OpenFormat, SourceSpec
from sinks.formats import columns
from sinks.registry import COLUMNS
from workers.sources.base import KnownTables, SourceChanged
from workers.sources.drift import differences
from workers.sources.failures import GO_ON, SCHEMA_CHANGED
from workers.sources.fixed_columns import COLUMN_CHANGED, COLUMN_GONE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.domain.steps import GenerationState, Step
    from workers.ports import Workplace
    from workers.sources.base import Source

SEEN: Final = "source_columns"
"""Under which name a generation keeps what its source consisted of, beside what its sink said."""

TABLES: Final = "source_tables"
"""Under which name it keeps the tables whose rows it read, where a job follows them."""

log = structlog.get_logger(__name__)


async def seen(spec: Mapping[str, object], source: Source) -> dict[str, object]:
    """What a generation keeps under `SEEN`: the source's columns, and the definition that they were seen through. One
    that names other columns since begins to look anew."""
    return {"of": _mark(spec), "columns": columns.to_json(await source.all_columns())}


def known_tables(step: Step, place: Workplace, before: Mapping[str, object] | None = None) -> KnownTables:
    """The tables that the step's generation knows, or the target `before` it."""
    kept: Any = step.target.get(TABLES, (before or {}).get(TABLES))

    async def keep(oids: frozenset[int]) -> None:
        await place.store.keep_of_source(step.lease, {TABLES: sorted(oids)})

    return KnownTables(None if kept is None else frozenset(kept), keep)


def _form(spec: Mapping[str, object]) -> OpenFormat:
    return OpenFormat.model_validate(spec.get("format") or {})


def _names_columns(spec: Mapping[str, object]) -> bool:
    """Whether what is written says which columns it has: then what follows it may have others."""
    form = _form(spec)
    return form.kind != "csv" or getattr(form, "header", True) is not False


def renews(spec: Mapping[str, object], target: Mapping[str, object] | None) -> bool:
    """Whether a step that meets a change while it reads goes on by its next lease, which keeps what is there now and
    has sink and source of it."""
    return SEEN in (target or {}) and _names_columns(spec)


async def repeatable(old: GenerationState, source: Source) -> Mapping[str, object]:
    """The target of a generation that is closed, with the columns that a file of it can be repeated with: its own, or
    those of now where the source has its own no more. Raises what asking the source raises."""
    if not renews(old.spec, old.target) or COLUMNS not in old.target:
        return old.target
    try:
        await source.columns()
    except Permanent as error:
        if error.code not in {COLUMN_GONE, COLUMN_CHANGED}:
            raise
        return {**old.target, COLUMNS: columns.to_json(await source.columns(of_now=True))}
    return old.target


async def look(step: Step, place: Workplace, source: Source) -> None:
    """Hold the source of a leased split against what its generation knows. Raises Permanent `schema_changed`, and
    SourceChanged where sink and source have to be made anew; and what asking the source raises."""
    before: Any = step.target.get(SEEN)
    now = await seen(step.spec, source)
    if before == now:
        return
    kept: dict[str, object] = {SEEN: now}
    said = ""
    if before is not None and before["of"] == now["of"]:
        said = "; ".join(differences(columns.from_json(before["columns"]), columns.from_json(now["columns"])))
    if said:
        await _refuse(step, source, said)
        if COLUMNS in step.target and _names_columns(step.spec):
            kept[COLUMNS] = columns.to_json(await source.columns(of_now=True))
    if await place.store.keep_of_source(step.lease, kept) and said:
        log.warning(LogEvent.SCHEMA_CHANGED, table=_what(step), cause=said)
    if kept.get(COLUMNS) not in (None, step.target.get(COLUMNS)) and _form(step.spec).kind != "json":
        raise SourceChanged


async def _refuse(step: Step, source: Source, said: str) -> None:
    """Raises Permanent unless the job goes on with what is there: `schema_changed`, or what its definition asks for and
    is not there any more."""
    if Options.model_validate(step.spec.get("options", {})).schema_change == "continue":
        return
    cause: Permanent | None = None
    try:
        await source.columns()
    except Permanent as error:
        if error.code not in {COLUMN_GONE, COLUMN_CHANGED}:
            raise
        cause = error
    raise Permanent(SCHEMA_CHANGED, f"{_what(step)} has changed since it was last read: {said}", hint=GO_ON) from cause


def _what(step: Step) -> str:
    return SourceSpec.model_validate(step.spec["source"]).table or "the query"


def _mark(spec: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(spec["source"], sort_keys=True).encode()).hexdigest()[:16]
