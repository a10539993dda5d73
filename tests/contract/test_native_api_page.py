"""docs/native-api.md and the code say the same, both ways."""

from __future__ import annotations

import json
import re
from typing import Any, get_args

import pytest
from openapi_spec_validator import validate

from config import settings
from service.api import health, openapi, queries
from service.api.answers.dead_letters import DeadLetterAnswer
from service.api.answers.history import LogLineAnswer, OutputAnswer
from service.api.answers.jobs import JobAnswer, RunAnswer, SplitAnswer, TotalsAnswer
from service.api.answers.named import DatasourceAnswer
from service.api.answers.outlook import FindingAnswer, PreviewRowAnswer
from service.api.app import TABLE
from service.api.auth import ACCOUNT_HEADER
from service.api.models import DatasourceDefinition, DeadLettersRetryRequest, JobDefinition
from service.api.problems import FieldError, Problem
from service.domain.options import Options
from service.domain.spec import Mode, ScheduleSpec
from service.domain.states import State
from sinks import formats
from sinks.format_spec import FormatSpec
from sinks.specs import (
    DonothingSinkSpec,
    ElasticsearchSinkSpec,
    FileSinkSpec,
    HdfsSinkSpec,
    KafkaSecurity,
    KafkaSinkSpec,
    S3SinkSpec,
)
from tests.contract import native_api_page as page


def names(model: Any) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def test_every_request_of_the_page_is_a_route_with_its_role_and_the_other_way_round() -> None:
    assert page.routes() == {(route.method, route.path): route.role.word for route in TABLE}


def test_every_setting_of_the_page_exists_and_the_other_way_round() -> None:
    assert page.settings() == set(settings.names())


def test_the_fields_of_a_job_as_given() -> None:
    given = page.example("A job as given")
    assert given.keys() == names(JobDefinition)
    further = set(re.findall(r"`source\.([a-z_]+)`", page.section("A job as given")))
    assert given["source"].keys() | further == names(JobDefinition.model_fields["source"].annotation)
    assert given["source"]["time"].keys() == {"column", "from", "to"}
    text = page.section("A job as given").split("further options:", 1)[1].split("A schedule needs", 1)[0]
    options = {name for name in page.code(text) if re.fullmatch(r"[a-z_]+", name)}
    assert given["options"].keys() | options == names(Options)
    assert given["schedule"].keys() == names(ScheduleSpec)
    for part in ("chunk", "rate", "dead_letters", "retry"):
        assert given["options"][part].keys() == names(Options.model_fields[part].annotation), part


def test_a_job_as_given_on_the_page_is_taken() -> None:
    given = page.example("A job as given")
    definition = JobDefinition.model_validate(given)
    assert isinstance(definition.sink, KafkaSinkSpec)


def test_the_sinks_of_the_page() -> None:
    text = page.section("A job as given").split("Sinks: ", 1)[1].split("**User SQL**", 1)[0]
    kinds = dict(re.findall(r"`([a-z0-9]+)`\s\(((?:[^()]|\{[^}]*\})*)\)", text.split("For Kafka", 1)[0]))
    kinds |= {"donothing": ""}
    assert "`donothing`" in text
    assert kinds.keys() == set(health.sink_kinds())
    security = re.search(r"`security \{([^}]*)\}`", kinds["kafka"])
    assert security is not None
    assert {one.strip() for one in security[1].split(",")} == names(KafkaSecurity)
    kafka = {name for name in page.code(kinds["kafka"]) if name.isidentifier()} | {"kind", "security", "credential"}
    kafka |= set(page.code(text.split("Kafka also takes", 1)[1].split(";", 1)[0]))
    assert kafka == names(KafkaSinkSpec)
    assert set(page.code(kinds["file"])) | {"kind"} == names(FileSinkSpec)
    assert set(page.code(kinds["hdfs"])) | {"kind"} == names(HdfsSinkSpec)
    assert set(page.code(kinds["s3"])) | {"kind", "credential"} == names(S3SinkSpec)
    assert set(page.code(kinds["elasticsearch"])) | {"kind", "credential"} == names(ElasticsearchSinkSpec)
    assert names(DonothingSinkSpec) == {"kind"}


def test_modes_and_formats_of_the_page() -> None:
    modes = {page.code(row[0])[0] for row in page.table(page.section("A job as given"))}
    assert modes == set(get_args(Mode))
    states = page.section("A job as answered").split("States: `", 1)[1].split("`", 1)[0]
    assert set(states.split()) == set(State)


def test_the_formats_of_the_page() -> None:
    listed = {page.code(row[0])[0]: row for row in page.table(page.section("A job as given").split("**Formats.**")[1])}
    assert {kind: tuple(page.code(row[1])) for kind, row in listed.items()} == formats.available()
    assert {kind: tuple(page.code(row[2])) for kind, row in listed.items()} == formats.OPTIONS
    fields = {"kind", "compression", *(name for options in formats.OPTIONS.values() for name in options)}
    before = page.section("A job as given").split("**Formats.**")[1].split("| kind |")[0]
    fields |= {name for name in page.code(before) if name == "envelope"}
    assert fields == names(FormatSpec)


def test_the_fields_of_a_job_as_answered() -> None:
    shown = page.example("A job as answered")
    assert shown.keys() == names(JobAnswer)
    assert shown["totals"].keys() == names(TotalsAnswer)
    assert shown["position"]["splits"][0].keys() == names(SplitAnswer)
    text = page.section("A job as answered")
    added = names(RunAnswer) - shown["run"].keys()
    assert not shown["run"].keys() - names(RunAnswer)
    assert all(f"`{name}`" in text for name in added), added


@pytest.mark.parametrize(
    ("request_", "model", "key"),
    [
        ("GET /v1/jobs/{job}/log", LogLineAnswer, "lines"),
        ("GET /v1/jobs/{job}/outputs", OutputAnswer, "outputs"),
        ("POST /v1/jobs:validate", FindingAnswer, "findings"),
        ("POST /v1/jobs:preview", PreviewRowAnswer, "rows"),
    ],
)
def test_the_fields_of_lists_as_answered(request_: str, model: Any, key: str) -> None:
    block = re.search(rf'"{key}": \[\{{([^}}]*)\}}\]', page.answer_of(request_))
    assert block is not None
    assert set(re.findall(r'"([a-z_]+)"', block[1])) == names(model)


@pytest.mark.parametrize(
    ("request_", "model", "known"),
    [
        ("GET /v1/jobs`", queries.JobsQuery, set()),
        ("GET /v1/jobs/{job}/runs", queries.RunsQuery, set()),
        # Paging stands in a paragraph of its own there.
        ("GET /v1/jobs/{job}/log", queries.LogQuery, {"limit", "after"}),
    ],
)
def test_the_parameters_of_lists(request_: str, model: Any, known: set[str]) -> None:
    spans = [span.partition("=")[0] for span in page.code(page.answer_of(request_))]
    listed = {span for span in spans if re.fullmatch(r"[a-z_]+", span)}
    assert listed | known == names(model)


def test_the_fields_of_a_datasource() -> None:
    shown = page.answer_of("GET/PUT/DELETE /v1/datasources/{name}")
    fields = set(re.findall(r'"([a-z_]+)"', shown)) - {"mode", "ca"}
    assert fields == names(DatasourceDefinition)
    assert names(DatasourceAnswer) - fields == {"created_at", "updated_at"}


def test_the_members_of_a_problem() -> None:
    text = page.TEXT.split("**Errors.**", 1)[1].split("400 malformed", 1)[0]
    listed = {word for word in page.code(text) if re.fullmatch(r"[a-z_]+", word)}
    body = Problem(422, "x", "y", errors=[FieldError("/a", "b", "c")]).body(instance="/", request_id="1")
    assert body.keys() == listed | {"errors"}
    assert set(re.findall(r'"([a-z]+)"', text)) == {"pointer", "message", "hint"} <= body["errors"][0].keys()


def test_names_of_headers() -> None:
    assert f"`{ACCOUNT_HEADER}`" in page.TEXT


def test_the_openapi_document_is_valid_and_holds_every_route_and_no_other() -> None:
    document = openapi.document(TABLE, "1")
    validate(document)
    described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert described == {(route.method, route.path) for route in TABLE}


def test_the_fields_of_a_dead_letter() -> None:
    cell = page.answer_of("GET /v1/jobs/{job}/dead-letters")
    listed = set(re.findall(r'"([a-z_]+)"', cell)) - {"dead_letters", "next", "code", "message"}
    assert listed == names(DeadLetterAnswer)
    assert {"run_id", "code", "limit", "after"} == names(queries.DeadLettersQuery)
    text = page.TEXT.split("**Dead letters.**", 1)[1].split("**ETag.**", 1)[0]
    assert names(DeadLettersRetryRequest) == {"ids", "from"} <= set(re.findall(r'"([a-z_]+)"', text))
    assert all(f"?{name}=" in text for name in names(queries.DeadLettersDeleteQuery))


def test_every_operation_says_its_role_and_has_an_id_of_its_own() -> None:
    document = openapi.document(TABLE, "1")
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert all(operation["x-rowferry-role"] in {"public", "viewer", "operator", "admin"} for operation in operations)


def test_the_example_jobs_are_taken() -> None:
    examples = sorted((page.PAGE.parents[1] / "config" / "jobs").glob("*.json"))
    assert len(examples) >= 3
    for example in examples:
        given = json.loads(example.read_text(encoding="utf-8"))
        assert JobDefinition.model_validate(given).name, example
