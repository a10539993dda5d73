"""How the source has to write rows for a definition's sink and format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.domain.spec import OpenFormat, OpenSink
from workers.sources.csv_page import Dialect

if TYPE_CHECKING:
    from collections.abc import Mapping


def message_key(spec: Mapping[str, object]) -> list[str] | None:
    """The columns whose text the sink wants beside each row: Kafka's message key, Elasticsearch's routing. (A row's own
    key, Elasticsearch's `_id`, comes with every page: `workers.chunks.row_ids`.)"""
    sink = _sink_of(spec)
    if sink.kind == "elasticsearch":
        routing = getattr(sink, "routing", None)
        return [routing] if isinstance(routing, str) else None
    return getattr(sink, "key", None) if sink.kind == "kafka" else None


def message_key_field(spec: Mapping[str, object]) -> str:
    """Which field of the sink names the columns of `message_key`."""
    return "routing" if _sink_of(spec).kind == "elasticsearch" else "key"


def dialect(spec: Mapping[str, object]) -> Dialect | None:
    """How the source writes rows; None: as JSON. What is not for people is read in Postgres's own defaults."""
    form = OpenFormat.model_validate(spec.get("format") or {})
    if form.kind == "csv":
        return Dialect(getattr(form, "delimiter", ","), getattr(form, "null", ""))
    return Dialect() if form.kind == "parquet" else None


def enveloped(spec: Mapping[str, object]) -> bool:
    """Whether each row tells of its delivery."""
    form = OpenFormat.model_validate(spec.get("format") or {})
    return getattr(form, "envelope", None) == "with_metadata"


def _sink_of(spec: Mapping[str, object]) -> OpenSink:
    return OpenSink.model_validate(spec["sink"])
