"""What a plan step does for a template: finds out what the runs before have delivered, and fixes the text."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC
from decimal import Decimal
from typing import TYPE_CHECKING

from service.domain.errors import Permanent, RowsRejected
from service.domain.spec import JobSpec
from workers import rendering
from workers.cuts import cut_of
from workers.owners import origin
from workers.sources import template
from workers.sources.sql import SqlError
from workers.sources.template import Variables

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from datetime import datetime

    from service.domain.records import Key
    from service.domain.steps import GenerationState, OpenRange, Step
    from workers.ports import Workplace
    from workers.sources.base import Source
    from workers.sources.template import Scalar


@asynccontextmanager
async def reading(
    place: Workplace,
    step: Step,
    source: Source,
    target: dict[str, object],
    ranges: Sequence[OpenRange],
    history: Sequence[GenerationState],
) -> AsyncIterator[Source]:
    """The source that the generation is read from: the step's own, or one of what its template gives, which `target`
    keeps from then on, or one of the moment that `target` has. Raises Permanent `template_refused`."""
    spec = JobSpec.model_validate(step.spec)
    if spec.source.template is None and not spec.options.snapshot:
        yield source
        return
    if spec.source.template is not None:
        lower = ranges[0].lower if ranges and spec.mode == "incremental" else None
        variables = await _variables(place, step, spec.source.template, lower, history)
        target[rendering.RENDERED] = rendering.kept(rendering.render(spec.source.template, variables), variables)
    rendered = await place.sources.source(
        step.account,
        step.spec,
        target,
        name=place.title(step),
        origin=origin(step),
        secrets=step.secrets,
        cut=cut_of(replace(step, target=target)),
    )
    try:
        yield rendered
    finally:
        await rendered.close()


async def _variables(
    place: Workplace, step: Step, text: str, lower: Key | None, history: Sequence[GenerationState]
) -> Variables:
    """`lower` is where the run begins: the last key that was delivered."""
    try:
        asked = template.names(text)
    except SqlError:
        asked = frozenset()
    if lower is None:
        return Variables()
    record = None
    if any(name.startswith(template.RECORD) and name != template.TIMESTAMP for name in asked):
        record = await _record(place, step, lower)
    return Variables(lower[0] if len(lower) == 1 else None, _timestamp(history), record)


def _timestamp(history: Sequence[GenerationState]) -> str | None:
    """When the last row was delivered. A generation without a row keeps what it was rendered with."""
    for generation in reversed(history):
        if generation.delivered_at is not None:
            return written(generation.delivered_at)
        if known := rendering.variables_of(generation.target).get(template.TIMESTAMP):
            return str(known)
    return None


def written(moment: datetime) -> str:
    """As the template gets it."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


async def _record(place: Workplace, step: Step, key: Key) -> Sequence[Scalar] | None:
    """The row with that key as it is now, read by the query of a first run; None where it is gone, or can not be read.
    No value of a row is kept for this."""
    source = await place.sources.source(step.account, _plain(step.spec), name=place.title(step), secrets=step.secrets)
    try:
        reader = source.reader()
        try:
            page = await reader.one(key)
        except RowsRejected:
            return None
        finally:
            await reader.close()
    finally:
        await source.close()
    if not page.values:
        return None
    return [_scalar(value) for value in json.loads(page.values[0], parse_float=Decimal).values()]


def _plain(spec: Mapping[str, object]) -> Mapping[str, object]:
    """The definition without what is done to its rows on the way to the sink."""
    source = spec["source"]
    if not isinstance(source, dict):
        raise Permanent("definition_refused", "a stored definition holds source as an object")
    plain = {**source, "transforms": [], "columns": ["*"], "soft_delete": None}
    return {**spec, "source": plain, "sink": {"kind": "donothing"}, "format": {}}


def _scalar(value: object) -> Scalar:
    """One value as Postgres would write it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict | list) else str(value)
