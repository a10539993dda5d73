"""Definitions become sinks, and what can not be is refused before anything is touched."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sinks import registry
from sinks.base import Guarantee
from sinks.format_spec import FormatSpec
from sinks.registry import Context, Definition, DefinitionRefused, available, build, check_together, parse
from sinks.specs import FileSinkSpec

KAFKA = {"kind": "kafka", "bootstrap_servers": "127.0.0.1:9092", "topic": "orders"}
DEFINITIONS: dict[str, dict[str, Any]] = {
    "kafka": KAFKA,
    "file": {"kind": "file", "path": "exports/orders"},
    "donothing": {"kind": "donothing"},
    "elasticsearch": {"kind": "elasticsearch", "url": "http://127.0.0.1:9200", "index": "orders"},
    "s3": {"kind": "s3", "bucket": "rows"},
    "hdfs": {"kind": "hdfs", "url": "http://127.0.0.1:9870", "path": "/exports/orders"},
}
PROMISED = {
    "elasticsearch": Guarantee.IDEMPOTENT,
    "kafka": Guarantee.EXACTLY_ONCE,
    "file": Guarantee.EXACTLY_ONCE,
    "donothing": Guarantee.COUNTS,
    "s3": Guarantee.EXACTLY_ONCE,
    "hdfs": Guarantee.EXACTLY_ONCE,
}


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_kind_that_is_listed_can_be_parsed_and_built(kind: str, tmp_path: Path):
    sink = build(parse(DEFINITIONS[kind]), Context(files=tmp_path / "files"))
    assert sink.kind == kind
    assert sink.promise().guarantee is PROMISED[kind]
    assert sink.settles_with_prepare == (kind == "donothing")
    assert sink.upserts == (kind == "elasticsearch")
    assert list(tmp_path.iterdir()) == []


def test_what_is_available_is_what_can_be_parsed():
    told = available()
    assert told["sinks"] == sorted(DEFINITIONS)
    for form in told["formats"]:
        for compression in form["compressions"]:
            definition = parse(DEFINITIONS["file"], {"kind": form["kind"], "compression": compression})
            assert (definition.format.kind, definition.format.compression) == (form["kind"], compression)
    assert json.loads(json.dumps(told)) == told


@pytest.mark.parametrize(
    ("sink", "form", "pointer", "code"),
    [
        (DEFINITIONS["elasticsearch"], {"compression": "gzip"}, "/format/compression", "format_not_supported"),
        (KAFKA, {"kind": "parquet"}, "/format/kind", "format_not_supported"),
        (DEFINITIONS["elasticsearch"], {"kind": "csv"}, "/format/kind", "format_not_supported"),
        (KAFKA, {"kind": "csv"}, "/format/kind", "format_not_supported"),
        (KAFKA, {"compression": "gzip"}, "/format/compression", "format_not_supported"),
        ({"kind": "file", "path": "../other"}, {}, "/sink/path", "path_not_allowed"),
        ({"kind": "file", "path": "/etc"}, {}, "/sink/path", "path_not_allowed"),
        ({"kind": "file", "path": "a\x00"}, {}, "/sink/path", "path_not_allowed"),
    ],
)
def test_what_can_not_be_is_refused_with_pointer_and_remedy(
    sink: dict[str, Any], form: dict[str, Any], pointer: str, code: str
):
    with pytest.raises(DefinitionRefused) as caught:
        parse(sink, form)
    assert (caught.value.pointer, caught.value.code) == (pointer, code)
    assert ";" in caught.value.message
    assert pointer[1:].replace("/", ".") in caught.value.message


@pytest.mark.parametrize(
    ("sink", "form"),
    [
        ({}, {}),
        ({"kind": "ftp"}, {}),
        ({"kind": ["file"]}, {}),
        ({"kind": "file"}, {}),
        ({"kind": "file", "path": 7}, {}),
        ({"kind": "donothing", "path": "a"}, {}),
        (DEFINITIONS["file"], {"compression": "brotli"}),
        (DEFINITIONS["file"], {"compression": "lz4"}),
        (DEFINITIONS["file"], {"compression": "snappy"}),
        (DEFINITIONS["file"], {"kind": "csv", "compression": "snappy"}),
        (DEFINITIONS["file"], {"level": 3}),
        (DEFINITIONS["file"], {"kind": ["json"]}),
    ],
)
def test_unknown_fields_kinds_and_types_are_validation_errors(sink: dict[str, Any], form: dict[str, Any]):
    with pytest.raises(ValidationError):
        parse(sink, form)


def test_a_definition_that_was_not_parsed_is_checked_when_it_is_built(tmp_path: Path):
    definition = Definition(FileSinkSpec(kind="file", path="../x"), FormatSpec())
    for step in (check_together, lambda one: build(one, Context(files=tmp_path))):
        with pytest.raises(DefinitionRefused):
            step(definition)


def test_a_process_without_kafka_jobs_never_loads_a_kafka_client(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from sinks.registry import *\n"
        "for sink in ({'kind': 'file', 'path': 'a'}, {'kind': 'donothing'}):\n"
        f"    build(parse(sink, {{'compression': 'zstd'}}), Context(files=Path({str(tmp_path)!r})))\n"
        f"parse({KAFKA!r}); available()\n"
        "print([name for name in sys.modules if 'kafka' in name])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "sink",
    [
        {"kind": "elasticsearch", "url": "https://search", "index": "orders", "username": "ann"},
        {
            "kind": "kafka",
            "bootstrap_servers": "a:1",
            "topic": "t",
            "security": {"protocol": "SSL", "certificate": "PEM"},
        },
    ],
    ids=["elasticsearch", "kafka"],
)
def test_a_secret_that_is_stored_apart_is_not_missing(sink: dict[str, Any]):
    with pytest.raises(ValidationError, match="credential that holds it"):
        registry.parse(sink)
    assert registry.parse(sink, secrets_apart=True).sink.kind == sink["kind"]
