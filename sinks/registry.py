"""Which sinks there are, and how a definition becomes one. The only module that knows all implementations.

A sink's module is imported when its first job is built: a process without Kafka jobs never loads a Kafka client.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter

from sinks import formats, naming
from sinks.specs import (
    SECRETS_APART,
    AnySinkSpec,
    DonothingSinkSpec,
    ElasticsearchSinkSpec,
    FileSinkSpec,
    FormatSpec,
    HdfsSinkSpec,
    KafkaSinkSpec,
    S3SinkSpec,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sinks.base import Sink
    from sinks.guarded import Guard

KINDS: Final = ("donothing", "elasticsearch", "file", "hdfs", "kafka", "s3")

HOLDS_ITS_CHUNK: Final = frozenset({"elasticsearch"})
"""Sinks that keep a chunk's rows in memory until it is visible: `chunk.bytes` counts as held."""

PLANNED_KINDS: Final[frozenset[str]] = frozenset()
PLANNED_FORMATS: Final = frozenset({"csv", "parquet"})
PLANNED_COMPRESSIONS: Final = frozenset({"lz4", "snappy"})
"""What the API's page names and this version does not have: refused as `not_available`, not as unknown."""

_SINK: Final[TypeAdapter[Any]] = TypeAdapter(AnySinkSpec)


class DefinitionRefused(ValueError):
    """A part of a definition can not be built. `pointer` is the JSON pointer below the job, `code` is stable."""

    def __init__(self, pointer: str, code: str, message: str) -> None:
        super().__init__(message)
        self.pointer = pointer
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Definition:
    """Sink and format of one job, validated, each by itself and together."""

    sink: KafkaSinkSpec | FileSinkSpec | S3SinkSpec | HdfsSinkSpec | ElasticsearchSinkSpec | DonothingSinkSpec
    format: FormatSpec


@dataclass(frozen=True, slots=True)
class Context:
    """What a process lends to the sinks of one account."""

    files: Path
    """The account's own folder, `<data folder>/files/<account>`: file jobs write below it only."""
    guard: Guard | None = None
    """Answers the addresses that a sink may connect to, for host and port; raises SinkRefused. None: every address."""
    target: Mapping[str, object] = field(default_factory=dict)
    """What `Sink.prepare_target` said when the generation was planned."""
    ambient_s3_buckets: frozenset[str] = frozenset()
    """Buckets for which the host's own AWS credentials may be used."""
    job_id: str = ""
    """Whose sink it is; empty where it is only looked at."""
    generation: int = 0


def available() -> dict[str, Any]:
    """What `/v1/info` lists: `sinks`, and `formats` with the compressions of each."""
    return {
        "sinks": list(KINDS),
        "formats": [{"kind": kind, "compressions": list(known)} for kind, known in formats.available().items()],
    }


def parse(sink: Mapping[str, Any], form: Mapping[str, Any] | None = None, *, secrets_apart: bool = False) -> Definition:
    """Validate both parts of a definition, without connecting. `secrets_apart`: its secrets are stored elsewhere, so
    none is missing.

    Raises DefinitionRefused for what is known and not available, for a path or a combination that can not be; and
    pydantic's ValidationError (`loc` relative to the part) for fields that are unknown or of another type.
    """
    form = dict(form or {})
    _refuse_planned("/sink/kind", sink.get("kind"), PLANNED_KINDS, KINDS)
    _refuse_planned("/format/kind", form.get("kind"), PLANNED_FORMATS, tuple(formats.available()))
    if sink.get("kind") != "kafka":
        known = formats.available()[FormatSpec().kind]
        _refuse_planned("/format/compression", form.get("compression"), PLANNED_COMPRESSIONS, known)
    definition = Definition(
        _SINK.validate_python(dict(sink), context={SECRETS_APART: secrets_apart}), FormatSpec.model_validate(form)
    )
    check_together(definition)
    return definition


def check_together(definition: Definition) -> None:
    """What neither model can see alone. Raises DefinitionRefused."""
    sink, form = definition.sink, definition.format
    if isinstance(sink, KafkaSinkSpec) and form.compression != "none":
        raise DefinitionRefused(
            "/format/compression",
            "format_not_supported",
            f"format.compression {form.compression!r} does not go with a Kafka sink; leave it out and set "
            "sink.compression, which compresses the batches",
        )
    if isinstance(sink, ElasticsearchSinkSpec) and (form.kind, form.compression) != ("json", "none"):
        wrong = "kind" if form.kind != "json" else "compression"
        raise DefinitionRefused(
            f"/format/{wrong}",
            "format_not_supported",
            f"format.{wrong} {getattr(form, wrong)!r} does not go with an Elasticsearch sink; leave format out, a "
            "row is one JSON document",
        )
    if isinstance(sink, FileSinkSpec):
        try:
            naming.check_path(sink.path, "sink.path")
        except ValueError as error:
            raise DefinitionRefused("/sink/path", "path_not_allowed", str(error)) from error


def build(definition: Definition, context: Context) -> Sink:
    """The sink of a definition. Cheap: connects on use. Raises DefinitionRefused as `parse` does."""
    check_together(definition)
    sink, form = definition.sink, definition.format
    if isinstance(sink, FileSinkSpec):
        from sinks.file import FileSink  # noqa: PLC0415 - see the module's docstring

        return FileSink(sink, formats.Format(form.kind, form.compression), context.files)
    if isinstance(sink, DonothingSinkSpec):
        from sinks.donothing import DonothingSink  # noqa: PLC0415 - see the module's docstring

        return DonothingSink()
    if isinstance(sink, ElasticsearchSinkSpec):
        from sinks.elasticsearch import ElasticsearchSink  # noqa: PLC0415 - see the module's docstring

        return ElasticsearchSink(
            sink, guard=context.guard, target=context.target, job_id=context.job_id, generation=context.generation
        )
    if isinstance(sink, HdfsSinkSpec):
        from sinks.hdfs import HdfsSink  # noqa: PLC0415 - see the module's docstring

        return HdfsSink(sink, formats.Format(form.kind, form.compression), guard=context.guard)
    if isinstance(sink, S3SinkSpec):
        from sinks.s3 import S3Sink  # noqa: PLC0415 - see the module's docstring

        ambient = sink.bucket in context.ambient_s3_buckets
        own = formats.Format(form.kind, form.compression)
        return S3Sink(sink, own, guard=context.guard, target=context.target, ambient=ambient)
    from sinks.kafka import KafkaSink  # noqa: PLC0415 - see the module's docstring

    topic_id = context.target.get("topic_id")
    return KafkaSink(sink, guard=context.guard, topic_id=None if topic_id is None else str(topic_id))


def _refuse_planned(pointer: str, value: object, planned: frozenset[str], known: tuple[str, ...]) -> None:
    if isinstance(value, str) and value in planned:
        name = pointer[1:].replace("/", ".")
        message = f"{name} {value!r} is not available in this version; choose one of {', '.join(known)}"
        raise DefinitionRefused(pointer, "not_available", message)
