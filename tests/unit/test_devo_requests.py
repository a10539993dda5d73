"""Bodies of `POST /query` and destinations, whatever is in them: read, or refused in the dialect's own words."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from config.settings import Settings
from service.api.dialects import devo_destinations, devo_request
from service.api.dialects.devo_answers import Failure
from service.api.problems import Problem

NOW = datetime(2024, 2, 14, 12, tzinfo=UTC)
SETTINGS = Settings(
    admin_token="a-token-of-the-tests",
    devo_webhdfs={"hdfs://cluster:8020": "http://127.0.0.1:9870"},
    devo_s3_default_bucket="rows",
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["json", "csv", "tsv", "now", "1d", "zip", "hdfs://cluster:8020", "1" * 19, "٣"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(
    ["query", "queryId", "from", "to", "mode", "destination", "limit", "offset", "skip", "dateFormat", "timeZone",
     "ipAsString", "progressInfo", "keepAlive", "priority"]
)  # fmt: skip
PARAMETERS = st.sampled_from(
    ["topic", "bootstrap.servers", "maxBytesPerCommit", "maxTimeWithoutCommit", "mode", "friendlyName", "aws.bucket",
     "aws.region", "aws.accesskey", "aws.secretkey", "format", "file.password", "s3.fileName", "fs.defaultFS",
     "full path", "file", "dfs.replication", "sasl.x"]
)  # fmt: skip


@given(st.dictionaries(KEYS, JSON, max_size=3))
@example({"mode": {}})
@example({"keepAlive": {"type": "token", "token": ""}})
@example({"from": 1e308})
def test_any_body_is_a_request_or_refused(changes: dict[str, Any]) -> None:
    body = json.dumps({"query": "from a.b", "from": "1d", "to": "now", **changes}).encode()
    try:
        found = devo_request.read(body, NOW)
    except Failure as failure:
        assert failure.status in {400, 500}  # noqa: PT017  a refusal is one of the two answers
        return
    except Problem as problem:
        assert problem.status == 400  # noqa: PT017  so is this: what is no JSON
        return
    assert found.mode in devo_request.MODES
    assert found.skip >= 0
    assert found.limit is None or found.limit >= 0


@given(st.binary(max_size=60))
def test_any_bytes_are_refused(body: bytes) -> None:
    try:
        devo_request.read(body, NOW)
    except (Failure, Problem) as refused:
        assert refused.status == 400  # noqa: PT017  nothing of this can be a request
        return
    raise AssertionError(body)


@given(
    st.sampled_from(["kafka", "s3", "hdfs", "donothing", "email", "snmp", "redis"]),
    st.dictionaries(PARAMETERS, JSON, max_size=8),
    st.sampled_from(devo_request.MODES),
)
@example("kafka", {"topic": "t", "bootstrap.servers": "h:1", "maxBytesPerCommit": "٣"}, "json")
@example("hdfs", {"fs.defaultFS": "hdfs://cluster:8020", "full path": "/", "file": "f"}, "tsv")
@example("s3", {}, "json")
def test_any_destination_is_a_sink_or_refused_with_a_code_of_its_own(
    kind: str, params: dict[str, Any], mode: str
) -> None:
    try:
        found = devo_destinations.read({"type": kind, "params": params}, mode, SETTINGS)
    except Failure as failure:
        assert failure.status == 400  # noqa: PT017  a refusal is one of the two answers
        assert 205 <= failure.members["code"] <= 212  # noqa: PT017
        assert failure.members["code"] == failure.members["status"]  # noqa: PT017
        return
    assert found.kind == found.sink["kind"] == kind
    assert found.name
