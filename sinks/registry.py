"""Which sinks there are, and how a definition becomes one. The only module that knows all implementations.

A sink's module is imported when its first job is built: a process without Kafka jobs never loads a Kafka client.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter

from sinks import file_path, formats
from sinks.format_spec import FormatSpec
from sinks.specs import (
    SECRETS_APART,
    AnySinkSpec,
    DonothingSinkSpec,
    ElasticsearchSinkSpec,
    FileSinkSpec,
    HdfsSinkSpec,
    KafkaSinkSpec,
    S3SinkSpec,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sinks.base import Sink
    from sinks.formats.columns import Column
    from sinks.guarded import Guard

KINDS: Final = ("donothing", "elasticsearch", "file", "hdfs", "kafka", "s3")

HOLDS_ITS_CHUNK: Final = frozenset({"elasticsearch"})
"""Sinks that keep a chunk's rows in memory until it is visible: `chunk.bytes` counts as held."""

TAKES_FORMATS: Final = frozenset({"donothing", "file", "hdfs", "s3"})
"""Sinks to which a row is bytes of any format; to the others it is one JSON document."""
TAKES_TOMBSTONES: Final = frozenset({"elasticsearch", "kafka"})
"""Sinks that can say of a row that it is gone: an empty value in `Batch.values`."""
COLUMNS: Final = "columns"
"""Under which name a generation's columns are kept beside what `Sink.prepare_target` said."""

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
    columns: tuple[Column, ...] = ()
    """What the generation's rows consist of; none where there is no generation."""
    key: tuple[str, ...] = ()
    """The source's key as the definition names it; none where that is left to the catalog."""
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
    definition = Definition(
        _SINK.validate_python(dict(sink), context={SECRETS_APART: secrets_apart}),
        FormatSpec.model_validate(dict(form or {})),
    )
    check_together(definition)
    return definition


def check_together(definition: Definition) -> None:
    """What neither model can see alone. Raises DefinitionRefused."""
    sink, form = definition.sink, definition.format
    if sink.kind not in TAKES_FORMATS and form.kind != "json":
        raise DefinitionRefused(
            "/format/kind",
            "format_not_supported",
            f"format.kind {form.kind!r} makes files, and a sink of kind {sink.kind} takes each row as one JSON "
            "document; leave format out, or write to a sink of kind file, s3 or hdfs",
        )
    if isinstance(sink, KafkaSinkSpec) and form.compression != "none":
        raise DefinitionRefused(
            "/format/compression",
            "format_not_supported",
            f"format.compression {form.compression!r} does not go with a Kafka sink; leave it out and set "
            "sink.compression, which compresses the batches",
        )
    if isinstance(sink, ElasticsearchSinkSpec) and form.compression != "none":
        raise DefinitionRefused(
            "/format/compression",
            "format_not_supported",
            f"format.compression {form.compression!r} does not go with an Elasticsearch sink; leave format out, a "
            "row is one JSON document",
        )
    if isinstance(sink, S3SinkSpec) and sink.file_password is not None and form.compression != "zip":
        raise DefinitionRefused(
            "/sink/file_password",
            "format_not_supported",
            f"sink.file_password does not go with format.compression {form.compression!r}; only a zip takes one",
        )
    if isinstance(sink, FileSinkSpec):
        try:
            file_path.check_path(sink.path, "sink.path")
        except ValueError as error:
            raise DefinitionRefused("/sink/path", "path_not_allowed", str(error)) from error


def build(definition: Definition, context: Context) -> Sink:
    """The sink of a definition. Cheap: connects on use. Raises DefinitionRefused as `parse` does."""
    check_together(definition)
    sink, given = definition.sink, definition.format
    form = formats.Format(given.kind, given.compression, **given.options(), columns=context.columns)
    if isinstance(sink, FileSinkSpec):
        from sinks.file import FileSink  # noqa: PLC0415 - see the module's docstring

        return FileSink(sink, form, context.files)
    if isinstance(sink, DonothingSinkSpec):
        from sinks.donothing import DonothingSink  # noqa: PLC0415 - see the module's docstring

        return DonothingSink()
    if isinstance(sink, ElasticsearchSinkSpec):
        from sinks.elasticsearch import ElasticsearchSink  # noqa: PLC0415 - see the module's docstring

        return ElasticsearchSink(
            sink,
            guard=context.guard,
            target=context.target,
            key=context.key,
            job_id=context.job_id,
            generation=context.generation,
        )
    if isinstance(sink, HdfsSinkSpec):
        from sinks.hdfs import HdfsSink  # noqa: PLC0415 - see the module's docstring

        return HdfsSink(sink, form, guard=context.guard)
    if isinstance(sink, S3SinkSpec):
        from sinks.s3 import S3Sink  # noqa: PLC0415 - see the module's docstring

        ambient = sink.bucket in context.ambient_s3_buckets
        if sink.file_password is not None:
            form = replace(form, password=sink.file_password.get_secret_value())
        return S3Sink(sink, form, guard=context.guard, target=context.target, ambient=ambient)
    from sinks.kafka import KafkaSink  # noqa: PLC0415 - see the module's docstring

    topic_id = context.target.get("topic_id")
    return KafkaSink(sink, guard=context.guard, topic_id=None if topic_id is None else str(topic_id))
