"""What is to be said about a definition with a template, before anything connects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.domain.inspection import Finding
from workers.sources import template
from workers.sources.sql import SqlError

if TYPE_CHECKING:
    from service.domain.spec import JobSpec, SourceSpec


def sql(source: SourceSpec) -> list[Finding]:
    """What a template gives on a first run and later, and whether that can be read."""
    if source.template is None:
        return []
    try:
        first, later = template.check(source.template)
    except SqlError as error:
        at = "" if error.offset is None else f" (at character {error.offset})"
        hint = "give one SELECT, on a first run and on later ones"
        return [Finding("/source/template", "error", error.code, f"source.template: {error.message}{at}", hint)]
    said = f"a first run reads: {first.text}"
    if later.text != first.text:
        said = f"{said}; later ones, with values in the place of these: {later.text}"
    return [Finding("/source/template", "info", "query_rendered", said)]


def mode(job: JobSpec) -> list[Finding]:
    """Whether the mode has runs that a template can be rendered for."""
    if job.source.template is None:
        return []
    if job.mode == "continuous":
        said = "source.template is rendered once a run, and a run of mode continuous has no end"
        return [Finding("/mode", "error", "template_with_continuous", said, "use incremental with a schedule")]
    if job.mode == "incremental" and len(job.source.key or ()) != 1:
        said = "source.template in mode incremental needs source.key with one column: that is max_primary_key"
        return [Finding("/source/key", "error", "key_required", said, "name the column whose values only grow")]
    if job.mode != "incremental" and template.KEY in job.source.template:
        said = f"mode {job.mode} reads everything again, so {template.KEY} never has a value here"
        return [Finding("/source/template", "warning", "template_variable_empty", said, "leave it out")]
    return []
