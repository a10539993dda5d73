"""How the source has to write rows for a definition's sink and format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.domain.spec import OpenFormat, OpenSink
from sinks import registry
from sinks.formats import columns
from workers.changes import renews
from workers.sources.csv_page import Dialect
from workers.sources.definition import MessageKey
from workers.sources.wishes import RowWishes

if TYPE_CHECKING:
    from collections.abc import Mapping


def row_wishes(
    spec: Mapping[str, object],
    target: Mapping[str, object] | None,
    *,
    salts: Mapping[str, str],
    origin: Mapping[str, object] | None,
) -> RowWishes:
    """Those of a stored definition, whose generation keeps `target`. `origin`: which step reads; None: nobody's."""
    form = OpenFormat.model_validate(spec.get("format") or {})
    enveloped = getattr(form, "envelope", None) == "with_metadata"
    return RowWishes(
        message_key=_message_key(OpenSink.model_validate(spec["sink"])),
        csv=_dialect(form),
        columns=columns.from_json((target or {}).get(registry.COLUMNS)),
        renews=renews(spec, target),
        salts=salts,
        origin=(origin or {"job": spec.get("name")}) if enveloped else None,
    )


def _message_key(sink: OpenSink) -> MessageKey:
    """The columns whose text the sink wants beside each row: Kafka's message key, Elasticsearch's routing. (A row's own
    key, Elasticsearch's `_id`, comes with every page: `workers.chunks.row_ids`.)"""
    if sink.kind == "elasticsearch":
        routing = getattr(sink, "routing", None)
        return MessageKey((routing,) if isinstance(routing, str) else (), "/sink/routing")
    key = getattr(sink, "key", None) if sink.kind == "kafka" else None
    return MessageKey(tuple(key or ()), "/sink/key")


def _dialect(form: OpenFormat) -> Dialect | None:
    """How the source writes rows; None: as JSON. What is not for people is read in Postgres's own defaults."""
    if form.kind == "csv":
        return Dialect(getattr(form, "delimiter", ","), getattr(form, "null", ""))
    return Dialect() if form.kind == "parquet" else None
