"""What a generation's template gave: the text that every step of the generation reads by.

A template is rendered by the plan step, with what the run before has delivered, and kept with the generation. So
whoever reads a range again, after a crash, an abort or a year, reads by the same text; the template itself stays in
the definition. In mode `incremental` every run plans a generation of its own, which begins where the last one ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from service.domain.errors import Permanent
from workers.sources import template
from workers.sources.sql import SqlError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from service.domain.spec import SourceSpec
    from workers.sources.template import Rendered, Variables

RENDERED: Final = "rendered"
"""The member of a generation's target that holds what its template gave."""


def render(text: str, variables: Variables) -> Rendered:
    """Raises Permanent `template_refused`."""
    try:
        return template.render(text, variables)
    except SqlError as error:
        at = "" if error.offset is None else f" (at character {error.offset})"
        raise Permanent(
            "template_refused",
            f"source.template: {error.message}{at}",
            hint="correct the template; what a tag gives must fit where it stands, on a first run too",
        ) from None


def kept(rendered: Rendered, variables: Variables) -> dict[str, Any]:
    """What a generation keeps of it. Values of rows stand in it only where the query shows them."""
    return {
        "query": rendered.query,
        "limit": rendered.limit,
        "text": rendered.text,
        "variables": variables.as_json(),
    }


def as_query(source: SourceSpec, target: Mapping[str, object] | None) -> SourceSpec:
    """The source with the query that its template gave, or gives on a first run where nothing was planned. Raises
    Permanent `template_refused`."""
    if source.template is None:
        return source
    found = _found(target)
    if found is None:
        first = render(source.template, template.Variables())
        query, limit = first.query, first.limit
    else:
        query, limit = str(found["query"]), found["limit"]
    # Not validated again: that a template may leave its key to the catalog is no rule of queries.
    return source.model_copy(update={"template": None, "query": query, "limit": least(source.limit, limit)})


def limited(spec: Mapping[str, object], target: Mapping[str, object] | None) -> Mapping[str, object]:
    """The definition with the limit that its template gave."""
    found, source = _found(target), spec.get("source")
    if found is None or not isinstance(source, dict):
        return spec
    return {**spec, "source": {**source, "limit": least(source.get("limit"), found["limit"])}}


def least(one: int | None, other: int | None) -> int | None:
    """Of two limits; None is none."""
    return min((limit for limit in (one, other) if limit is not None), default=None)


def variables_of(target: Mapping[str, object] | None) -> Mapping[str, Any]:
    """What the template was rendered with."""
    return (_found(target) or {}).get("variables") or {}


def _found(target: Mapping[str, object] | None) -> Mapping[str, Any] | None:
    found = (target or {}).get(RENDERED)
    return found if isinstance(found, dict) else None
