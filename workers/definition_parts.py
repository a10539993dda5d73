"""Parts of a stored definition that a source or a sink is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.domain.spec import OpenFormat, OpenSink
from workers.sources.csv_page import Dialect

if TYPE_CHECKING:
    from collections.abc import Mapping


def message_key(spec: Mapping[str, object]) -> list[str] | None:
    """The columns whose text the sink wants beside each row: Kafka's message key, Elasticsearch's routing. (A row's own
    key, Elasticsearch's `_id`, comes with every page: `workers.chunks.row_ids`.)"""
    sink = sink_of(spec)
    if sink.kind == "elasticsearch":
        routing = getattr(sink, "routing", None)
        return [routing] if isinstance(routing, str) else None
    return getattr(sink, "key", None) if sink.kind == "kafka" else None


def dialect(spec: Mapping[str, object]) -> Dialect | None:
    """How the source writes rows; None: as JSON. What is not for people is read in Postgres's own defaults."""
    form = OpenFormat.model_validate(spec.get("format") or {})
    if form.kind == "csv":
        return Dialect(getattr(form, "delimiter", ","), getattr(form, "null", ""))
    return Dialect() if form.kind == "parquet" else None


def sink_of(spec: Mapping[str, object]) -> OpenSink:
    """The sink, as far as every kind has it."""
    return OpenSink.model_validate(spec["sink"])


def section(definition: dict[str, object], name: str) -> dict[str, Any]:
    """An object of the definition, made where there is none; what is changed in it is changed there."""
    part = definition.setdefault(name, {})
    if not isinstance(part, dict):
        raise TypeError(f"{name} is stored as {type(part).__name__}, not as an object")
    return part


def put(definition: dict[str, Any], pointer: str, value: str) -> None:
    """Set the value at a JSON pointer (RFC 6901); the objects on the way exist or are made."""
    *way, last = (part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:])
    place = definition
    for part in way:
        place = place.setdefault(part, {})
    place[last] = value
